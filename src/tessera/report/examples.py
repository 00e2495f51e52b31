"""Pictures of the report: pixels as data URIs, CutMix examples with their captions, pictures at rising noise levels."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tessera.curate.index import Composer, Recipe, RecipeRow, Row, list_entries, read_images, read_recipe
from tessera.cutmix import CROP, PATTERNS, label_of
from tessera.files import read_table
from tessera.images import data_uri, read_rgb, thumbnail
from tessera.randomness import philox
from tessera.stages import read_manifest

if TYPE_CHECKING:
    pass

SMALL = 128
"""Pictures of at most this side are shown with hard pixels and stored without loss."""
LARGEST = 320
"""Larger pictures are scaled down to this side in the page."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image of the page."""

    uri: str
    width: int
    height: int
    alt: str
    small: bool
    """Shown with hard pixels."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """How one augmented picture was made."""

    base: Picture
    partner: Picture
    mixed: Picture
    pattern: str
    left: float
    """left, top, width, height of the pasted box: percent of the frame."""
    top: float
    width: float
    height: float
    captions: tuple[tuple[str, str], ...]
    """(what it is, caption)."""
    pixels: NDArray[np.uint8]
    """The augmented picture, (S, S, 3)."""
    base_pixels: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PlainExample:
    """One training picture."""

    picture: Picture
    captions: tuple[tuple[str, str], ...]
    pixels: NDArray[np.uint8]


def embed(pixels: NDArray[np.uint8], alt: str) -> Picture:
    """uint8 (H, W, 3) as a picture of the page: PNG if small, else JPEG of at most `LARGEST` px."""
    small = max(pixels.shape[:2]) <= SMALL
    pixels = thumbnail(pixels, LARGEST)
    height, width, _ = pixels.shape
    return Picture(uri=data_uri(pixels, SMALL), width=width, height=height, alt=alt, small=small)


def mixed_examples(workspace: Path, count: int) -> list[Example]:
    """About `count` rows of recipe/, taken evenly over its patterns; [] without recipe/ or images/."""
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
        size, box, label = len(base), row.placement.box, label_of(row.placement.pattern)
        of_base, of_partner = (key.rpartition("/")[0] or key for key in (row.base, row.partner))
        said = [(f"caption of the base ({name})", text) for name, text in captions.get(row.base, ())]
        said += [(f"caption of the CutMix picture ({name})", text) for name, text in captions.get(row.key, ())]
        examples.append(
            Example(
                base=embed(base, f"Base picture of class {of_base}"),
                partner=embed(partner, f"Partner picture of class {of_partner}"),
                mixed=embed(pixels, f"{of_partner} pasted into {of_base}, pattern {label}"),
                pattern=label,
                left=round(100 * box[0] / size, 2),
                top=round(100 * box[1] / size, 2),
                width=round(100 * (box[2] - box[0]) / size, 2),
                height=round(100 * (box[3] - box[1]) / size, 2),
                captions=tuple(said),
                pixels=pixels,
                base_pixels=base,
            )
        )
    return examples


def plain_examples(workspace: Path, count: int) -> list[PlainExample]:
    """`count` training pictures, taken evenly over images/; [] without it."""
    images = workspace / "images"
    if not (images / "images.parquet").is_file():
        return []
    rows = _spread(read_images(images), count)
    captions = _captions(workspace, [row.key for row in rows])
    examples = []
    for row in rows:
        pixels = read_rgb(images / str(row.file))
        picture = embed(pixels, f"Training picture of class {row.class_name}")
        said = tuple((f"caption ({name})", text) for name, text in captions.get(row.key, ()))
        examples.append(PlainExample(picture=picture, captions=said or (("class", row.class_name),), pixels=pixels))
    return examples


def _recipe_rows(recipe: Recipe, count: int) -> list[RecipeRow]:
    found = dict.fromkeys(recipe.rows.table["pattern"].unique().to_pylist())
    names = [name for name in (*PATTERNS, *found) if name in found and name != CROP]
    chosen = [recipe.rows.where("pattern", [name]) for name in dict.fromkeys(names)]
    return [row for rows in chosen for row in _spread(rows, -(-count // len(chosen)))]


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Return at most `count` rows, taken evenly over all: neighbors are often of one class."""
    found = len(rows)
    return list(rows) if found <= count else [rows[(2 * i + 1) * found // (2 * count)] for i in range(count)]


def _select(path: Path, keys: Iterable[str], columns: list[str]) -> list[dict[str, Any]]:
    """The rows of a table whose "key" is one of `keys`."""
    import pyarrow.compute as pc

    return read_table(path, ["key", *columns]).filter(pc.field("key").isin(sorted(set(keys)))).to_pylist()


def _captions(workspace: Path, keys: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """key -> (captioner, text) of every folder of captions/ that has the key; each pair once."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(workspace.glob("captions/**/captions.parquet")):
        for row in _select(path, keys, ["text", "captioner"]):
            pair = (row["captioner"], row["text"])
            if pair not in found.setdefault(row["key"], []):
                found[row["key"]].append(pair)
    return found


@dataclass(frozen=True, kw_only=True)
class NoiseSettings:
    """How a run's latents are made and noised."""

    schedule: str
    codec: str
    tau: float
    """Augmented pictures are used at t > tau."""
    augmented: bool
    """Whether the run has augmented pictures."""
    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)


def noise_strip(named: Sequence[tuple[str, NDArray[np.uint8], bool]], settings: NoiseSettings) -> dict[str, Any]:
    """Pictures (name, uint8 (S, S, 3), augmented) noised in latent space at rising t and decoded (paper Figure 7).

    Returns levels [{t, signal, is_tau, used}] and rows [{name, cells: [{picture, never}]}], for the page. All rows have
    the same noise, so that only the pictures differ.
    """
    import torch

    from tessera.diffusion.schedule import add_noise, get_schedule
    from tessera.pretrained.vae import load_codec

    codec = load_codec(settings.codec)
    scale, shift = (torch.tensor(values)[:, None, None] for values in (settings.scale, settings.shift))
    mean, _ = codec.encode(np.stack([pixels for _, pixels, _ in named]))
    latents = (torch.from_numpy(mean) - shift) * scale  # (N, C, H, W)
    noise = torch.from_numpy(philox(0, "report/noise").standard_normal(latents.shape[1:]).astype(np.float32))
    times = sorted({0.0, 0.2, round(settings.tau, 4), 0.6, 0.8})
    alpha_bars = get_schedule(settings.schedule)(torch.tensor(times, dtype=torch.float64)).tolist()
    rows = [{"name": name, "cells": []} for name, _, _ in named]
    for t, alpha_bar in zip(times, alpha_bars):
        levels = torch.full((len(latents),), alpha_bar)
        noised = add_noise(latents, noise.expand_as(latents), levels) / scale + shift
        for row, pixels, (name, _, augmented) in zip(rows, codec.decode(noised), named):
            picture = embed(pixels, f"{name} at t = {t:g}")
            row["cells"].append({"picture": picture, "never": augmented and t <= settings.tau})
    levels = [
        {
            "t": f"{t:g}",
            "signal": f"{alpha_bar:.0%} signal",
            "is_tau": settings.augmented and t == round(settings.tau, 4),
        }
        | {"used": settings.augmented and t > settings.tau}
        for t, alpha_bar in zip(times, alpha_bars)
    ]
    return {"levels": levels, "rows": rows}


def noise_settings(workspace: Path, arms: Sequence[str]) -> NoiseSettings | None:
    """Those of the first arm with augmented pictures, else of the first with a run; None where something is missing."""
    runs = [(arm, read_manifest(workspace / "runs" / arm)) for arm in arms if _has_manifest(workspace / "runs" / arm)]
    runs.sort(key=lambda run: "augmented" not in run[1].inputs)
    if not runs:
        return None
    arm, manifest = runs[0]
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
    """Codec id, latent scale and shift: from the export, else the id alone from an encoded set."""
    exported = workspace / "export" / arm / "config.json"
    if exported.is_file():
        settings: Mapping[str, Any] = json.loads(exported.read_bytes())["settings"]
        return settings["latent_codec"], tuple(settings["latent_scale"]), tuple(settings["latent_shift"])
    for path in sorted(workspace.glob("encoded/**/manifest.json")):
        codec = read_manifest(path.parent, must_be_complete=False).facts.get("latent_codec")
        if codec is not None:
            return codec, (1.0,), (0.0,)
    return None, (1.0,), (0.0,)


def _has_manifest(directory: Path) -> bool:
    return (directory / "manifest.json").is_file()
