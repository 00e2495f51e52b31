"""Maximum mean discrepancies: KID's polynomial kernel, CMMD's Gaussian one; float64, by blocks."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.metrics.tables import as_features, same_width
from tessera.runtime import philox

BLOCK_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class KernelDistance:
    """KID, over random subsets."""

    value: float
    """Mean over the subsets; unbiased, so it can be below 0."""
    deviation: float
    """Standard deviation over the subsets."""


def kid(real: Any, fake: Any, subsets: int = 100, size: int = 1000, seed: int = 0) -> KernelDistance:
    """Kernel Inception Distance (Binkowski et al. 2018): squared MMD with kernel (x y / d + 1)^3, unbiased.

    real (N, d), fake (M, d). `subsets` times `size` of each are drawn without replacement; with fewer images than
    `size`, all of the smaller set. At least 2 of each.
    """
    if subsets < 1 or size < 2:
        raise UserError(f"kid: needs a subset of at least 2 images, not {subsets} of {size}")
    real, fake = as_features(real, "real", 2), as_features(fake, "fake", 2)
    same_width(real.shape[1], fake.shape[1])
    size, values = min(size, len(real), len(fake)), np.empty(subsets)
    for number in range(subsets):
        rng = philox(seed, "kid", number)
        x, y = (part[rng.choice(len(part), size, replace=False)] for part in (real, fake))
        kernels = [(a @ b.T / real.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
        own = sum(float(kernel.sum() - kernel.trace()) for kernel in kernels[:2]) / (size * (size - 1))
        values[number] = own - 2 * float(kernels[2].mean())
    return KernelDistance(value=float(values.mean()), deviation=float(values.std()))


def cmmd(real: Any, fake: Any, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """CMMD (Jayasumana et al. 2024): squared MMD with a Gaussian kernel of width `sigma`, times `scale`.

    real (N, d), fake (M, d): CLIP embeddings, brought to length 1 here. All pairs count, a picture with itself too, as
    in the published code; so a set is at distance 0 from itself. N, M >= 2.
    """
    real, fake = (_unit(as_features(x, name, 2), name) for x, name in ((real, "real"), (fake, "fake")))
    same_width(real.shape[1], fake.shape[1])

    # Of vectors of length 1, |x - y|^2 = 2 - 2 x y. 1 - kernel is summed, for the kernel is near 1 everywhere.
    def away(block: np.ndarray) -> np.ndarray:
        return -np.expm1((block - 1) / sigma**2)

    across, in_real, in_fake = (_mean(a, b, away) for a, b in ((real, fake), (real, real), (fake, fake)))
    return scale * (2 * across - in_real - in_fake)


def _unit(features: np.ndarray, name: str) -> np.ndarray:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    if not norms.all():
        raise UserError(f"{name}: an embedding is zero and has no direction")
    return features / norms


def _mean(a: np.ndarray, b: np.ndarray, kernel: Callable[[np.ndarray], np.ndarray]) -> float:
    """Mean of kernel(x y) over all pairs."""
    return math.fsum(float(kernel(a[rows] @ b.T).sum()) for rows in _rows(len(a))) / (len(a) * len(b))


def _rows(count: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK_ROWS) for start in range(0, count, BLOCK_ROWS))
