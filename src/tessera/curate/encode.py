"""encode: images and captions -> encoded/, shards in shuffled order that training reads one record at a time.

The frozen networks run here once: the image codec and the text encoder. Augmented images are composed from their recipe
row on the way. A shard is written whole or not at all, so an interrupted call resumes with the first missing one.

A shard's bytes are a function of the configuration and the inputs, whatever was encoded before it and wherever: network
kernels round differently for differently composed batches, so images go through in the batches of their shard, texts
too, and a text that occurs several times in the set by itself.
"""

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Generator, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, check_ranges, to_dict
from tessera.curate.buckets import Size, bucket_of, bucket_sizes
from tessera.curate.caption.caption import check_made_from, without_captions
from tessera.curate.caption.table import Texts, in_order, read_levels
from tessera.curate.grown import changed_since
from tessera.curate.image_features import describe_features, load_vision_network, patch_features
from tessera.curate.index import Composer, Entry, RecipeRow, list_entries, read_images, read_recipe
from tessera.curate.linked import SHARD_SUMS, Whole, shard_facts, stored_order, whole_shards
from tessera.devices import is_fast_in_bf16, pick_device
from tessera.encoded.record import LONG, EncodedRecord, EncodedText, TextEncodingKind, pack_floats, quantize
from tessera.encoded.shard import Shard, write_shard
from tessera.encoded.store import latent_moments, latent_sums, open_encoded, shard_name
from tessera.files import link_or_copy
from tessera.pretrained.text_encoders import TEXT_ENCODERS, TextEncoder, Words, load_text_encoder, split_words
from tessera.pretrained.vae import CODECS, LatentCodec, PixelUnshuffle, load_codec, shape_of_latents
from tessera.progress import progress
from tessera.randomness import philox
from tessera.stages import MANIFEST, find_stage, open_stage, read_manifest
from tessera.workers import HERE, Engine, draw_ahead, run_shards

_CACHE_BYTES = 512 * 2**20  # decoded images in memory: all of a small set, else about as many as a shard needs
_BATCH = 64  # images in one call of the image codec
_TEXT_WINDOW = 512  # records whose texts are sorted by length and encoded together
_TEXT_BATCH = 128  # texts whose float32 encodings are in memory at a time
USUAL = (1, 99)
"""Percentiles between which the lengths of most captions lie."""
_CACHED_TEXTS = 4096  # encodings of repeated texts in memory
READERS = 4
"""Threads that read crops."""


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Encoding and storage of records."""

    latents: str = "pixel-unshuffle:4"
    """Image codec (`tessera.pretrained.vae.load_codec`)."""
    text: str = "words:64"
    """Text encoder (`tessera.pretrained.text_encoders.load_text_encoder`)."""
    text_encoding: TextEncodingKind = "int8"
    """Storage of token embeddings: "int8", "fp16", or "none" (captions only)."""
    features: str | None = None
    """Vision network whose features of the patches are stored too, for objectives that align, NAME or NAME:MODEL
    (`tessera.curate.image_features.load_vision_network`); recorded as its id. None = no features."""
    compute: Literal["fp32", "bf16"] = "fp32"
    """Number format of pretrained networks; bf16 takes half the memory and a fraction of the time on a GPU."""
    shard_size: int = 2048
    """Records in a shard, 1 or more; the last shard may have fewer."""
    seed: int = 0
    """Address of the order of the records, 0 or more."""

    def __post_init__(self):
        check_ranges(self, shard_size="[1, inf)", seed="[0, inf)")


class _Job(NamedTuple):
    """Record to make."""

    entry: Entry
    captions: Texts
    bucket: int = 0
    """Number of its size among the set's."""


class _Shard(NamedTuple):
    path: Path
    jobs: list[_Job]
    levels: tuple[str, ...]
    repeated: set[str]
    """Those of its captions that several records of the set have."""

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(job.entry.key for job in self.jobs)


def encode(
    out: Path,
    images: Path,
    captions: Path,
    config: EncodeConfig,
    recipe: Path | None = None,
    *,
    engine: Engine = HERE,
    device: str | None = None,
    cache_bytes: int = _CACHE_BYTES,
    skip_missing: bool = False,
    reuse: Path | None = None,
) -> None:
    """Make the directory `out` of shards: a record for each image of `images`, or of `recipe`'s augmented ones.

    device: where pretrained networks compute, None = the best there is. With `engine.part`, the directory is complete
    once the shards of all parts are there, whichever call sees that. cache_bytes: of decoded images held in memory.
    skip_missing: images without a caption are left out; they are the manifest's rejects, listed in OUT-missing.csv.
    reuse: a completed directory of the same configuration, made from `images` or from those whose crops `images` took
    over. Latents of images that did not change and encodings of captions that the image had there are copied from it;
    what pretrained networks make of other batches differs from that in the last bits.

    The manifest's facts: captioner, latent_codec, text_encoder (ids), null_condition, latent_shape, text_width,
    image_size, text (tokens per caption, of several the first, and the fraction cut to the encoder's limit), levels
    (the same of each level, and its number of captions, where an image has several), vocabulary (of an encoder that
    knows no other words), buckets (WIDTHxHEIGHT -> records, of a set of several aspect ratios), features (id, where
    there are some), and for pretrained networks latent_codec_sha256, text_encoder_sha256, features_sha256 of their
    files, latent_mean and latent_std (measured, of each channel), latent_shift and latent_scale (those of the codec's
    config.json, or else by the measured). Raises UserError for captions of other images, images without a caption, a
    damaged image, an image side that the codec cannot take, a vision network without features of patches.
    """
    engine.check_device(device)
    out, images, captions = Path(out), Path(images), Path(captions)
    made_from, mixed = {"images": images}, None
    collected = read_manifest(images, "collect").config
    size = int(collected["size"])
    buckets = bucket_sizes(size) if collected.get("buckets") else ()
    if recipe is not None:
        check_made_from(Path(recipe), "augment", made_from)
        made_from["recipe"] = Path(recipe)
        mixed = read_recipe(Path(recipe))
    check_made_from(captions, "caption", made_from)
    if recipe is None and "recipe" in read_manifest(captions).inputs:
        raise UserError(f"{captions}: holds captions of augmented images; give the --recipe that they were made with")
    codec, encoder = _load_frozen(config, device, load=False)
    latent_shape = codec.latent_shape(size)
    shapes = tuple(shape_of_latents(codec, *each) for each in buckets)
    networks = {"latent_codec_sha256": codec, "text_encoder_sha256": encoder}
    hashes = {name: network.sha256 for name, network in networks.items() if network.sha256}
    features = (0, 0)
    if config.features is not None:
        of_network, features = describe_features(config.features, device)
        hashes |= of_network
    described = to_dict(replace(config, latents=codec.id, text=encoder.id)) | hashes
    call: Any = {"stage": "encode", "config": described, "inputs": made_from | {"captions": captions}}
    stage = find_stage(out, **call)
    if stage is not None and stage.done:
        return
    before = earlier = None
    if reuse is not None:
        before = Path(reuse), changed_since(images, Path(reuse), "encode", described, recipe)
        earlier = open_encoded(before[0])
    jobs, missing = _list_jobs(images, captions, mixed and mixed.rows, config.seed, buckets)
    total = len(jobs) + len(missing)
    error = without_captions(captions, out, missing, total, "Caption them with `tessera caption`, by hand with --file")
    if missing and not (skip_missing and jobs):
        raise error
    stage = open_stage(out, **call, shared=engine.part is not None)
    if stage.done:  # by another task of the array job, meanwhile
        return
    levels = in_order(level for job in jobs for level in job.captions)
    times = Counter(caption for job in jobs for caption in set(job.captions.values()))
    whole: Whole = {}
    if before is not None and earlier is not None and earlier.levels == levels:
        kept = ((job.entry, job.captions) for job in jobs if job.entry.key not in before[1])
        texts = ((entry.key, entry.class_name, *(told.get(level, "") for level in levels)) for entry, told in kept)
        whole = whole_shards(earlier, {each[0]: each for each in texts}, config.shard_size)
    stored = [jobs[number] for number in stored_order(out, [job.entry.key for job in jobs], whole)]
    shards: list[_Shard] = []
    for number, start in enumerate(range(0, len(jobs), config.shard_size)):
        some = stored[start : start + config.shard_size]
        repeated = {caption for job in some for caption in job.captions.values() if times[caption] > 1}
        shards.append(_Shard(out / shard_name(number), some, levels, repeated))
    part, parts = engine.part or (0, 1)
    mine = shards[part::parts]
    for shard in mine:
        if shard.keys in whole and not shard.path.exists():
            link_or_copy(whole[shard.keys], shard.path)
    todo = [shard for shard in mine if not shard.path.exists()]
    total, left = (sum(len(shard.jobs) for shard in some) for some in (mine, todo))
    with progress("encode", total, completed=total - left) as bar:
        own = engine.kind == "here"
        half_view, side = mixed.half_view if mixed else "aligned", None if buckets else size
        composer = Composer(images, half_view, size=side, cache_bytes=cache_bytes)
        work = (config, device, composer, size, buckets, features, before, bar.advance if own else None)
        with run_shards(functools.partial(_ShardEncoder, *work), todo, engine) as results:
            for done in results:
                bar.advance(0 if own else done)
    if not all(shard.path.exists() for shard in shards):
        return  # the missing ones are other parts'
    told = {level: [job.captions[level] for job in jobs if level in job.captions] for level in levels}
    distinct = list(dict.fromkeys(caption for captions in told.values() for caption in captions))
    length = dict(zip(distinct, encoder.count_tokens(distinct)))

    def tokens(captions: Sequence[str]) -> dict[str, float]:
        lengths = np.array([length[caption] for caption in captions])  # before any cut
        return {
            "mean_tokens": round(float(lengths.mean()), 3),
            "longest": int(lengths.max()),
            "share_cut": round(float((lengths > encoder.max_tokens).mean()), 6),
            "usual_tokens": np.percentile(lengths, USUAL, method="nearest").tolist(),
        }

    made = {shard.path: shard.keys for shard in shards}
    of_pixels = isinstance(codec, PixelUnshuffle)
    sums = None if of_pixels else lambda path: latent_sums(Shard(path, latent_shape, levels, shapes))
    facts = {
        "captioner": read_manifest(captions, "caption").config["captioner"],
        "latent_codec": codec.id,
        "text_encoder": encoder.id,
        **hashes,
        "null_condition": pack_floats(encoder.null_condition),
        "latent_shape": list(latent_shape),
        "text_width": encoder.width,
        "image_size": size,
        **shard_facts(out, made, whole, earlier.facts if earlier else {}, sums),
        "text": tokens([next(job.captions[level] for level in levels if level in job.captions) for job in jobs]),
    }
    if sums is not None:
        mean, std = latent_moments(facts[SHARD_SUMS].values())
        facts |= {"latent_mean": mean, "latent_std": std}
        shift, scale = codec.normalization or (mean, [1 / each if each else 1.0 for each in std])
        facts |= {"latent_shift": list(shift), "latent_scale": list(scale)}
    if levels != (LONG,):
        facts["levels"] = {name: {"captions": len(captions), **tokens(captions)} for name, captions in told.items()}
    if buckets:
        records = Counter(job.bucket for job in jobs)
        facts["buckets"] = {f"{w}x{h}": records[number] for number, (w, h) in enumerate(buckets) if number in records}
    if isinstance(encoder, Words):
        facts["vocabulary"] = sorted({word for caption in distinct for word in split_words(caption)})
    counts = {"records": len(jobs), "shards": len(shards)} | ({"missing": len(missing)} if missing else {})
    stage.finish(counts, missing, facts)
    for level, text in facts.get("levels", {"": facts["text"]}).items():
        if share := text["share_cut"]:
            which = f"{share:.2%} of the {level} captions" if level else f"{share:.2%} of the captions"
            cut = f"{which} are longer than the text encoder's {encoder.max_tokens} tokens"
            print(f"encode {out}: {cut}: their ends are cut off", file=sys.stderr)


def default_compute(out: Path, latents: str, text: str, device: str | None) -> Literal["fp32", "bf16"]:
    """Return the default of `EncodeConfig.compute` for the directory `out`: what it was begun with; otherwise bf16 for
    pretrained networks on CUDA, and on CPUs that are fast in it, and fp32."""
    if (out / MANIFEST).exists():
        return read_manifest(out, must_be_complete=False).config.get("compute", "fp32")
    named = [(CODECS, latents), (TEXT_ENCODERS, text)]
    pretrained = any(name.partition(":")[0] not in kind.families for kind, name in named)
    if not pretrained:
        return "fp32"
    chosen = pick_device(device)
    return "bf16" if chosen.type != "mps" and is_fast_in_bf16(chosen) else "fp32"


def with_default_compute(config: EncodeConfig, out: Path) -> EncodeConfig:
    """Return `config`, with bf16 where that is the default of the directory `out` on this machine's best device."""
    compute = default_compute(out, config.latents, config.text, None)
    return config if compute == "fp32" else replace(config, compute=compute)


def _load_frozen(config: EncodeConfig, device: str | None, load: bool = True) -> tuple[LatentCodec, TextEncoder]:
    dtype = None
    if config.compute == "bf16":
        import torch

        dtype = torch.bfloat16
    codec = load_codec(config.latents, device, dtype, load, run_files=True)
    read = load and config.text_encoding != "none"
    return codec, load_text_encoder(config.text, device, dtype, read, run_files=True)


def _list_jobs(
    images: Path, captions: Path, mixes: Sequence[RecipeRow] | None, seed: int, buckets: Sequence[Size]
) -> tuple[list[_Job], dict[str, str]]:
    """Return all records to make, in their shuffled order, and key -> reason of the images without a caption."""
    rows, levels = read_images(images), read_levels(captions)
    entries = list_entries(rows, mixes)
    bucket = {row.key: bucket_of(row.width or 1, row.height or 1, buckets) for row in rows} if buckets else {}
    reasons = read_manifest(captions).rejects
    told = {
        entry.key: {level: texts[entry.key] for level, texts in levels.items() if entry.key in texts}
        for entry in entries
    }
    missing = {key: reasons.get(key, "") for key, texts in told.items() if not texts}
    entries = [entry for entry in entries if told[entry.key]]
    shuffled = [entries[i] for i in philox(seed, "encode/order").permutation(len(entries))]
    return [_Job(entry, told[entry.key], bucket.get(entry.key, 0)) for entry in shuffled], missing


def _alike(jobs: Sequence[_Job]) -> list[list[_Job]]:
    """Return the jobs of each bucket among these, in their order."""
    found: dict[int, list[_Job]] = {}
    for job in jobs:
        found.setdefault(job.bucket, []).append(job)
    return [*found.values()]


class _ShardEncoder:
    """Work on one shard, in the process that loaded the networks.

    Threads read and compose images, give images and texts to the networks, and quantize what text encoders give as
    floats, while this one writes: the networks' device never waits for the others.
    """

    def __init__(
        self,
        config: EncodeConfig,
        device: str | None,
        composer: Composer,
        size: int,
        buckets: Sequence[Size],
        features: tuple[int, int],
        before: tuple[Path, set[str]] | None,
        advance: Any,
    ):
        """Load the networks. features: tokens and width of an image's. before: a directory of the same configuration,
        and the keys of images that changed since it was made."""
        self._codec, self._encoder = _load_frozen(config, device)
        self._composer, self._size, self._buckets, self._advance = composer, size, buckets, advance
        self._kind: TextEncodingKind = config.text_encoding
        self._features, self._vision = features, None
        if config.features is not None:
            self._vision = load_vision_network(config.features, device, "features")
        self._before, self._changed = (open_encoded(before[0]), before[1]) if before else (None, set())
        self._places = {key: place for place, key in enumerate(self._before.keys())} if self._before else {}
        # A text that repeats in the set is encoded once, by itself.
        self._repeated = functools.lru_cache(_CACHED_TEXTS)(lambda text: self._store([text], self._encode([text])))

    def __call__(self, shard: _Shard) -> int:
        """Write the shard and return its number of records."""
        metadata = {"latent_codec": self._codec.id, "text_encoder": self._encoder.id, "image_size": str(self._size)}
        layout: Any = {"latent_shape": self._codec.latent_shape(self._size), "text_width": self._encoder.width}
        layout |= {"text_encoding": self._kind, "levels": shard.levels}
        layout["features"] = self._features
        layout["shapes"] = [shape_of_latents(self._codec, *each) for each in self._buckets]
        with contextlib.closing(self._records(shard)) as records:
            write_shard(shard.path, records, **layout, metadata=metadata)
        return len(shard.jobs)

    def _records(self, shard: _Shard) -> Generator[EncodedRecord, None, None]:
        texts, new = {}, []
        with (
            ThreadPoolExecutor(1) as quantizer,
            ThreadPoolExecutor(READERS) as readers,
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

    def _half(self, job: _Job, latents: NDArray[np.floating]) -> NDArray[np.float16]:
        """Return the latents as they are stored. UserError where float16 cannot hold them."""
        with np.errstate(over="ignore"):
            stored = latents.astype(np.float16)
        if not np.isfinite(stored).all():
            fix = "encode with --compute fp32, or by another VAE"
            raise UserError(f"{job.entry.key}: {self._codec.id} gives latents that are not finite in float16; {fix}")
        return stored

    def _computed(self, shard: _Shard, readers: ThreadPoolExecutor, quantizer: ThreadPoolExecutor) -> Iterator[Any]:
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

    def _earlier(self, job: _Job) -> list[EncodedRecord]:
        """Return the record that the earlier directory has of the image, with its caption of each level."""
        assert self._before is not None
        levels = range(len(self._before.levels))
        return [self._before.read(self._places[job.entry.key], level, features=True) for level in levels]

    def _images(self, batch: Sequence[_Job], readers: ThreadPoolExecutor) -> NDArray[np.uint8]:
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
        self, jobs: Sequence[_Job], shard: _Shard, quantizer: ThreadPoolExecutor, known: Set[str]
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
