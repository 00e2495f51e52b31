"""Muon against a reference and torch's own."""

import math

import pytest
import torch
from torch import nn

from tessera.train.optim.muon import Muon, orthogonalize
from tiny.gradients import tensor


def reference_muon(weight, gradients, *, lr, decay, momentum=0.95):
    """Jordan et al. 2024, in float64, one matrix."""
    w, buffer = weight.double(), torch.zeros_like(weight, dtype=torch.float64)
    for gradient in gradients:
        g = gradient.double()
        buffer = momentum * buffer + (1 - momentum) * g
        x = (1 - momentum) * g + momentum * buffer
        flipped = x.shape[0] > x.shape[1]
        x = x.T if flipped else x
        x = x / x.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x - 4.7750 * (gram @ x) + 2.0315 * (gram @ gram @ x)
        x = x.T if flipped else x
        w = w * (1 - lr * decay) - lr * math.sqrt(max(1, w.shape[0] / w.shape[1])) * x
    return w


SHAPES = [(8, 8), (24, 8), (8, 24), (8, 8), (32, 8), (8, 24)]


def muon_steps(optimizer, params, count=3):
    gradients = [[tensor(*p.shape, seed=40 + 10 * step + i) for i, p in enumerate(params)] for step in range(count)]
    for step in gradients:
        for p, g in zip(params, step):
            p.grad = g.clone()
        optimizer.step()
    return gradients


def test_muon_against_a_reference():
    params = [nn.Parameter(tensor(*s, seed=i)) for i, s in enumerate(SHAPES)]
    starts = [p.detach().clone() for p in params]
    muon = Muon(params, dtype=torch.float32)
    muon.param_groups[0].update(lr=0.02, weight_decay=0.1)
    gradients = muon_steps(muon, params)
    for i, (p, start) in enumerate(zip(params, starts)):
        expected = reference_muon(start, [g[i] for g in gradients], lr=0.02, decay=0.1)
        assert torch.allclose(p.double(), expected, atol=2e-5), SHAPES[i]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({}, True),
        ({"nesterov": False}, False),
        ({"adjust_lr_fn": "match_rms_adamw"}, False),
        ({"momentum": 0.5}, False),
        ({"ns_steps": 4}, False),
        ({"ns_coefficients": (1.875, -1.25, 0.375)}, False),
        ({"weight_decay": 1.0}, False),
    ],
)
def test_muon_against_torch(other, same):
    """torch's updates with these settings and no others."""
    ours = [nn.Parameter(tensor(*s, seed=i)) for i, s in enumerate(SHAPES)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    muon = Muon(ours)
    muon.param_groups[0].update(lr=0.02, weight_decay=0.1)
    muon_steps(muon, ours)
    settings = {
        "lr": 0.02,
        "weight_decay": 0.1,
        "momentum": 0.95,
        "nesterov": True,
        "ns_coefficients": (3.4445, -4.7750, 2.0315),
        "ns_steps": 5,
        "adjust_lr_fn": "original",
    }
    muon_steps(torch.optim.Muon(theirs, **(settings | other)), theirs)
    off = [(a - b).norm() / (0.02 * 3 * math.sqrt(a.numel())) for a, b in zip(ours, theirs)]
    assert (max(off) < 0.02) == same  # bfloat16's rounding, no more


def test_orthogonalize_keeps_directions_and_evens_out_lengths():
    u, _ = torch.linalg.qr(tensor(6, 6, seed=1))
    v, _ = torch.linalg.qr(tensor(10, 6, seed=2))
    x = u @ torch.diag(torch.tensor([1.0, 0.7, 0.4, 0.2, 0.1, 0.05])) @ v.T
    inner = u.T @ orthogonalize(x[None])[0] @ v
    assert torch.allclose(inner, torch.diag(inner.diag()), atol=1e-4)
    assert inner.diag().min() > 0.6
    assert inner.diag().max() < 1.3
