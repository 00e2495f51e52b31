"""Metrics against scipy, the prdc package, and closed forms."""

import contextlib
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.config import UserError
from tessera.metrics import (
    PRDC,
    Moments,
    clip_score,
    cmmd,
    cosine_scores,
    frechet,
    frechet_distance,
    frechet_from_moments,
    kid,
    points,
    prdc,
)


def features(rows, width, seed=0, rank=None):
    rng = np.random.default_rng(seed)
    rank = rank or width
    mixing = rng.normal(size=(rank, width)) / math.sqrt(rank)
    return rng.normal(size=(rows, rank)) @ mixing + rng.normal(size=width)


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


def degenerate(kind, rows, width, seed):
    x = features(rows, width, seed)
    if kind == "duplicated rows":
        x[rows // 3 :] = x[np.arange(rows - rows // 3) % (rows // 3)]
    elif kind == "constant columns":
        x[:, width // 2 :] = 7.0
    return x


DEGENERATE = [
    ("duplicated rows", 90, 12),
    ("duplicated rows", 60, 40),
    ("constant columns", 80, 20),
    ("fewer than widths", 15, 40),
]


@pytest.mark.parametrize("shape", ["moments", "features"])
@pytest.mark.parametrize(("kind", "rows", "width"), [*DEGENERATE, ("plain", 100, 23)])
def test_frechet_distance_of_degenerate_features_is_that_of_the_roots(kind, rows, width, shape, monkeypatch):
    """tr (S1 S2)^(1/2) = sum of the singular values of S1^(1/2) S2^(1/2), with roots from NumPy's eigenvectors."""
    monkeypatch.setattr(frechet, "PANEL", 7)
    monkeypatch.setattr(frechet, "PART_ROWS", 11)
    a, b = degenerate(kind, rows, width, 0), degenerate(kind, rows + 3, width, 1)
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    roots = []
    for covariance in covariances:
        values, vectors = np.linalg.eigh(covariance)
        roots.append(vectors * np.sqrt(values.clip(0)) @ vectors.T)
    cross = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum(np.trace(c) for c in covariances) - 2 * cross
    if shape == "features":
        found = frechet_distance(a, b)
    else:
        parts = [Moments(width), Moments(width)]
        for part, x in zip(parts, (a, b), strict=True):
            part.update(x)
        found = frechet_from_moments(*parts)
    assert found == pytest.approx(expected, rel=1e-10 if kind == "plain" else 1e-6)


@pytest.mark.parametrize(("kind", "rows", "width"), DEGENERATE)
def test_kernels_of_degenerate_features_are_sklearn_s(kind, rows, width):
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    a, b = degenerate(kind, rows, width, 0), degenerate(kind, rows, width, 1)
    kernels = [pairwise.polynomial_kernel(x, y, degree=3) for x, y in ((a, a), (b, b), (a, b))]
    expected = sum((k.sum() - np.trace(k)) / (rows * (rows - 1)) for k in kernels[:2]) - 2 * kernels[2].mean()
    assert kid(a, b, subsets=2).value == pytest.approx(expected, rel=1e-9)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    kernels = [pairwise.rbf_kernel(x, y, gamma=1 / 200) for x, y in ((a, a), (b, b), (a, b))]
    expected = 1000 * (kernels[0].mean() + kernels[1].mean() - 2 * kernels[2].mean())
    assert cmmd(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("kind", "rows", "width"), DEGENERATE)
def test_prdc_of_degenerate_float64_features_is_the_package_s(kind, rows, width):
    """Where its distances are exact enough: not for copies, whose distance it takes for a small number above 0."""
    a, b = degenerate(kind, rows, width, 0), degenerate(kind, rows + 3, width, 1)
    b = (b - b.mean(0)) * 1.1 + a.mean(0)
    k = 3 if kind != "duplicated rows" else 7  # beyond the copies, of which there are three
    assert as_dict(prdc(a, b, k)) == pytest.approx(reference_prdc(a, b, k), abs=1e-8)


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


@settings(max_examples=20, deadline=None)
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


def test_torch_features_of_any_precision():
    x, y = features(60, 5), features(70, 5, seed=1)
    assert frechet_distance(torch.tensor(x), torch.tensor(y)) == frechet_distance(x, y)
    half = torch.tensor(x).bfloat16()
    assert frechet_distance(half, y) == frechet_distance(half.double().numpy(), y)


def clouds(rows, other, width, offset=0.0):
    """Two overlapping sets, so that the scores are not all 0 or 1."""
    rng = np.random.default_rng(4)
    return rng.normal(size=(rows, width)) + offset, 1.1 * rng.normal(size=(other, width)) + 0.1 + offset


def reference_prdc(real, fake, k):
    package = pytest.importorskip("prdc")
    with contextlib.redirect_stdout(io.StringIO()):
        return package.compute_prdc(real, fake, k)


def as_dict(result: PRDC):
    return {name: getattr(result, name) for name in ("precision", "recall", "density", "coverage")}


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("width", [2, 64])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_prdc_is_the_package_s(k, width, offset, monkeypatch):
    monkeypatch.setattr(points, "BLOCK_ENTRIES", 1000)  # several blocks, with a rest
    real, fake = clouds(133, 90, width, offset)
    expected = reference_prdc(real, fake, k)
    assert as_dict(prdc(real, fake, k)) == pytest.approx(expected, abs=1e-12)
    assert 0 < min(expected.values()) < 1
    assert 0 < expected["precision"] < 1


def plain_prdc(real, fake, k):
    """The definition, all distances at once, from differences."""

    def distances(a, b):
        return np.square(a[:, None] - b[None]).sum(2)

    radii = [np.sort(distances(x, x) + np.diag(np.full(len(x), np.inf)), axis=1)[:, k - 1] for x in (real, fake)]
    cross = distances(real, fake)
    inside = cross < radii[0][:, None]
    recall = (cross < radii[1]).any(1).mean()
    return {
        "precision": inside.any(0).mean(),
        "recall": recall,
        "density": inside.sum(0).mean() / k,
        "coverage": inside.any(1).mean(),
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6), st.sampled_from([1.0, 1e-3, 1e5]))
def test_prdc_decides_ties_exactly(seed, k, width, scale):
    """Points of a small lattice: most distances coincide with a radius, many are 0; strictly inside is what counts."""
    rng = np.random.default_rng(seed)
    real, fake = rng.integers(0, 3, (40, width)) * scale, rng.integers(0, 4, (30, width)) * scale
    assert as_dict(prdc(real, fake, k)) == pytest.approx(plain_prdc(real, fake, k), abs=1e-12)


@pytest.mark.parametrize("degenerate", ["duplicates", "constant columns", "fewer than widths", "float32"])
def test_prdc_of_degenerate_features(degenerate):
    real, fake = clouds(60, 50, 80 if degenerate == "fewer than widths" else 12)
    if degenerate == "duplicates":
        real[::2], fake[10:20], fake[20:30] = real[1::2], fake[:10], real[:10]
    elif degenerate == "constant columns":
        real[:, 3:], fake[:, 3:] = 7.0, 7.0
    elif degenerate == "float32":
        real, fake = real.astype(np.float32), fake.astype(np.float32)
    expected = plain_prdc(real.astype(float), fake.astype(float), 3)
    assert as_dict(prdc(real, fake, 3)) == pytest.approx(expected, abs=1e-12)


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
    assert result.value == pytest.approx(expected, rel=1e-10)
    assert result.deviation == pytest.approx(0, abs=1e-10)
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    kernels = [pairwise.polynomial_kernel(a, b, degree=3) for a, b in ((x, x), (y, y), (x, y))]
    by_sklearn = sum((k.sum() - np.trace(k)) / 132 for k in kernels[:2]) - 2 * kernels[2].mean()
    assert result.value == pytest.approx(by_sklearn, rel=1e-10)


def test_kid_of_subsets_is_near_that_of_all_and_a_function_of_the_seed():
    x, y = features(300, 6), features(260, 6, seed=1)
    whole = plain_mmd(x[:260], y, lambda p, q: (p @ q / 6 + 1) ** 3, True)
    parts = kid(x, y, subsets=60, size=100)
    assert parts.value == pytest.approx(whole, abs=4 * parts.deviation / math.sqrt(60) + 0.1 * abs(whole))
    assert kid(x, y, subsets=4, size=50, seed=1) == kid(x, y, subsets=4, size=50, seed=1)
    assert kid(x, y, subsets=4, size=50, seed=1) != kid(x, y, subsets=4, size=50, seed=2)


def test_cmmd_is_its_definition():
    x, y = features(40, 6), features(30, 6, seed=1)
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y)]
    expected = 1000 * plain_mmd(*unit, lambda p, q: math.exp(-((p - q) ** 2).sum() / (2 * 10**2)), False)
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-9)
    assert cmmd(3 * x, y) == pytest.approx(cmmd(x, y), rel=1e-12)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-12)


def test_prdc_of_one_point_many_times_is_0():
    """All radii are 0 and nothing is strictly inside."""
    same = np.full((20, 3), 7.0)
    assert as_dict(prdc(same, same, 3)) == dict.fromkeys(("precision", "recall", "density", "coverage"), 0.0)


def test_prdc_of_far_and_of_identical_sets():
    real = features(100, 6)
    far = prdc(real, real + 1e3, 3)
    assert as_dict(far) == dict.fromkeys(("precision", "recall", "density", "coverage"), 0.0)
    near = prdc(real, real + 1e-9, 3)
    assert (near.precision, near.recall, near.coverage) == (1, 1, 1)
    collapsed = prdc(real, np.tile(real[:1], (50, 1)), 3)
    assert collapsed.precision == 1
    assert collapsed.recall < 0.1 < collapsed.density
    assert prdc(real, collapsed_fake := np.tile(real[:1], (50, 1)), 3) != prdc(collapsed_fake, real, 3)


def test_one_outlier_does_not_blur_the_others():
    real, fake = clouds(80, 80, 8)
    real[0] *= 1e6
    result = prdc(real, fake, 3)
    assert as_dict(result) == pytest.approx(plain_prdc(real, fake, 3), abs=1e-12)
    assert 0 < result.recall < 1


def test_cosine_scores():
    a, b = np.array([[1.0, 0], [2, 2], [0, -3]]), np.array([[5.0, 0], [0, 1], [0, 1]])
    np.testing.assert_allclose(cosine_scores(a, b), [1, math.sqrt(0.5), -1], rtol=1e-12)
    assert clip_score(a, b) == pytest.approx(100 * math.sqrt(0.5) / 3)
    assert clip_score(a, -a) == 0
    torch.testing.assert_close(
        torch.tensor(cosine_scores(features(9, 7), features(9, 7, seed=1))),
        torch.cosine_similarity(torch.tensor(features(9, 7)), torch.tensor(features(9, 7, seed=1))),
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: frechet_distance(np.zeros((1, 3)), np.zeros((5, 3))), "real: 1 images"),
        (lambda: frechet_distance(np.zeros((5, 3)), np.zeros((5, 4))), "4 wide"),
        (lambda: frechet_distance(np.zeros(5), np.zeros((5, 4))), "shape"),
        (lambda: frechet_distance(np.full((5, 3), np.nan), np.zeros((5, 3))), "NaN"),
        (lambda: prdc(np.zeros((3, 3)), np.zeros((5, 3)), 3), "real: 3 images"),
        (lambda: prdc(np.zeros((3, 3)), np.zeros((5, 3)), 0), "k: 0"),
        (lambda: kid(np.zeros((1, 3)), np.zeros((5, 3))), "real: 1 images"),
        (lambda: kid(np.zeros((4, 3)), np.zeros((5, 3)), size=1), "subset"),
        (lambda: cmmd(np.zeros((4, 3)), np.ones((5, 3))), "real: an embedding is zero"),
        (lambda: cosine_scores(np.ones((3, 3)), np.ones((2, 3))), "pairs"),
        (lambda: cosine_scores(np.ones((3, 3)), np.zeros((3, 3))), "zero"),
        (lambda: Moments(3).covariance, "at least 2"),
        (lambda: Moments(3).update(np.zeros((2, 4))), "4 wide"),
    ],
)
def test_bad_input_is_a_user_error(call, words):
    with pytest.raises(UserError, match=words):
        call()
