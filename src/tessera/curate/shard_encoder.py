"""The work of encode on one shard: its images and texts through the frozen networks, into a file.

Threads read and compose images, give images and texts to the networks, and quantize what text encoders give as floats,
while the caller's writes: the networks' device never waits for the others.
"""

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.curate.buckets import Size
from tessera.curate.caption.table import Texts
from tessera.curate.image_features import patch_features
from tessera.curate.index import Composer, Entry
from tessera.encoded.record import EncodedRecord, EncodedText, TextEncodingKind, quantize
from tessera.encoded.shard import write_shard
from tessera.encoded.store import open_encoded
from tessera.pretrained.text_encoders import TextEncoder
from tessera.pretrained.vae import LatentCodec, shape_of_latents
from tessera.workers import draw_ahead

if TYPE_CHECKING:
    from tessera.pretrained.features.encoder import ImageEncoder

_BATCH = 64  # images in one call of the image codec
_TEXT_WINDOW = 512  # records whose texts are sorted by length and encoded together
_TEXT_BATCH = 128  # texts whose float32 encodings are in memory at a time
_CACHED_TEXTS = 4096  # encodings of repeated texts in memory
_READERS = 4  # threads that read crops


class Networks(NamedTuple):
    """Frozen networks."""

    codec: LatentCodec
    encoder: TextEncoder
    vision: "ImageEncoder | None"
    """None = no features."""


class Job(NamedTuple):
    """Record to make."""

    entry: Entry
    captions: Texts
    bucket: int = 0
    """Number of its size among the set's."""


class ShardJobs(NamedTuple):
    """Shard to write."""

    path: Path
    jobs: list[Job]
    levels: tuple[str, ...]
    repeated: set[str]
    """Those of its captions that several records of the set have."""

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(job.entry.key for job in self.jobs)


def _alike(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs of each bucket among these, in their order."""
    found: dict[int, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.bucket, []).append(job)
    return [*found.values()]


class ShardEncoder:
    """Work on one shard, in the process that loaded the networks."""

    def __init__(
        self,
        load: Callable[[], Networks],
        text_encoding: TextEncodingKind,
        composer: Composer,
        size: int,
        buckets: Sequence[Size],
        features: tuple[int, int],
        before: tuple[Path, set[str]] | None,
        advance: Callable[[int], Any] | None,
    ):
        """Load the networks. text_encoding: storage of token embeddings. features: tokens and width of an image's.
        before: a directory of the same configuration, and the keys of images that changed since it was made. advance:
        called with the number of records of each batch that is written; None = nobody counts."""
        self._codec, self._encoder, self._vision = load()
        self._composer, self._size, self._buckets, self._advance = composer, size, buckets, advance
        self._kind: TextEncodingKind = text_encoding
        self._features = features
        self._before, self._changed = (open_encoded(before[0]), before[1]) if before else (None, set())
        self._places = {key: place for place, key in enumerate(self._before.keys())} if self._before else {}
        # A text that repeats in the set is encoded once, by itself.
        self._repeated = functools.lru_cache(_CACHED_TEXTS)(lambda text: self._store([text], self._encode([text])))

    def __call__(self, shard: ShardJobs) -> int:
        """Write the shard and return its number of records."""
        metadata = {"latent_codec": self._codec.id, "text_encoder": self._encoder.id, "image_size": str(self._size)}
        layout: Any = {"latent_shape": self._codec.latent_shape(self._size), "text_width": self._encoder.width}
        layout |= {"text_encoding": self._kind, "levels": shard.levels, "features": self._features}
        layout["shapes"] = [shape_of_latents(self._codec, *each) for each in self._buckets]
        with contextlib.closing(self._records(shard)) as records:
            write_shard(shard.path, records, **layout, metadata=metadata)
        return len(shard.jobs)

    def _records(self, shard: ShardJobs) -> Generator[EncodedRecord, None, None]:
        texts, new = {}, []
        with (
            ThreadPoolExecutor(1) as quantizer,
            ThreadPoolExecutor(_READERS) as readers,
            contextlib.closing(draw_ahead(self._computed(shard, readers, quantizer), 4)) as computed,
        ):
            for item in computed:
                if isinstance(item, Future):  # of texts; a window's come before its first images
                    new.append(item)
                    continue
                if new:
                    texts, new = {text: each for stored in new for text, each in stored.result().items()}, []
                batch, latents = item
                for job in batch:
                    mean, std, features = latents[job.entry.key]
                    of_level = [texts[job.captions[level]] if level in job.captions else None for level in shard.levels]
                    first = of_level[0] or EncodedText("", None, None)
                    yield EncodedRecord(
                        key=job.entry.key,
                        class_name=job.entry.class_name,
                        **first._asdict(),
                        latent_mean=self._half(job, mean),
                        latent_std=self._half(job, std),
                        features=features[0],
                        features_scale=features[1],
                        more=tuple(of_level[1:]),
                    )
                if self._advance is not None:
                    self._advance(len(batch))

    def _half(self, job: Job, latents: NDArray[np.floating]) -> NDArray[np.float16]:
        """Return the latents as they are stored. UserError where float16 cannot hold them."""
        with np.errstate(over="ignore"):
            stored = latents.astype(np.float16)
        if not np.isfinite(stored).all():
            fix = "encode with --compute fp32, or by another VAE"
            raise UserError(f"{job.entry.key}: {self._codec.id} gives latents that are not finite in float16; {fix}")
        return stored

    def _computed(self, shard: ShardJobs, readers: ThreadPoolExecutor, quantizer: ThreadPoolExecutor) -> Iterator[Any]:
        """Yield what the networks give, or an earlier directory: of each batch of images (jobs, key -> mean and std),
        before those of a window futures of its texts, caption -> stored form."""
        jobs = shard.jobs
        earlier: dict[str, list[EncodedRecord]] = {}
        batches = [jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH)]
        same = self._places.keys() - self._changed
        new = [[job for job in batch if job.entry.key not in same] for batch in batches]
        images = (self._images(part, readers) for some in new for part in _alike(some))
        with contextlib.closing(draw_ahead(images)) as composed:
            for number, (batch, some) in enumerate(zip(batches, new)):
                if (start := number * _BATCH) % _TEXT_WINDOW == 0:
                    window = jobs[start : start + _TEXT_WINDOW]
                    earlier = {job.entry.key: self._earlier(job) for job in window if job.entry.key in self._places}
                    known = [EncodedText(r.caption, r.text_codes, r.text_scale) for of in earlier.values() for r in of]
                    told = {text.caption: text for text in known}
                    yield quantizer.submit(dict, told)
                    yield from self._texts(window, shard, quantizer, told.keys())
                kept = (job.entry.key for job in batch if job.entry.key in same)
                of_kept = ((key, earlier[key][0]) for key in kept)
                latents: dict[str, Any] = {
                    key: (r.latent_mean, r.latent_std, (r.features, r.features_scale)) for key, r in of_kept
                }
                for part in _alike(some):
                    pixels = next(composed)
                    features = (
                        [(None, None)] * len(pixels) if self._vision is None else patch_features(self._vision, pixels)
                    )
                    of_images = zip(*self._codec.encode(pixels), features)
                    latents |= zip((job.entry.key for job in part), of_images)
                yield batch, latents

    def _earlier(self, job: Job) -> list[EncodedRecord]:
        """Return the record that the earlier directory has of the image, with its caption of each level."""
        assert self._before is not None
        levels = range(len(self._before.levels))
        return [self._before.read(self._places[job.entry.key], level, features=True) for level in levels]

    def _images(self, batch: Sequence[Job], readers: ThreadPoolExecutor) -> NDArray[np.uint8]:
        """Return the images of one bucket, uint8 (B, H, W, 3), whose crops are read in parallel, each once."""
        crops = dict.fromkeys(file for job in batch for file in (job.entry.base, job.entry.partner) if file)
        list(readers.map(self._composer.read, crops))
        pixels = [self._composer(job.entry) for job in batch]
        for job, image in zip(batch, pixels if self._buckets else ()):
            wide, high = self._buckets[job.bucket]
            if image.shape[:2] != (high, wide):
                path = self._composer.images / job.entry.base
                raise UserError(f"{path}: is not {wide} x {high}; delete its directory and collect again")
        return np.stack(pixels)

    def _texts(
        self, jobs: Sequence[Job], shard: ShardJobs, quantizer: ThreadPoolExecutor, known: Set[str]
    ) -> "Iterator[Future[dict[str, EncodedText]]]":
        """Yield stored forms by caption, but of those `known`; texts of one level are encoded together, so that no
        level changes another."""
        met = set(known)
        for level in shard.levels:
            told = dict.fromkeys(job.captions[level] for job in jobs if level in job.captions)
            new = [caption for caption in told if caption not in met]
            met |= told.keys()
            for caption in (caption for caption in new if caption in shard.repeated):
                yield quantizer.submit(dict, self._repeated(caption))
            single = sorted((caption for caption in new if caption not in shard.repeated), key=len)
            for start in range(0, len(single), _TEXT_BATCH):
                batch = single[start : start + _TEXT_BATCH]
                yield quantizer.submit(self._store, batch, self._encode(batch))

    def _encode(self, texts: list[str]) -> Sequence[Any]:
        """Return what `_store` takes of each text: float32 (L, D), or codes and scales where the encoder gives them."""
        if self._kind == "none":
            return [(None, None)] * len(texts)
        own = getattr(self._encoder, "quantize", None) if self._kind == "int8" else None
        return own(texts) if own is not None else self._encoder.encode(texts)

    def _store(self, texts: list[str], arrays: Sequence[Any]) -> dict[str, EncodedText]:
        """Return caption -> stored form."""
        half = (array if isinstance(array, tuple) else self._packed(array) for array in arrays)
        return {text: EncodedText(text, *both) for text, both in zip(texts, half)}

    def _packed(self, array: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float16] | None]:
        return (array.astype(np.float16), None) if self._kind == "fp16" else quantize(array)
