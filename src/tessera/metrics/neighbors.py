"""Nearest neighbors, and precision, recall, density and coverage, by blocks of float32 distances with error bounds."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.devices import usual_defaults
from tessera.metrics.arrays import as_floats, same_width
from tessera.metrics.bounds import GROUP, PIECE, Products, room_for, toward
from tessera.metrics.jackknife import LeftOut

BLOCK_ENTRIES = 2**21
"""Distances that are held at once by default, 8 MB in float32."""
COLUMNS = 8192
"""Points that `nearest` compares with at once."""


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
        """Return squared distances of the pairs (self_i, other_j), in the scale of `blocks`."""
        return exact_squares(self.rows, i, other.rows, j, self.scale)


def exact_squares(rows: np.ndarray, i: np.ndarray, others: np.ndarray, j: np.ndarray, scale: float) -> np.ndarray:
    """Return |rows_i - others_j|^2 / scale^2 of the pairs in float64, some at a time."""
    found = np.empty(len(i))
    for part in parts(len(i), rows.shape[1]):
        difference = np.subtract(rows[i[part]], others[j[part]], dtype=np.float64)
        difference *= 1 / scale
        np.square(difference, out=difference)
        found[part] = difference.sum(1)  # in NumPy's order, as others sum: it decides ties
    return found


def parts(rows: int, width: int) -> Iterator[slice]:
    """Yield slices of about 2 MB in float64."""
    step = max(1, BLOCK_ENTRIES // 8 // max(width, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def above(halves: np.ndarray, bound: np.ndarray, slack: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs (i, j) that may lie above the bound (n, 1), and whether each surely does: False in doubt."""
    low = toward(bound - slack, -np.inf)
    flat = np.flatnonzero(halves >= low)
    i, j = np.divmod(flat, halves.shape[1])
    return i, j, halves.ravel()[flat] > toward(bound + slack, np.inf)[i, 0]


@usual_defaults
def nearest(
    points: Any, others: Any, *, skip: np.ndarray | None = None, block_entries: int = BLOCK_ENTRIES
) -> tuple[np.ndarray, np.ndarray]:
    """Return distance (N,) from each of points (N, d) to its nearest one of others (M, d), and that one's row (N,).

    Exact, of equally near ones the first. skip (N,): for each point a row of others that does not count, such as its
    own; needs M > 1. Memory grows with N + M, not with N M; others are not copied. block_entries: pairs that a thread
    holds at once.

    Each of torch's threads takes points of its own. Threads that share every sum wait for each other by spinning, which
    costs several times as much as the sums where the processor has other work.
    """
    import torch

    points, others = as_floats(points, "points"), as_floats(others, "others", 1 if skip is None else 2)
    same_width(points.shape[1], others.shape[1])
    center = others[:: -(-len(others) // COLUMNS)].mean(0, dtype=np.float64)  # any one near the points does
    scale = float(2.0 ** np.frexp(max(abs(float(x)) for part in (points, others) for x in (part.min(), part.max())))[1])
    best = np.full(len(points), np.inf), np.zeros(len(points), np.int64)
    columns = max(GROUP, min(block_entries // GROUP, COLUMNS) // GROUP * GROUP)
    size = min(PIECE, max(1, block_entries // columns))
    threads = torch.get_num_threads()
    rooms = [room_for(size * columns) for _ in range(threads)]

    def search(part: Products, right: Products, rows: slice, first: int) -> None:
        room = rooms.pop()
        own = None if skip is None else skip[rows] - first
        _search(part, right, part.upper_bounds(right, room), own, first, scale, [of_all[rows] for of_all in best])
        rooms.append(room)

    starts = range(0, len(others), columns)
    slices = [slice(start, start + size) for start in range(0, len(points), size)]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            left = list(pool.map(lambda rows: Products(points[rows], center, scale, alike=True), slices))
            prepared = (pool.submit(Products, others[first : first + columns], center, scale) for first in starts)
            coming = next(prepared)
            for first in starts:
                right, coming = coming.result(), next(prepared, coming)
                list(pool.map(search, left, repeat(right), slices, repeat(first)))
    finally:
        torch.set_num_threads(threads)
    return np.sqrt(best[0]) * scale, best[1]


def _search(
    part: Products,
    right: Products,
    upper: Any,
    own: np.ndarray | None,
    first: int,
    scale: float,
    best: list[np.ndarray],
) -> None:
    """Put nearer ones into `best`, the squared distance and the row (n,) of each point of `part`.

    upper (n, m): bounds of them, changed; first: row of the first of `right`; own (n,): the ones that do not count.
    """
    import torch

    squares, found = best
    if own is not None:
        inside = np.flatnonzero((own >= 0) & (own < len(right.rows)))
        upper[inside, own[inside]] = -torch.inf
    groups = upper.view(len(upper), GROUP, -1)
    highest = groups.amax(1)  # the only look at all of them

    def take(i: np.ndarray, j: np.ndarray) -> None:
        far = exact_squares(part.rows, i, right.rows, j, scale)
        order = np.lexsort((j, far, i))
        order = order[np.diff(i[order], prepend=-1) > 0]  # the nearest one of each point
        i, j, far = i[order], j[order] + first, far[order]
        nearer = (far < squares[i]) | (far == squares[i]) & (j < found[i])
        squares[i[nearer]], found[i[nearer]] = far[nearer], j[nearer]

    def bound() -> Any:
        return torch.from_numpy(toward(part.halves(squares), -np.inf))

    # The most promising one of each point tells how near the nearest one is at least.
    i = torch.nonzero(highest.amax(1) >= bound())[:, 0]
    group = highest[i].argmax(1)
    j = groups[i, :, group].argmax(1) * highest.shape[1] + group
    take(i.numpy(), j.numpy())
    upper[i, j] = -torch.inf
    least = bound()
    i, group = torch.nonzero(highest >= least[:, None], as_tuple=True)
    pair, place = torch.nonzero(groups[i, :, group] >= least[i, None], as_tuple=True)
    take(i[pair].numpy(), (place * highest.shape[1] + group[pair]).numpy())


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


def squared_radii(points: Points, k: int, labels: np.ndarray, blocks: int, spare: int) -> tuple[np.ndarray, np.ndarray]:
    """Return squared distance from each point to its k-th nearest other point (N,), and without each block (N, blocks).

    labels (N,): the block of each point; 0 for the points of a block that is left out. Distances are symmetric, so each
    is computed once for its row and its column. Every point keeps its nearest ones so far; where rounding or a block
    leaves open whether the k-th is among them, its distances are looked at once more.
    """
    count = len(points.rows)
    kept = min(k + spare, count - 1)
    halves, nearest = np.full((count, kept), -np.inf, np.float32), np.zeros((count, kept), np.int64)
    for rows, columns, block in points.blocks_of_pairs():
        if rows == columns:
            np.fill_diagonal(block, -np.inf)
        _keep_nearest(halves[rows], nearest[rows], block, columns.start)
        if rows != columns:
            _keep_nearest(halves[columns], nearest[columns], block.T, rows.start)
    slack = points.slack(slice(None), points)
    bound = _least_kth(halves, k, labels[nearest], labels, blocks)
    # The true k-th is at most 2 slacks away from this one, and what it competes with another one.
    rivals = halves >= toward(bound - 2 * slack, -np.inf)
    is_open = rivals.all(1) & (kept < count - 1)
    radii, without = np.zeros(count), np.zeros((count, blocks))
    closed, open_rows = np.flatnonzero(~is_open), np.flatnonzero(is_open)
    i, place = np.nonzero(rivals[closed])
    radii[closed], without[closed] = _kth_of_pairs(points, closed, i, nearest[closed[i], place], k, labels, blocks)
    size = max(1, points.block_entries // count)
    for rows in (open_rows[start : start + size] for start in range(0, len(open_rows), size)):
        block = points.halves(rows, slice(None))
        block[np.arange(len(rows)), rows] = -np.inf
        i, j, _ = above(block, _least_kth(block, k, labels, labels[rows], blocks), 2 * slack[rows])
        radii[rows], without[rows] = _kth_of_pairs(points, rows, i, j, k, labels, blocks)
    return radii, without


def _keep_nearest(halves: np.ndarray, nearest: np.ndarray, block: np.ndarray, first: int) -> None:
    """Put the largest of (n, kept) and of the new block's rows (n, m) into the former; `first`: of its columns."""
    import torch

    kept, least = halves.shape[1], halves.min(1)
    if np.isfinite(least).all():  # all rows are full, and few of the new ones come into question
        i, j = np.divmod(np.flatnonzero(np.ascontiguousarray(block > least[:, None])), block.shape[1])
        place = np.arange(len(i)) - np.searchsorted(i, i)  # in a table with gaps
        new = np.full((len(block), place.max(initial=-1) + 1), -np.inf, np.float32)
        columns = np.zeros(new.shape, np.int64)
        new[i, place], columns[i, place] = block[i, j], j
    else:
        found = torch.topk(torch.from_numpy(block), min(kept, block.shape[1]), sorted=False)
        new, columns = (part.numpy() for part in found)
    both, names = np.concatenate([halves, new], 1), np.concatenate([nearest, columns + first], 1)
    best = np.argpartition(both, -kept, axis=1)[:, -kept:]
    halves[:], nearest[:] = np.take_along_axis(both, best, 1), np.take_along_axis(names, best, 1)


def _least_kth(halves: np.ndarray, k: int, theirs: np.ndarray, own: np.ndarray, blocks: int) -> np.ndarray:
    """Return the k-th largest of each row (n, m), or the least of those without a block that is not its own. (n, 1)"""
    place = halves.shape[1] - k
    least = np.partition(halves, place, axis=1)[:, place : place + 1].astype(np.float64)
    for block in range(blocks):
        rows = own != block
        rest = np.where((theirs[rows] if theirs.ndim == 2 else theirs) == block, -np.inf, halves[rows])
        least[rows] = np.minimum(least[rows], np.partition(rest, place, axis=1)[:, place : place + 1])
    return least


def _kth_of_pairs(
    points: Points, rows: np.ndarray, i: np.ndarray, j: np.ndarray, k: int, labels: np.ndarray, blocks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return `squared_radii` of some rows from pairs (rows[i], j), i ascending, that hold their nearest points."""
    distances, own = points.exact(rows[i], points, j), labels[rows]
    order = np.lexsort((distances, i))
    block_of, distances = labels[j[order]], distances[order]
    radii, without = distances[np.searchsorted(i, np.arange(len(rows))) + k - 1], np.zeros((len(rows), blocks))
    for block in range(blocks):
        others, outside = np.flatnonzero(own != block), block_of != block
        without[others, block] = distances[outside][np.searchsorted(i[outside], others) + k - 1]
    return radii, without


def prdc(real: Any, fake: Any, k: int, *, block_entries: int = BLOCK_ENTRIES) -> PRDC:
    """Return precision, recall, density and coverage of features (N, d), (M, d): balls reach the k-th nearest neighbor.

    The formula of Naeem et al. 2020: a point is no neighbor of itself, and inside means strictly inside.
    Needs N, M > k >= 1. Memory grows with N + M, not with N M; float32 features are not copied to float64.
    """
    found = prdc_left_out(real, fake, k, None, block_entries=block_entries)
    return PRDC(**{name: left_out.value for name, left_out in found.items()})


def prdc_left_out(
    real: Any,
    fake: Any,
    k: int,
    blocks: np.ndarray | None,
    count: int | None = None,
    *,
    block_entries: int = BLOCK_ENTRIES,
    spare: int = 8,
) -> dict[str, LeftOut]:
    """Return the same by name, and without each block of fake; blocks (M,): 0..B - 1, more than k images outside each.

    count: B; None = as `blocks` has it. A block without an image leaves the numbers as they are. Balls of the
    generated images grow where neighbors are left out; no distance is computed twice for that. block_entries: distances
    held at once. spare: neighbors kept beyond the k-th, among which rounding may have put the true one, or one without
    a block.
    """
    if k < 1:
        raise UserError(f"k: {k} must be at least 1")
    real, fake = as_floats(real, "real", k + 1), as_floats(fake, "fake", k + 1)
    same_width(real.shape[1], fake.shape[1])
    count = 0 if blocks is None else int(blocks.max()) + 1 if count is None else count
    labels = np.zeros(len(fake), np.int64) if blocks is None else blocks
    sizes = np.bincount(labels, minlength=count)[:count]
    if count and len(fake) - sizes.max() <= k:
        raise UserError(f"fake: {len(fake) - sizes.max()} images are left without a block, at least {k + 1} are needed")
    center = real.mean(0, dtype=np.float64)
    spread = [np.maximum(x.max(0) - center, center - x.min(0)).max() for x in (real, fake)]
    scale = 2.0 ** np.frexp(max(spread))[1]
    of_real, of_fake = (Points(x, center, float(scale), block_entries) for x in (real, fake))
    real_radii, _ = squared_radii(of_real, k, np.zeros(len(real), np.int64), 0, spare)
    fake_radii, without = squared_radii(of_fake, k, labels, count, spare)
    balls = np.zeros(len(fake), dtype=np.int64)  # real balls around each fake
    covered = np.zeros((len(real), max(count, 1)), dtype=bool)  # by some fake of the block
    recalled = covered.copy()  # in the ball of some fake of the block
    regained = np.zeros((len(real), count), dtype=bool)  # in a ball that grew without that block
    # Those of the fake ones go with the columns: first all in the widest balls, then, of few, in which.
    widest = np.maximum(fake_radii, without.max(1, initial=0.0))
    half_widest, grown = (widest / 2).astype(np.float32), (widest - fake_radii) / 2
    eps = np.finfo(np.float32).eps
    for rows, halves, slack in of_real.blocks(of_fake):
        i, j, inside = above(halves, -real_radii[rows, None] / 2, slack)
        doubt = np.flatnonzero(~inside)
        inside[doubt] = of_real.exact(i[doubt] + rows.start, of_fake, j[doubt]) < real_radii[i[doubt] + rows.start]
        balls += np.bincount(j[inside], minlength=len(fake))
        covered[rows][i[inside], labels[j[inside]]] = True
        halves += half_widest
        slack = slack * (1 + eps / of_real.unit) + 5 * eps * half_widest.max(initial=0.0)
        i, j, _ = above(halves, np.zeros_like(slack), slack)
        inside = halves[i, j] > slack[i, 0] + grown[j]
        doubt = np.flatnonzero(~inside)
        far = of_real.exact(i[doubt] + rows.start, of_fake, j[doubt])
        inside[doubt] = far < fake_radii[j[doubt]]
        recalled[rows][i[inside], labels[j[inside]]] = True
        for block in range(count):
            regained[rows][i[doubt[far < without[j[doubt], block]]], block] = True

    def rest(values: np.ndarray) -> np.ndarray:
        """Return mean over the fake ones without each block."""
        sums = np.bincount(labels, weights=values, minlength=count)[:count]
        return (values.sum() - sums) / (len(fake) - sizes)

    def elsewhere(there: np.ndarray) -> np.ndarray:
        """Return whether a block other than each is there. (N, B)"""
        return (there.sum(1, keepdims=True) - there > 0)[:, :count]

    found = {
        "precision": ((balls > 0).mean(), rest(balls > 0)),
        "recall": (recalled.any(1).mean(), (elsewhere(recalled) | regained).mean(0)),
        "density": (balls.mean() / k, rest(balls) / k),
        "coverage": (covered.any(1).mean(), elsewhere(covered).mean(0)),
    }
    return {name: LeftOut(float(value), left) for name, (value, left) in found.items()}
