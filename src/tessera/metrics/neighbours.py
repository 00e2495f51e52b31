"""Precision, recall, density and coverage, without ever holding all distances."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.metrics.tables import as_floats, same_width

BLOCK_ENTRIES = 2**21
"""About how many distances are held at once: 8 MB in float32."""
SPARE = 8
"""Neighbours kept beyond the k-th, among which rounding may have put the true one."""


@dataclass(frozen=True, kw_only=True)
class PRDC:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020)."""

    precision: float
    """Share of the generated images inside some real image's ball, 0..1."""
    recall: float
    """Share of the real images inside some generated image's ball, 0..1."""
    density: float
    """Mean number of real balls around a generated image, over k; 0 or more, can exceed 1."""
    coverage: float
    """Share of the real images with a generated one in their ball, 0..1."""


class _Points:
    """Points (N, d), centred, as a float32 table whose products with another one's rows are -distance^2 / 2.

    Its rows are (x, 1, -|x|^2 / 2), and (x, -|x|^2 / 2, 1) on the left side. Rounding makes an error of at most
    unit (|a| + |b|)^2 / 2; what a comparison cannot decide within that is computed again from `rows`, in float64.
    """

    def __init__(self, rows: np.ndarray, centre: np.ndarray, scale: float):
        self.rows, width = rows, rows.shape[1]
        self.table = np.empty((len(rows), width + 2), np.float32)
        self.norms = np.empty(len(rows))
        for part in _parts(len(rows), width):
            centred = (rows[part] - centre) / scale  # distances stay, rounding shrinks
            power = np.square(centred).sum(1)
            self.table[part, :width] = centred
            self.table[part, width] = 1
            self.table[part, width + 1] = -power / 2
            self.norms[part] = np.sqrt(power)
        # Of the d + 2 products and their sum, of the entries, and of the two squares.
        self.unit = (width + 16) * np.finfo(np.float32).eps / 2
        self.scale = scale

    def halves(self, rows: Any, columns: Any, other: "_Points | None" = None) -> np.ndarray:
        """-squared distances / 2 of some rows of this table and of another one's."""
        left = self.table[rows].copy()
        left[:, -2:] = left[:, :-3:-1]
        return left @ (other or self).table[columns].T

    def slack(self, rows: Any, other: "_Points") -> np.ndarray:
        """How far off those can be at most, (n, 1)."""
        return self.unit / 2 * np.square(self.norms[rows, None] + other.norms.max())

    def blocks(self, other: "_Points") -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """(rows, -squared distances / 2 (n, M), error of each row at most (n, 1)), some rows at a time."""
        size = max(1, BLOCK_ENTRIES // len(other.rows))
        for start in range(0, len(self.rows), size):
            rows = slice(start, min(start + size, len(self.rows)))
            yield rows, self.halves(rows, slice(None), other), self.slack(rows, other)

    def blocks_of_pairs(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """(rows, columns, -squared distances / 2) of this table with itself: each pair of points once, but in the
        blocks on the diagonal."""
        size = math.isqrt(BLOCK_ENTRIES)
        parts = [slice(start, min(start + size, len(self.rows))) for start in range(0, len(self.rows), size)]
        for place, rows in enumerate(parts):
            for columns in parts[place:]:
                yield rows, columns, self.halves(rows, columns)

    def exact(self, i: np.ndarray, other: "_Points", j: np.ndarray) -> np.ndarray:
        """Squared distances of the pairs (self_i, other_j), some at a time, in the scale of `blocks`."""
        found = np.empty(len(i))
        for part in _parts(len(i), self.rows.shape[1]):
            difference = np.subtract(self.rows[i[part]], other.rows[j[part]], dtype=np.float64)
            difference /= self.scale
            np.square(difference, out=difference)
            found[part] = difference.sum(1)
        return found


def _parts(rows: int, width: int) -> Iterator[slice]:
    """Slices of about 2 MB in float64."""
    step = max(1, BLOCK_ENTRIES // 8 // max(width, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _below(halves: np.ndarray, bound: np.ndarray, slack: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (i, j) that may lie above the bound (n, 1), and whether each surely does: the last is False in doubt."""
    low = _toward(bound - slack, -np.inf)
    flat = np.flatnonzero(halves >= low)
    i, j = np.divmod(flat, halves.shape[1])
    return i, j, halves.ravel()[flat] > _toward(bound + slack, np.inf)[i, 0]


def _toward(values: np.ndarray, direction: float) -> np.ndarray:
    """float32 values that are not less extreme than those in float64."""
    return np.nextafter(values.astype(np.float32), np.float32(direction))


def _squared_radii(points: _Points, k: int) -> np.ndarray:
    """Squared distance from each point to its k-th nearest other point. (N,)

    Distances are symmetric, so each block is computed once for its rows and its columns. Every point keeps its nearest
    ones so far; where rounding leaves open whether the k-th is among them, its distances are looked at once more.
    """
    count = len(points.rows)
    kept = min(k + SPARE, count - 1)
    halves = np.full((count, kept), -np.inf, np.float32)
    nearest = np.zeros((count, kept), np.int64)
    for rows, columns, block in points.blocks_of_pairs():
        if rows == columns:
            np.fill_diagonal(block, -np.inf)
        _keep_nearest(halves[rows], nearest[rows], block, columns.start)
        if rows != columns:
            _keep_nearest(halves[columns], nearest[columns], np.ascontiguousarray(block.T), rows.start)
    slack = points.slack(slice(None), points)
    kth = np.partition(halves, kept - k, axis=1)[:, kept - k : kept - k + 1].astype(np.float64)
    # The true k-th is at most 2 slacks away from this one, and what it competes with another one.
    rivals = halves >= _toward(kth - 2 * slack, -np.inf)
    i, place = np.nonzero(rivals)
    radii = _kth_of_row(i, points.exact(i, points, nearest[i, place]), np.arange(count), k)
    open_rows = np.flatnonzero(rivals.all(1)) if kept < count - 1 else np.empty(0, np.int64)
    radii[open_rows] = _radii_of_rows(points, open_rows, k)
    return radii


def _keep_nearest(halves: np.ndarray, nearest: np.ndarray, block: np.ndarray, first: int) -> None:
    """Puts the largest of (n, kept) and of the new block's rows (n, m) into the former; `first`: of its columns."""
    kept = halves.shape[1]
    if block.shape[1] > kept:
        columns = np.argpartition(block, -kept, axis=1)[:, -kept:]
        block = np.take_along_axis(block, columns, 1)
    else:
        columns = np.broadcast_to(np.arange(block.shape[1]), block.shape)
    both, names = np.concatenate([halves, block], 1), np.concatenate([nearest, columns + first], 1)
    best = np.argpartition(both, -kept, axis=1)[:, -kept:]
    halves[:], nearest[:] = np.take_along_axis(both, best, 1), np.take_along_axis(names, best, 1)


def _kth_of_row(i: np.ndarray, values: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """The k-th smallest of the values of each of `rows`; `i` (ascending): whose they are, at least k of each."""
    order = np.lexsort((values, i))
    return values[order][np.searchsorted(i, rows) + k - 1]


def _radii_of_rows(points: _Points, chosen: np.ndarray, k: int) -> np.ndarray:
    """As `_squared_radii`, of some points, from all their distances."""
    radii, size = np.empty(len(chosen)), max(1, BLOCK_ENTRIES // len(points.rows))
    for start in range(0, len(chosen), size):
        rows = chosen[start : start + size]
        halves, slack = points.halves(rows, slice(None)), points.slack(rows, points)
        halves[np.arange(len(rows)), rows] = -np.inf
        place = halves.shape[1] - k
        kth = np.partition(halves, place, axis=1)[:, place : place + 1].astype(np.float64)
        i, j, _ = _below(halves, kth, 2 * slack)
        radii[start : start + size] = _kth_of_row(i, points.exact(rows[i], points, j), np.arange(len(rows)), k)
    return radii


def prdc(real: Any, fake: Any, k: int) -> PRDC:
    """Precision, recall, density and coverage of features (N, d), (M, d), with balls to the k-th nearest neighbour.

    The formula of Naeem et al. 2020: a point is no neighbour of itself, and inside means strictly inside.
    Needs N, M > k >= 1. Memory grows with N + M, not with N M; float32 features are not copied to float64.
    """
    if k < 1:
        raise UserError(f"k: {k} must be at least 1")
    real, fake = as_floats(real, "real", k + 1), as_floats(fake, "fake", k + 1)
    same_width(real.shape[1], fake.shape[1])
    centre = real.mean(0, dtype=np.float64)
    spread = [np.maximum(x.max(0) - centre, centre - x.min(0)).max() for x in (real, fake)]
    scale = 2.0 ** np.frexp(max(spread))[1]  # a power of 2: dividing by it does not round
    of_real, of_fake = (_Points(x, centre, float(scale)) for x in (real, fake))
    real_radii, fake_radii = _squared_radii(of_real, k), _squared_radii(of_fake, k)
    balls = np.zeros(len(fake), dtype=np.int64)  # real balls around each fake
    covered, recalled = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    half_fake = (fake_radii / 2).astype(np.float32)
    margin = np.finfo(np.float32).eps * half_fake.max(initial=0.0)
    for rows, halves, slack in of_real.blocks(of_fake):
        i, j, inside = _below(halves, -real_radii[rows, None] / 2, slack)
        doubt = np.flatnonzero(~inside)
        inside[doubt] = of_real.exact(i[doubt] + rows.start, of_fake, j[doubt]) < real_radii[i[doubt] + rows.start]
        balls += np.bincount(j[inside], minlength=len(fake))
        covered[rows][i[inside]] = True
        # The same for the balls of the fake ones: their radii go with the columns.
        halves += half_fake
        slack = slack + margin + np.finfo(np.float32).eps * (np.abs(halves).max(1, keepdims=True) + half_fake.max())
        i, j, inside = _below(halves, np.zeros_like(slack), slack)
        doubt = np.flatnonzero(~inside)
        inside[doubt] = of_real.exact(i[doubt] + rows.start, of_fake, j[doubt]) < fake_radii[j[doubt]]
        recalled[rows][i[inside]] = True
    return PRDC(
        precision=float((balls > 0).mean()),
        recall=float(recalled.mean()),
        density=float(balls.mean() / k),
        coverage=float(covered.mean()),
    )
