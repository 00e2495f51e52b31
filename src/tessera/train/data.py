"""Algorithm 1: draw t, then which of the two sets, then read that one record.

Every draw has an address: block b of 4096 samples takes its draws from philox(seed, "draws", b), the noise of sample g
comes from philox(seed, "noise", g). So sample g is the same for any batch size, any number of ranks and across any
restart, and the loader's whole state is one integer.

B samples, C x S x S latents, L text tokens of width D.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from tessera.config import UserError
from tessera.diffusion.schedule import get_schedule
from tessera.records import Batch, TextEncoding
from tessera.runtime import philox
from tessera.shards import dequantize

if TYPE_CHECKING:
    from tessera.shards import EncodedRecord, EncodedStore

BLOCK = 4096  # samples whose draws are made together
SHARED_FACTS = ("latent_codec", "text_encoder", "null_condition", "image_size")
_KEPT_BLOCKS = 2
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
    """The infinite stream of training samples: paper Algorithm 1, Eq. 2-4.

    Element g >= 0 is the `Sample` of global number g: t ~ U(0, 1); a sample is augmented where t > `min_t` (the paper's
    tau), with probability `prob` (the paper's p), and g >= `start`; else plain. Each set is walked in a fresh random
    order per epoch, so that within an epoch of a set every record comes exactly once.

    `plain`, `augmented`: sized objects (encoded stores) or record counts; `augmented` may be None where `prob` is 0.
    `schedule`: its name or a function t -> alpha_bar. `caption_drop_prob`, `self_condition_prob`: of every sample,
    independent of the rest.
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
        caption_drop_prob: float = 0.0,
        self_condition_prob: float = 0.0,
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
        if prob > 0 and self.sizes[1] < 1:
            raise UserError(
                f"augment_prob: {prob} needs an augmented set with records; give one or set augment_prob to 0"
            )
        if start < 0:
            raise UserError(f"augment_start_image: {start} is negative; it counts images from 0")
        self.min_t, self.prob, self.seed, self.start = min_t, prob, seed, start
        self.caption_drop_prob, self.self_condition_prob = caption_drop_prob, self_condition_prob
        self.schedule = get_schedule(schedule) if isinstance(schedule, str) else schedule
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
        return philox(self.seed, "draws", block).random((rows, BLOCK))

    def _augmented(self, block: int, t: np.ndarray, rho: np.ndarray) -> np.ndarray:
        numbers = np.arange(block * BLOCK, (block + 1) * BLOCK)
        return (t > self.min_t) & (rho < self.prob) & (numbers >= self.start)  # Eq. 3

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


LIMIT_RECORDS = 512
"""Records that `latent_limit` looks at, at most."""


def latent_limit(store: "EncodedStore", normalise: Normalisation = Normalisation()) -> float:
    """How large normalised latents are, as a limit for a predicted x0: over channels the largest |mean| + 3 std, but no
    more than the largest value there is. Two significant digits, from records spread over the whole set.
    """
    places = np.unique(np.linspace(0, len(store) - 1, LIMIT_RECORDS).astype(int)).tolist()
    records = [store[place] for place in places]
    means = torch.from_numpy(np.stack([r.latent_mean for r in records])).double()  # (n, C, H, W)
    stds = torch.from_numpy(np.stack([r.latent_std for r in records])).double()
    scale = torch.tensor(normalise.scale, dtype=torch.float64)[:, None, None]
    means, stds = normalise(means), stds * scale
    spread = (means.var((0, 2, 3), correction=0) + stds.square().mean((0, 2, 3))).sqrt()  # (C,): law of total variance
    usual = means.mean((0, 2, 3)).abs() + 3 * spread
    largest = (means.abs() + 3 * stds).amax((0, 2, 3))
    return float(f"{float(torch.minimum(usual, largest).max()):.2g}")


def load_batch(
    algorithm: Algorithm1,
    plain: "EncodedStore",
    augmented: "EncodedStore | None",
    numbers: Sequence[int] | np.ndarray,
    normalise: Normalisation = Normalisation(),
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Reads the one chosen record of each sample and makes the batch: latents drawn from the stored posterior
    (mean + std * noise, a fresh draw at each visit) and normalised, noise by address, text padded to the longest.

    Returns a `Batch`: latents, noise (B, C, H, W) float32; text (B, L, D) in `dtype`; t, alpha_bar (B,) float32.
    Raises UserError where a store holds no text.
    """
    draws = algorithm.draws(numbers)
    records = []
    for from_augmented, index in zip(draws.augmented.tolist(), draws.index.tolist()):
        store = augmented if from_augmented else plain
        assert store is not None, "Algorithm1 was made with an augmented set"
        records.append(store[index])
    # torch, not numpy, turns fp16 into fp32: ten times faster.
    latents = torch.from_numpy(np.stack([r.latent_mean for r in records])).float()  # (B, C, H, W)
    noise = torch.empty_like(latents)
    for i, (number, record) in enumerate(zip(draws.numbers.tolist(), records)):
        philox(algorithm.seed, "noise", number).standard_normal(out=noise[i].numpy(), dtype=np.float32)
        if record.latent_std.view(np.uint16).any():  # an exact codec (pixel-unshuffle) has no spread: nothing to draw
            draw = philox(algorithm.seed, "posterior", number).standard_normal(latents[i].shape, dtype=np.float32)
            latents[i].addcmul_(torch.from_numpy(record.latent_std).float(), torch.from_numpy(draw))
    return Batch(
        latents=normalise(latents).to(device),
        text=_text(records).to(device, dtype),
        t=torch.from_numpy(draws.t.astype(np.float32)).to(device),
        alpha_bar=torch.from_numpy(draws.alpha_bar.astype(np.float32)).to(device),
        noise=noise.to(device),
        dropped=torch.from_numpy(draws.drop_caption).to(device),
        numbers=torch.from_numpy(draws.numbers.copy()).to(device),
    )


def _text(records: "list[EncodedRecord]") -> TextEncoding:
    """Ragged stored text -> (B, L, D) float32 padded with zeros; every record is unpacked in one go."""
    if any(r.text_codes is None for r in records):
        raise UserError("encoded: the store holds no text; encode it with text_encoding int8 or fp16 to train on it")
    codes = [np.asarray(r.text_codes) for r in records]
    lengths = [len(c) for c in codes]
    flat = np.concatenate(codes)  # (sum of L, D)
    if flat.dtype == np.int8:
        flat = dequantize(flat, np.concatenate([np.asarray(r.text_scale) for r in records]))
    embeddings = np.zeros((len(codes), max(lengths), flat.shape[1]), dtype=np.float32)
    start = 0
    for row, length in enumerate(lengths):
        embeddings[row, :length] = flat[start : start + length]
        start += length
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]  # (B, L)
    return TextEncoding(torch.from_numpy(embeddings), torch.from_numpy(mask))


def check_sets(
    plain: "EncodedStore", augmented: "EncodedStore | None", *, latent_shape: tuple[int, int, int], text_width: int
) -> dict[str, Any]:
    """Raises UserError unless the sets fit the model's shapes and each other. Returns the facts that a run keeps."""
    for store in (plain, augmented):
        if store is None:
            continue
        where = store.directory
        if len(store) == 0:
            raise UserError(f"{where}: the set is empty; encode at least one image")
        if store.text_encoding == "none":
            raise UserError(f"{where}: holds no text; encode it with text_encoding int8 or fp16")
        if tuple(store.latent_shape) != latent_shape:
            raise UserError(f"{where}: latents are {tuple(store.latent_shape)}, the model's config says {latent_shape}")
        if store.text_width != text_width:
            raise UserError(f"{where}: text is {store.text_width} wide, the model's config has text_width {text_width}")
        for name in SHARED_FACTS:
            if name not in store.facts:
                raise UserError(f"{where}: its manifest does not say {name}; make it with `tessera encode`")
            if store.facts[name] != plain.facts[name]:
                found = "" if name == "null_condition" else f" ({store.facts[name]}, there {plain.facts[name]})"
                raise UserError(
                    f"{where}: {name} differs from that of {plain.directory}{found}; encode both sets alike"
                )
    if augmented is not None:
        arm = "ta_ia"
    else:
        arm = "aio" if plain.facts.get("captioner") == "aio" else "ta"
    return {"arm": arm, "latent_shape": list(latent_shape), **{name: plain.facts[name] for name in SHARED_FACTS}}


def _size(records: Sized | int | None) -> int:
    if records is None:
        return 0
    return records if isinstance(records, int) else len(records)


def _remember(cache: OrderedDict, key: object, value: object, limit: int) -> None:
    cache[key] = value
    while len(cache) > limit:
        cache.popitem(last=False)
