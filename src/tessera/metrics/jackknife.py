"""95% intervals of numbers that are no means, as the Frechet distance is not: the grouped (delete-a-block) jackknife.

One scheme for all distances between generated images and a reference. The generated images are dealt into blocks,
those of one prompt into the same one; the number is computed anew without each block; how much these differ says how
far it would be off with other images of the same model. What is held fixed: the reference images (their hash is
part of a number's protocol), their number and that of the generated ones, and random subsets, by their seed. So an
interval is about the number at this N: it does not take out the bias that N gives FID.

A bootstrap's resample holds some images several times and others never: FID, whose bias grows as 1 / N, comes out about
one bias too high (neighbors and kernels of an image with its copy fare worse). Leaving a block out puts nothing in
twice. The jackknife's variance is too large on average, if anything (Efron & Stein 1981): hardly for FID, KID, CMMD,
precision and density, which are nearly sums over the generated images; recall's interval is up to twice, coverage's up
to a quarter as wide again as need be.

Two models that drew the same prompts have the same blocks. The difference of their numbers has an interval of its own,
from leaving the same prompts out of both: what a prompt does to both alike is in neither.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.metrics.arrays import numbered
from tessera.metrics.resampling import Interval, student_t
from tessera.randomness import philox

BLOCKS = 20
"""Blocks, and so the fewest prompts: 19 degrees of freedom make an interval 7% wider than endless ones would."""


@dataclass(frozen=True)
class LeftOut:
    """A number, and the same without each block of the generated images."""

    value: float
    without: np.ndarray
    """(blocks,)"""


def deal_blocks(clusters: Sequence[Any] | np.ndarray, blocks: int = BLOCKS, seed: int = 0) -> np.ndarray | None:
    """Return a block 0..blocks - 1 for each image (N,), whole clusters (prompts) at random, equally many to each block.

    None: there are fewer clusters than blocks, and so no interval.
    """
    labels = numbered(clusters)
    count = int(labels.max(initial=-1)) + 1
    if blocks < 2:
        raise UserError(f"blocks: {blocks} of them leave nothing to compare; give at least 2")
    if count < blocks:
        return None
    dealt = np.empty(count, dtype=np.int64)
    dealt[philox(seed, "jackknife").permutation(count)] = np.arange(count) % blocks
    return dealt[labels]


def jackknife(
    found: LeftOut, sizes: Sequence[int] | np.ndarray, least: float = -math.inf, most: float = math.inf
) -> Interval | None:
    """Return the number with its 95% interval, cut to `least`..`most`; sizes: images in each block.

    Blocks may be of unequal sizes (Busing, Meijer & van der Leeden 1999, Eq. 9); Student's t for their number. None
    where all blocks say the same to rounding, for example a precision of 1: that is no certainty, and no interval.
    """
    return _interval(found, sizes, _largest(found), least, most)


def paired_jackknife(a: LeftOut, b: LeftOut, sizes: Sequence[int] | np.ndarray) -> Interval | None:
    """Return a's number minus b's with its 95% interval, the same block left out of both; sizes as in `jackknife`.

    None where the difference is the same without any block, to the rounding of the two numbers.
    """
    if len(a.without) != len(b.without):
        raise UserError(f"b: without {len(b.without)} blocks, a without {len(a.without)}; they go in pairs")
    return _interval(LeftOut(a.value - b.value, a.without - b.without), sizes, max(_largest(a), _largest(b)))


def _interval(
    found: LeftOut, sizes: Sequence[int] | np.ndarray, scale: float, least: float = -math.inf, most: float = math.inf
) -> Interval | None:
    """Return the interval, cut to least..most; None: it is the rounding of numbers as large as `scale`."""
    sizes = np.asarray(sizes, dtype=np.float64)
    if len(sizes) != len(found.without) or len(sizes) < 2 or not (sizes > 0).all():
        raise UserError(f"sizes: {len(sizes)} blocks for {len(found.without)} values; give 2 or more, none empty")
    share = sizes.sum() / sizes
    pseudo = share * found.value - (share - 1) * found.without
    error = math.sqrt(float((np.square(pseudo - (pseudo / share).sum()) / (share - 1)).mean()))
    if error <= 1e-9 * scale:
        return None
    half = student_t(len(sizes) - 1) * error
    low, high = (min(max(found.value + side, least), most) for side in (-half, half))
    return Interval(low, found.value, high)


def _largest(found: LeftOut) -> float:
    return max(abs(found.value), float(np.abs(found.without).max(initial=0)))
