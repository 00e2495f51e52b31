"""Small encoded sets, written as `encode` writes them, and small configs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tessera.encoded.record import LONG, EncodedRecord, EncodedText, pack_floats, quantize
from tessera.encoded.store import SHARD_SHA256, EncodedStore, write_encoded
from tessera.files import sha256_file
from tessera.models.dit import DiTConfig
from tessera.models.rin import RINConfig
from tessera.randomness import philox
from tessera.records import Batch
from tessera.stages import open_stage
from tessera.train.algorithm1 import Algorithm1, Normalization
from tessera.train.config import TrainConfig
from tessera.train.loader import Reader
from tessera.train.optim.config import OptimConfig

SHAPE = (4, 4, 4)
WIDTH = 16

DIT = DiTConfig(
    latent_channels=4, latent_size=4, patch_size=2, width=32, depth=2, heads=2, text_width=WIDTH, refiner_depth=1
)
RIN = RINConfig(
    latent_channels=4,
    latent_size=4,
    patch_size=2,
    interface_width=16,
    num_latent_tokens=4,
    latent_width=32,
    blocks=1,
    layers_per_block=1,
    read_write_heads=2,
    compute_heads=2,
    text_width=WIDTH,
    refiner_depth=1,
    refiner_heads=2,
    text_registers=2,
)


def config_of(**changes) -> TrainConfig:
    """20 steps of 8 samples of the small DiT in fp32."""
    optim = changes.pop("optim", OptimConfig(lr=3e-3, warmup_images=16))
    small = TrainConfig(
        model=DIT,
        num_images=160,
        batch_size=8,
        caption_drop_prob=0.2,
        optim=optim,
        compute="fp32",
        checkpoint_every_images=10**6,
        log_every_images=40,
        seed=3,
    )
    return replace(small, **changes)


def make_records(count: int, *, seed: int = 0, std: float = 0.0, text: str = "int8") -> list[EncodedRecord]:
    """Every record has its own latents and, by its words, its own text of 1 to 5 tokens."""
    records = []
    for i in range(count):
        rng = philox(seed, "record", i)
        codes, scale = quantize(rng.standard_normal((1 + i % 5, WIDTH)))
        if text != "int8":
            codes, scale = (codes * 0.01).astype(np.float16) if text == "fp16" else None, None
        records.append(
            EncodedRecord(
                key=f"thing/{i}",
                class_name="thing",
                caption=f"a thing, number {i}",
                text_codes=codes,
                text_scale=scale,
                latent_mean=rng.uniform(-1, 1, SHAPE).astype(np.float16),
                latent_std=np.full(SHAPE, std, dtype=np.float16),
            )
        )
    return records


def with_short(records: list[EncodedRecord]) -> list[EncodedRecord]:
    """The records with a text of one token of their own more, for write_set(levels=("long", "short")); every fifth has
    that alone, every fifth of the others none."""
    made = []
    for i, record in enumerate(records):
        codes, scale = quantize(philox(0, "short", i).standard_normal((1, WIDTH)))
        short = EncodedText(f"short {i}", codes, scale)
        alone = replace(record, caption="", text_codes=None, text_scale=None) if i % 5 == 3 else record
        made.append(replace(alone, more=(None if i % 5 == 4 else short,)))
    return made


FEATURES = (9, 70)
"""Tokens and width of `with_features`."""


def with_features(records: list[EncodedRecord]) -> list[EncodedRecord]:
    """The records with features of their own, for write_set(feature_shape=FEATURES)."""
    made = []
    for i, record in enumerate(records):
        codes, scale = quantize(philox(0, "features", i).standard_normal(FEATURES))
        made.append(replace(record, features=codes, features_scale=scale))
    return made


SHAPES = (SHAPE, (4, 2, 6), (4, 6, 2))
"""Of buckets: latents of 4 x 4, 2 x 6 and 6 x 2."""


def in_buckets(records: list[EncodedRecord]) -> list[EncodedRecord]:
    """The records with their latents cut to one of `SHAPES` and repeated, for write_set(shapes=SHAPES)."""
    made = []
    for i, record in enumerate(records):
        shape = SHAPES[i % 7 % 3]
        mean, std = (np.resize(part, shape) for part in (record.latent_mean, record.latent_std))
        made.append(replace(record, latent_mean=mean, latent_std=std))
    return made


def write_set(
    directory: Path,
    records: list[EncodedRecord],
    *,
    text: str = "int8",
    shape: tuple[int, ...] = SHAPE,
    inputs: dict[str, Path] | None = None,
    levels: tuple[str, ...] = (LONG,),
    counts: dict[str, int] | None = None,
    shapes: tuple[tuple[int, int, int], ...] = (),
    feature_shape: tuple[int, int] = (0, 0),
    **facts,
) -> Path:
    """An encoded directory with its manifest; `facts` replace the usual ones. inputs: directories it was made from.
    counts: captions of each level."""
    config = {"text": text, **{k: str(v) for k, v in facts.items()}}
    stage = open_stage(directory, stage="encode", config=config, inputs=inputs)
    layout: dict = {
        "latent_shape": shape,
        "text_width": WIDTH,
        "text_encoding": text,
        "levels": levels,
        "shapes": shapes,
    }
    layout["features"] = feature_shape
    write_encoded(directory, records, **layout, shard_size=64)
    null = philox(0, "null").standard_normal((1, WIDTH))
    usual = {
        "latent_codec": "pixel-unshuffle:4",
        "text_encoder": "words:16",
        "image_size": 16,
        "null_condition": pack_floats(null),
    }
    usual[SHARD_SHA256] = {path.name: sha256_file(path) for path in sorted(directory.glob("*.arrow"))}
    usual |= {"features": "a-network"} if feature_shape[0] else {}
    if counts is not None:
        usual["levels"] = {level: {"captions": count} for level, count in counts.items()}
    stage.finish({"records": len(records)}, facts=usual | facts)
    return directory


def load_batch(
    algorithm: Algorithm1,
    plain: EncodedStore,
    augmented: EncodedStore | None,
    numbers,
    normalize: Normalization | None = None,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """The samples `numbers` on the CPU, text in `dtype`."""
    return Reader(algorithm, plain, augmented, normalize or Normalization())(numbers).to("cpu", dtype)
