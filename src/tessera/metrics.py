"""The mathematics of the scores: Frechet distance, precision / recall / density / coverage, cosine scores, bootstrap.

Everything takes features (N, d), N images of width d, as NumPy arrays or torch tensors, and works in float64; which
network made them is the caller's. Only NumPy is used. Bad input raises UserError.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.runtime import philox

BLOCK_ENTRIES = 2**21
"""About how many distances, or bootstrap draws, are held at once: 8 MB in float32."""


def _features(features: Any, name: str, rows: int = 1) -> np.ndarray:
    """(N, d) float64, finite, with at least `rows` rows."""
    if hasattr(features, "detach"):  # a torch tensor, perhaps bfloat16 and on a GPU
        features = features.detach().cpu().double().numpy()
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2:
        raise UserError(f"{name}: features must be a table (images, width), not of shape {array.shape}")
    if len(array) < rows:
        raise UserError(f"{name}: {len(array)} images are too few, at least {rows} are needed")
    if not np.isfinite(array).all():
        raise UserError(f"{name}: features hold NaN or infinity")
    return array


def _same_width(real: int, fake: int) -> None:
    if real != fake:
        raise UserError(f"fake: features are {fake} wide, those of real {real}; use one network for both")


class Moments:
    """Mean and scatter of features that come in batches, merged by Chan's rule (Chan, Golub & LeVeque 1983)."""

    def __init__(self, width: int):
        self.count = 0
        self.mean = np.zeros(width)
        self.scatter = np.zeros((width, width))
        """Sum of the outer products of deviations from the mean, (d, d)."""

    def update(self, features: Any) -> None:
        """Adds features (N, d), N >= 0."""
        array = _features(features, "features", rows=0)
        _same_width(len(self.mean), array.shape[1])
        if len(array):
            mean = array.mean(0)
            deviations = array - mean
            self._add(len(array), mean, deviations.T @ deviations)

    def merge(self, other: "Moments") -> None:
        """Adds what another one has seen."""
        _same_width(len(self.mean), len(other.mean))
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
    _same_width(len(real.mean), len(fake.mean))
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
    real, fake = _features(real, "real", 2), _features(fake, "fake", 2)
    width = real.shape[1]
    _same_width(width, fake.shape[1])
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


class _Distances:
    """Squared distances between the rows of a (N, d) and b (M, d), by blocks of rows of a.

    A float32 matrix product gives all of them with an error of at most `slack`; what a comparison cannot decide within
    that is computed again from the differences, in float64.
    """

    def __init__(self, a: np.ndarray, b: np.ndarray):
        self.a, self.b = a, b
        self.a32, self.b32 = a.astype(np.float32), b.astype(np.float32)
        norms = [np.linalg.norm(x, axis=1).astype(np.float32) for x in (a, b)]
        self.a_power, self.b_power = (norm**2 for norm in norms)
        # Rounding of d products and their sum, at most this times (|a| + |b|)^2.
        unit = np.float32((a.shape[1] + 8) * np.finfo(np.float32).eps)
        self.a_slack, self.b_slack = (norm * np.sqrt(unit) for norm in norms)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """(rows, squared distances (n, M), slack (n, M)) of each block."""
        size = max(1, BLOCK_ENTRIES // len(self.b))
        for start in range(0, len(self.a), size):
            rows = slice(start, min(start + size, len(self.a)))
            squared = (-2 * self.a32[rows]) @ self.b32.T  # (n, M)
            squared += self.a_power[rows, None]
            squared += self.b_power
            slack = self.a_slack[rows, None] + self.b_slack  # (n, M)
            slack *= slack
            yield rows, squared, slack

    def exact(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Squared distances of the pairs (a_i, b_j), some at a time."""
        step = max(1, BLOCK_ENTRIES // self.a.shape[1])
        parts = [slice(start, start + step) for start in range(0, len(i), step)]
        return np.concatenate([np.zeros(0), *(np.square(self.a[i[p]] - self.b[j[p]]).sum(1) for p in parts)])

    def below(self, rows: slice, squared: np.ndarray, slack: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """Whether each distance of a block is below the limit, (n, 1) or (1, M); strictly, and as if exact. (n, M)"""
        rounded = limit.astype(np.float32)
        result = squared < rounded
        i, j = np.nonzero(np.abs(squared - rounded) <= slack)
        result[i, j] = self.exact(i + rows.start, j) < np.broadcast_to(limit, squared.shape)[i, j]
        return result


def _squared_radii(points: np.ndarray, k: int) -> np.ndarray:
    """Squared distance from each point to its k-th nearest other point. (N,)"""
    distances, radii = _Distances(points, points), np.empty(len(points))
    for rows, squared, slack in distances.blocks():
        np.fill_diagonal(squared[:, rows], np.inf)
        at_most = np.partition(squared + slack, k - 1, axis=1)[:, k - 1 : k]
        i, j = np.nonzero(squared - slack <= at_most)
        exact = distances.exact(i + rows.start, j)
        order = np.lexsort((exact, i))  # by row, then by distance
        radii[rows] = exact[order][np.searchsorted(i, np.arange(len(squared))) + k - 1]
    return radii


def prdc(real: Any, fake: Any, k: int) -> PRDC:
    """Precision, recall, density and coverage of features (N, d), (M, d), with balls to the k-th nearest neighbour.

    The formula of Naeem et al. 2020: a point is no neighbour of itself, and inside means strictly inside.
    Needs N, M > k >= 1. Memory grows with N + M, not with N M.
    """
    if k < 1:
        raise UserError(f"k: {k} must be at least 1")
    real, fake = _features(real, "real", k + 1), _features(fake, "fake", k + 1)
    _same_width(real.shape[1], fake.shape[1])
    centre = real.mean(0)  # distances stay, rounding shrinks
    real, fake = real - centre, fake - centre
    scale = max(np.abs(real).max(), np.abs(fake).max()) or 1.0
    real /= scale
    fake /= scale
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)
    balls = np.zeros(len(fake), dtype=np.int64)  # real balls around each fake
    covered, recalled = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    distances = _Distances(real, fake)
    for rows, squared, slack in distances.blocks():
        in_real = distances.below(rows, squared, slack, real_radii[rows, None])
        balls += in_real.sum(0)
        covered[rows] = in_real.any(1)
        recalled[rows] = distances.below(rows, squared, slack, fake_radii[None]).any(1)
    return PRDC(
        precision=float((balls > 0).mean()),
        recall=float(recalled.mean()),
        density=float(balls.mean() / k),
        coverage=float(covered.mean()),
    )


def cosine_scores(images: Any, texts: Any) -> np.ndarray:
    """Cosine of each image's embedding (N, d) with its text's (N, d), -1..1. (N,)"""
    images, texts = _features(images, "images"), _features(texts, "texts")
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
