"""Distances of generated pictures' features to a reference's, each with its 95% interval or the reason for none.

The interval is the delete-a-block jackknife's, over prompts, the reference held fixed (`tessera.metrics.jackknife`).
What was found without each block is kept, so that two models' distances make a difference with its own interval.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera import metrics
from tessera.config import UserError
from tessera.evaluate.scores import LeftOutBlocks
from tessera.metrics import LeftOut
from tessera.metrics.jackknife import BLOCKS
from tessera.randomness import philox

PRDC_PROTOCOLS: dict[str, int] = {"paper": 3, "full": 3, "dgm-eval": 5}
"""Name -> k. paper: both sets cut into 5 chunks in order, averaged; full: all at once; dgm-eval: 10,000 of each."""
CHUNKS = 5
DGM_EVAL = 10_000
KID_SUBSET = 1000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number of a scores.json: fields of `tessera.evaluate.scores.Number`."""

    value: float
    low: float | None = None
    high: float | None = None
    interval: str
    """How low and high came about, or "none: " and the reason."""
    left_out: LeftOutBlocks | None = None
    """The same without each block; None = there are no blocks."""


@dataclass(frozen=True)
class Blocks:
    """Generated pictures in blocks of whole prompts, to be left out one after the other."""

    labels: NDArray[np.int64] | None
    """The block of each picture; None = too few prompts."""
    how: str
    """What an interval of them is; the reason where there is none."""
    dealt: str | None = None
    """SHA-256 of every picture's block and prompt; None = nothing is known of prompts."""


def blocks_of(pictures: int, captions: Sequence[str] | None, seed: int) -> Blocks:
    """Blocks of whole prompts; of single pictures, where nothing is known of prompts."""
    unit = "pictures" if captions is None else "prompts"
    labels = metrics.deal_blocks(np.arange(pictures) if captions is None else captions, seed=seed)
    if labels is None:
        count = pictures if captions is None else len(set(captions))
        return Blocks(None, f"none: {count} {unit}, at least {BLOCKS} are needed")
    dealt = None
    if captions is not None:
        lines = "".join(f"{block} {caption}\n" for block, caption in zip(labels, captions, strict=True))
        dealt = hashlib.sha256(lines.encode()).hexdigest()
    return Blocks(labels, f"jackknife over {unit}, {BLOCKS} blocks of them, the reference held fixed", dealt)


def frechet(real: NDArray[Any], fake: NDArray[Any], blocks: Blocks) -> Estimate:
    """FID or FD-DINOv2 of features (N, d), (M, d)."""
    if blocks.labels is None:
        return Estimate(value=metrics.frechet_distance(real, fake), interval=blocks.how)
    return _estimate(metrics.frechet_left_out(real, fake, blocks.labels), blocks, 0.0)


def kid(real: NDArray[Any], fake: NDArray[Any], blocks: Blocks, subsets: int, seed: int) -> Estimate:
    """KID, over random subsets."""
    if blocks.labels is not None:
        found = metrics.kid_left_out(real, fake, blocks.labels, subsets, KID_SUBSET, seed)
        if found is not None:
            return _estimate(found, blocks)
    value = metrics.kid(real, fake, subsets, KID_SUBSET, seed).value
    few = "none: the subsets have too few pictures to leave some out"
    return Estimate(value=value, interval=few if blocks.labels is not None else blocks.how)


def cmmd(real: NDArray[Any], fake: NDArray[Any], blocks: Blocks) -> Estimate:
    """CMMD."""
    if blocks.labels is None:
        return Estimate(value=metrics.cmmd(real, fake), interval=blocks.how)
    return _estimate(metrics.cmmd_left_out(real, fake, blocks.labels), blocks, 0.0)


def prdc_by(
    protocol: str, real: NDArray[Any], fake: NDArray[Any], blocks: Blocks, seed: int = 0
) -> dict[str, Estimate]:
    """Precision, recall, density and coverage of features (N, d), (M, d) by one of PRDC_PROTOCOLS."""
    k, labels, how = PRDC_PROTOCOLS[protocol], blocks.labels, blocks.how
    parts = [(real, fake, labels)]
    if protocol == "paper":
        least = CHUNKS * (k + 1)
        if min(len(real), len(fake)) < least:
            raise UserError(
                f"prdc: the protocol 'paper' cuts both sets into {CHUNKS}, which takes at least {least} pictures of"
                f" each, not {len(real)} and {len(fake)}; leave it out of --prdc"
            )
        cut = [None] * CHUNKS if labels is None else np.array_split(labels, CHUNKS)
        parts = list(zip(np.array_split(real, CHUNKS), np.array_split(fake, CHUNKS), cut))
    elif protocol == "dgm-eval":
        chosen = _chosen(len(fake), seed, "fake")
        labels = None if labels is None else labels[chosen]
        parts = [(real[_chosen(len(real), seed, "real")], fake[chosen], labels)]
    if labels is not None:
        sizes = [np.bincount(part, minlength=BLOCKS) for _, _, part in parts if part is not None]
        if any(part.sum() - part.max() <= k for part in sizes) or not np.sum(sizes, axis=0).all():
            labels, how = None, "none: a block holds nearly all pictures of a part, or none at all"
    count = None if labels is None else BLOCKS
    found = [metrics.prdc_left_out(a, b, k, part if count else None, count) for a, b, part in parts]
    estimates = {}
    for name in found[0]:
        value = float(np.mean([result[name].value for result in found]))
        if labels is None:
            estimates[name] = Estimate(value=value, interval=how)
            continue
        without = np.mean([result[name].without for result in found], axis=0)
        most = math.inf if name == "density" else 1.0
        estimates[name] = _estimate(LeftOut(value, without), replace(blocks, labels=labels), 0.0, most)
    return estimates


def _chosen(count: int, seed: int, name: str) -> NDArray[np.int64]:
    """10,000 rows without replacement, ascending; all, where there are no more."""
    if count <= DGM_EVAL:
        return np.arange(count)
    return np.sort(philox(seed, f"dgm-eval/{name}").choice(count, DGM_EVAL, replace=False))


def _estimate(found: LeftOut, blocks: Blocks, least: float = -math.inf, most: float = math.inf) -> Estimate:
    assert blocks.labels is not None
    sizes = np.bincount(blocks.labels)
    left_out = LeftOutBlocks(values=tuple(found.without.tolist()), sizes=tuple(sizes.tolist()), dealt=blocks.dealt)
    interval = metrics.jackknife(found, sizes, least, most)
    if interval is None:
        how = "none: it is the same without any of the blocks"
        return Estimate(value=found.value, interval=how, left_out=left_out)
    return Estimate(value=found.value, low=interval.low, high=interval.high, interval=blocks.how, left_out=left_out)
