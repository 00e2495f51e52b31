"""95% intervals by drawing again: the bootstrap, of pairs, of clusters, of two factors at once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.metrics.tables import numbered
from tessera.runtime import philox

BLOCK_ENTRIES = 2**21
"""About how many draws of a bootstrap are held at once."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval. Of width 0 when all clusters agree or there is only one: not a certainty."""

    low: float
    value: float
    high: float


def bootstrap(
    values: Any,
    clusters: Sequence[Any] | np.ndarray | None = None,
    statistic: Callable[[np.ndarray], float] | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Interval:
    """A statistic of `values` (N, ...) with its 95% interval from n resamples with replacement.

    clusters: N labels, for example prompts; clusters are drawn whole, so what belongs together stays together. None =
    each value is its own. statistic: takes rows of `values`, gives a number; None = the mean of values (N,).
    The interval is the expanded percentile one (Hesterberg 2015): with few clusters the plain one is too narrow.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0 or n < 1:
        raise UserError(f"bootstrap: needs at least one value and one resample, not {len(values)} and {n}")
    if statistic is None and values.ndim != 1:
        raise UserError(f"values: of shape {values.shape}; give one number a row, or a statistic of the rows")
    if clusters is not None and len(clusters) != len(values):
        raise UserError(f"clusters: {len(clusters)} labels for {len(values)} values")
    labels = np.arange(len(values)) if clusters is None else numbered(clusters)
    sizes = np.bincount(labels)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    sums = np.bincount(labels, weights=values if statistic is None else None)
    rng, draws = philox(seed, "bootstrap"), np.empty(n)
    step = max(1, BLOCK_ENTRIES // len(sizes))
    for start in range(0, n, step):
        drawn = rng.integers(len(sizes), size=(min(step, n - start), len(sizes)))
        if statistic is None:
            draws[start : start + step] = sums[drawn].sum(1) / sizes[drawn].sum(1)
        else:
            draws[start : start + step] = [statistic(values[np.concatenate([members[c] for c in d])]) for d in drawn]
    tail = _tail(len(sizes))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(low), float(values.mean() if statistic is None else statistic(values)), float(high))


def _tail(clusters: int) -> float:
    """Share of resamples to cut at each end: 2.5%, less for few clusters."""
    if clusters < 2:
        return 0.0
    return NormalDist().cdf(-student_t(clusters - 1) * math.sqrt(clusters / (clusters - 1)))


def student_t(dof: int) -> float:
    """The 97.5% point of Student's t, by its series in 1 / dof."""
    z = NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * dof) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)


def paired_bootstrap(
    a: Any,
    b: Any,
    clusters: Sequence[Any] | np.ndarray | None = None,
    statistic: Callable[[np.ndarray], float] | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Interval:
    """statistic(a) - statistic(b) of two runs on the same prompts and seeds, a and b (N, ...), row i beside row i.

    Both are resampled together, so what they have in common (hard prompts) does not widen the interval. The arguments
    are those of `bootstrap`.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise UserError(f"b: values of shape {b.shape}, those of a {a.shape}; they go in pairs")
    if statistic is None:
        return bootstrap(a - b, clusters, None, n, seed)
    pairs = np.stack([a, b], axis=1)  # (N, 2, ...)
    return bootstrap(pairs, clusters, lambda rows: statistic(rows[:, 0]) - statistic(rows[:, 1]), n, seed)


def crossed_bootstrap(
    values: Any, groups: Sequence[int] | np.ndarray | None = None, n: int = 1000, seed: int = 0
) -> Interval:
    """The mean of `values` (S, P), S repetitions of P items, with its 95% interval from n resamples of both at once.

    Rows (training seeds) and columns (prompts) are drawn with replacement, independently of each other, so the interval
    holds for other seeds and other prompts as far as S and P can tell; of one row nothing is learned about rows.
    groups: P small integers, for example tasks; the statistic is then the mean of the groups' means. The interval is
    widened for few columns as in `bootstrap`.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape or n < 1:
        raise UserError(f"crossed_bootstrap: needs values (rows, columns) and a resample, not {values.shape} and {n}")
    rows, columns = values.shape
    group = np.zeros(columns, dtype=np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
    if group.shape != (columns,):
        raise UserError(f"groups: of shape {group.shape} for {columns} columns")
    member = np.eye(group.max() + 1)[group]  # (P, G)

    def statistic(row_weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Weights (n, S) of the rows and numbers (n, P) of the columns -> (n,)."""
        sums, sizes = (counts * (row_weights @ values)) @ member, counts @ member  # (n, G)
        means = np.divide(sums, sizes, out=np.zeros_like(sums), where=sizes > 0)
        return means.sum(1) / (sizes > 0).sum(1)

    rng = philox(seed, "crossed bootstrap")
    row_weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=n) / rows
    counts = rng.multinomial(columns, np.full(columns, 1 / columns), size=n).astype(np.float64)
    tail = _tail(columns)
    low, high = np.quantile(statistic(row_weights, counts), [tail, 1 - tail])
    value = statistic(np.full((1, rows), 1 / rows), np.ones((1, columns)))[0]
    return Interval(float(low), float(value), float(high))
