"""Training images of the report: CutMix examples with their captions, and images at rising noise levels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tessera.curate.index import Composer, ImageRow, RecipeRow, TableRows, list_entries, read_images, read_recipe
from tessera.cutmix import CROP, PATTERNS, label_of
from tessera.files import read_json, read_table
from tessera.randomness import philox
from tessera.report.gallery import embed
from tessera.stages import MANIFEST, Manifest, read_manifest
from tessera.train.export import FACTS

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A training image; of an augmented one also what it was made of."""

    image: Mapping[str, Any]
    pixels: NDArray[np.uint8]
    """The same, (S, S, 3)."""
    plain: NDArray[np.uint8]
    """The base of an augmented image; of any other one the image."""
    captions: Sequence[tuple[str, str]]
    """(the caption's origin, caption)."""
    pattern: str = ""
    base: Mapping[str, Any] | None = None
    partner: Mapping[str, Any] | None = None
    box: Sequence[float] = ()
    """left, top, width, height of the pasted box: percent of the frame."""


def training_examples(workspace: Path, count: int, runs: Sequence[Manifest]) -> list[Example]:
    """Return about `count` rows of recipe/, taken evenly over its patterns, or without any `count` of images/.

    runs: the trainings that the page is about, with whose captions the images come, and whether with recipe/; () =
    all. [] without images/.
    """
    if not (workspace / "images" / "images.parquet").is_file():
        return []
    rows, folders = read_images(workspace / "images"), _told_by(workspace, runs)
    augmented = not runs or any("augmented" in run.inputs for run in runs)
    if augmented and (workspace / "recipe" / "recipe.parquet").is_file():
        recipe = read_recipe(workspace / "recipe")
        found = recipe.rows.table["pattern"].unique().to_pylist()
        names = [name for name in dict.fromkeys((*PATTERNS, *found)) if name in found and name != CROP]
        chosen = [recipe.rows.where("pattern", [name]) for name in names]
        mixes = [row for of_pattern in chosen for row in spread(of_pattern, -(-count // len(chosen)))]
        if mixes:
            return _mixed(folders, rows, mixes, Composer(workspace / "images", recipe.half_view))
    chosen = spread(rows, count)
    captions, composer = _captions(folders, [row.key for row in chosen]), Composer(workspace / "images")
    examples = []
    for row, entry in zip(chosen, list_entries(chosen)):
        pixels = composer(entry)
        image = embed(pixels, f"Training image of class {row.class_name}")
        said = [(f"caption ({name})", text) for name, text in captions.get(row.key, ())]
        said = said or [("class", row.class_name)]
        examples.append(Example(image=image, captions=said, pixels=pixels, plain=pixels))
    return examples


def _mixed(
    folders: Sequence[Path], images: TableRows[ImageRow], mixes: list[RecipeRow], composer: Composer
) -> list[Example]:
    originals = images.where("key", [key for row in mixes for key in (row.base, row.partner)])
    captions = _captions(folders, [key for row in mixes for key in (row.key, row.base)])
    examples = []
    for row, entry in zip(mixes, list_entries(originals, mixes)):
        base, partner, pixels = composer.read(entry.base), composer.read(str(entry.partner)), composer(entry)
        label, (left, top, right, bottom) = label_of(row.placement.pattern), row.placement.box
        of_base, of_partner = (key.rpartition("/")[0] or key for key in (row.base, row.partner))
        said = [(f"caption of the base ({name})", text) for name, text in captions.get(row.base, ())]
        said += [(f"caption of the CutMix image ({name})", text) for name, text in captions.get(row.key, ())]
        examples.append(
            Example(
                image=embed(pixels, f"{of_partner} pasted into {of_base}, pattern {label}"),
                pixels=pixels,
                plain=base,
                captions=said,
                pattern=label,
                base=embed(base, f"Base image of class {of_base}"),
                partner=embed(partner, f"Partner image of class {of_partner}"),
                box=[round(100 * edge / len(base), 2) for edge in (left, top, right - left, bottom - top)],
            )
        )
    return examples


def spread(rows: Sequence[T], count: int) -> list[T]:
    """Return at most `count` of `rows`, taken evenly over all: neighbors are often of one class."""
    found = len(rows)
    return list(rows) if found <= count else [rows[(2 * i + 1) * found // (2 * count)] for i in range(count)]


def _told_by(workspace: Path, runs: Sequence[Manifest]) -> list[Path]:
    """Return the folders of captions/ that `runs` were trained on; all of them where that is not known."""
    folders = sorted(path.parent for path in workspace.glob("captions/**/captions.parquet"))
    sets = [read_manifest(path.parent, must_be_complete=False) for path in workspace.glob(f"encoded/**/{MANIFEST}")]
    trained_on = {sha256 for run in runs for sha256 in run.inputs.values()}
    told = {encoded.inputs.get("captions") for encoded in sets if encoded.sha256 in trained_on}
    return [folder for folder in folders if read_manifest(folder).sha256 in told] or folders


def _captions(folders: Sequence[Path], keys: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return key -> (captioner and level, text) of every folder of captions that has the key; each pair once."""
    import pyarrow.compute as pc

    found: dict[str, list[tuple[str, str]]] = {}
    for folder in folders:
        table = read_table(folder / "captions.parquet").filter(pc.field("key").isin(sorted(set(keys))))
        for row in table.to_pylist():
            pair = (", ".join(filter(None, (row["captioner"], row.get("level")))), row["text"])
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
    own: bool = False
    """Each has its own tau, and this is their median."""
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
    """Return those of the first arm with augmented images, else of the first with a run; None if parts are missing.

    Scale and shift are the export's; without one, the codec is that of any encoded set.
    """
    runs = [workspace / "runs" / arm for arm in arms]
    found = [(run.name, read_manifest(run, must_be_complete=False)) for run in runs if (run / MANIFEST).is_file()]
    if not found:
        return None
    arm, manifest = min(found, key=lambda run: "augmented" not in run[1].inputs)
    exported = workspace / "export" / arm / "config.json"
    if exported.is_file():
        facts = read_json(exported)["settings"]
    else:
        encoded = [path.parent for path in sorted(workspace.glob(f"encoded/**/{MANIFEST}"))]
        every = [read_manifest(path, must_be_complete=False).facts for path in encoded]
        facts = next((each for each in every if each.get("latent_codec") is not None), None)
    if facts is None:
        return None
    own = isinstance(manifest.config["augment_min_t"], str)
    return NoiseSettings(
        schedule=manifest.config["noise_schedule"],
        codec=facts["latent_codec"],
        tau=read_json(workspace / "runs" / arm / FACTS)["median_min_t"] if own else manifest.config["augment_min_t"],
        own=own,
        augmented="augmented" in manifest.inputs,
        scale=tuple(facts.get("latent_scale", (1.0,))),
        shift=tuple(facts.get("latent_shift", (0.0,))),
    )
