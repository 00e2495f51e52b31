"""Distances in float32 with a bound of their error."""

import numpy as np
import pytest

from tessera.metrics.points import Points, above, parts


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
