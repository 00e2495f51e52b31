"""The Frechet distance (FID, on Inception features), from moments or from the features themselves."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.metrics.arrays import as_features, as_floats, same_width
from tessera.metrics.jackknife import LeftOut


class Moments:
    """Mean and scatter of features that come in batches, merged by Chan's rule (Chan, Golub & LeVeque 1983)."""

    def __init__(self, width: int):
        self.count = 0
        self.mean = np.zeros(width)
        self.scatter = np.zeros((width, width))
        """Sum of the outer products of deviations from the mean, (d, d)."""

    def update(self, features: Any) -> None:
        """Add features (N, d), N >= 0."""
        array = as_features(features, "features", rows=0)
        same_width(len(self.mean), array.shape[1])
        if len(array):
            part = Moments(array.shape[1])
            part.count, part.mean = len(array), array.mean(0)
            deviations = array - part.mean
            part.scatter = deviations.T @ deviations
            self.merge(part)

    def merge(self, other: "Moments") -> None:
        """Add what another one has seen."""
        same_width(len(self.mean), len(other.mean))
        if other.count:
            total, delta = self.count + other.count, other.mean - self.mean
            self.scatter += other.scatter
            self.scatter += np.outer(delta, delta) * (self.count * other.count / total)
            self.mean += delta * (other.count / total)
            self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased, (d, d)."""
        if self.count < 2:
            raise UserError(f"a covariance needs at least 2 images, not {self.count}")
        return self.scatter / (self.count - 1)


def _moments(features: np.ndarray, part_rows: int = 4096) -> Moments:
    """Return the moments of features (N, d) in float32 or float64, `part_rows` of them in float64 at once."""
    found = Moments(features.shape[1])
    for start in range(0, len(features), part_rows):
        found.update(features[start : start + part_rows])
    return found


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Return L (d, r) with L L^T = covariance: Cholesky, or from the eigenvectors where the rank r is below d."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        keep = values > values[-1] * len(values) * np.finfo(np.float64).eps
        return vectors[:, keep] * np.sqrt(values[keep])


def _congruence(factor: np.ndarray, matrix: np.ndarray, panel: int) -> np.ndarray:
    """Return the lower triangle of L^T S L, S symmetric; above it stands anything.

    With L lower triangular (d, d) that takes a third of the work of two products: no zero of L is multiplied, nor
    anything above the diagonal computed. panel: columns that are multiplied at once.
    """
    size = len(factor)
    if factor.shape[1] < size:
        return factor.T @ matrix @ factor
    out = np.empty((size, size))
    panels = [slice(start, min(start + panel, size)) for start in range(0, size, panel)]
    for number, columns in enumerate(panels):
        first = columns.start
        product = matrix[first:, first:] @ factor[first:, columns]
        for rows in panels[number:]:
            out[rows, columns] = factor[rows.start :, rows].T @ product[rows.start - first :]
    return out


def _eigenvalues(lower: np.ndarray) -> np.ndarray:
    """Return the eigenvalues of the symmetric matrix with this lower triangle, clipped at 0, ascending.

    On one thread: half of the work waits for memory, and further threads would spin meanwhile.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return torch.linalg.eigvalsh(torch.from_numpy(lower), UPLO="L").numpy().clip(0)
    finally:
        torch.set_num_threads(threads)


def frechet_from_moments(real: Moments, fake: Moments, panel: int = 256) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel et al. 2017, Eq. 6).

    With S1 = L L^T the eigenvalues of S1 S2 are those of L^T S2 L, which is symmetric: no square root of a matrix.
    """
    same_width(len(real.mean), len(fake.mean))
    first = real.covariance
    return _from_factor(real.mean, _factor(first), np.trace(first), fake, panel)


def _from_factor(mean: np.ndarray, factor: np.ndarray, trace: float, fake: Moments, panel: int = 256) -> float:
    """Return the distance from a Gaussian with covariance L L^T of that trace."""
    second = fake.covariance
    cross = np.sqrt(_eigenvalues(_congruence(factor, second, panel))).sum()
    return max(float(np.square(mean - fake.mean).sum() + trace + np.trace(second) - 2 * cross), 0.0)


def frechet_distance(real: Any, fake: Any, *, part_rows: int = 4096, panel: int = 256) -> float:
    """Return the Frechet distance (FID, on Inception features) of two sets of features (N, d), (M, d); N, M >= 2.

    With no more images than widths the trace of the root is the sum of the singular values of C1 C2^T, where C
    are the centered features over sqrt(N - 1): exact at any rank. part_rows: features that are held in float64 at once;
    panel: columns that are multiplied at once.
    """
    real, fake = as_floats(real, "real", 2), as_floats(fake, "fake", 2)
    width = real.shape[1]
    same_width(width, fake.shape[1])
    if min(len(real), len(fake)) > width:
        return frechet_from_moments(_moments(real, part_rows), _moments(fake, part_rows), panel)
    means, centered = zip(*(_centered(x) for x in (real, fake)))
    small = [np.asarray(np.linalg.qr(c, mode="r")) if len(c) > width else c for c in centered]  # the same C^T C
    cross = np.linalg.svd(small[0] @ small[1].T, compute_uv=False).sum()
    distance = np.square(means[0] - means[1]).sum() + sum(np.square(c).sum() for c in centered) - 2 * cross
    return max(float(distance), 0.0)


def _centered(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (d,) and C (N, d) with C^T C the covariance."""
    features = features.astype(np.float64, copy=False)
    mean = features.mean(0)
    return mean, (features - mean) / math.sqrt(len(features) - 1)


def frechet_left_out(real: Any, fake: Any, blocks: np.ndarray | None) -> LeftOut:
    """Return the Frechet distance, and without each block of fake; blocks (M,): 0..B - 1, at least 2 images outside.

    The moments without a block are those of all minus those of the block, so features are read once; each block then
    costs about one distance. Holds B matrices (d, d).
    """
    if blocks is None:
        return LeftOut(frechet_distance(real, fake), np.zeros(0))
    real, fake = as_floats(real, "real", 2), as_floats(fake, "fake", 2)
    width, count = real.shape[1], int(blocks.max()) + 1
    same_width(width, fake.shape[1])
    rest = len(fake) - int(np.bincount(blocks).max())
    if rest < 2:
        raise UserError(f"fake: {rest} images are left without a block, at least 2 are needed")
    if min(len(real), rest) <= width:
        return LeftOut(frechet_distance(real, fake), np.array(list(_few_left_out(real, fake, blocks, count))))
    reference, whole = _moments(real), Moments(width)
    parts = [_moments(fake[blocks == block]) for block in range(count)]
    for part in parts:
        whole.merge(part)
    covariance = reference.covariance
    fixed = reference.mean, _factor(covariance), float(np.trace(covariance))
    without = [_from_factor(*fixed, _less(whole, part)) for part in parts]
    return LeftOut(_from_factor(*fixed, whole), np.array(without))


def _less(whole: Moments, part: Moments) -> Moments:
    """Return what is left of `whole` without a part of it: Chan's rule backwards."""
    rest = Moments(len(whole.mean))
    rest.count = whole.count - part.count
    rest.mean = whole.mean + (whole.mean - part.mean) * (part.count / rest.count)
    delta = part.mean - rest.mean
    rest.scatter = whole.scatter - part.scatter
    rest.scatter -= np.outer(delta, delta) * (part.count * rest.count / whole.count)
    return rest


def _few_left_out(real: np.ndarray, fake: np.ndarray, blocks: np.ndarray, count: int) -> Iterator[float]:
    """Yield the distance without each block, of fewer images than widths.

    The singular values of C1 C2^T are roots of the eigenvalues of the smaller of its two squares, which is that of all
    images with a block's rows taken out. Half the digits of `frechet_distance`, enough for an interval.
    """
    mean, first = _centered(real)
    first = np.asarray(np.linalg.qr(first, mode="r")) if len(first) > real.shape[1] else first
    trace, offset = np.square(first).sum(), fake.mean(0, dtype=np.float64)
    second = fake - offset
    projected = second @ first.T  # (M, r)
    square = projected @ projected.T if len(second) <= projected.shape[1] else None
    for block in range(count):
        keep = blocks != block
        rows = second[keep]
        shift = rows.mean(0)
        if square is not None:
            small = square[np.ix_(keep, keep)]
            small = small - small.mean(0) - small.mean(1)[:, None] + small.mean()
        else:
            left = projected[keep] - projected[keep].mean(0)
            small = left.T @ left
        values = _eigenvalues(small)
        values[values <= values[-1] * len(values) * np.finfo(np.float64).eps] = 0
        cross = np.sqrt(values / (len(rows) - 1)).sum()
        spread = np.square(rows - shift).sum() / (len(rows) - 1)
        yield max(float(np.square(mean - offset - shift).sum() + trace + spread - 2 * cross), 0.0)
