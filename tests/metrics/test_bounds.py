"""Bounds of products: they hold for every pair, are narrow, and turning keeps lengths."""

import numpy as np
import pytest
import torch

from tessera.metrics import bounds
from tessera.metrics.bounds import GROUP, Products, room_for


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("width", [1, 2, 5, 97, 384])
def test_they_hold_for_every_pair_and_are_narrow(monkeypatch, fast, width):
    """Of points of a decaying spectrum, some far out, some all alike, and one at the center."""
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: fast)
    rng = np.random.default_rng(width)
    spectrum = 1 / (1 + np.arange(width))
    a, b = ((rng.normal(size=(rows, width)) * spectrum + 7).astype(np.float32) for rows in (50, 71))
    b[3], b[4:8], b[9] = 7.0, b[4], b[9] + 300
    center, scale = np.full(width, 7.0), 4.0
    left, right = Products(a, center, scale, alike=True), Products(b, center, scale)
    upper = left.upper_bounds(right, room_for(50 * 2 * GROUP)).double().numpy()
    assert upper.shape == (50, 2 * GROUP)
    assert (upper[:, 71:] == -np.inf).all()
    exact = left.halves(np.square(a[:, None].astype(float) - b).sum(2).T / scale**2).T
    excess = upper[:, :71] - exact
    assert (excess >= 0).all()
    largest = np.sqrt(np.square(a.astype(float) - 7).sum(1).max()) / scale
    norms = np.sqrt(np.square(b.astype(float) - 7).sum(1)) / scale
    share = 0.04 if fast and width > 2 else 0.02 if fast else 1e-4
    assert (excess <= share * (largest + norms) ** 2).all()


@pytest.mark.parametrize("width", [1, 2, 24, 97, 768])
def test_turning_keeps_products_and_spreads_what_stands_out(width):
    points = torch.randn(20, width, generator=torch.Generator().manual_seed(1))
    points[:, 0] += 100
    turned, unit = bounds._turned(points)
    lengths = points.double().norm(dim=1)
    products = points.double() @ points.double().T
    assert ((turned.double() @ turned.double().T - products).abs() <= 3 * unit * lengths[:, None] * lengths).all()
    assert (turned.abs().amax(1) <= 100 * 2.1 / width**0.5 + 5).all()
