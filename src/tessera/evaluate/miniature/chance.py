"""Chance level of the miniature's measures: the scores of images that show what other prompts ask for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tessera.config import from_dict
from tessera.evaluate.geneval.verdict import Detection, judge
from tessera.evaluate.miniature.color_objects import ColorObject
from tessera.evaluate.miniature.evaluate import color_values
from tessera.evaluate.scores import Scores
from tessera.miniature import WorldConfig
from tessera.prompts.geneval import TASKS
from tessera.prompts.miniature import PromptConfig, draw_prompts, prompts_sha256
from tessera.stages import MANIFEST, is_complete, read_manifest

SCENES = 200
"""Scenes of each task that chance level is a mean over."""


def chance_in(prompts: Path, scores: Scores) -> dict[str, float]:
    """Return `chance_level` of the miniature's scores of the prompts in the directory `prompts`; {} where there is no
    such directory, or of other prompts or another judge."""
    if scores.kind != "miniature" or not is_complete(prompts):
        return {}
    manifest, where = read_manifest(prompts), str(prompts / MANIFEST)
    world = from_dict(WorldConfig, manifest.facts["world"], where)
    return chance_level(scores, world, from_dict(PromptConfig, manifest.config, where))


def chance_level(scores: Scores, world: WorldConfig, config: PromptConfig) -> dict[str, float]:
    """Return `chance` of the prompts that were judged, with scenes of another seed; {} where these are not the prompts
    that `config` draws today."""
    lines, protocol = draw_prompts(world, config), scores.numbers[0].protocol
    if prompts_sha256(lines) != protocol.prompts_sha256:
        return {}
    others = draw_prompts(world, replace(config, per_task=SCENES, seed=(config.seed + 1) % 2**64))
    return chance(lines, others, bool(protocol.settings["extended"]))


def chance(lines: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], extended: bool) -> dict[str, float]:
    """Return measure -> its mean (0..1) where each of `lines` gets the scene of every one of `others` of its task.

    lines, others: metadata of `tessera.prompts.miniature`, `others` of another seed; a scene is the objects of an
    extended prompt, which the judge's rules get as if it had found them: no image is drawn. extended: the long prompts
    were drawn. Measures that do not look at the prompt (seams, copies) are left out, and "overall" without all tasks.
    """
    scenes = {task: [_found(other) for other in others if other["tag"] == task] for task in TASKS}
    values: dict[str, list[float]] = {}
    for line in lines:
        for detections, patches in scenes[line["tag"]]:
            scored = {line["tag"]: float(judge(line, detections).correct)} | color_values(line, extended, patches)
            for name, value in scored.items():
                values.setdefault(name, []).append(value)
    means = {name: float(np.mean(each)) for name, each in values.items()}
    if all(task in means for task in TASKS):
        means = {"overall": float(np.mean([means[task] for task in TASKS])), **means}
    return {name: round(value, 6) for name, value in means.items()}


def _found(line: Mapping[str, Any]) -> tuple[list[Detection], list[ColorObject]]:
    """Return the objects of a line's scene as both judges would find them, as points."""
    detections, patches = [], []
    for each in line["extended"]["objects"]:
        x, y = each["center"]
        detections.append(Detection(class_name=each["class"], color=each["color"], score=1.0, box=(x, y, x, y)))
        patches.append(ColorObject(color=each["color"], center=(x, y), area=0.0))
    return detections, patches
