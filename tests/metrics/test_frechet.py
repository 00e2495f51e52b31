"""The Frechet distance against SciPy, closed forms and degenerate features."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.metrics import (
    Moments,
    frechet_distance,
    frechet_from_moments,
)
from tiny.features import DEGENERATE, degenerate, features


def scipy_frechet(a, b):
    linalg = pytest.importorskip("scipy.linalg")
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(first @ second)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * np.trace(root).real


@pytest.mark.parametrize(("rows", "other"), [(200, 150), (40, 300)])
def test_frechet_distance_is_scipy_s(rows, other):
    a, b = features(rows, 20), features(other, 20, seed=1)
    assert frechet_distance(a, b) == pytest.approx(scipy_frechet(a, b), rel=1e-10)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-10)


def test_frechet_distance_of_axis_aligned_gaussians_has_a_closed_form():
    a, b = features(300, 1), features(200, 1, seed=1)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    shift = np.array([3.0, 0, -4.0])
    c = features(50, 3)
    assert frechet_distance(c, c + shift) == pytest.approx(25, rel=1e-9)
    assert frechet_distance(c, 3 * c) == pytest.approx(
        4 * (c.mean(0) ** 2).sum() + 4 * np.trace(np.cov(c, rowvar=False)), rel=1e-9
    )


@pytest.mark.parametrize(("rows", "width", "rank"), [(100, 8, 8), (100, 8, 3), (10, 30, 30), (30, 30, 30), (50, 8, 1)])
def test_a_set_is_at_distance_0_from_itself(rows, width, rank):
    x = features(rows, width, rank=rank)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-6)


def test_fewer_images_than_widths_by_either_way():
    """Singular values of the features, or eigenvectors of the rank-deficient covariances."""
    for rows, other in ((10, 12), (10, 60), (60, 10), (31, 30)):
        a, b = features(rows, 30), features(other, 30, seed=1)
        parts = [Moments(30), Moments(30)]
        parts[0].update(a)
        parts[1].update(b)
        assert frechet_distance(a, b) == pytest.approx(frechet_from_moments(*parts), rel=1e-6)


@pytest.mark.parametrize("shape", ["moments", "features"])
@pytest.mark.parametrize(("kind", "rows", "width"), [*DEGENERATE, ("plain", 100, 23)])
def test_frechet_distance_of_degenerate_features_is_that_of_the_roots(kind, rows, width, shape):
    """tr (S1 S2)^(1/2) = sum of the singular values of S1^(1/2) S2^(1/2), with roots from NumPy's eigenvectors."""
    a, b = degenerate(kind, rows, width, 0), degenerate(kind, rows + 3, width, 1)
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    roots = []
    for covariance in covariances:
        values, vectors = np.linalg.eigh(covariance)
        roots.append(vectors * np.sqrt(values.clip(0)) @ vectors.T)
    cross = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum(np.trace(c) for c in covariances) - 2 * cross
    if shape == "features":
        found = frechet_distance(a, b, part_rows=11, panel=7)
    else:
        parts = [Moments(width), Moments(width)]
        for part, x in zip(parts, (a, b), strict=True):
            part.update(x)
        found = frechet_from_moments(*parts, panel=7)
    assert found == pytest.approx(expected, rel=1e-10 if kind == "plain" else 1e-6)


def test_constant_features_are_points():
    a, b = np.ones((5, 3)), np.full((7, 3), 3.0)
    assert frechet_distance(a, b) == pytest.approx(12, rel=1e-12)
    parts = [Moments(3), Moments(3)]
    for part, x in zip(parts, (a, b), strict=True):
        part.update(x)
    assert frechet_from_moments(*parts) == pytest.approx(12, rel=1e-12)
    x = features(40, 3)
    point = np.tile(x.mean(0), (40, 1))
    assert frechet_distance(x, point) == pytest.approx(np.trace(np.cov(x, rowvar=False)), rel=1e-9)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.floats(-1e6, 1e6))
def test_merged_moments_are_those_of_the_whole(sizes, offset):
    x = features(40 + sum(sizes), 4) + offset
    pieces = np.split(x, np.cumsum(sizes))
    whole, merged = Moments(4), Moments(4)
    for piece in pieces[:-1]:
        whole.update(piece)
    rest = Moments(4)
    rest.update(pieces[-1])
    merged.merge(rest)
    merged.merge(whole)
    merged.merge(Moments(4))
    assert merged.count == len(x)
    np.testing.assert_allclose(merged.mean, x.mean(0), rtol=1e-12)
    centred = x - x.mean(0)
    np.testing.assert_allclose(merged.covariance, centred.T @ centred / (len(x) - 1), rtol=1e-7, atol=1e-8)
