"""LAMB against a reference."""

import torch
from torch import nn

from tessera.train.optim.lamb import Lamb
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


def test_lamb_against_a_reference():
    shapes = [(5, 3), (4, 4), (2, 3, 2)]
    # One weight is huge and one tiny, so that a clipped trust ratio would be seen.
    starts = [tensor(*s, seed=7, scale=c) for s, c in zip(shapes, (100.0, 1e-3, 1.0))]
    params = [nn.Parameter(s.clone()) for s in starts]
    free = nn.Parameter(tensor(6, seed=9))
    free_start = free.detach().clone()
    betas = (0.9, 0.99)
    groups = [
        {"params": params, "lr": 0.01, "weight_decay": 0.1, "adapt": True},
        {"params": [free], "lr": 0.01, "weight_decay": 0.0, "adapt": False},
    ]
    lamb = Lamb(groups, betas)
    gradients = [[tensor(*p.shape, seed=20 + step, scale=0.3) for p in (*params, free)] for step in range(5)]
    for step in gradients:
        for p, g in zip((*params, free), step):
            p.grad = g.clone()
        lamb.step()
    for i, (p, start) in enumerate(zip(params, starts)):
        expected = reference_lamb(start, [g[i] for g in gradients], lr=0.01, betas=betas, decay=0.1, adapt=True)
        assert torch.allclose(p.double(), expected, rtol=1e-5, atol=1e-9)
    expected = reference_lamb(free_start, [g[3] for g in gradients], lr=0.01, betas=betas, decay=0.0, adapt=False)
    assert torch.allclose(free.double(), expected, rtol=1e-5)


def test_lamb_of_a_zero_weight_steps_like_adam():
    p = nn.Parameter(torch.zeros(3, 2))
    lamb = Lamb([{"params": [p], "lr": 0.01, "weight_decay": 0.1}], (0.9, 0.999))
    p.grad = tensor(3, 2)
    lamb.step()
    assert torch.allclose(p, -0.01 * p.grad.sign(), rtol=1e-3)
