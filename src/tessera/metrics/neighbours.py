"""Precision, recall, density and coverage, without ever holding all distances."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.metrics.tables import as_floats, same_width

BLOCK_ENTRIES = 2**21
"""About how many distances are held at once: 8 MB in float32."""


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

    def blocks(self, other: "_Points") -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """(rows, -squared distances / 2 (n, M), error of each row at most (n, 1)), some rows at a time."""
        size, largest = max(1, BLOCK_ENTRIES // len(other.rows)), other.norms.max()
        for start in range(0, len(self.rows), size):
            rows = slice(start, min(start + size, len(self.rows)))
            left = self.table[rows].copy()
            left[:, -2:] = left[:, :-3:-1]
            slack = self.unit / 2 * np.square(self.norms[rows, None] + largest)
            yield rows, left @ other.table.T, slack

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
    """Squared distance from each point to its k-th nearest other point. (N,)"""
    radii, place = np.empty(len(points.rows)), len(points.rows) - k
    for rows, halves, slack in points.blocks(points):
        np.fill_diagonal(halves[:, rows], -np.inf)
        kth = np.partition(halves, place, axis=1)[:, place : place + 1].astype(np.float64)
        # The true k-th is at most 2 slacks away from this one, and what it competes with another one.
        i, j, _ = _below(halves, kth, 2 * slack)
        exact = points.exact(i + rows.start, points, j)
        order = np.lexsort((exact, i))  # by row, then by distance
        radii[rows] = exact[order][np.searchsorted(i, np.arange(len(halves))) + k - 1]
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
