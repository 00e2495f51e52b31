"""encode: pictures and captions -> encoded/, shards in shuffled order that training reads one record at a time.

What is frozen runs here once: the image codec and the text encoder. Augmented pictures are composed from their recipe
row on the way. A shard is written whole or not at all, so an interrupted call goes on with the first missing one.

A shard's bytes are a function of the configuration and the inputs, whatever was encoded before it and wherever: network
kernels round differently for differently composed batches, so pictures go through in the batches of their shard, texts
too, and a text that occurs several times in the set by itself.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, to_dict
from tessera.curate.augment import RecipeRow, read_recipe
from tessera.curate.caption.caption import check_made_from, read_captions
from tessera.curate.collect.collect import is_complete, read_images
from tessera.cutmix import compose
from tessera.encoded.record import EncodedRecord, TextEncodingKind, pack_floats, quantize
from tessera.encoded.shard import write_shard
from tessera.encoded.store import SHARD_SHA256, shard_name
from tessera.files import sha256_file
from tessera.images import read_rgb
from tessera.pretrained.text_encoders import TextEncoder, load_text_encoder
from tessera.pretrained.vae import LatentCodec, load_codec
from tessera.progress import progress
from tessera.randomness import philox
from tessera.stages import open_stage, read_manifest
from tessera.workers import HERE, Engine, run_shards

CACHE_BYTES = 512 * 2**20
"""Decoded pictures that are kept: all of a small set, else about as many as a shard needs."""
BATCH = 64
"""Pictures in one call of the image codec."""
TEXT_WINDOW = 512
"""Records whose texts are sorted by length and encoded together."""
TEXT_BATCH = 128
"""Texts whose float32 encodings are in memory at a time."""
KEPT_TEXTS = 4096
"""Encodings of repeated texts that are kept."""


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """How records are encoded and stored."""

    latents: str = "pixel-unshuffle:4"
    """Image codec (`tessera.pretrained.vae.load_codec`)."""
    text: str = "words:64"
    """Text encoder (`tessera.pretrained.text_encoders.load_text_encoder`)."""
    text_encoding: TextEncodingKind = "int8"
    """How token embeddings are stored: "int8", "fp16", or "none" (captions only)."""
    compute: Literal["fp32", "bf16"] = "fp32"
    """What pretrained networks compute in; bf16 takes half the memory and a fraction of the time on a GPU."""
    shard_size: int = 2048
    """Records in a shard, 1 or more; the last shard may have fewer."""
    seed: int = 0
    """Address of the order of the records, 0 or more."""

    def __post_init__(self):
        if self.text_encoding not in ("int8", "fp16", "none"):
            raise UserError(f"text_encoding must be int8, fp16 or none, not {self.text_encoding!r}")
        if self.compute not in ("fp32", "bf16"):
            raise UserError(f"compute must be fp32 or bf16, not {self.compute!r}")
        if self.shard_size < 1:
            raise UserError(f"shard_size must be 1 or more, not {self.shard_size}")
        if self.seed < 0:
            raise UserError(f"seed must be 0 or more, not {self.seed}")


_Text = tuple[np.ndarray | None, np.ndarray | None]
"""Codes and scales of one text, as they are stored."""


@dataclass(frozen=True)
class _Job:
    """One record to make: a picture, or a mix of two."""

    key: str
    class_name: str
    caption: str
    repeats: bool
    """Whether other records have this caption too."""
    base: str
    """The picture's file, relative to images/."""
    partner: str | None
    mix: RecipeRow | None


@dataclass(frozen=True)
class _Shard:
    path: Path
    jobs: list[_Job]


@dataclass(frozen=True)
class _Plan:
    """All records to make, in their order."""

    jobs: list[_Job]
    half_view: str


def encode(
    out: Path,
    images: Path,
    captions: Path,
    config: EncodeConfig,
    recipe: Path | None = None,
    *,
    engine: Engine = HERE,
    device: str | None = None,
) -> None:
    """Makes the directory `out` of shards: a record for each picture of `images`, or of `recipe`'s augmented ones.

    device: where pretrained networks compute, None = the best there is. With `engine.part`, the directory is complete
    once the shards of all parts are there, whichever call sees that.

    The manifest's facts: captioner, latent_codec, text_encoder (ids), null_condition, latent_shape, text_width,
    image_size, text (tokens per caption, and the share of captions cut to the encoder's limit), and for pretrained
    networks latent_codec_sha256, text_encoder_sha256 of their files. UserError: captions of other pictures, pictures
    without a caption, a damaged picture, a picture side that the codec cannot take.
    """
    engine.check_device(device)
    out, images, captions = Path(out), Path(images), Path(captions)
    inputs = {"images": images, "captions": captions}
    made_from = {"images": images}
    if recipe is not None:
        check_made_from(Path(recipe), {"images": images})
        inputs["recipe"] = made_from["recipe"] = Path(recipe)
    frozen = functools.partial(_load_frozen, config, device)
    codec, encoder = frozen(load=False)
    size = int(read_manifest(images, "collect").config["size"])
    latent_shape = codec.latent_shape(size)
    check_made_from(captions, made_from)
    plan = None if is_complete(out) else _make_plan(images, captions, recipe, config.seed)
    hashes = {"latent_codec_sha256": codec.sha256, "text_encoder_sha256": encoder.sha256}
    hashes = {name: sha256 for name, sha256 in hashes.items() if sha256}
    described = to_dict(replace(config, latents=codec.id, text=encoder.id)) | hashes
    stage = open_stage(out, stage="encode", config=described, inputs=inputs, shared=engine.part is not None)
    if stage.done:
        return
    assert plan is not None
    jobs = plan.jobs
    shards = [
        _Shard(out / shard_name(number), jobs[start : start + config.shard_size])
        for number, start in enumerate(range(0, len(jobs), config.shard_size))
    ]
    part, parts = engine.part or (0, 1)
    mine = shards[part::parts]
    todo = [shard for shard in mine if not shard.path.exists()]
    total, left = (sum(len(shard.jobs) for shard in some) for some in (mine, todo))
    with progress("encode", total, completed=total - left) as bar:
        own = engine.kind == "here"
        prepare = functools.partial(
            _prepare, frozen, images, size, plan.half_view, config.text_encoding, bar.advance if own else None
        )
        with run_shards(prepare, todo, engine) as results:
            for done in results:
                bar.advance(0 if own else done)
    if not all(shard.path.exists() for shard in shards):
        return  # they are other parts'
    facts = {
        "captioner": read_manifest(captions, "caption").config["captioner"],
        "latent_codec": codec.id,
        "text_encoder": encoder.id,
        **hashes,
        "null_condition": pack_floats(encoder.null_condition),
        "latent_shape": list(latent_shape),
        "text_width": encoder.width,
        "image_size": size,
        SHARD_SHA256: {shard.path.name: sha256_file(shard.path) for shard in shards},
        "text": _text_facts([job.caption for job in jobs], encoder),
    }
    stage.finish({"records": len(jobs), "shards": len(shards)}, facts=facts)


def _load_frozen(config: EncodeConfig, device: str | None, load: bool = True) -> tuple[LatentCodec, TextEncoder]:
    if config.compute == "fp32":
        dtype = None
    else:
        import torch

        dtype = torch.bfloat16
    codec = load_codec(config.latents, device, dtype, load, run_files=True)
    read = load and config.text_encoding != "none"
    return codec, load_text_encoder(config.text, device, dtype, read, run_files=True)


def _make_plan(images: Path, captions: Path, recipe: Path | None, seed: int) -> _Plan:
    rows = read_images(images)
    texts = read_captions(captions)
    classes = {row.key: row.class_name for row in rows}
    files = {row.key: str(row.file) for row in rows}
    if recipe is None:
        half_view = "aligned"
        listed = [(row.key, row.class_name, row.key, None) for row in rows]
    else:
        mixed = read_recipe(Path(recipe))
        half_view = mixed.config.half_view
        pairs = ((mix, list(dict.fromkeys((classes[mix.base], classes[mix.partner])))) for mix in mixed.rows)
        listed = [(mix.key, " + ".join(names), mix.base, mix) for mix, names in pairs]  # a crop has one class
    missing = [key for key, *_ in listed if key not in texts]
    if missing:
        first = ", ".join(repr(key) for key in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"{captions}: has no caption for {len(missing)} of {len(listed)} pictures: {first}")
    times = Counter(texts[key] for key, *_ in listed)
    jobs = [
        _Job(key, class_name, texts[key], times[texts[key]] > 1, files[base], mix and files[mix.partner], mix)
        for key, class_name, base, mix in listed
    ]
    order = philox(seed, "encode/order").permutation(len(jobs))
    return _Plan([jobs[i] for i in order], half_view)


def _prepare(
    frozen: Callable[[], tuple[LatentCodec, TextEncoder]],
    images: Path,
    size: int,
    half_view: str,
    text_encoding: TextEncodingKind,
    advance: Callable[[int], Any] | None,
) -> Callable[[_Shard], int]:
    """The work of one shard: writes it and returns how many records it has."""
    codec, encoder = frozen()
    pictures = _Pictures(images, size)
    texts = _Texts(encoder, text_encoding)
    metadata = {"latent_codec": codec.id, "text_encoder": encoder.id, "image_size": str(size)}

    def work(shard: _Shard) -> int:
        records = _records(shard.jobs, texts, pictures, half_view, codec, advance or (lambda _: None))
        layout = {"latent_shape": codec.latent_shape(size), "text_width": encoder.width}
        write_shard(shard.path, records, **layout, text_encoding=text_encoding, metadata=metadata)
        return len(shard.jobs)

    return work


class _Pictures:
    """The crops of images/ by file, decoded once as long as they fit."""

    def __init__(self, images: Path, size: int):
        self._images = images
        self._shape = (size, size, 3)
        self._room = max(CACHE_BYTES // (3 * size * size), 1)
        self._kept: dict[str, NDArray[np.uint8]] = {}

    def __getitem__(self, file: str) -> NDArray[np.uint8]:
        if file not in self._kept:
            if len(self._kept) >= self._room:
                self._kept.clear()
            self._kept[file] = self._read(self._images / file)
        return self._kept[file]

    def _read(self, path: Path) -> NDArray[np.uint8]:
        picture = read_rgb(path, fix="delete its directory and collect again")
        if picture.shape != self._shape:
            raise UserError(f"{path}: is not {self._shape[1]} x {self._shape[0]} RGB; collect again")
        return picture


class _Texts:
    """The stored form of texts; a text that repeats in the set is encoded once, by itself."""

    def __init__(self, encoder: TextEncoder, kind: TextEncodingKind):
        self._encoder, self._kind = encoder, kind
        self._kept: dict[str, _Text] = {}

    def of(self, jobs: Sequence[_Job]) -> dict[str, _Text]:
        """By caption."""
        if self._kind == "none":
            return {job.caption: (None, None) for job in jobs}
        found = {job.caption: self._repeated(job.caption) for job in jobs if job.repeats}
        single = sorted((job.caption for job in jobs if not job.repeats), key=len)
        for start in range(0, len(single), TEXT_BATCH):
            batch = single[start : start + TEXT_BATCH]
            found |= {text: self._stored(array) for text, array in zip(batch, self._encoder.encode(batch))}
        return found

    def _repeated(self, text: str) -> _Text:
        if text not in self._kept:
            if len(self._kept) >= KEPT_TEXTS:
                self._kept.clear()
            self._kept[text] = self._stored(self._encoder.encode([text])[0])
        return self._kept[text]

    def _stored(self, array: NDArray[np.float32]) -> _Text:
        return (array.astype(np.float16), None) if self._kind == "fp16" else quantize(array)


def _records(
    jobs: Sequence[_Job],
    texts: _Texts,
    pictures: _Pictures,
    half_view: str,
    codec: LatentCodec,
    advance: Callable[[int], Any],
) -> Iterator[EncodedRecord]:
    """The records of one shard."""
    stored: dict[str, _Text] = {}
    for start in range(0, len(jobs), BATCH):
        if start % TEXT_WINDOW == 0:
            stored = texts.of(jobs[start : start + TEXT_WINDOW])
        batch = jobs[start : start + BATCH]
        pixels = np.stack([_picture(job, pictures, half_view) for job in batch])  # (B, S, S, 3)
        mean, std = (part.astype(np.float16) for part in codec.encode(pixels))  # (B, C, h, w)
        for i, job in enumerate(batch):
            codes, scale = stored[job.caption]
            yield EncodedRecord(
                key=job.key,
                class_name=job.class_name,
                caption=job.caption,
                text_codes=codes,
                text_scale=scale,
                latent_mean=mean[i],
                latent_std=std[i],
            )
        advance(len(batch))


def _picture(job: _Job, pictures: _Pictures, half_view: str) -> NDArray[np.uint8]:
    base = pictures[job.base]
    if job.mix is None or job.partner is None:
        return base
    return compose(base, pictures[job.partner], job.mix.placement, half_view)


def _text_facts(captions: list[str], encoder: TextEncoder) -> dict[str, float]:
    """Of all captions: tokens on average and at most, before any cut, and the share that is cut."""
    distinct = list(dict.fromkeys(captions))
    length = dict(zip(distinct, encoder.count_tokens(distinct)))
    lengths = np.array([length[text] for text in captions])
    return {
        "mean_tokens": round(float(lengths.mean()), 3),
        "longest": int(lengths.max()),
        "share_cut": round(float((lengths > encoder.max_tokens).mean()), 6),
    }
