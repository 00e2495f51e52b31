"""Precision, recall, density and coverage, without ever holding all distances."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.metrics.arrays import as_floats, same_width
from tessera.metrics.jackknife import LeftOut
from tessera.metrics.points import BLOCK_ENTRIES, Points, above, toward


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
    halves = np.full((count, kept), -np.inf, np.float32)
    nearest = np.zeros((count, kept), np.int64)
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
    i, place = np.nonzero(rivals)
    exact = np.full((count, kept), np.inf)
    exact[i, place] = points.exact(i, points, nearest[i, place])
    radii, without = _kth_smallest(exact, k), np.zeros((count, blocks))
    for block in range(blocks):
        others = labels != block
        without[others, block] = _kth_smallest(np.where(labels[nearest[others]] == block, np.inf, exact[others]), k)
    open_rows = np.flatnonzero(rivals.all(1)) if kept < count - 1 else np.empty(0, np.int64)
    size = max(1, points.block_entries // count)
    for start in range(0, len(open_rows), size):
        rows = open_rows[start : start + size]
        radii[rows], without[rows] = _radii_of_rows(points, rows, k, labels, blocks)
    return radii, without


def _least_kth(halves: np.ndarray, k: int, theirs: np.ndarray, own: np.ndarray, blocks: int) -> np.ndarray:
    """Return the k-th largest of each row (n, m), or the least of those without a block that is not its own. (n, 1)"""
    place = halves.shape[1] - k
    least = np.partition(halves, place, axis=1)[:, place : place + 1].astype(np.float64)
    for block in range(blocks):
        rows = own != block
        rest = np.where((theirs[rows] if theirs.ndim == 2 else theirs) == block, -np.inf, halves[rows])
        least[rows] = np.minimum(least[rows], np.partition(rest, place, axis=1)[:, place : place + 1])
    return least


def _kth_smallest(values: np.ndarray, k: int) -> np.ndarray:
    return np.partition(values, k - 1, axis=1)[:, k - 1]


def _keep_nearest(halves: np.ndarray, nearest: np.ndarray, block: np.ndarray, first: int) -> None:
    """Put the largest of (n, kept) and of the new block's rows (n, m) into the former; `first`: of its columns."""
    kept = halves.shape[1]
    new, columns = _candidates(block, halves.min(1), kept)
    both, names = np.concatenate([halves, new], 1), np.concatenate([nearest, columns + first], 1)
    best = np.argpartition(both, -kept, axis=1)[:, -kept:]
    halves[:], nearest[:] = np.take_along_axis(both, best, 1), np.take_along_axis(names, best, 1)


def _candidates(block: np.ndarray, least: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Return values (n, c) and columns of each row (n, m) among which are its `kept` largest above its least."""
    if np.isfinite(least).all():  # all rows are full, and few of the new ones come into question
        i, columns = _above_least(block, least)
        counts = np.bincount(i, minlength=len(block))
        if (most := counts.max()) <= max(kept, block.shape[1] // 4):  # a table with gaps
            place = np.arange(len(i)) - (np.cumsum(counts) - counts)[i]
            new, names = np.full((len(block), most), -np.inf, np.float32), np.zeros((len(block), most), np.int64)
            new[i, place], names[i, place] = block[i, columns], columns
            return new, names
    if block.shape[1] <= kept:
        return block, np.broadcast_to(np.arange(block.shape[1]), block.shape)
    block = np.ascontiguousarray(block)
    columns = np.argpartition(block, -kept, axis=1)[:, -kept:]
    return np.take_along_axis(block, columns, 1), columns


def _above_least(block: np.ndarray, least: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows, ascending, and columns of the entries above each row's least, whichever way the block lies in
    memory."""
    if block.flags.c_contiguous:
        return np.divmod(np.flatnonzero(block > least[:, None]), block.shape[1])
    columns, rows = np.divmod(np.flatnonzero(least < block.T), len(block))
    order = np.argsort(rows, kind="stable")
    return rows[order], columns[order]


def _kth_of_row(i: np.ndarray, values: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """Return the k-th smallest of the values of each of `rows`; `i` (ascending): whose they are, at least k of each."""
    order = np.lexsort((values, i))
    return values[order][np.searchsorted(i, rows) + k - 1]


def _radii_of_rows(
    points: Points, rows: np.ndarray, k: int, labels: np.ndarray, blocks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return `squared_radii` of some points, from all their distances."""
    halves, slack = points.halves(rows, slice(None)), points.slack(rows, points)
    halves[np.arange(len(rows)), rows] = -np.inf
    bound = _least_kth(halves, k, labels, labels[rows], blocks)
    i, j, _ = above(halves, bound, 2 * slack)
    values, without = points.exact(rows[i], points, j), np.zeros((len(rows), blocks))
    for block in range(blocks):
        others, keep = np.flatnonzero(labels[rows] != block), labels[j] != block
        without[others, block] = _kth_of_row(i[keep], values[keep], others, k)
    return _kth_of_row(i, values, np.arange(len(rows)), k), without


def prdc(real: Any, fake: Any, k: int, *, block_entries: int = BLOCK_ENTRIES) -> PRDC:
    """Return precision, recall, density and coverage of features (N, d), (M, d), with balls to the k-th nearest
    neighbor.

    The formula of Naeem et al. 2020: a point is no neighbor of itself, and inside means strictly inside.
    Needs N, M > k >= 1. Memory grows with N + M, not with N M; float32 features are not copied to float64.
    """
    return PRDC(
        **{name: found.value for name, found in prdc_left_out(real, fake, k, None, block_entries=block_entries).items()}
    )


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
    sizes = np.bincount(labels, minlength=count) if count else np.zeros(0, np.int64)
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
    margin = 4 * np.finfo(np.float32).eps * half_widest.max(initial=0.0)
    for rows, halves, slack in of_real.blocks(of_fake):
        i, j, inside = above(halves, -real_radii[rows, None] / 2, slack)
        doubt = np.flatnonzero(~inside)
        inside[doubt] = of_real.exact(i[doubt] + rows.start, of_fake, j[doubt]) < real_radii[i[doubt] + rows.start]
        balls += np.bincount(j[inside], minlength=len(fake))
        covered[rows][i[inside], labels[j[inside]]] = True
        halves += half_widest
        slack = slack + margin + np.finfo(np.float32).eps * np.abs(halves).max(1, keepdims=True)
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
        sums = np.bincount(labels, weights=values, minlength=count)
        return (values.sum() - sums) / (len(fake) - sizes)

    def elsewhere(there: np.ndarray) -> np.ndarray:
        """Return whether a block other than each is there. (N, B)"""
        return there.sum(1, keepdims=True) - there > 0

    none = np.zeros(0)
    found = {
        "precision": ((balls > 0).mean(), rest(balls > 0) if count else none),
        "recall": (recalled.any(1).mean(), (elsewhere(recalled) | regained).mean(0) if count else none),
        "density": (balls.mean() / k, rest(balls) / k if count else none),
        "coverage": (covered.any(1).mean(), elsewhere(covered).mean(0) if count else none),
    }
    return {name: LeftOut(float(value), left) for name, (value, left) in found.items()}
