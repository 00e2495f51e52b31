"""Points whose distances to each other are computed by blocks, in float32 with a bound of the error."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

BLOCK_ENTRIES = 2**21
"""Distances that are held at once by default, 8 MB in float32."""


class Points:
    """Points (N, d), centered, as a float32 table whose products with another one's rows are -distance^2 / 2.

    Its rows are (x, 1, -|x|^2 / 2), and (x, -|x|^2 / 2, 1) on the left side. Rounding makes an error of at most
    unit (|a| + |b|)^2 / 2; what a comparison cannot decide within that is computed again from `rows`, in float64.
    """

    def __init__(self, rows: np.ndarray, center: np.ndarray, scale: float, block_entries: int = BLOCK_ENTRIES):
        """Center and scale the rows; scale: a power of 2, so that dividing by it does not round."""
        self.rows, width, self.block_entries = rows, rows.shape[1], block_entries
        self.table = np.empty((len(rows), width + 2), np.float32)
        self.norms = np.empty(len(rows))
        for part in parts(len(rows), width):
            centered = rows[part] - center  # distances stay, rounding shrinks
            centered *= 1 / scale
            power = np.einsum("nd,nd->n", centered, centered)
            self.table[part, :width] = centered
            self.table[part, width] = 1
            self.table[part, width + 1] = -power / 2
            self.norms[part] = np.sqrt(power)
        # Of the d + 2 products and their sum, of the entries, and of the two squares.
        self.unit = (width + 16) * np.finfo(np.float32).eps / 2
        self.scale = scale

    def halves(self, rows: Any, columns: Any, other: "Points | None" = None) -> np.ndarray:
        """Return -squared distances / 2 of some rows of this table and of another one's."""
        left = self.table[rows].copy()
        left[:, -2:] = left[:, :-3:-1]
        return left @ (other or self).table[columns].T

    def slack(self, rows: Any, other: "Points") -> np.ndarray:
        """Return how far off those can be at most, (n, 1)."""
        return self.unit / 2 * np.square(self.norms[rows, None] + other.norms.max())

    def blocks(self, other: "Points") -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (rows, -squared distances / 2 (n, M), error of each row at most (n, 1)), some rows at a time."""
        size = max(1, self.block_entries // len(other.rows))
        for start in range(0, len(self.rows), size):
            rows = slice(start, min(start + size, len(self.rows)))
            yield rows, self.halves(rows, slice(None), other), self.slack(rows, other)

    def blocks_of_pairs(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Yield (rows, columns, -squared distances / 2) of this table with itself: each pair of points once, but in the
        blocks on the diagonal, which are a quarter as large."""
        size = math.isqrt(self.block_entries)
        pieces = [slice(start, min(start + size, len(self.rows))) for start in range(0, len(self.rows), size)]
        for place, rows in enumerate(pieces):
            middle = (rows.start + rows.stop) // 2
            small = slice(rows.start, middle), slice(middle, rows.stop)
            for one, other in ((0, 0), (0, 1), (1, 1)):
                if small[one].start < small[one].stop:
                    yield small[one], small[other], self.halves(small[one], small[other])
            for columns in pieces[place + 1 :]:
                yield rows, columns, self.halves(rows, columns)

    def exact(self, i: np.ndarray, other: "Points", j: np.ndarray) -> np.ndarray:
        """Return squared distances of the pairs (self_i, other_j), some at a time, in the scale of `blocks`."""
        found = np.empty(len(i))
        for part in parts(len(i), self.rows.shape[1]):
            difference = np.subtract(self.rows[i[part]], other.rows[j[part]], dtype=np.float64)
            difference *= 1 / self.scale
            np.square(difference, out=difference)
            found[part] = difference.sum(1)  # in NumPy's order, as others sum: it decides ties
        return found


def parts(rows: int, width: int) -> Iterator[slice]:
    """Yield slices of about 2 MB in float64."""
    step = max(1, BLOCK_ENTRIES // 8 // max(width, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def above(halves: np.ndarray, bound: np.ndarray, slack: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs (i, j) that may lie above the bound (n, 1), and whether each surely does: the last is False in
    doubt."""
    low = toward(bound - slack, -np.inf)
    flat = np.flatnonzero(halves >= low)
    i, j = np.divmod(flat, halves.shape[1])
    return i, j, halves.ravel()[flat] > toward(bound + slack, np.inf)[i, 0]


def toward(values: np.ndarray, direction: float) -> np.ndarray:
    """Return float32 values that are not less extreme than those in float64."""
    return np.nextafter(values.astype(np.float32), np.float32(direction))
