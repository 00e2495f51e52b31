"""Prompts for the miniature: GenEval's six tasks over the world's shapes and colors, each short and extended.

The short prompt and its metadata line have GenEval's form (Ghosh et al. 2023). The paper lets a language model extend
prompts; here a rule builds a scene that satisfies the line, draws what the line leaves open, and says it in the words
of the long captions. Extender, template, seed and text are stored with each line.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tessera.config import UserError, check_ranges, from_dict, to_dict
from tessera.files import atomic_path
from tessera.miniature import WorldConfig, describe, plural
from tessera.miniature.world import JITTER, SIZES, size_word
from tessera.prompts.geneval import RELATIONS, TASKS
from tessera.prompts.tasks import choices, metadata_line
from tessera.randomness import philox
from tessera.records import Scene, SceneObject
from tessera.stages import open_stage, read_manifest

FILE = "prompts.jsonl"
EXTENDER = "tessera-scene-1"
"""Name of the rules below; a change to them changes it."""
TEMPLATE = "tessera.miniature.describe"
# Centers of equal objects: x, y as fractions of the frame.
_PLACES = {
    2: ((0.25, 0.5), (0.75, 0.5)),
    3: ((0.25, 0.25), (0.75, 0.25), (0.5, 0.75)),
    4: ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),
}


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """The number of prompts of each task, and their seed."""

    per_task: int = 20
    """Prompts of each of the six tasks, at least 1. More than there are different ones repeat with new extensions."""
    seed: int = 0
    """Prompt `number` of a task is a function of (seed, task, number) and the world."""
    layout: Literal["halves", "insets"] = "halves"
    """Places of two unlike objects in extended prompts: side by side or one above the other; or the second one in a
    corner at half its size, as CM 1/4 pastes it."""

    def __post_init__(self):
        check_ranges(self, per_task="[1, inf)", seed="[0, 2**64)")


def prompts(out: Path, images: Path, config: PromptConfig) -> None:
    """Write `out`/prompts.jsonl, one metadata line a prompt, over the world of the directory `images`.

    Raises UserError if `images` shows no miniature world.
    """
    out, images = Path(out), Path(images)
    world = world_of(images)
    stage = open_stage(out, stage="prompts", config=to_dict(config), inputs={"images": images})
    if stage.done:
        return
    lines = draw_prompts(world, config)
    with atomic_path(out / FILE) as temporary:
        temporary.write_bytes(to_bytes(lines))
    facts = {"extender": EXTENDER, "prompts_sha256": prompts_sha256(lines), "world": to_dict(world)}
    stage.finish({"prompts": len(lines)}, facts=facts)


def world_of(images: Path) -> WorldConfig:
    """Return the miniature world that the directory `images` was drawn from."""
    world = read_manifest(images, "collect").config.get("world")
    if world is None:
        raise UserError(f"{images}: holds no images of the miniature world; give --prompts a file of your own prompts")
    return from_dict(WorldConfig, world, f"{images}/manifest.json")


def draw_prompts(world: WorldConfig, config: PromptConfig) -> list[dict[str, Any]]:
    """Return the metadata lines, `per_task` of each task, in GenEval's order of tasks.

    Raises UserError for a world with fewer than two shapes or two colors.
    """
    if len(world.shapes) < 2 or len(world.colors) < 2:
        raise UserError(
            "the prompts need a world of at least two shapes and two colors; widen world.shapes, world.colors"
        )
    return [line for task in TASKS for line in _task(world, config, task)]


def to_bytes(lines: Sequence[dict[str, Any]]) -> bytes:
    """Return the lines as a prompts file: JSON with sorted keys, one a line."""
    return "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines).encode()


def prompts_sha256(lines: Sequence[dict[str, Any]]) -> str:
    """Return the identity of a prompt set: the SHA-256 of its file as `to_bytes` writes it."""
    return hashlib.sha256(to_bytes(lines)).hexdigest()


def _task(world: WorldConfig, config: PromptConfig, task: str) -> list[dict[str, Any]]:
    asked = choices(task, world.shapes, world.colors)
    order = philox(config.seed, f"prompts/{task}").permutation(len(asked))
    lines = []
    for number in range(config.per_task):
        line = metadata_line(task, asked[order[number % len(asked)]], plural)
        rng = philox(config.seed, f"prompts/extended/{task}", number)
        scene = extend(line, world, rng)
        if config.layout == "insets" and len(line["include"]) == 2:
            scene = _inset(scene, rng)
        line["extended"] = {
            "text": describe(scene, config.seed, TASKS.index(task) * 2**32 + number),
            "extender": EXTENDER,
            "template": TEMPLATE,
            "seed": config.seed,
            "objects": [
                {"class": o.shape, "color": o.color, "center": [round(c, 4) for c in o.center]} for o in scene.objects
            ],
        }
        lines.append(line)
    return lines


def extend(line: dict[str, Any], world: WorldConfig, rng: np.random.Generator) -> Scene:
    """Draw by `rng` a scene on one background that satisfies `line`, a metadata line of one of the six tasks.

    Two objects differ in color; they are side by side or one above the other, at a quarter of the frame.
    """
    clauses = line["include"]
    colors = rng.permutation(world.colors)
    objects = []
    for clause, color in zip(clauses, colors):
        size = str(rng.choice(world.sizes))
        thing = SceneObject(
            shape=clause["class"],
            color=clause.get("color", str(color)),
            texture=str(rng.choice(world.textures)),
            size=size,
            center=(0.5, 0.5),
            diameter=float(rng.uniform(*SIZES[size])),
        )
        objects += [thing] * clause["count"]
    if len(objects) == 1:
        x, y = (float(c) for c in 0.5 + rng.uniform(-JITTER, JITTER, 2))
        objects = [replace(objects[0], center=(x, y))]
    elif len(clauses) == 1:
        if len(objects) > 2:  # so many fit only when they are small
            objects = [replace(o, size="small", diameter=SIZES["small"][0]) for o in objects]
        objects = [replace(o, center=center) for o, center in zip(objects, _PLACES[len(objects)])]
    else:
        asked = clauses[1].get("position")
        relation = asked[0] if asked else str(rng.choice(RELATIONS))
        second = {"left of": (0.25, 0.5), "right of": (0.75, 0.5), "above": (0.5, 0.25), "below": (0.5, 0.75)}[relation]
        first = (1 - second[0], 1 - second[1])
        objects = [replace(o, center=center) for o, center in zip(objects, (first, second))]
    return Scene(
        objects=tuple(objects), backgrounds=(str(rng.choice(world.backgrounds)),), seed=int(rng.integers(2**31))
    )


def _inset(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return the scene of two objects with the first in the middle and the second at half its size in a corner, on the
    side where it was."""
    first, second = scene.objects
    sides = [np.sign(b - a) or rng.choice((-1, 1)) for a, b in zip(first.center, second.center)]
    x, y = (0.5 + 0.25 * float(side) for side in sides)
    diameter = second.diameter / 2
    second = replace(second, size=size_word(diameter), diameter=diameter, center=(x, y))
    return replace(scene, objects=(replace(first, center=(0.5, 0.5)), second))
