"""encode: pictures and captions -> encoded/, shards in shuffled order that training reads one record at a time.

What is frozen runs here once: the image codec and the text encoder. Augmented pictures are composed from their recipe
row on the way. A shard is written whole or not at all, so an interrupted call goes on with the first missing one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, to_dict
from tessera.curate.augment import RecipeRow, read_recipe
from tessera.curate.caption import check_made_from, read_captions
from tessera.curate.collect import is_complete, read_images
from tessera.curate.pictures import read_png
from tessera.cutmix import compose
from tessera.files import open_stage, read_manifest, sha256_file
from tessera.frozen.text import TextEncoder, load_text_encoder
from tessera.frozen.vae import LatentCodec, load_codec
from tessera.runtime import Progress, philox, progress
from tessera.shards import SHARD_SHA256, EncodedRecord, TextEncodingKind, pack_floats, quantize, shard_name, write_shard

CACHE_BYTES = 512 * 2**20
"""Decoded pictures that are kept: all of a small set, else about as many as a shard needs."""


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """How records are encoded and stored."""

    latents: str = "pixel-unshuffle:4"
    """Image codec (`tessera.frozen.vae.load_codec`)."""
    text: str = "words:64"
    """Text encoder (`tessera.frozen.text.load_text_encoder`)."""
    text_encoding: TextEncodingKind = "int8"
    """How token embeddings are stored: "int8", "fp16", or "none" (captions only)."""
    shard_size: int = 2048
    """Records in a shard, 1 or more; the last shard may have fewer."""
    seed: int = 0
    """Address of the order of the records, 0 or more."""

    def __post_init__(self):
        if self.text_encoding not in ("int8", "fp16", "none"):
            raise UserError(f"text_encoding must be int8, fp16 or none, not {self.text_encoding!r}")
        if self.shard_size < 1:
            raise UserError(f"shard_size must be 1 or more, not {self.shard_size}")
        if self.seed < 0:
            raise UserError(f"seed must be 0 or more, not {self.seed}")


_Texts = dict[str, tuple[np.ndarray | None, np.ndarray | None]]


@dataclass(frozen=True)
class _Job:
    """One record to make: a picture, or a mix of two."""

    key: str
    class_name: str
    caption: str
    base: str
    mix: RecipeRow | None


@dataclass(frozen=True)
class _Plan:
    """All records to make, in their order."""

    jobs: list[_Job]
    files: dict[str, Path]
    """Of the pictures, by key."""
    half_view: str


def encode(out: Path, images: Path, captions: Path, config: EncodeConfig, recipe: Path | None = None) -> None:
    """Makes the directory `out` of shards: a record for each picture of `images`, or of `recipe`'s augmented ones.

    The manifest's facts: captioner, latent_codec, text_encoder (ids), null_condition, latent_shape, text_width,
    image_size, text (tokens per caption, and the share of captions cut to the encoder's limit). UserError: captions of
    other pictures, pictures without a caption, a damaged picture, a picture side that the codec cannot take.
    """
    out, images, captions = Path(out), Path(images), Path(captions)
    inputs = {"images": images, "captions": captions}
    made_from = {"images": images}
    if recipe is not None:
        check_made_from(Path(recipe), {"images": images})
        inputs["recipe"] = made_from["recipe"] = Path(recipe)
    codec, encoder = load_codec(config.latents), load_text_encoder(config.text)
    size = int(read_manifest(images, "collect").config["size"])
    latent_shape = codec.latent_shape(size)
    check_made_from(captions, made_from)
    plan = None if is_complete(out) else _make_plan(images, captions, recipe, config.seed)
    stage = open_stage(out, stage="encode", config=to_dict(config), inputs=inputs)
    if stage.done:
        return
    assert plan is not None
    jobs = plan.jobs
    pictures = _Pictures(plan.files, size)
    starts = range(0, len(jobs), config.shard_size)
    paths = [out / shard_name(number) for number in range(len(starts))]
    todo = [(path, start) for path, start in zip(paths, starts) if not path.exists()]
    kept = len(jobs) - sum(len(jobs[start : start + config.shard_size]) for _, start in todo)
    with progress("encode", len(jobs), completed=kept) as bar:
        for path, start in todo:
            shard = jobs[start : start + config.shard_size]
            texts = _encode_texts([job.caption for job in shard], encoder, config.text_encoding)
            write_shard(
                path,
                _records(shard, texts, pictures, plan.half_view, codec, bar),
                latent_shape=latent_shape,
                text_width=encoder.width,
                text_encoding=config.text_encoding,
                metadata={"latent_codec": codec.id, "text_encoder": encoder.id, "image_size": str(size)},
            )

    facts = {
        "captioner": read_manifest(captions, "caption").config["captioner"],
        "latent_codec": codec.id,
        "text_encoder": encoder.id,
        "null_condition": pack_floats(encoder.null_condition),
        "latent_shape": list(latent_shape),
        "text_width": encoder.width,
        "image_size": size,
        SHARD_SHA256: {path.name: sha256_file(path) for path in paths},
        "text": _text_facts([job.caption for job in jobs], encoder),
    }
    stage.finish({"records": len(jobs), "shards": len(paths)}, facts=facts)


def _make_plan(images: Path, captions: Path, recipe: Path | None, seed: int) -> _Plan:
    rows = read_images(images)
    texts = read_captions(captions)
    classes = {row.key: row.class_name for row in rows}
    if recipe is None:
        half_view = "aligned"
        listed = [(row.key, row.class_name, row.key, None) for row in rows]
    else:
        mixed = read_recipe(Path(recipe))
        half_view = mixed.config.half_view
        listed = [(mix.key, f"{classes[mix.base]} + {classes[mix.partner]}", mix.base, mix) for mix in mixed.rows]
    missing = [key for key, *_ in listed if key not in texts]
    if missing:
        first = ", ".join(repr(key) for key in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"{captions}: has no caption for {len(missing)} of {len(listed)} pictures: {first}")
    jobs = [_Job(key, class_name, texts[key], base, mix) for key, class_name, base, mix in listed]
    order = philox(seed, "encode/order").permutation(len(jobs))
    return _Plan([jobs[i] for i in order], {row.key: images / str(row.file) for row in rows}, half_view)


class _Pictures:
    """The crops of images/ by key, decoded once as long as they fit."""

    def __init__(self, files: dict[str, Path], size: int):
        self._files = files
        self._shape = (size, size, 3)
        self._room = max(CACHE_BYTES // (3 * size * size), 1)
        self._kept: dict[str, NDArray[np.uint8]] = {}

    def __getitem__(self, key: str) -> NDArray[np.uint8]:
        if key not in self._kept:
            if len(self._kept) >= self._room:
                self._kept.clear()
            self._kept[key] = self._read(self._files[key])
        return self._kept[key]

    def _read(self, path: Path) -> NDArray[np.uint8]:
        try:
            picture = read_png(path)
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path}: is missing or damaged; delete its directory and collect again") from error
        if picture.shape != self._shape:
            raise UserError(f"{path}: is not {self._shape[1]} x {self._shape[0]} RGB; collect again")
        return picture


def _records(
    jobs: Sequence[_Job],
    texts: _Texts,
    pictures: _Pictures,
    half_view: str,
    codec: LatentCodec,
    bar: Progress,
    batch_size: int = 64,
) -> Iterator[EncodedRecord]:
    """The records of one shard."""
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        pixels = np.stack([_picture(job, pictures, half_view) for job in batch])  # (B, S, S, 3)
        mean, std = (part.astype(np.float16) for part in codec.encode(pixels))  # (B, C, h, w)
        for i, job in enumerate(batch):
            codes, scale = texts[job.caption]
            yield EncodedRecord(
                key=job.key,
                class_name=job.class_name,
                caption=job.caption,
                text_codes=codes,
                text_scale=scale,
                latent_mean=mean[i],
                latent_std=std[i],
            )
        bar.advance(len(batch))


def _picture(job: _Job, pictures: _Pictures, half_view: str) -> NDArray[np.uint8]:
    base = pictures[job.base]
    return base if job.mix is None else compose(base, pictures[job.mix.partner], job.mix.placement, half_view)


def _encode_texts(captions: Sequence[str], encoder: TextEncoder, text_encoding: TextEncodingKind) -> _Texts:
    """Codes and scales by caption; a caption that occurs often is encoded once."""
    distinct = list(dict.fromkeys(captions))
    if text_encoding == "none":
        return dict.fromkeys(distinct, (None, None))
    arrays = encoder.encode(distinct)
    if text_encoding == "fp16":
        return {text: (array.astype(np.float16), None) for text, array in zip(distinct, arrays)}
    return {text: quantize(array) for text, array in zip(distinct, arrays)}


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
