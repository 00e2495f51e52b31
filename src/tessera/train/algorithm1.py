"""Algorithm 1: draw t, then which of the two sets, then read that one record, with one of its captions.

Every draw has an address: block b of 4096 samples takes its draws from philox(seed, "draws", b), the noise of sample g
comes from philox(seed, "noise", g). So sample g is the same for any batch size, any number of ranks and across any
restart, and the loader's whole state is one integer. `tessera.train.loader` reads the records and makes batches.
"""

import threading
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch

from tessera.config import UserError, check_ranges
from tessera.diffusion.schedule import get_schedule
from tessera.encoded.store import EncodedStore
from tessera.randomness import philox

BLOCK = 4096  # samples whose draws are made together
CACHED = 4  # blocks, and epochs' orders


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The draws of one global sample number, before anything is read."""

    number: int
    t: float
    """Time in [0, 1): 0 clean, 1 noise."""
    alpha_bar: float
    """Signal power at t on the training schedule."""
    source: Literal["plain", "augmented"]
    index: int
    """Record number within `source`."""
    drop_caption: bool
    """True: the caption is replaced by the null condition (guidance dropout)."""
    self_condition: bool
    """True: a network with latent tokens gets those of a first pass."""
    masked: bool
    """True: an augmented record at or below its own least t, without the loss next to its border."""
    level: int
    """Place of the caption's level among those of the mix; 0 without one."""
    cleaner_alpha_bar: float
    """Signal power of a second view for objectives that align (not the paper's): at a t less by up to `CLEANER`, but
    not below 0, nor below the least t of an augmented record that is not masked."""


CLEANER = 0.2
"""Largest distance of the two views' t (SRA, Jiang et al. 2025)."""
_PLACE = [("number", "i8"), ("t", "f8"), ("alpha_bar", "f8"), ("index", "i8")]
_FLAGS = [(name, bool) for name in ("augmented", "drop_caption", "self_condition", "masked")]
DRAWS = np.dtype([*_PLACE, *_FLAGS, ("level", "u1"), ("cleaner_alpha_bar", "f8")], align=True)
"""The draws of one of many samples; fields as in `Sample`."""


@dataclass(frozen=True, kw_only=True)
class CaptionMix:
    """Probabilities of the levels of captions, from sample `start` on; the first level of each image before that."""

    levels: tuple[str, ...]
    """Names, none twice."""
    weights: tuple[float, ...]
    """Probabilities of the levels, in [0, 1]; their sum is 1."""
    start: int = 0
    """At least 0."""

    def draw(self, numbers: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Return the level of each of the samples `numbers` by its draw from U(0, 1): 1 for the first of `levels`, and
        so on; 0 for the first that its image has."""
        level = 1 + np.searchsorted(np.cumsum(self.weights)[:-1], uniforms, side="right")
        return np.where(numbers < self.start, 0, level)


@dataclass(frozen=True, kw_only=True)
class Times:
    """The distribution of t; the paper's is uniform. Others follow Esser et al. 2024, section 3.1 and Eq. 23."""

    distribution: Literal["uniform", "logit_normal"] = "uniform"
    """U(0, 1), or the logistic of N(0, 1), which shows the middle more often."""
    shift: float = 1.0
    """Then t becomes shift t / (1 + (shift - 1) t), > 0: above 1 there is more noise, as larger images need."""

    def __call__(self, uniforms: np.ndarray) -> np.ndarray:
        """Return t in [0, 1] of draws from U(0, 1), float64, any shape; larger ones for larger draws."""
        t = uniforms
        if self.distribution == "logit_normal":
            t = torch.special.ndtri(torch.from_numpy(uniforms)).sigmoid().numpy()
        return t if self.shift == 1 else self.shift * t / (1 + (self.shift - 1) * t)


class Algorithm1:
    """The infinite stream of training samples: paper Algorithm 1, Eq. 2-4. Threads may share it.

    Element g >= 0 is the `Sample` of global number g: t ~ U(0, 1); a sample is augmented where t > `min_t` (the paper's
    tau), with probability `prob` (the paper's p), and g >= `start`; else plain. Each set is walked in a fresh random
    order per epoch, so that within an epoch of a set every record comes exactly once. `end` (not the paper's): (g, p)
    that the probability reaches linearly from `prob` at `start`; constant from there on.

    `min_t` may be an array, of each augmented record its own (not the paper's): the next record of the order is
    proposed where t is above the smallest, and the sample is plain if t is not above the record's. `max_t` (not the
    paper's): augmented only where t <= it. `below` (not the paper's): augmented at any t, masked up to the record's.

    `plain`, `augmented`: sized objects (encoded stores) or record counts; `augmented` may be None where `prob` is 0.
    `schedule`: its name or a function t -> alpha_bar. `caption_drop_prob`, `self_condition_prob`: for every sample,
    independent of the other draws. `caption_mix` (not the paper's): the level of each sample's caption is drawn,
    independent of the other draws. `times` (not the paper's): t of draws from U(0, 1), such as `Times`.
    """

    def __init__(
        self,
        plain: Sized | int,
        augmented: Sized | int | None,
        min_t: float | np.ndarray,
        prob: float,
        seed: int,
        schedule: str | Callable[[torch.Tensor], torch.Tensor],
        start: int = 0,
        end: tuple[int, float] | None = None,
        caption_drop_prob: float = 0.0,
        self_condition_prob: float = 0.0,
        caption_mix: CaptionMix | None = None,
        times: Callable[[np.ndarray], np.ndarray] = Times(),
        max_t: float = 1.0,
        below: bool = False,
    ) -> None:
        self.sizes = [n if isinstance(n, int) else len(n or ()) for n in (plain, augmented)]
        self.own_min_t = min_t if isinstance(min_t, np.ndarray) else None
        self.min_t = min_t if isinstance(min_t, float | int) else float(min_t.min(initial=1.0))
        """The smallest of all records."""
        self.max_t, self.below = max_t, below
        self.prob, self.seed, self.start, self.end = prob, seed, start, end
        self.caption_drop_prob, self.self_condition_prob = caption_drop_prob, self_condition_prob
        self.caption_mix, self.times = caption_mix, times
        shares = ("min_t", "max_t", "prob", "caption_drop_prob", "self_condition_prob")
        check_ranges(self, **dict.fromkeys(shares, "[0, 1]"), start="[0, inf)")
        if self.sizes[0] < 1:
            raise UserError("plain: the set is empty; encode at least one image")
        if end is not None and prob == 0.0:
            raise UserError("augment_prob_end: needs an augment_prob above 0 to start from, such as 0.01")
        if prob > 0 and self.sizes[1] < 1:
            fix = "give one or set augment_prob to 0"
            raise UserError(f"augment_prob: {prob} needs an augmented set with records; {fix}")
        self.schedule = get_schedule(schedule) if isinstance(schedule, str) else schedule
        self._lock = threading.Lock()
        self._before_block = [(0, 0)]  # of block b: proposed and augmented samples in blocks 0..b-1
        self._block = lru_cache(CACHED)(self._draw_block)
        self._order = lru_cache(CACHED)(self._draw_order)

    def __getitem__(self, number: int) -> Sample:
        values = dict(zip(DRAWS.names or (), self.draws([number])[0].item()))
        return Sample(source="augmented" if values.pop("augmented") else "plain", **values)

    def draws(self, numbers: Sequence[int] | np.ndarray) -> np.recarray:
        """Return the draws (fields of `DRAWS`) of each of `numbers`, in their order."""
        numbers = np.asarray(numbers, dtype=np.int64)
        if numbers.size and numbers.min() < 0:
            raise IndexError(f"sample number {numbers.min()} is negative")
        block_of, out = numbers // BLOCK, np.empty(len(numbers), DRAWS)
        with self._lock:
            for block in np.unique(block_of).tolist():
                here = block_of == block
                out[here] = self._block(block)[numbers[here] - block * BLOCK]
        return out.view(np.recarray)

    def _uniforms(self, block: int, rows: int) -> np.ndarray:
        # Rows: t, rho, caption drop, self-conditioning, level, cleaner view. The first do not depend on their number.
        out = philox(self.seed, "draws", block).random((rows, BLOCK))
        out[0] = self.times(out[0])
        return out

    def _augmented(self, block: int, t: np.ndarray, rho: np.ndarray) -> np.ndarray:
        numbers = np.arange(block * BLOCK, (block + 1) * BLOCK)
        prob: float | np.ndarray = self.prob
        if self.end is not None:
            end, last = self.end
            share = np.clip((numbers - self.start) / max(1, end - self.start), 0.0, 1.0)
            prob = prob + (last - prob) * share
        gate = (t <= self.max_t) & (self.below | (t > self.min_t))
        return gate & (rho < prob) & (numbers >= self.start)  # Eq. 3

    def _accepted(self, proposed: np.ndarray, t: np.ndarray, before: int) -> tuple[np.ndarray, np.ndarray]:
        """Return which of a block's samples are augmented, and the record proposed to each of those `proposed`.
        before: the number of proposed samples in earlier blocks."""
        records = self._records("augmented", self.sizes[1], before + np.arange(proposed.sum()))
        augmented = proposed.copy()
        if self.own_min_t is not None and not self.below:
            augmented[proposed] = t[proposed] > self.own_min_t[records]
        return augmented, records

    def _counts_before(self, block: int) -> tuple[int, int]:
        counts = self._before_block
        if self.prob == 0.0 or (block + 1) * BLOCK <= self.start:
            return 0, 0
        while len(counts) <= block:
            last, (before, augmented) = len(counts) - 1, counts[-1]
            if (last + 1) * BLOCK > self.start:
                t, rho = self._uniforms(last, 2)
                proposed = self._augmented(last, t, rho)
                accepted = proposed if self.own_min_t is None else self._accepted(proposed, t, before)[0]
                before, augmented = before + int(proposed.sum()), augmented + int(accepted.sum())
            counts.append((before, augmented))
        return counts[block]

    def _draw_block(self, block: int) -> np.recarray:
        t, rho, drop, keep, of_level, cleaner = self._uniforms(block, 6)
        proposed_before, before = self._counts_before(block)
        proposed = self._augmented(block, t, rho)
        augmented, records = self._accepted(proposed, t, proposed_before)
        numbers = np.arange(block * BLOCK, (block + 1) * BLOCK)
        # A sample's place in the endless sequence of epochs of its set: the number of earlier samples from that set.
        augmented_before = before + np.cumsum(augmented) - augmented
        index = np.empty(BLOCK, dtype=np.int64)
        index[proposed] = records
        masked, least = augmented & self.below, np.zeros(BLOCK)
        least[augmented] = self.min_t if self.own_min_t is None else self.own_min_t[index[augmented]]
        masked[masked] = t[masked] <= least[masked]
        index[~augmented] = self._records("plain", self.sizes[0], (numbers - augmented_before)[~augmented])
        t_of_view = np.maximum(t - CLEANER * cleaner, np.where(masked, 0.0, least))
        alpha_bar, alpha_bar_of_view = (
            np.asarray(self.schedule(torch.from_numpy(each)), dtype=np.float64) for each in (t, t_of_view)
        )
        flags = (augmented, drop < self.caption_drop_prob, keep < self.self_condition_prob, masked)
        level = self.caption_mix.draw(numbers, of_level) if self.caption_mix is not None else np.zeros(BLOCK, "u1")
        columns = [numbers, t, alpha_bar, index, *flags, level, alpha_bar_of_view]
        return np.rec.fromarrays(columns, dtype=DRAWS)

    def _draw_order(self, source: str, epoch: int, size: int) -> np.ndarray:
        return philox(self.seed, f"order/{source}", epoch).permutation(size)

    def _records(self, source: str, size: int, places: np.ndarray) -> np.ndarray:
        """Return the record numbers at `places` (ascending) of the endless sequence of epochs of one set."""
        out = np.empty(len(places), dtype=np.int64)
        at = 0
        while at < len(places):
            epoch = int(places[at]) // size
            end = int(np.searchsorted(places, (epoch + 1) * size))
            out[at:end] = self._order(source, epoch, size)[places[at:end] - epoch * size]
            at = end
        return out


@dataclass(frozen=True)
class Normalization:
    """Normalization of the latents that the network sees: (latents - shift) * scale, one number each or per channel."""

    shift: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)

    def _columns(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return like.new_tensor(self.shift)[:, None, None], like.new_tensor(self.scale)[:, None, None]

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """Normalize stored latents (B, C, H, W)."""
        shift, scale = self._columns(latents)
        return (latents - shift) * scale

    def undo(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the inverse: stored latents, which a codec decodes."""
        shift, scale = self._columns(latents)
        return latents / scale + shift


LIMIT_RECORDS = 512
"""Largest number of records from which `latent_limit` is estimated."""


def latent_limit(store: EncodedStore, normalize: Normalization) -> float:
    """Estimate the largest absolute value of normalized latents, to which sampling limits a predicted x0.

    Over channels the largest |mean| + 3 std, but no more than the largest value that occurs. Two significant digits,
    from records spread over the whole set. Raises UserError that names one of them whose latents are not finite.
    """
    places = np.unique(np.linspace(0, len(store) - 1, LIMIT_RECORDS).astype(int)).tolist()
    records = [store[place] for place in places]
    for record in records:
        if not (np.isfinite(record.latent_mean).all() and np.isfinite(record.latent_std).all()):
            raise UserError(
                f"{store.directory}: the latents of record {record.key!r} are not finite; encode the set in fp32"
            )

    def joined(latents: list[np.ndarray]) -> torch.Tensor:  # (1, C, 1, n H W): heights and widths may differ
        return torch.from_numpy(np.concatenate([x.reshape(1, len(x), 1, -1) for x in latents], axis=3)).double()

    means = normalize(joined([record.latent_mean for record in records]))
    stds = Normalization(scale=normalize.scale)(joined([record.latent_std for record in records]))
    spread = (means.var((0, 2, 3), correction=0) + stds.square().mean((0, 2, 3))).sqrt()  # (C,): law of total variance
    usual = means.mean((0, 2, 3)).abs() + 3 * spread
    largest = (means.abs() + 3 * stds).amax((0, 2, 3))
    return float(f"{float(torch.minimum(usual, largest).max()):.2g}")
