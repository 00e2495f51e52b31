"""encode: images and captions -> encoded/, shards in shuffled order that training reads one record at a time.

The frozen networks run here once: the image codec and the text encoder. Augmented images are composed from their recipe
row on the way. A shard is written whole or not at all, so an interrupted call resumes with the first missing one.

A shard's bytes are a function of the configuration and the inputs, whatever was encoded before it and wherever: network
kernels round differently for differently composed batches, so images go through in the batches of their shard, texts
too, and a text that occurs several times in the set by itself.
"""

import functools
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tessera.config import check_ranges, to_dict
from tessera.curate.buckets import Size, bucket_of, bucket_sizes
from tessera.curate.caption.caption import check_captions_of, check_made_from, without_captions
from tessera.curate.caption.table import in_order, read_levels
from tessera.curate.grown import changed_since
from tessera.curate.image_features import describe_features, load_vision_network
from tessera.curate.index import Composer, RecipeRow, list_entries, read_images, read_recipe
from tessera.curate.linked import SHARD_SUMS, Whole, shard_facts, stored_order, whole_shards
from tessera.curate.shard_encoder import Job, Networks, ShardEncoder, ShardJobs
from tessera.devices import is_fast_in_bf16, pick_device, usual_defaults
from tessera.encoded.record import LONG, TextEncodingKind, pack_floats
from tessera.encoded.shard import Shard
from tessera.encoded.store import latent_moments, latent_sums, open_encoded, shard_name
from tessera.files import link_or_copy
from tessera.pretrained.text_encoders import TEXT_ENCODERS, TextEncoder, Words, load_text_encoder, split_words
from tessera.pretrained.vae import CODECS, LatentCodec, PixelUnshuffle, load_codec, shape_of_latents
from tessera.progress import progress
from tessera.randomness import philox
from tessera.stages import MANIFEST, find_stage, open_stage, read_manifest
from tessera.workers import HERE, Engine, run_shards

if TYPE_CHECKING:
    from tessera.pretrained.features.encoder import ImageEncoder

_CACHE_BYTES = 512 * 2**20  # decoded images in memory: all of a small set, else about as many as a shard needs
_USUAL = (1, 99)  # percentiles between which the lengths of most captions lie


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


@usual_defaults
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
    check_captions_of(captions, made_from)
    codec, encoder = _load_frozen(config, device, load=False)
    latent_shape = codec.latent_shape(size)
    shapes = tuple(shape_of_latents(codec, *each) for each in buckets)
    networks = {"latent_codec_sha256": codec, "text_encoder_sha256": encoder}
    hashes = {name: network.sha256 for name, network in networks.items() if network.sha256}
    vision, features, own = None, (0, 0), engine.kind == "here"
    if config.features is not None:
        vision = load_vision_network(config.features, device, "features")
        of_network, features = describe_features(vision)
        hashes |= of_network
    load = functools.partial(_load_networks, config, device, vision if own else None)
    del vision  # which workers load for themselves
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
    shards: list[ShardJobs] = []
    for number, start in enumerate(range(0, len(jobs), config.shard_size)):
        some = stored[start : start + config.shard_size]
        repeated = {caption for job in some for caption in job.captions.values() if times[caption] > 1}
        shards.append(ShardJobs(out / shard_name(number), some, levels, repeated))
    part, parts = engine.part or (0, 1)
    mine = shards[part::parts]
    for shard in mine:
        if shard.keys in whole and not shard.path.exists():
            link_or_copy(whole[shard.keys], shard.path)
    todo = [shard for shard in mine if not shard.path.exists()]
    total, left = (sum(len(shard.jobs) for shard in some) for some in (mine, todo))
    with progress("encode", total, completed=total - left) as bar:
        half_view, side = mixed.half_view if mixed else "aligned", None if buckets else size
        composer = Composer(images, half_view, size=side, cache_bytes=cache_bytes)
        work = (load, config.text_encoding, composer, size, buckets, features, before, bar.advance if own else None)
        with run_shards(functools.partial(ShardEncoder, *work), todo, engine) as results:
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
            "usual_tokens": np.percentile(lengths, _USUAL, method="nearest").tolist(),
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


def _load_networks(config: EncodeConfig, device: str | None, vision: "ImageEncoder | None") -> Networks:
    """Return the networks of `config`. vision: its vision network, where that is loaded already."""
    if vision is None and config.features is not None:
        vision = load_vision_network(config.features, device, "features")
    return Networks(*_load_frozen(config, device), vision)


def _list_jobs(
    images: Path, captions: Path, mixes: Sequence[RecipeRow] | None, seed: int, buckets: Sequence[Size]
) -> tuple[list[Job], dict[str, str]]:
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
    return [Job(entry, told[entry.key], bucket.get(entry.key, 0)) for entry in shuffled], missing
