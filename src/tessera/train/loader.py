"""Batches from sample numbers: threads read each sample's one record ahead; its text is unpacked on the device.

Text travels as it is stored, packed: the tokens of all records one after another, int8 with a scale per 64 numbers.
That is half the bytes of bf16 over memory and bus; the device pads and converts to floating point.

B samples, C x S x S latents, L text tokens of width D.
"""

import contextlib
import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from tessera.config import UserError
from tessera.cutmix import near_seam
from tessera.devices import rank, world_size
from tessera.encoded.record import GROUP, SENTENCE_ENDS, EncodedRecord
from tessera.encoded.seams import Seams
from tessera.encoded.store import EncodedStore
from tessera.randomness import philox
from tessera.records import Batch, TextEncoding
from tessera.train.algorithm1 import Algorithm1, Normalization

EncodeText = Callable[[Sequence[str]], Sequence[np.ndarray]]
"""Captions -> one float array (L, D) each; for stores without text."""

BATCHES_AHEAD = 4  # read before they are asked for


@dataclass(frozen=True, eq=False)
class PackedText:
    """Tokens of B captions, one after another."""

    codes: Tensor
    """(sum of L, D) int8 codes, or floating point where there is no scale."""
    scale: Tensor | None
    """(sum of L, ceil(D / 64)) fp16."""
    places: Tensor
    """(sum of L,) int64: index of each token in the padded (B * longest L) rows."""
    mask: Tensor
    """(B, longest L) bool, True = real token."""

    @classmethod
    def pack(cls, codes: Sequence[np.ndarray], scales: Sequence[np.ndarray] | None) -> "PackedText":
        """Pack ragged (L, D) arrays; the padded length is the longest."""
        lengths = np.array([len(c) for c in codes])
        mask = np.arange(lengths.max()) < lengths[:, None]  # (B, longest L)
        return cls(
            codes=torch.from_numpy(np.concatenate(codes)),
            scale=None if scales is None else torch.from_numpy(np.concatenate(scales)),
            places=torch.from_numpy(np.flatnonzero(mask)),
            mask=torch.from_numpy(mask),
        )

    def unpack(self, dtype: torch.dtype) -> TextEncoding:
        """Return embeddings (B, L, D) in `dtype`, padded with zeros, on the codes' device, without waiting for it."""
        flat = self.floats()
        (rows, length), width = self.mask.shape, flat.shape[1]
        padded = torch.zeros(rows * length, width, dtype=dtype, device=flat.device)
        padded.index_copy_(0, self.places, flat.to(dtype))
        return TextEncoding(padded.view(rows, length, width), self.mask)

    def floats(self) -> Tensor:
        """Return the tokens (sum of L, D) float32, on the codes' device."""
        flat, width = self.codes.float(), self.codes.shape[1]
        if self.scale is None:
            return flat
        if width % GROUP == 0:
            return (flat.unflatten(1, (-1, GROUP)) * self.scale.float()[..., None]).flatten(1)
        return flat * self.scale.float().repeat_interleave(GROUP, dim=1)[:, :width]

    def perturbed(self, gamma: float, seed: int, numbers: Sequence[int]) -> "PackedText":
        """Return the text in fp16 with noise of variance gamma / D, by the addresses of the samples `numbers`."""
        flat = self.floats()
        shapes = [(length, flat.shape[1]) for length in self.mask.sum(1).tolist()]
        draws = [
            philox(seed, "condition noise", number).standard_normal(shape, dtype=np.float32)
            for number, shape in zip(numbers, shapes)
        ]
        noise = torch.from_numpy(np.concatenate(draws))
        return replace(self, codes=(flat + noise * (gamma / flat.shape[1]) ** 0.5).half(), scale=None)

    def map(self, change: Callable[[Tensor], Tensor]) -> "PackedText":
        """Return the text with `change` applied to every tensor."""
        scale = None if self.scale is None else change(self.scale)
        return PackedText(change(self.codes), scale, change(self.places), change(self.mask))


@dataclass(frozen=True, eq=False)
class HostBatch:
    """Samples of one forward pass on the host; fields as in `Batch`, and those of the host."""

    latents: Tensor
    """(B, C, H, W) float32, drawn from the stored posterior and normalized."""
    noise: Tensor
    text: PackedText
    t: Tensor
    alpha_bar: Tensor
    dropped: Tensor
    numbers: Tensor
    self_condition: Tensor
    """(B,) bool; stays on the host."""
    tokens: int
    """Number of real text tokens."""
    loss_mask: Tensor | None = None
    cleaner_alpha_bar: Tensor | None = None
    features: PackedText | None = None
    """Those of each image, packed as texts are."""

    def pinned(self) -> "HostBatch":
        """Return the batch in page-locked memory, from which copies to a GPU overlap with its work."""
        pinned = {f.name: v.pin_memory() for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        features = self.features and self.features.map(Tensor.pin_memory)
        return HostBatch(**pinned, text=self.text.map(Tensor.pin_memory), tokens=self.tokens, features=features)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Batch:
        """Return the batch on `device`, text in `dtype`. From page-locked memory, this does not wait for CUDA."""
        no_wait = torch.device(device).type == "cuda"

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=no_wait)

        values = {f.name: getattr(self, f.name) for f in fields(Batch) if f.name not in ("text", "features")}
        moved: Any = {name: None if value is None else move(value) for name, value in values.items()}
        features = None if self.features is None else self.features.map(move).unpack(dtype).embeddings
        return Batch(**moved, text=self.text.map(move).unpack(dtype), features=features)


_OF_RECORD = ("augmented", "index", "level")  # draws


@dataclass(eq=False)
class Reader:
    """Reader of the one drawn record of each sample. Threads may share it."""

    algorithm: Algorithm1
    plain: EncodedStore
    augmented: EncodedStore | Subset[EncodedRecord] | None
    normalize: Normalization
    encode_text: EncodeText | None = None
    """For stores without text."""
    levels: tuple[Sequence[int], Sequence[int]] = ((0,), (0,))
    """Number in the plain and in the augmented set of each level that the algorithm draws (`level_numbers`)."""
    seams: Seams | None = None
    """Borders of the augmented records, for draws that are masked."""
    seam_margin: int = 0
    """Latents on either side of a border that have no loss in those."""
    sentence_drop_prob: float = 0.0
    """As in `TrainConfig`, for stores without text."""
    condition_noise: float = 0.0
    """As in `TrainConfig`."""
    align_until: float = 0
    """Samples below this number get what an objective aligns with; it is a step's first, or infinity."""
    features: bool = False
    """Among that are stored features."""
    _encoder_lock: Any = field(default_factory=threading.Lock)

    def __call__(self, numbers: Sequence[int] | np.ndarray) -> HostBatch:
        """Read the samples `numbers`, of one bucket: latents drawn from the stored posterior (mean + std * noise, a
        fresh draw at each visit) and normalized; noise by address."""
        draws = self.algorithm.draws(numbers)
        aligned = draws.number.min() < self.align_until
        places = zip(*(draws[name].tolist() for name in _OF_RECORD))
        records = [self._record(*draw, features=self.features and aligned) for draw in places]
        latents, noise = draw_latents(records, self.algorithm.seed, draws.number.tolist())
        if self.sentence_drop_prob:
            streams = (philox(self.algorithm.seed, "sentences", number) for number in draws.number.tolist())
            records = [
                replace(record, caption=drop_sentences(record.caption, self.sentence_drop_prob, stream))
                for record, stream in zip(records, streams)
            ]
        text = self.text_of(records)
        if self.condition_noise:
            text = text.perturbed(self.condition_noise, self.algorithm.seed, draws.number.tolist())
        return HostBatch(
            latents=self.normalize(latents),
            noise=noise,
            text=text,
            t=torch.tensor(draws.t, dtype=torch.float32),
            alpha_bar=torch.tensor(draws.alpha_bar, dtype=torch.float32),
            dropped=torch.tensor(draws.drop_caption),
            numbers=torch.tensor(draws.number),
            self_condition=torch.tensor(draws.self_condition),
            tokens=len(text.codes),
            loss_mask=self._loss_mask(draws, latents) if draws.masked.any() else None,
            cleaner_alpha_bar=torch.tensor(draws.cleaner_alpha_bar, dtype=torch.float32) if aligned else None,
            features=_features(records) if self.features and aligned else None,
        )

    def _loss_mask(self, draws: np.recarray, latents: Tensor) -> Tensor:
        """Return the weights (B, 1, H, W) of latents in the loss."""
        assert self.seams is not None
        weights, size = torch.ones_like(latents[:, :1]), self.plain.facts["image_size"]
        for row in np.flatnonzero(draws.masked):
            box = tuple(self.seams.boxes[draws.index[row]].tolist())
            weights[row, 0][torch.from_numpy(near_seam(box, size, latents.shape[3], self.seam_margin))] = 0
        return weights

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Return the lengths of the samples' texts, as `EncodedStore.length` counts, of which no text is read."""
        draws = self.algorithm.draws(numbers)
        places = (self._place(*draw) for draw in zip(*(draws[name].tolist() for name in _OF_RECORD)))
        return np.array([store.length(index, level) for store, index, level in places])

    def buckets(self, numbers: np.ndarray) -> np.ndarray | None:
        """Return the number of each sample's bucket of aspect ratios; None where the sets have no buckets."""
        if not self.plain.shapes:
            return None
        draws = self.algorithm.draws(numbers)
        return self.plain.buckets[draws.index]

    def _record(self, augmented: bool, index: int, level: int, features: bool = False) -> EncodedRecord:
        store, index, level = self._place(augmented, index, level)
        return store.read(index, level, features=True) if features else store.read(index, level)

    def _place(self, augmented: bool, index: int, level: int) -> tuple[EncodedStore, int, int]:
        store, level = (self.plain, self.augmented)[augmented], self.levels[augmented][level]
        if isinstance(store, Subset):
            store, index = cast(EncodedStore, store.dataset), store.indices[index]
        assert store is not None
        return store, index, level

    def text_of(self, records: Sequence[EncodedRecord]) -> PackedText:
        """Return the stored text of records, or encode their captions. Raises UserError where neither is possible."""
        if any(r.text_codes is None for r in records):
            if self.encode_text is None:
                raise UserError("encoded: the store holds no text; encode it with text_encoding int8 or fp16")
            with self._encoder_lock:
                texts = self.encode_text([r.caption for r in records])
            return PackedText.pack([np.asarray(t, dtype=np.float32) for t in texts], None)
        scales = [r.text_scale for r in records if r.text_scale is not None]
        mixed = len(scales) not in (0, len(records))  # one set is int8, the other fp16
        codes = [text for r in records if (text := r.text if mixed else r.text_codes) is not None]
        return PackedText.pack(codes, None if mixed else scales or None)


def _features(records: Sequence[EncodedRecord]) -> PackedText:
    pairs = [(r.features, r.features_scale) for r in records if r.features is not None and r.features_scale is not None]
    codes, scales = zip(*pairs)
    return PackedText.pack(codes, scales)


def drop_sentences(caption: str, prob: float, rng: np.random.Generator) -> str:
    """Return the caption without the sentences whose draw is below `prob`; that of the largest draw always stays."""
    sentences = SENTENCE_ENDS.split(caption)
    draws = rng.random(len(sentences))
    return " ".join(text for text, draw in zip(sentences, draws) if draw >= min(prob, draws.max()))


def draw_latents(
    records: Sequence[EncodedRecord], seed: int, numbers: Sequence[int], prefix: str = ""
) -> tuple[Tensor, Tensor]:
    """Draw latents from the records' posteriors and noise, both (B, C, H, W) float32, by the addresses of the samples
    `numbers`. `prefix`: distinguishes the purpose of other draws for the same numbers."""
    # torch, not numpy, turns fp16 into fp32: ten times faster.
    latents = torch.from_numpy(np.stack([r.latent_mean for r in records])).float()  # (B, C, H, W)
    noise = torch.empty_like(latents)
    for i, (number, record) in enumerate(zip(numbers, records)):
        philox(seed, f"{prefix}noise", number).standard_normal(out=noise[i].numpy(), dtype=np.float32)
        if record.latent_std.view(np.uint16).any():  # std is 0 for an exact codec (pixel-unshuffle)
            draw = philox(seed, f"{prefix}posterior", number).standard_normal(latents[i].shape, dtype=np.float32)
            latents[i].addcmul_(torch.from_numpy(record.latent_std).float(), torch.from_numpy(draw))
    return latents, noise


def passes(
    start: int,
    batch_size: int,
    end: int,
    size: int,
    lengths: Callable[[np.ndarray], np.ndarray] | None = None,
    buckets: Callable[[np.ndarray], np.ndarray | None] | None = None,
) -> Iterator[np.ndarray]:
    """Yield this rank's sample numbers of each forward pass of `size`, batch by batch: in every batch
    start + rank, start + rank + world size, ... lengths: of the samples' texts, by which those of a batch are sorted,
    longest first, so that texts of a pass need little padding. buckets: of the samples; a pass is of one, so that some
    have fewer samples, and their number differs."""
    for first in range(start, end, batch_size):
        mine = np.arange(first + rank(), first + batch_size, world_size())
        if lengths is not None and len(mine) > size:
            mine = mine[np.argsort(-lengths(mine), kind="stable")]
        of = buckets(mine) if buckets is not None else None
        for members in [mine] if of is None else (mine[of == bucket] for bucket in np.unique(of)):
            yield from (members[first : first + size] for first in range(0, len(members), size))


@contextlib.contextmanager
def read_ahead(
    read: Callable[[np.ndarray], HostBatch],
    numbers: Iterator[np.ndarray],
    *,
    threads: int = 2,
    ahead: int = BATCHES_AHEAD,
    device: torch.device | None = None,
) -> Iterator[Iterator[HostBatch]]:
    """Yield an iterator over `read` of each of `numbers`, in order, read ahead by threads, whose errors it raises.
    `device`: for a GPU, batches wait in page-locked memory."""
    gpu = device if device is not None and device.type == "cuda" else None

    def work(part: np.ndarray) -> HostBatch:
        return read(part).pinned() if gpu else read(part)

    def batches() -> Iterator[HostBatch]:
        pending = deque(pool.submit(work, part) for part in itertools.islice(numbers, ahead))
        while pending:
            batch = pending.popleft().result()
            pending.extend(pool.submit(work, part) for part in itertools.islice(numbers, 1))
            yield batch

    # A thread without a current GPU would take memory on the first one.
    select = functools.partial(torch.cuda.set_device, gpu) if gpu and gpu.index is not None else None
    pool = ThreadPoolExecutor(threads, "loader", initializer=select)
    try:
        yield batches()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
