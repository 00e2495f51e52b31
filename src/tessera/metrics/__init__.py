"""The mathematics of the scores: Frechet distance, neighbours, kernels, cosine scores, bootstrap.

Everything takes features (N, d), N images of width d, as NumPy arrays or torch tensors, and works in float64; which
network made them is the caller's. Only NumPy is used. Bad input raises UserError.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.metrics.kernels import KernelDistance, cmmd, kid
from tessera.metrics.neighbours import PRDC, prdc
from tessera.metrics.tables import as_features, same_width
from tessera.runtime import philox

__all__ = [
    "PRDC",
    "Interval",
    "KernelDistance",
    "Moments",
    "bootstrap",
    "clip_score",
    "cmmd",
    "cosine_scores",
    "frechet_distance",
    "frechet_from_moments",
    "kid",
    "paired_bootstrap",
    "prdc",
]

BLOCK_ENTRIES = 2**21
"""About how many draws of a bootstrap are held at once."""


class Moments:
    """Mean and scatter of features that come in batches, merged by Chan's rule (Chan, Golub & LeVeque 1983)."""

    def __init__(self, width: int):
        self.count = 0
        self.mean = np.zeros(width)
        self.scatter = np.zeros((width, width))
        """Sum of the outer products of deviations from the mean, (d, d)."""

    def update(self, features: Any) -> None:
        """Adds features (N, d), N >= 0."""
        array = as_features(features, "features", rows=0)
        same_width(len(self.mean), array.shape[1])
        if len(array):
            mean = array.mean(0)
            deviations = array - mean
            self._add(len(array), mean, deviations.T @ deviations)

    def merge(self, other: "Moments") -> None:
        """Adds what another one has seen."""
        same_width(len(self.mean), len(other.mean))
        if other.count:
            self._add(other.count, other.mean, other.scatter)

    def _add(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self.count + count
        delta = mean - self.mean
        self.scatter += scatter
        self.scatter += np.outer(delta, delta) * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased, (d, d)."""
        if self.count < 2:
            raise UserError(f"a covariance needs at least 2 images, not {self.count}")
        return self.scatter / (self.count - 1)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """L (d, r) with L L^T = covariance: Cholesky, or from the eigenvectors where the rank r is below d."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        keep = values > values[-1] * len(values) * np.finfo(np.float64).eps
        return vectors[:, keep] * np.sqrt(values[keep])


def frechet_from_moments(real: Moments, fake: Moments) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel et al. 2017, Eq. 6).

    With S1 = L L^T the eigenvalues of S1 S2 are those of L^T S2 L, which is symmetric: no square root of a matrix.
    """
    same_width(len(real.mean), len(fake.mean))
    first, second = real.covariance, fake.covariance
    factor = _factor(first)
    eigenvalues = np.linalg.eigvalsh(factor.T @ second @ factor)
    cross = np.sqrt(eigenvalues.clip(0)).sum()
    distance = np.square(real.mean - fake.mean).sum() + np.trace(first) + np.trace(second) - 2 * cross
    return max(float(distance), 0.0)


def frechet_distance(real: Any, fake: Any) -> float:
    """The Frechet distance (FID, on Inception features) of two sets of features (N, d), (M, d); N, M >= 2.

    With no more images than widths the trace of the root is the sum of the singular values of C1 C2^T, where C
    are the centred features over sqrt(N - 1): exact at any rank.
    """
    real, fake = as_features(real, "real", 2), as_features(fake, "fake", 2)
    width = real.shape[1]
    same_width(width, fake.shape[1])
    if min(len(real), len(fake)) > width:
        moments = [Moments(width), Moments(width)]
        for part, features in zip(moments, (real, fake), strict=True):
            part.update(features)
        return frechet_from_moments(*moments)
    means = real.mean(0), fake.mean(0)
    centred = [(x - m) / math.sqrt(len(x) - 1) for x, m in zip((real, fake), means, strict=True)]
    small = [np.asarray(np.linalg.qr(c, mode="r")) if len(c) > width else c for c in centred]  # the same C^T C
    cross = np.linalg.svd(small[0] @ small[1].T, compute_uv=False).sum()
    distance = np.square(means[0] - means[1]).sum() + sum(np.square(c).sum() for c in centred) - 2 * cross
    return max(float(distance), 0.0)


def cosine_scores(images: Any, texts: Any) -> np.ndarray:
    """Cosine of each image's embedding (N, d) with its text's (N, d), -1..1. (N,)"""
    images, texts = as_features(images, "images"), as_features(texts, "texts")
    if images.shape != texts.shape:
        raise UserError(f"texts: embeddings of shape {texts.shape}, those of images {images.shape}; they go in pairs")
    norms = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
    if not norms.all():
        raise UserError("images, texts: an embedding is zero and has no direction")
    return (images * texts).sum(1) / norms


def clip_score(images: Any, texts: Any) -> float:
    """CLIPScore (Hessel et al. 2021) as the paper reports it: the mean of 100 cosines, or 0 if that is below 0."""
    return max(100.0 * float(cosine_scores(images, texts).mean()), 0.0)


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
    labels = np.arange(len(values)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
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
    """Share of resamples to cut at each end: 2.5%, less for few clusters (Student's t by its series in 1 / dof)."""
    if clusters < 2:
        return 0.0
    z, dof = NormalDist().inv_cdf(0.975), clusters - 1
    t = z + (z**3 + z) / (4 * dof) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)
    return NormalDist().cdf(-t * math.sqrt(clusters / dof))


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
