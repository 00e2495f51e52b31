"""Algorithm 1: draw t, then which of the two sets, then read that one record.

Every draw has an address: block b of 4096 samples takes its draws from philox(seed, "draws", b), the noise of sample g
comes from philox(seed, "noise", g). So sample g is the same for any batch size, any number of ranks and across any
restart, and the loader's whole state is one integer.

Reading the records and making batches of them is `tessera.train.loader`.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from tessera.config import UserError
from tessera.diffusion.schedule import get_schedule
from tessera.randomness import philox

if TYPE_CHECKING:
    from tessera.encoded.store import EncodedStore

BLOCK = 4096  # samples whose draws are made together
T_DISTRIBUTIONS = ("uniform", "logit_normal")
_KEPT_BLOCKS = 4
_KEPT_ORDERS = 4


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What is drawn for one global sample number, before anything is read."""

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


@dataclass(frozen=True)
class Draws:
    """The same as `Sample` for many numbers: arrays of one length."""

    numbers: np.ndarray
    t: np.ndarray
    alpha_bar: np.ndarray
    augmented: np.ndarray
    index: np.ndarray
    drop_caption: np.ndarray
    self_condition: np.ndarray


class Algorithm1:
    """The infinite stream of training samples: paper Algorithm 1, Eq. 2-4. Threads may share it.

    Element g >= 0 is the `Sample` of global number g: t ~ U(0, 1); a sample is augmented where t > `min_t` (the paper's
    tau), with probability `prob` (the paper's p), and g >= `start`; else plain. Each set is walked in a fresh random
    order per epoch, so that within an epoch of a set every record comes exactly once. `end` (not the paper's): (g, p)
    that the probability reaches, in a straight line from `prob` at `start`, and keeps from there on.

    `plain`, `augmented`: sized objects (encoded stores) or record counts; `augmented` may be None where `prob` is 0.
    `schedule`: its name or a function t -> alpha_bar. `caption_drop_prob`, `self_condition_prob`: of every sample,
    independent of the rest. `t_distribution`: "uniform" is the paper's; "logit_normal" (Esser et al. 2024, location 0,
    scale 1) draws middle noise levels more often.
    """

    def __init__(
        self,
        plain: Sized | int,
        augmented: Sized | int | None,
        min_t: float,
        prob: float,
        seed: int,
        schedule: str | Callable[[torch.Tensor], torch.Tensor],
        start: int = 0,
        end: tuple[int, float] | None = None,
        caption_drop_prob: float = 0.0,
        self_condition_prob: float = 0.0,
        t_distribution: Literal["uniform", "logit_normal"] = "uniform",
    ) -> None:
        self.sizes = (_size(plain), _size(augmented))
        if self.sizes[0] < 1:
            raise UserError("plain: the set is empty; encode at least one image")
        if not 0.0 <= min_t <= 1.0:
            raise UserError(f"augment_min_t: {min_t} is not in [0, 1]")
        for name, value in (
            ("augment_prob", prob),
            ("caption_drop_prob", caption_drop_prob),
            ("self_condition_prob", self_condition_prob),
        ):
            if not 0.0 <= value <= 1.0:
                raise UserError(f"{name}: {value} is not in [0, 1]")
        if end is not None and prob == 0.0:
            raise UserError("augment_prob_end: needs an augment_prob above 0 to start from, such as 0.01")
        if prob > 0 and self.sizes[1] < 1:
            raise UserError(
                f"augment_prob: {prob} needs an augmented set with records; give one or set augment_prob to 0"
            )
        if start < 0:
            raise UserError(f"augment_start_image: {start} is negative; it counts images from 0")
        self.min_t, self.prob, self.seed, self.start, self.end = min_t, prob, seed, start, end
        self.caption_drop_prob, self.self_condition_prob = caption_drop_prob, self_condition_prob
        if t_distribution not in T_DISTRIBUTIONS:
            raise UserError(f"t_distribution: {t_distribution!r} is none of {', '.join(T_DISTRIBUTIONS)}")
        self.t_distribution = t_distribution
        self.schedule = get_schedule(schedule) if isinstance(schedule, str) else schedule
        self._lock = threading.Lock()
        self._augmented_before = [0]  # of block b: augmented samples in blocks 0..b-1
        self._blocks: OrderedDict[int, Draws] = OrderedDict()
        self._orders: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()

    def __getitem__(self, number: int) -> Sample:
        draws = self.draws([number])
        return Sample(
            number=number,
            t=float(draws.t[0]),
            alpha_bar=float(draws.alpha_bar[0]),
            source="augmented" if draws.augmented[0] else "plain",
            index=int(draws.index[0]),
            drop_caption=bool(draws.drop_caption[0]),
            self_condition=bool(draws.self_condition[0]),
        )

    def draws(self, numbers: Sequence[int] | np.ndarray) -> Draws:
        """What is drawn for each of `numbers`, in their order."""
        numbers = np.asarray(numbers, dtype=np.int64)
        if numbers.size and numbers.min() < 0:
            raise IndexError(f"sample number {numbers.min()} is negative")
        block_of = numbers // BLOCK
        with self._lock:
            parts = {int(b): self._block(int(b)) for b in np.unique(block_of)}

        def gather(field: str) -> np.ndarray:
            example = getattr(next(iter(parts.values())), field) if parts else np.empty(0)
            out = np.empty(len(numbers), dtype=example.dtype)
            for b, part in parts.items():
                here = block_of == b
                out[here] = getattr(part, field)[numbers[here] - b * BLOCK]
            return out

        return Draws(
            numbers, *(gather(f) for f in ("t", "alpha_bar", "augmented", "index", "drop_caption", "self_condition"))
        )

    def _uniforms(self, block: int, rows: int) -> np.ndarray:
        # Rows: t, rho, caption drop, self-conditioning. The first rows are the same however many are asked for.
        uniforms = philox(self.seed, "draws", block).random((rows, BLOCK))
        if self.t_distribution == "logit_normal":
            normal = torch.special.ndtri(torch.from_numpy(uniforms[0]).clamp_min(1e-300))
            uniforms[0] = normal.sigmoid().numpy()
        return uniforms

    def _augmented(self, block: int, t: np.ndarray, rho: np.ndarray) -> np.ndarray:
        numbers = np.arange(block * BLOCK, (block + 1) * BLOCK)
        prob: float | np.ndarray = self.prob
        if self.end is not None:
            end, last = self.end
            done = np.clip((numbers - self.start) / max(1, end - self.start), 0.0, 1.0)
            prob = prob + (last - prob) * done
        return (t > self.min_t) & (rho < prob) & (numbers >= self.start)  # Eq. 3

    def _count_before(self, block: int) -> int:
        counts = self._augmented_before
        if self.prob == 0.0 or (block + 1) * BLOCK <= self.start:
            return 0
        while len(counts) <= block:
            last = len(counts) - 1
            some = (last + 1) * BLOCK > self.start
            counts.append(counts[-1] + (int(self._augmented(last, *self._uniforms(last, 2)).sum()) if some else 0))
        return counts[block]

    def _block(self, block: int) -> Draws:
        if block in self._blocks:
            self._blocks.move_to_end(block)
            return self._blocks[block]
        t, rho, drop, keep = self._uniforms(block, 4)
        augmented = self._augmented(block, t, rho)
        numbers = np.arange(block * BLOCK, (block + 1) * BLOCK)
        # How many of the same set came before: that number's place in the set's endless sequence of epochs.
        augmented_before = self._count_before(block) + np.cumsum(augmented) - augmented
        index = np.empty(BLOCK, dtype=np.int64)
        index[augmented] = self._records("augmented", self.sizes[1], augmented_before[augmented])
        index[~augmented] = self._records("plain", self.sizes[0], (numbers - augmented_before)[~augmented])
        alpha_bar = np.asarray(self.schedule(torch.from_numpy(t)), dtype=np.float64)
        draws = Draws(
            numbers, t, alpha_bar, augmented, index, drop < self.caption_drop_prob, keep < self.self_condition_prob
        )
        _remember(self._blocks, block, draws, _KEPT_BLOCKS)
        return draws

    def _records(self, source: str, size: int, places: np.ndarray) -> np.ndarray:
        """Record numbers at `places` (ascending) of the endless sequence of epochs of one set."""
        out = np.empty(len(places), dtype=np.int64)
        at = 0
        while at < len(places):
            epoch = int(places[at]) // size
            end = int(np.searchsorted(places, (epoch + 1) * size))
            out[at:end] = self._order(source, epoch, size)[places[at:end] - epoch * size]
            at = end
        return out

    def _order(self, source: str, epoch: int, size: int) -> np.ndarray:
        key = (source, epoch)
        if key not in self._orders:
            _remember(self._orders, key, philox(self.seed, f"order/{source}", epoch).permutation(size), _KEPT_ORDERS)
        return self._orders[key]


@dataclass(frozen=True)
class Normalisation:
    """(latents - shift) * scale: what the network sees. One number each, or one for each channel."""

    shift: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """Stored latents (B, C, H, W) -> normalised ones."""
        shift, scale = (latents.new_tensor(values)[:, None, None] for values in (self.shift, self.scale))
        return (latents - shift) * scale

    def undo(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse: what a codec decodes."""
        shift, scale = (latents.new_tensor(values)[:, None, None] for values in (self.shift, self.scale))
        return latents / scale + shift


AS_STORED = Normalisation()

LIMIT_RECORDS = 512
"""Records that `latent_limit` looks at, at most."""


def latent_limit(store: "EncodedStore", normalise: Normalisation = AS_STORED) -> float:
    """How large normalised latents are, as a limit for a predicted x0: over channels the largest |mean| + 3 std, but no
    more than the largest value there is. Two significant digits, from records spread over the whole set. UserError
    names one of these whose latents are not finite.
    """
    places = np.unique(np.linspace(0, len(store) - 1, LIMIT_RECORDS).astype(int)).tolist()
    records = [store[place] for place in places]
    means = torch.from_numpy(np.stack([r.latent_mean for r in records])).double()  # (n, C, H, W)
    stds = torch.from_numpy(np.stack([r.latent_std for r in records])).double()
    finite = (means.isfinite() & stds.isfinite()).flatten(1).all(1)  # (n,)
    if not finite.all():
        bad = records[int(finite.logical_not().nonzero()[0])].key
        raise UserError(f"{store.directory}: the latents of record {bad!r} are not finite; encode the set in fp32")
    scale = torch.tensor(normalise.scale, dtype=torch.float64)[:, None, None]
    means, stds = normalise(means), stds * scale
    spread = (means.var((0, 2, 3), correction=0) + stds.square().mean((0, 2, 3))).sqrt()  # (C,): law of total variance
    usual = means.mean((0, 2, 3)).abs() + 3 * spread
    largest = (means.abs() + 3 * stds).amax((0, 2, 3))
    return float(f"{float(torch.minimum(usual, largest).max()):.2g}")


def _size(records: Sized | int | None) -> int:
    if records is None:
        return 0
    return records if isinstance(records, int) else len(records)


def _remember(cache: OrderedDict, key: object, value: object, limit: int) -> None:
    cache[key] = value
    while len(cache) > limit:
        cache.popitem(last=False)
