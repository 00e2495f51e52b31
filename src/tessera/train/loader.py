"""Batches from sample numbers: threads read each sample's one record ahead; its text is unpacked on the device.

Text travels as it is stored, packed: the tokens of all records one after another, int8 with a scale per 64 numbers.
That is half the bytes of bf16 over memory and bus; the device pads and converts to floating point.

B samples, C x S x S latents, L text tokens of width D.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from tessera.config import UserError
from tessera.devices import rank, world_size
from tessera.encoded.record import GROUP, EncodedRecord
from tessera.encoded.store import EncodedStore
from tessera.randomness import philox
from tessera.records import Batch, TextEncoding
from tessera.train.algorithm1 import Algorithm1, Normalization
from tessera.train.dataset_checks import Subset

EncodeText = Callable[[Sequence[str]], Sequence[np.ndarray]]
"""Captions -> one float array (L, D) each; for stores without text."""

LOADER_THREADS = 2
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
    def pack(cls, codes: Sequence[np.ndarray], scales: Sequence[np.ndarray] | None, multiple: int = 1) -> "PackedText":
        """Pack ragged (L, D) arrays; the padded length is the longest, rounded up to a multiple of `multiple`."""
        lengths = np.array([len(c) for c in codes])
        longest = -(-int(lengths.max()) // multiple) * multiple
        mask = np.arange(longest) < lengths[:, None]  # (B, L)
        return cls(
            codes=torch.from_numpy(np.concatenate(codes)),
            scale=None if scales is None else torch.from_numpy(np.concatenate(scales)),
            places=torch.from_numpy(np.flatnonzero(mask)),
            mask=torch.from_numpy(mask),
        )

    def unpack(self, dtype: torch.dtype) -> TextEncoding:
        """Return embeddings (B, L, D) in `dtype`, padded with zeros, on the codes' device, without waiting for it."""
        flat = self.codes.float()  # (sum of L, D)
        if self.scale is not None:
            flat = _scaled(flat, self.scale.float())
        rows, length = self.mask.shape
        width = flat.shape[1]
        padded = torch.zeros(rows * length, width, dtype=dtype, device=flat.device)
        padded.index_copy_(0, self.places, flat.to(dtype))
        return TextEncoding(padded.view(rows, length, width), self.mask)

    def map(self, change: Callable[[Tensor], Tensor]) -> "PackedText":
        """Return the text with `change` applied to every tensor."""
        scale = None if self.scale is None else change(self.scale)
        return PackedText(change(self.codes), scale, change(self.places), change(self.mask))


def _scaled(codes: Tensor, scale: Tensor) -> Tensor:
    """Return the codes (sum of L, D) times the scale (sum of L, ceil(D / 64)) of their group."""
    tokens, width = codes.shape
    if width % GROUP == 0:
        return (codes.view(tokens, -1, GROUP) * scale[..., None]).view(tokens, width)
    return codes * scale.repeat_interleave(GROUP, dim=1)[:, :width]


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

    def pinned(self) -> "HostBatch":
        """Return the batch in page-locked memory, from which copies to a GPU overlap with its work."""
        pinned = {f.name: v.pin_memory() for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return HostBatch(**pinned, text=self.text.map(Tensor.pin_memory), tokens=self.tokens)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Batch:
        """Return the batch on `device`, text in `dtype`. From page-locked memory, this does not wait for the device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        moved = {f.name: move(getattr(self, f.name)) for f in fields(Batch) if f.name != "text"}
        return Batch(**moved, text=self.text.map(move).unpack(dtype))


class Reader:
    """Reader of the one drawn record of each sample. Threads may share it."""

    def __init__(
        self,
        algorithm: Algorithm1,
        plain: EncodedStore,
        augmented: EncodedStore | Subset | None,
        normalize: Normalization,
        *,
        encode_text: EncodeText | None = None,
        multiple: int = 1,
    ) -> None:
        """Set up reading. `encode_text`: for stores without text. `multiple`: padded lengths are multiples of it."""
        self.algorithm, self.plain, self.augmented, self.normalize = algorithm, plain, augmented, normalize
        self.encode_text, self.multiple = encode_text, multiple
        self._encoder_lock = threading.Lock()

    def __call__(self, numbers: Sequence[int] | np.ndarray) -> HostBatch:
        """Read the samples `numbers`: latents drawn from the stored posterior (mean + std * noise, a fresh draw at each
        visit) and normalized; noise by address."""
        draws = self.algorithm.draws(numbers)
        records = []
        for from_augmented, index in zip(draws.augmented.tolist(), draws.index.tolist()):
            store = self.augmented if from_augmented else self.plain
            assert store is not None, "Algorithm1 was made with an augmented set"
            records.append(store[index])
        latents, noise = draw_latents(records, self.algorithm.seed, draws.numbers.tolist())
        text = self.text_of(records)
        return HostBatch(
            latents=self.normalize(latents),
            noise=noise,
            text=text,
            t=torch.from_numpy(draws.t.astype(np.float32)),
            alpha_bar=torch.from_numpy(draws.alpha_bar.astype(np.float32)),
            dropped=torch.from_numpy(draws.drop_caption),
            numbers=torch.from_numpy(draws.numbers.copy()),
            self_condition=torch.from_numpy(draws.self_condition),
            tokens=len(text.codes),
        )

    def text_of(self, records: Sequence[EncodedRecord]) -> PackedText:
        """Return the stored text of records, or encode their captions. Raises UserError where neither is possible."""
        absent = [r.text_codes is None for r in records]
        if any(absent):
            if self.encode_text is None:
                raise UserError("encoded: the store holds no text; encode it with text_encoding int8 or fp16")
            with self._encoder_lock:
                texts = self.encode_text([r.caption for r in records])
            return PackedText.pack([np.asarray(t, dtype=np.float32) for t in texts], None, self.multiple)
        scales = [r.text_scale for r in records if r.text_scale is not None]
        codes = [r.text_codes for r in records if r.text_codes is not None]
        if len(scales) in (0, len(codes)):  # all fp16, or all int8
            return PackedText.pack(codes, scales or None, self.multiple)
        floats = [text for r in records if (text := r.text) is not None]  # one set is int8, the other fp16
        return PackedText.pack(floats, None, self.multiple)


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


def passes(start: int, batch_size: int, end: int, size: int) -> Iterator[np.ndarray]:
    """Yield this rank's sample numbers of each forward pass of `size`, batch by batch: in every batch
    start + rank, start + rank + world size, ..."""
    for first in range(start, end, batch_size):
        mine = np.arange(first + rank(), first + batch_size, world_size())
        yield from np.split(mine, len(mine) // size)


def _select_gpu(device: torch.device | None) -> None:
    """Make a numbered GPU this thread's current one."""
    if device is not None and device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


class Loader:
    """Iterator over `read` of each of `numbers`, in their order, read ahead by threads. Close it, or use `with`."""

    def __init__(
        self,
        read: Callable[[np.ndarray], HostBatch],
        numbers: Iterator[np.ndarray],
        *,
        threads: int = LOADER_THREADS,
        ahead: int = BATCHES_AHEAD,
        device: torch.device | None = None,
    ) -> None:
        """Start reading. `device`: for a GPU, batches wait in page-locked memory."""
        self._read, self._numbers = read, numbers
        self._pin = device is not None and device.type == "cuda"
        # A thread without a current GPU would take memory on the first one.
        self._pool = ThreadPoolExecutor(threads, "loader", initializer=_select_gpu, initargs=(device,))
        self._pending: deque[Future[HostBatch]] = deque()
        for following in itertools.islice(self._numbers, ahead):
            self._pending.append(self._pool.submit(self._work, following))

    def _work(self, numbers: np.ndarray) -> HostBatch:
        batch = self._read(numbers)
        return batch.pinned() if self._pin else batch

    def __next__(self) -> HostBatch:
        """Return the next batch; raises the error of its reading."""
        batch = self._pending.popleft().result()
        if (following := next(self._numbers, None)) is not None:
            self._pending.append(self._pool.submit(self._work, following))
        return batch

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
