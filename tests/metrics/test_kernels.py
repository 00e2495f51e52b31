"""KID and CMMD against their definitions and scikit-learn."""

import math

import numpy as np
import pytest

from tessera.metrics import (
    cmmd,
    kid,
)
from tiny.features import DEGENERATE, degenerate, features


@pytest.mark.parametrize(("kind", "rows", "width"), DEGENERATE)
def test_kernels_of_degenerate_features_are_sklearn_s(kind, rows, width):
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    a, b = degenerate(kind, rows, width, 0), degenerate(kind, rows, width, 1)
    kernels = [pairwise.polynomial_kernel(x, y, degree=3) for x, y in ((a, a), (b, b), (a, b))]
    expected = sum((k.sum() - np.trace(k)) / (rows * (rows - 1)) for k in kernels[:2]) - 2 * kernels[2].mean()
    assert kid(a, b, subsets=2) == pytest.approx(expected, rel=1e-9)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    kernels = [pairwise.rbf_kernel(x, y, gamma=1 / 200) for x, y in ((a, a), (b, b), (a, b))]
    expected = 1000 * (kernels[0].mean() + kernels[1].mean() - 2 * kernels[2].mean())
    assert cmmd(a, b) == pytest.approx(expected, rel=1e-6)


def plain_mmd(x, y, kernel, unbiased):
    """By its definition, pair by pair."""

    def mean(a, b, skip):
        values = [kernel(p, q) for i, p in enumerate(a) for j, q in enumerate(b) if not (skip and i == j)]
        return sum(values) / len(values)

    return mean(x, x, unbiased) + mean(y, y, unbiased) - 2 * mean(x, y, False)


def test_kid_is_its_definition():
    x, y = features(12, 5), features(12, 5, seed=1)
    expected = plain_mmd(x, y, lambda p, q: (p @ q / 5 + 1) ** 3, True)
    result = kid(x, y, subsets=3, size=50)
    assert result == pytest.approx(expected, rel=1e-10)
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    kernels = [pairwise.polynomial_kernel(a, b, degree=3) for a, b in ((x, x), (y, y), (x, y))]
    by_sklearn = sum((k.sum() - np.trace(k)) / 132 for k in kernels[:2]) - 2 * kernels[2].mean()
    assert result == pytest.approx(by_sklearn, rel=1e-10)


def test_kid_of_subsets_is_near_that_of_all_and_a_function_of_the_seed():
    x, y = features(300, 6), features(260, 6, seed=1)
    whole = plain_mmd(x[:260], y, lambda p, q: (p @ q / 6 + 1) ** 3, True)
    parts = [kid(x, y, subsets=1, size=100, seed=seed) for seed in range(60)]
    assert np.mean(parts) == pytest.approx(whole, abs=4 * np.std(parts) / math.sqrt(60) + 0.1 * abs(whole))
    assert kid(x, y, subsets=60, size=100) == pytest.approx(whole, abs=4 * np.std(parts) / math.sqrt(60))
    assert kid(x, y, subsets=4, size=50, seed=1) == kid(x, y, subsets=4, size=50, seed=1)
    assert kid(x, y, subsets=4, size=50, seed=1) != kid(x, y, subsets=4, size=50, seed=2)


def test_cmmd_is_its_definition():
    x, y = features(40, 6), features(30, 6, seed=1)
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y)]
    expected = 1000 * plain_mmd(*unit, lambda p, q: math.exp(-((p - q) ** 2).sum() / (2 * 10**2)), False)
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-9)
    assert cmmd(3 * x, y) == pytest.approx(cmmd(x, y), rel=1e-12)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-12)
