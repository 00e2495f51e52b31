"""LAMB against a reference."""

import pytest
import torch

from tessera.train.optim import lamb as lamb_module
from tessera.train.optim.lamb import Lamb, finish
from tessera.train.optim.matrix import Rows
from tiny.gradients import tensor


def reference_lamb(weights, gradients, *, lr, betas, decay, adapt, eps=1e-6):
    """You et al. 2020, Algorithm 2, in float64, one tensor."""
    w, m, v = weights.double(), 0.0, 0.0
    for count, gradient in enumerate(gradients, 1):
        g = gradient.double()
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        step = (m / (1 - betas[0] ** count)) / (torch.sqrt(v / (1 - betas[1] ** count)) + eps) + decay * w
        trust = 1.0
        if adapt and w.norm() > 0 and step.norm() > 0:
            trust = w.norm() / step.norm()
        w = w - lr * trust * step
    return w


def lamb_of(starts, adapted, *, lr, **options):
    """LAMB on these tensors, and a function that makes a step on their gradients."""
    rows = Rows(starts)
    weights, grads = rows.zeros(), rows.zeros()
    params, views = rows.views(weights), rows.views(grads)
    torch._foreach_copy_(params, starts)
    lamb = Lamb(params, rows, weights, grads, adapted, **options)
    lamb.param_groups[0]["lr"] = lr

    def step(gradients, clip=None):
        torch._foreach_copy_(views, gradients)
        lamb.clip = clip
        lamb.step(lambda part, update, factor: finish(weights[part], update, factor, None, 0.0, None))

    return params, step


@pytest.mark.parametrize(("chunk_rows", "group_rows"), [(1, 1), (2, 3), (2, 512), (512, 512)])
def test_lamb_against_a_reference(monkeypatch, chunk_rows, group_rows):
    """Tensors of less than a row and of several, in chunks that end within them, and one or several to a group; some
    gradients are clipped."""
    monkeypatch.setattr(lamb_module, "CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr(lamb_module, "GROUP_ROWS", group_rows)
    shapes = [(5, 3), (40, 64), (2, 3, 2), (6,)]
    # One weight is huge and one tiny, so that a clipped trust ratio would be seen.
    starts = [tensor(*s, seed=7, scale=c) for s, c in zip(shapes, (100.0, 1e-3, 1.0, 1.0))]
    adapted, betas = [True, True, True, False], (0.9, 0.99)
    params, step = lamb_of(starts, adapted, lr=0.01, betas=betas, weight_decay=0.1)
    gradients = [[tensor(*s, seed=20 + n, scale=0.3) for s in shapes] for n in range(5)]
    clips = [None, torch.tensor(0.1), None, torch.tensor(1.0), torch.tensor(0.01)]
    for each, clip in zip(gradients, clips):
        step(each, clip)
    for i, (p, start) in enumerate(zip(params, starts)):
        settings = {"lr": 0.01, "betas": betas, "decay": 0.1 * adapted[i], "adapt": adapted[i]}
        clipped = [g[i] if clip is None else g[i] * clip for g, clip in zip(gradients, clips)]
        expected = reference_lamb(start, clipped, **settings)
        assert torch.allclose(p.double(), expected, rtol=1e-5, atol=1e-9), shapes[i]


def test_lamb_of_a_zero_weight_steps_like_adam():
    (p,), step = lamb_of([torch.zeros(3, 2)], [True], lr=0.01, betas=(0.9, 0.999), weight_decay=0.1)
    gradient = tensor(3, 2)
    step([gradient])
    assert torch.allclose(p, -0.01 * gradient.sign(), rtol=1e-3)
