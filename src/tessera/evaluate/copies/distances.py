"""Copies: how near generated images lie to training images, measured by how near held-out ones lie to them.

Works on tables of features, whatever made them: of each image as it is and of its variants, such as the mirrored one,
the nearest training image counts. A model that copies draws images that lie nearer to training images than images do
that it has never seen.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tessera.evaluate.intervals import bootstrap_ends, share_number
from tessera.evaluate.scores import Number, Protocol
from tessera.metrics import bootstrap_median, nearest

CLOSEST = 0.01
"""Share of the held-out images that lie nearer to a training image than the bound of a copy."""
SAME = 1e-3
"""Share of the median distance below which an image is itself among the training images, to the network's rounding."""
AT_ONCE = 16_384
"""Images of a search that is not done again."""


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of each of N images."""

    distances: np.ndarray
    """(N,)"""
    rows: np.ndarray
    """(N,), rows of the training features."""
    variants: np.ndarray
    """(N,), the variant that is so near: 0 for the image as it is."""


@dataclass(frozen=True)
class Yardstick:
    """Distances of held-out images to their nearest training images."""

    median: float
    closest: float
    """The 1st percentile, duplicates left out."""
    images: int
    duplicates: int
    """Images that are among the training images themselves: they do not say how near unlike ones lie."""


def nearest_training(variants: Sequence[np.ndarray], training: np.ndarray, skip: np.ndarray | None = None) -> Nearest:
    """Return the nearest of the training features (M, d) over all variants of each image, each (N, d).

    skip (N,): a row of the training features that does not count for each image, such as its own.
    """
    return closest([Nearest(*nearest(features, training, skip=skip), np.zeros(len(features))) for features in variants])


def search_seconds(images: Sequence[int], training: np.ndarray) -> float:
    """Return about how long searches of so many images each take among training features (M, d), AT_ONCE at a time.

    By searches of a few among a few: the training features are prepared, and then compared with each image.
    """
    few = training[:AT_ONCE]

    def seconds(count: int) -> float:
        start = time.monotonic()
        nearest(few[:count], few)
        return time.monotonic() - start

    prepared = min(seconds(1), seconds(1))  # the first one loads the library
    compared = max(0.0, seconds(4096) - prepared) / len(few[:4096])
    each = [prepared * math.ceil(count / AT_ONCE) + compared * count for count in images]
    return sum(each) * len(training) / len(few)


def closest(found: Sequence[Nearest]) -> Nearest:
    """Return the closest one for each image of several searches, whose numbers become the variants."""
    distances = np.stack([each.distances for each in found])
    best, images = distances.argmin(0), np.arange(distances.shape[1])
    return Nearest(distances[best, images], np.stack([each.rows for each in found])[best, images], best)


def yardstick(held_out: Nearest) -> Yardstick:
    """Return the distances that those of generated images are measured by."""
    distances = held_out.distances
    median = float(np.median(distances))
    unlike = distances[distances > SAME * median] if median else distances
    closest = float(np.quantile(unlike, CLOSEST))
    return Yardstick(median, closest, len(distances), len(distances) - len(unlike))


def copied(found: Nearest, by: Yardstick) -> np.ndarray:
    """Return whether each image lies nearer to a training image than all but the closest held-out ones: bool (N,)."""
    return found.distances < by.closest


def copy_numbers(
    metric: str, found: Nearest, by: Yardstick, prompts: Sequence[Any] | None, protocol: Protocol
) -> tuple[Number, Number]:
    """Return (`metric`, `metric`_ratio) with intervals over prompts, over images for None, the yardstick as it is.

    The share of the images that are `copied`, 0.01 for images like the held-out ones; and the median distance to the
    nearest training image over that of held-out images, 1 for images like them, 0 for copies.
    """
    share = share_number(metric, copied(found, by).astype(float).tolist(), prompts, protocol)
    clusters = range(len(found.distances)) if prompts is None else prompts
    ratio = bootstrap_median(found.distances / by.median, clusters)
    return share, Number(
        metric=f"{metric}_ratio",
        value=ratio.value,
        **bootstrap_ends(ratio, len(set(clusters)), "images" if prompts is None else "prompts"),
        n=len(found.distances),
        clusters=share.clusters,
        protocol=replace(protocol, metric=f"{metric}_ratio"),
    )
