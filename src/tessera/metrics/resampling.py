"""95% intervals of means by drawing again: the bootstrap. Those of shares are in `tessera.metrics.shares`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.metrics.arrays import numbered
from tessera.randomness import philox


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval."""

    low: float
    value: float
    high: float


def bootstrap(
    values: Any,
    clusters: Sequence[Any] | np.ndarray | None = None,
    n: int = 1000,
    seed: int = 0,
    block_entries: int = 2**21,
) -> Interval:
    """Return the mean of `values` (N,) with its 95% interval from n resamples with replacement.

    clusters: N labels, for example prompts; clusters are drawn whole, so what belongs together stays together. None =
    each value is its own. The interval is the expanded percentile one (Hesterberg 2015): with few clusters the plain
    one is too narrow. It has no width where all clusters agree or there is only one: that is no certainty.
    block_entries: draws that are held at once, about.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0 or n < 1:
        raise UserError(f"bootstrap: needs at least one value and one resample, not {len(values)} and {n}")
    if values.ndim != 1:
        raise UserError(f"values: of shape {values.shape}; give one number a row")
    if clusters is not None and len(clusters) != len(values):
        raise UserError(f"clusters: {len(clusters)} labels for {len(values)} values")
    labels = np.arange(len(values)) if clusters is None else numbered(clusters)
    sizes, sums = np.bincount(labels), np.bincount(labels, weights=values)
    rng, draws = philox(seed, "bootstrap"), np.empty(n)
    step = max(1, block_entries // len(sizes))
    for start in range(0, n, step):
        drawn = rng.integers(len(sizes), size=(min(step, n - start), len(sizes)))
        draws[start : start + step] = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = _ends(draws, len(sizes))
    return Interval(low, float(values.mean()), high)


def bootstrap_median(values: Any, clusters: Sequence[Any] | np.ndarray, n: int = 1000, seed: int = 0) -> Interval:
    """Return the median of `values` (N,), the lower one of two, with an interval as `bootstrap` makes it."""
    values, labels = np.asarray(values, dtype=np.float64), numbered(clusters)
    if len(values) == 0 or n < 1 or len(labels) != len(values):
        raise UserError(
            f"bootstrap_median: {len(values)} values, {len(labels)} labels, {n} resamples; give at least one"
        )
    order = np.argsort(values, kind="stable")
    ordered, of = values[order], labels[order]
    count, rng = int(labels.max()) + 1, philox(seed, "bootstrap")
    draws = np.empty(n)
    for i in range(n):
        times = np.bincount(rng.integers(count, size=count), minlength=count)[of].cumsum()
        draws[i] = ordered[np.searchsorted(times, times[-1] / 2)]
    low, high = _ends(draws, count)
    return Interval(low, float(ordered[(len(values) - 1) // 2]), high)


def _ends(draws: np.ndarray, clusters: int) -> tuple[float, float]:
    """Return the ends of the expanded percentile interval."""
    tail = 0.0  # share of resamples to cut at each end: 2.5%, less for few clusters
    if clusters > 1:
        tail = NormalDist().cdf(-student_t(clusters - 1) * math.sqrt(clusters / (clusters - 1)))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def student_t(dof: int) -> float:
    """Return the 97.5% point of Student's t: exact for 1 and 2 degrees of freedom, else by its series in 1 / dof."""
    if dof <= 2:
        return math.tan(0.475 * math.pi) if dof == 1 else 0.95 / math.sqrt(2 * 0.975 * 0.025)
    z = NormalDist().inv_cdf(0.975)
    second, third = 5 * z**5 + 16 * z**3 + 3 * z, 3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z
    return z + (z**3 + z) / (4 * dof) + second / (96 * dof**2) + third / (384 * dof**3)


def paired_bootstrap(
    a: Any, b: Any, clusters: Sequence[Any] | np.ndarray | None = None, n: int = 1000, seed: int = 0
) -> Interval:
    """Return the mean of a minus that of b, two runs on the same prompts and seeds, a and b (N,), row i with row i.

    Both are resampled together, so what they have in common (hard prompts) does not widen the interval. The arguments
    are those of `bootstrap`.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise UserError(f"b: values of shape {b.shape}, those of a {a.shape}; they go in pairs")
    return bootstrap(a - b, clusters, n, seed)
