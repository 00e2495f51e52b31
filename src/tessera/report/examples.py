"""Training images of the report: CutMix examples with their captions, and images at rising noise levels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.curate.index import Composer, Recipe, RecipeRow, Row, list_entries, read_images, read_recipe
from tessera.cutmix import CROP, PATTERNS, label_of
from tessera.files import read_table
from tessera.randomness import philox
from tessera.report.gallery import PageImage, embed
from tessera.stages import MANIFEST, read_manifest


@dataclass(frozen=True, kw_only=True)
class MixedExample:
    """An augmented image and what it was made of."""

    base: PageImage
    partner: PageImage
    mixed: PageImage
    pattern: str
    left: float
    """left, top, width, height of the pasted box: percent of the frame."""
    top: float
    width: float
    height: float
    captions: Sequence[tuple[str, str]]
    """(the caption's origin, caption)."""
    pixels: NDArray[np.uint8]
    """The augmented image, (S, S, 3)."""
    base_pixels: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PlainExample:
    """A training image."""

    image: PageImage
    captions: Sequence[tuple[str, str]]
    pixels: NDArray[np.uint8]


def mixed_examples(workspace: Path, count: int) -> list[MixedExample]:
    """Return about `count` rows of recipe/, taken evenly over its patterns; [] without recipe/ or images/."""
    images, recipe = workspace / "images", workspace / "recipe"
    if not (recipe / "recipe.parquet").is_file() or not (images / "images.parquet").is_file():
        return []
    mixed = read_recipe(recipe)
    rows = _recipe_rows(mixed, count)
    originals = read_images(images).where("key", [key for row in rows for key in (row.base, row.partner)])
    captions = _captions(workspace, [key for row in rows for key in (row.key, row.base)])
    composer = Composer(images, mixed.half_view)
    examples = []
    for row, entry in zip(rows, list_entries(originals, rows)):
        base, partner, pixels = composer.read(entry.base), composer.read(str(entry.partner)), composer(entry)
        label, (left, top, right, bottom) = label_of(row.placement.pattern), row.placement.box
        of_base, of_partner = (key.rpartition("/")[0] or key for key in (row.base, row.partner))
        said = [(f"caption of the base ({name})", text) for name, text in captions.get(row.base, ())]
        said += [(f"caption of the CutMix image ({name})", text) for name, text in captions.get(row.key, ())]
        shares = (round(100 * edge / len(base), 2) for edge in (left, top, right - left, bottom - top))
        examples.append(
            MixedExample(
                base=embed(base, f"Base image of class {of_base}"),
                partner=embed(partner, f"Partner image of class {of_partner}"),
                mixed=embed(pixels, f"{of_partner} pasted into {of_base}, pattern {label}"),
                pattern=label,
                **dict(zip(("left", "top", "width", "height"), shares)),
                captions=said,
                pixels=pixels,
                base_pixels=base,
            )
        )
    return examples


def plain_examples(workspace: Path, count: int) -> list[PlainExample]:
    """Return `count` training images, taken evenly over images/; [] without it."""
    images = workspace / "images"
    if not (images / "images.parquet").is_file():
        return []
    rows = _spread(read_images(images), count)
    captions, composer = _captions(workspace, [row.key for row in rows]), Composer(images)
    examples = []
    for row, entry in zip(rows, list_entries(rows)):
        pixels = composer(entry)
        image = embed(pixels, f"Training image of class {row.class_name}")
        said = [(f"caption ({name})", text) for name, text in captions.get(row.key, ())]
        examples.append(PlainExample(image=image, captions=said or [("class", row.class_name)], pixels=pixels))
    return examples


def _recipe_rows(recipe: Recipe, count: int) -> list[RecipeRow]:
    found = recipe.rows.table["pattern"].unique().to_pylist()
    names = [name for name in dict.fromkeys((*PATTERNS, *found)) if name in found and name != CROP]
    chosen = [recipe.rows.where("pattern", [name]) for name in names]
    return [row for rows in chosen for row in _spread(rows, -(-count // len(chosen)))]


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Return at most `count` rows, taken evenly over all: neighbors are often of one class."""
    found = len(rows)
    return list(rows) if found <= count else [rows[(2 * i + 1) * found // (2 * count)] for i in range(count)]


def _captions(workspace: Path, keys: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return key -> (captioner, text) of every folder of captions/ that has the key; each pair once."""
    import pyarrow.compute as pc

    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(workspace.glob("captions/**/captions.parquet")):
        table = read_table(path, ["key", "text", "captioner"]).filter(pc.field("key").isin(sorted(set(keys))))
        for row in table.to_pylist():
            pair = (row["captioner"], row["text"])
            if pair not in found.setdefault(row["key"], []):
                found[row["key"]].append(pair)
    return found


@dataclass(frozen=True, kw_only=True)
class NoiseSettings:
    """The codec, scale and noise schedule of a run's latents."""

    schedule: str
    codec: str
    tau: float
    """Augmented images are used at t > tau."""
    augmented: bool
    """The run has augmented images."""
    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)


def noise_strip(named: Sequence[tuple[str, NDArray[np.uint8], bool]], settings: NoiseSettings) -> dict[str, Any]:
    """Return images (name, uint8 (S, S, 3), augmented) noised in latent space at rising t and decoded (Figure 7).

    The result is, for the page, levels [{t, signal, is_tau, used}] and rows [{name, cells: [{image, never}]}]. All rows
    have the same noise, so that only the images differ.
    """
    import torch

    from tessera.diffusion.schedule import add_noise, get_schedule
    from tessera.pretrained.vae import load_codec

    codec = load_codec(settings.codec)
    scale, shift = (torch.tensor(values)[:, None, None] for values in (settings.scale, settings.shift))
    mean, _ = codec.encode(np.stack([pixels for _, pixels, _ in named]))
    latents = (torch.from_numpy(mean) - shift) * scale  # (N, C, H, W)
    noise = torch.from_numpy(philox(0, "report/noise").standard_normal(latents.shape[1:]).astype(np.float32))
    tau = round(settings.tau, 4)
    times = sorted({0.0, 0.2, tau, 0.6, 0.8})
    alpha_bars = get_schedule(settings.schedule)(torch.tensor(times, dtype=torch.float64)).tolist()
    levels, rows = [], [{"name": name, "cells": []} for name, _, _ in named]
    for t, alpha_bar in zip(times, alpha_bars):
        share = torch.full((len(latents),), alpha_bar)
        noised = add_noise(latents, noise.expand_as(latents), share) / scale + shift
        for row, pixels, (name, _, augmented) in zip(rows, codec.decode(noised), named):
            image = embed(pixels, f"{name} at t = {t:g}")
            row["cells"].append({"image": image, "never": augmented and t <= settings.tau})
        used, is_tau = settings.augmented and t > settings.tau, settings.augmented and t == tau
        levels.append({"t": f"{t:g}", "signal": f"{alpha_bar:.0%} signal", "is_tau": is_tau, "used": used})
    return {"levels": levels, "rows": rows}


def noise_settings(workspace: Path, arms: Sequence[str]) -> NoiseSettings | None:
    """Return those of the first arm with augmented images, else of the first with a run; None if parts are missing."""
    runs = [workspace / "runs" / arm for arm in arms]
    found = [(run.name, read_manifest(run)) for run in runs if (run / MANIFEST).is_file()]
    if not found:
        return None
    arm, manifest = min(found, key=lambda run: "augmented" not in run[1].inputs)
    codec, scale, shift = _codec(workspace, arm)
    if codec is None:
        return None
    return NoiseSettings(
        schedule=manifest.config["noise_schedule"],
        codec=codec,
        tau=manifest.config["augment_min_t"],
        augmented="augmented" in manifest.inputs,
        scale=scale,
        shift=shift,
    )


def _codec(workspace: Path, arm: str) -> tuple[str | None, tuple[float, ...], tuple[float, ...]]:
    """Return codec id, latent scale and shift: from the export, else the id alone from an encoded set."""
    exported = workspace / "export" / arm / "config.json"
    if exported.is_file():
        settings: Mapping[str, Any] = json.loads(exported.read_bytes())["settings"]
        return settings["latent_codec"], tuple(settings["latent_scale"]), tuple(settings["latent_shift"])
    manifests = sorted(workspace.glob(f"encoded/**/{MANIFEST}"))
    found = (read_manifest(path.parent, must_be_complete=False).facts.get("latent_codec") for path in manifests)
    return next((codec for codec in found if codec is not None), None), (1.0,), (0.0,)
