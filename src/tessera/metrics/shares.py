"""95% intervals of shares, and of the differences of two models' shares, near 0 and 1 too.

A share is a mean of values in 0..1, mostly of rights and wrongs. Drawing prompts again says little of one near 0 or 1:
where 20 prompts are all right, so is every resample, and the interval has no width. Here a share p of N images has
Wilson's score interval (Wilson 1927), with Student's t, on N / D images: as many independent ones would say as much.
D is the design effect V (N - 1) / (p (1 - p)), V being the variance of p over whole prompts (Korn and Graubard 1998,
Franco et al. 2019). Near 0 and 1 few prompts tell how alike the images of a prompt are. So D counts with as many
prompts as make up the rarer answer, together with one prompt's worth of the D of images that are half alike.

A mean of groups' shares (GenEval's overall score is one of six tasks) adds up the squared distances of the groups' ends
from their shares (MOVER: Zou and Donner 2008); where the score interval of the mean as a whole reaches farther, as it
does when all groups are near 0 or all near 1, its end counts. A difference of two models adds up their distances, less
what they have in common by the correlation of their prompts (Newcombe 1998, method 10, without its correction of that
correlation for continuity: prompts' means make no 2 x 2 table).

Values between 0 and 1 say nothing of rare ones that were not drawn: of 50 prompts whose images are nearly always 1,
with one prompt in 50 at 0, 8 in 10 intervals hold the truth (`bench/intervals.py`).

Repeats, such as training seeds, add the variance of their means. What of it is noise of the single images is counted
twice, so where repeats do not differ the interval is somewhat too wide; where they do, two or three of them say little:
of two that differ by far more than prompts do, 8 in 10 intervals hold the truth.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tessera.config import UserError
from tessera.metrics.arrays import numbered
from tessera.metrics.resampling import Interval, student_t

_ROUNDING = 1e-20
"""A variance below it is none."""
_ALIKE = 0.5
"""The correlation of the images of a prompt, before anything is known of it."""

Labels = Sequence[Any] | np.ndarray | None


def share_interval(values: Any, clusters: Labels = None, groups: Labels = None, repeats: Labels = None) -> Interval:
    """Return the mean of `values` (N,), each in 0..1, with its 95% interval over clusters.

    clusters: N labels, for example prompts, of what belongs together; None = each value is its own. groups: N labels,
    for example tasks: the mean is then that of the groups' means, and a cluster is one within its group. repeats: N
    labels of whole repetitions, for example training seeds; the interval is then for other ones too. UserError for
    values outside 0..1 and labels of another number.
    """
    table = _Table(len(np.asarray(values)), clusters, groups, repeats)
    share = table.share(values, "values")
    return table.interval(share.value, np.stack([share.below, share.above]) ** 2, share.residual, 0.0)


def share_difference(
    a: Any, b: Any, clusters: Labels = None, groups: Labels = None, repeats: Labels = None
) -> Interval:
    """Return the mean of a minus the mean of b, both (N,) and in 0..1, row i of one with row i of the other.

    What clusters do to both alike does not widen the interval. The labels are those of `share_interval`.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise UserError(f"b: values of shape {b.shape}, those of a {a.shape}; they go in pairs")
    table = _Table(len(a), clusters, groups, repeats)
    mine, other = table.share(a, "a"), table.share(b, "b")
    scale = np.sqrt(mine.variance * other.variance)
    common = table.covariance(mine.residual, other.residual)
    common = np.clip(np.divide(common, scale, out=np.zeros_like(scale), where=scale > 0), -1, 1)
    below = mine.below**2 + other.above**2 - 2 * common * mine.below * other.above
    above = mine.above**2 + other.below**2 - 2 * common * mine.above * other.below
    return table.interval(mine.value - other.value, np.stack([below, above]), mine.residual - other.residual, -1.0)


class _Share(NamedTuple):
    """Arrays (G + 1,) of each group, and last of their mean as a whole."""

    value: np.ndarray
    variance: np.ndarray  # over clusters; 0 where all agree
    below: np.ndarray  # distance from the value down to the interval's end
    above: np.ndarray
    residual: np.ndarray  # (N,): values less their group's


class _Table:
    """The rows that belong together."""

    def __init__(self, rows: int, clusters: Labels, groups: Labels, repeats: Labels):
        for name, labels in (("clusters", clusters), ("groups", groups), ("repeats", repeats)):
            if labels is not None and len(labels) != rows:
                raise UserError(f"{name}: {len(labels)} labels for {rows} values")
        if not rows:
            raise UserError("values: a share is of at least one")
        self.group = np.zeros(rows, dtype=np.int64) if groups is None else numbered(groups)
        own = np.arange(rows) if clusters is None else numbered(clusters)
        self.cluster = numbered(self.group * rows + own)
        self.repeat = np.zeros(rows, dtype=np.int64) if repeats is None else numbered(repeats)
        self.sizes = np.bincount(self.group)  # (G,), rows
        self.group_of = np.zeros(self.cluster.max() + 1, dtype=np.int64)  # (C,)
        self.group_of[self.cluster] = self.group
        self.clusters = np.bincount(self.group_of)  # (G,)
        self.t = student_t(max(1, len(self.group_of) - len(self.sizes)))
        images = np.bincount(self.group_of, np.bincount(self.cluster) ** 2) / self.sizes  # of an image's cluster
        self.guess = 1 + _ALIKE * (images - 1)  # (G,), the design effect of rights and wrongs, before any is known

    def share(self, values: Any, name: str) -> _Share:
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 1 or not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise UserError(f"{name}: must be one number in 0..1 for each row")
        groups = np.clip(np.bincount(self.group, values) / self.sizes, 0, 1)
        residual = values - groups[self.group]
        variance = self.covariance(residual, residual)
        variance = np.where(variance > _ROUNDING, variance, 0.0)
        room = groups * (1 - groups)
        effect = np.divide(variance[:-1] * (self.sizes - 1), room, out=np.zeros_like(room), where=room > 0)
        known = self.clusters * np.minimum(groups, 1 - groups)
        single = np.bincount(self.group, residual**2) / self.sizes  # variance of single images; room for rights, wrongs
        guess = self.guess * np.divide(single, room, out=np.ones_like(room), where=single > _ROUNDING)
        effect = (known * effect + guess) / (known + 1)
        if np.isin(values, (0, 1)).all():  # rights and wrongs say no more than single draws
            effect = np.maximum(effect, 1)
        widths = self.t**2 * effect / self.sizes
        whole = (room * widths).sum() / len(groups) ** 2  # t^2 times the variance of the groups' mean
        value = np.append(groups, groups.mean())
        room = value * (1 - value)
        width = np.append(widths, whole / room[-1] if room[-1] > 0 else widths.mean() / len(groups))
        center = (value + width / 2) / (1 + width)
        half = np.sqrt(width * room + width**2 / 4) / (1 + width)
        below, above = value - np.maximum(center - half, 0), np.minimum(center + half, 1) - value
        return _Share(value, variance, np.where(value > 0, below, 0), np.where(value < 1, above, 0), residual)

    def covariance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the covariance over clusters of two means of residuals (G + 1,), and of their mean's, last."""
        products = np.bincount(self.cluster, a) * np.bincount(self.cluster, b)
        found = np.bincount(self.group_of, products) / self.sizes**2
        found = found * self.clusters / np.maximum(self.clusters - 1, 1)
        return np.append(found, found.sum() / len(found) ** 2)

    def interval(self, value: np.ndarray, spread: np.ndarray, residual: np.ndarray, least: float) -> Interval:
        """Return the interval of the groups' mean; value (G + 1,), spread: squared distances to the ends (2, G + 1)."""
        spread = np.maximum(spread, 0)
        spread = np.maximum(spread[:, :-1].sum(1) / len(self.sizes) ** 2, spread[:, -1])
        repeats, over = int(self.repeat.max()) + 1, 0.0  # the variance of the groups' mean over repeats
        if repeats > 1:
            parts = np.bincount(self.repeat, residual / (len(self.sizes) * self.sizes[self.group]))
            over = float((parts**2).sum()) * repeats / (repeats - 1)
        below, above = np.sqrt(spread + self.t**2 * over)
        mean = float(value[-1])
        return Interval(float(max(mean - below, least)), mean, float(min(mean + above, 1.0)))


def auc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Return how often a positive score lies above a negative one, ties counting half."""
    ordered = np.sort(np.asarray(negative, dtype=np.float64))
    low, high = (np.searchsorted(ordered, positive, side) for side in ("left", "right"))
    return float((low + high).mean() / 2 / len(ordered))
