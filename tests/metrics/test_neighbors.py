"""Precision, recall, density and coverage against the package prdc and their definition."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.config import UserError
from tessera.metrics import PRDC, mind, nearest, prdc
from tessera.metrics.neighbors import Points, above, parts
from tiny.defaults import CHOICES, torch_defaults
from tiny.features import DEGENERATE, degenerate, features


@pytest.mark.parametrize(("kind", "rows", "width"), DEGENERATE)
def test_prdc_of_degenerate_float64_features_is_the_package_s(kind, rows, width):
    """Where its distances are exact enough: not for copies, whose distance it takes for a small number above 0."""
    a, b = degenerate(kind, rows, width, 0), degenerate(kind, rows + 3, width, 1)
    b = (b - b.mean(0)) * 1.1 + a.mean(0)
    k = 3 if kind != "duplicated rows" else 7  # beyond the copies, of which there are three
    assert as_dict(prdc(a, b, k)) == pytest.approx(reference_prdc(a, b, k), abs=1e-8)


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
def test_prdc_is_the_package_s(k, width, offset):
    real, fake = clouds(133, 90, width, offset)
    expected = reference_prdc(real, fake, k)
    several = prdc(real, fake, k, block_entries=1000)  # blocks, with a rest
    assert as_dict(several) == pytest.approx(expected, abs=1e-12)
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


@settings(max_examples=40)
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


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_blocks_are_distances_within_their_bound(offset):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(rows, 16)) + offset for rows in (30, 23))
    center = a.mean(0)
    left, right = (Points(x, center, 8.0, block_entries=100) for x in (a, b))
    exact = np.square(a[:, None] - b).sum(-1) / 8**2
    seen = 0
    for rows, halves, slack in left.blocks(right):
        assert (np.abs(halves + exact[rows] / 2) <= slack).all()
        seen += len(halves)
    assert seen == 30
    i, j = np.divmod(np.arange(30 * 23), 23)
    np.testing.assert_allclose(left.exact(i, right, j), exact.ravel(), rtol=1e-12)


def test_each_pair_of_points_comes_once():
    points = Points(np.random.default_rng(0).normal(size=(37, 4)), np.zeros(4), 1.0, block_entries=64)
    counts = np.zeros((37, 37), int)
    for rows, columns, halves in points.blocks_of_pairs():
        assert halves.shape == counts[rows, columns].shape
        counts[rows, columns] += 1
        if rows != columns:
            counts[columns, rows] += 1
    assert (counts == 1).all()


def test_doubt_is_told_from_certainty():
    i, j, sure = above(np.array([[0.0, 1.0, 2.0]], np.float32), np.array([[1.0]]), np.array([[0.5]]))
    assert (i.tolist(), j.tolist(), sure.tolist()) == ([0, 0], [1, 2], [False, True])
    assert [part.stop for part in parts(5, 2**18)] == [1, 2, 3, 4, 5]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([1.0, 1e-3, 1e5]), st.sampled_from([0.0, 300.0]))
def test_nearest_is_that_of_all_differences_with_ties_to_the_first(seed, width, scale, offset):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 4, (30, width)) * scale + offset, rng.integers(0, 3, (40, width)) * scale + offset
    squares = np.square(a[:, None] - b[None]).sum(2)
    distances, rows = nearest(a, b, block_entries=200)
    np.testing.assert_array_equal(rows, squares.argmin(1))
    np.testing.assert_allclose(distances, np.sqrt(squares.min(1)), rtol=1e-9, atol=1e-12 * scale)


def test_nearest_sees_differences_that_float32_products_lose():
    rng = np.random.default_rng(1)
    others = (rng.normal(size=(500, 64)) + 1000).astype(np.float32)
    points = others[::-1].copy()
    points[:, 0] += 1e-3
    distances, rows = nearest(points, others)
    np.testing.assert_array_equal(rows, np.arange(499, -1, -1))
    np.testing.assert_allclose(distances, np.abs(points[:, 0].astype(float) - others[::-1, 0]), rtol=1e-9)


@pytest.fixture(params=[1, 3])
def threads(request):
    """Torch's threads during a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("outlier", [0, 1e4])
def test_nearest_is_exact_at_either_precision_over_many_blocks(threads, monkeypatch, fast, outlier):
    """Also where float32's or int8's products cannot tell the candidates apart."""
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: fast)
    rng = np.random.default_rng(2)
    others = rng.normal(size=(900, 48)).astype(np.float32)
    others[300:330] = others[:30] + 1e-6 * rng.normal(size=(30, 48))  # rivals
    others[600:630] = others[:30]  # equals, of which the first counts
    others[700, 0] += outlier
    points = np.concatenate([others[:30] + np.float32(1e-3), rng.normal(size=(170, 48)).astype(np.float32)])
    squares = np.square(points[:, None].astype(float) - others[None]).sum(2)
    distances, rows = nearest(points, others, block_entries=100 * 64)
    np.testing.assert_array_equal(rows, squares.argmin(1))
    np.testing.assert_allclose(distances, np.sqrt(squares.min(1)), rtol=1e-12)
    # Without its own row, which is the nearest one otherwise.
    squares = np.square(others[:, None].astype(float) - others[None]).sum(2)
    np.fill_diagonal(squares, np.inf)
    distances, rows = nearest(others[50:], others, skip=np.arange(50, 900), block_entries=100 * 64)
    np.testing.assert_array_equal(rows, squares[50:].argmin(1))
    np.testing.assert_allclose(distances, np.sqrt(squares[50:].min(1)), rtol=1e-12)
    assert torch.get_num_threads() == threads


def test_nearest_among_equal_points_is_the_first_of_them():
    distances, rows = nearest(np.ones((70, 5)), np.ones((300, 5)), block_entries=64 * 64)
    assert not distances.any()
    assert not rows.any()


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_a_programs_own_torch_defaults_change_no_distance(choice):
    points, others = (np.random.default_rng(seed).standard_normal((50, 6), np.float32) for seed in (0, 1))
    expected = *nearest(points, others), mind(points, others)
    with torch_defaults(choice):
        found = *nearest(points, others), mind(points, others)
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)


def test_nearest_refuses_what_does_not_fit():
    with pytest.raises(UserError, match="features are 3 wide, those of real 2"):
        nearest(np.zeros((4, 2)), np.zeros((4, 3)))
    with pytest.raises(UserError, match="others: 0 images are too few"):
        nearest(np.zeros((4, 2)), np.zeros((0, 2)))
