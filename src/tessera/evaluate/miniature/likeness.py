"""likeness: how far drawn images are from held-out ones, the miniature's stand-in for FID (paper Figure 5).

Held-out scenes are drawn as the training ones are, at another seed of the world. A model draws their long captions; its
images and renders of further held-out scenes go through the shipped detector, and the distance is Frechet's between
the features of both, averaged over the frame. It compares models judged alike; it is no FID.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tessera.config import UserError, check_ranges, to_dict
from tessera.devices import set_threads, usual_defaults
from tessera.evaluate.miniature.shipped import detector_sha256
from tessera.evaluate.samples import read_samples, read_square
from tessera.files import atomic_path, read_json, write_json
from tessera.metrics import frechet_distance
from tessera.miniature import WorldConfig, describe, draw_scene, render
from tessera.prompts.miniature import FILE, to_bytes, world_of
from tessera.stages import open_stage

METRIC = "likeness-miniature-1"
SCORES = "likeness.json"
TAG = "held_out"
_SEED = 2**32
"""Added to the world's seed: no training image is drawn there."""
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class LikenessConfig:
    """The held-out scenes to compare with."""

    prompts: int = 400
    """Captions that are drawn, at least 2; scenes 0, 1, ... of the held-out world."""
    references: int = 2000
    """Renders that they are compared with, at least 2; the scenes after those."""
    threads: int | None = None
    """CPU threads, at least 1. None = torch's own choice. Not part of the manifest: it only changes the speed."""

    def __post_init__(self):
        check_ranges(self, prompts="[2, inf)", references="[2, inf)")


def held_out(world: WorldConfig) -> WorldConfig:
    """Return the world whose scenes no training image shows: the same but for its seed."""
    return replace(world, seed=world.seed + _SEED)


def held_out_prompts(out: Path, images: Path, config: LikenessConfig = LikenessConfig()) -> None:
    """Write `out`/prompts.jsonl: the long captions of held-out scenes of the world of the directory `images`."""
    out, images = Path(out), Path(images)
    world = held_out(world_of(images))
    stage = open_stage(out, stage="held-out prompts", config={"prompts": config.prompts}, inputs={"images": images})
    if stage.done:
        return
    scenes = [draw_scene(world, number) for number in range(config.prompts)]
    lines = [{"tag": TAG, "prompt": describe(scene, world.seed, i)} for i, scene in enumerate(scenes)]
    with atomic_path(out / FILE) as temporary:
        temporary.write_bytes(to_bytes(lines))
    stage.finish({"prompts": len(lines)})


@usual_defaults
def likeness(out: Path, samples: Path, images: Path, config: LikenessConfig = LikenessConfig()) -> None:
    """Judge the directory `samples`, drawn from the held-out prompts of the world of `images`, into out/likeness.json.

    {protocol, distance, floor}; the floor is the distance of as many renders of the very scenes that were asked for.
    """
    out, samples, images = Path(out), Path(samples), Path(images)
    settings = described(config)
    stage = open_stage(out, stage="likeness", config=settings, inputs={"samples": samples, "images": images})
    if stage.done:
        return
    set_threads(config.threads)
    world = held_out(world_of(images))
    folder = read_samples(samples)
    number, tags = len(folder.lines) * folder.per_prompt, {line.get("tag") for line in folder.lines}
    if (number, folder.per_prompt, tags) != (config.prompts, 1, {TAG}):
        raise UserError(f"{samples}: holds {number} images; generate one for each of {config.prompts} held-out prompts")
    drawn = features(np.stack([read_square(folder.image(i, 0), world.size) for i in range(number)]))
    numbers = range(config.prompts + config.references)
    real = features(np.stack([render(draw_scene(world, number), world.size) for number in numbers]))
    asked, references = real[: config.prompts], real[config.prompts :]
    found = {
        "protocol": {**settings, "world": to_dict(world)},
        "distance": round(frechet_distance(references, drawn), 6),
        "floor": round(frechet_distance(references, asked), 6),
    }
    write_json(out / SCORES, found)
    stage.finish({"images": len(drawn)})


def described(config: LikenessConfig) -> dict[str, Any]:
    """Return what the manifest and the protocol hold: the configuration and the judge."""
    judge = {"metric": METRIC, "detector_sha256": detector_sha256()}
    return judge | {"prompts": config.prompts, "references": config.references}


def read_likeness(path: Path) -> dict[str, Any]:
    """Return the likeness.json of the directory `path`."""
    return read_json(path / SCORES)


def features(images: np.ndarray) -> np.ndarray:
    """Return the detector's last common layer averaged over the frame (N, 48), of uint8 (N, S, S, 3)."""
    import torch

    from tessera.evaluate.miniature.detector import load_detector, to_input

    network = load_detector()
    parts = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    with torch.inference_mode():
        return torch.cat([network.features(to_input(part)).mean((2, 3)) for part in parts]).double().numpy()
