"""Maximum mean discrepancies: KID's polynomial kernel, CMMD's Gaussian one; float64, by blocks."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.metrics.arrays import as_features, same_width
from tessera.metrics.jackknife import LeftOut
from tessera.randomness import philox

BLOCK_ROWS = 512


def kid(real: Any, fake: Any, subsets: int = 100, size: int = 1000, seed: int = 0) -> float:
    """Return the Kernel Inception Distance (Binkowski et al. 2018): squared MMD with kernel (x y / d + 1)^3, unbiased.

    real (N, d), fake (M, d). `subsets` times `size` of each are drawn without replacement; with fewer images than
    `size`, all of the smaller set. At least 2 of each. It can be below 0.
    """
    return kid_left_out(real, fake, None, subsets, size, seed).value


def kid_left_out(
    real: Any, fake: Any, blocks: np.ndarray | None, subsets: int = 100, size: int = 1000, seed: int = 0
) -> LeftOut:
    """Return KID, and without each block of fake; blocks (M,): 0..B - 1.

    A block is left out of the subsets that were drawn; what else is in them stays. No kernel is computed twice. NaN
    where a subset has fewer than 2 images outside a block.
    """
    values, without = zip(*_kid_subsets(real, fake, blocks, subsets, size, seed))
    return LeftOut(float(np.mean(values)), np.mean(without, axis=0))


def _kid_subsets(
    real: Any, fake: Any, blocks: np.ndarray | None, subsets: int, size: int, seed: int
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (KID of a subset, the same without each block (B,), NaN where fewer than 2 images are left)."""
    if subsets < 1 or size < 2:
        raise UserError(f"kid: needs a subset of at least 2 images, not {subsets} of {size}")
    real, fake = as_features(real, "real", 2), as_features(fake, "fake", 2)
    same_width(real.shape[1], fake.shape[1])
    size = min(size, len(real), len(fake))
    blocks = np.zeros(len(fake), dtype=np.int64) if blocks is None else blocks
    for number in range(subsets):
        rng = philox(seed, "kid", number)
        chosen = [rng.choice(len(part), size, replace=False) for part in (real, fake)]
        x, y = real[chosen[0]], fake[chosen[1]]
        in_real, in_fake, across = ((a @ b.T / real.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        own = float(in_real.sum() - in_real.trace()) / (size * (size - 1))
        np.fill_diagonal(in_fake, 0)
        value = own + float(in_fake.sum()) / (size * (size - 1)) - 2 * float(across.mean())
        member = np.eye(blocks.max() + 1)[blocks[chosen[1]]]  # (size, B)
        left = size - member.sum(0)
        left[left < 2] = np.nan
        without = own + _without(in_fake, member) / (left * (left - 1))
        without -= 2 * (across.sum() - across.sum(0) @ member) / (size * left)
        yield value, without


def _without(square: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return sum of a symmetric table (N, N) without the rows and columns of each block, `member` (N, B). (B,)"""
    inside = ((square @ member) * member).sum(0)
    return square.sum() - 2 * (square.sum(1) @ member) + inside


def cmmd(real: Any, fake: Any, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """Return CMMD (Jayasumana et al. 2024): squared MMD with a Gaussian kernel of width `sigma`, times `scale`.

    real (N, d), fake (M, d): CLIP embeddings, brought to length 1 here. All pairs count, an image with itself too, as
    in the published code; so a set is at distance 0 from itself. N, M >= 2.
    """
    return cmmd_left_out(real, fake, None, sigma, scale).value


def cmmd_left_out(
    real: Any, fake: Any, blocks: np.ndarray | None, sigma: float = 10.0, scale: float = 1000.0
) -> LeftOut:
    """Return CMMD, and without each block of fake; blocks (M,): 0..B - 1. No kernel is computed twice."""
    real, fake = (_unit(as_features(x, name, 2), name) for x, name in ((real, "real"), (fake, "fake")))
    same_width(real.shape[1], fake.shape[1])
    blocks = np.zeros(len(fake), dtype=np.int64) if blocks is None else blocks
    member = np.eye(blocks.max() + 1)[blocks]  # (M, B)

    # Of vectors of length 1, |x - y|^2 = 2 - 2 x y. 1 - kernel is summed, for the kernel is near 1 everywhere.
    def away(a: np.ndarray, b: np.ndarray, rows: slice) -> np.ndarray:
        return -np.expm1((a[rows] @ b.T - 1) / sigma**2)

    in_real = math.fsum(float(away(real, real, rows).sum()) for rows in _rows(len(real))) / len(real) ** 2
    across = np.zeros(member.shape[1])  # of each block with all real ones
    for rows in _rows(len(real)):
        across += away(real, fake, rows).sum(0) @ member
    in_fake = np.zeros((member.shape[1],) * 2)  # of each block with each
    for rows in _rows(len(fake)):
        in_fake += member[rows].T @ (away(fake, fake, rows) @ member)

    def distance(far: Any, near: Any, count: Any) -> Any:
        return scale * (2 * far / (len(real) * count) - in_real - near / count**2)

    left = len(fake) - member.sum(0)
    left[left == 0] = np.nan  # nothing is left without the only block
    near = in_fake.sum() - in_fake.sum(0) - in_fake.sum(1) + in_fake.diagonal()
    without = distance(across.sum() - across, near, left)
    return LeftOut(float(distance(across.sum(), in_fake.sum(), len(fake))), without)


def _unit(features: np.ndarray, name: str) -> np.ndarray:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    if not norms.all():
        raise UserError(f"{name}: an embedding is zero and has no direction")
    return features / norms


def _rows(count: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK_ROWS) for start in range(0, count, BLOCK_ROWS))
