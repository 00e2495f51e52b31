"""The accuracy of the miniature's judge: its verdicts on rendered images whose content is known, sound and spoiled.

The scenes lie at addresses that no training uses. scores.json holds these numbers with every score.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tessera.cutmix import compose, placement_at
from tessera.evaluate.geneval.verdict import MIN_SCORE, judge
from tessera.evaluate.miniature.color_objects import ColorObject, color_objects, colors_in_relation
from tessera.evaluate.miniature.seam import seam_scores
from tessera.evaluate.miniature.spoil import ONE, TWO
from tessera.miniature import COLORS, SHAPES, WorldConfig, draw_composed, render
from tessera.records import Scene

if TYPE_CHECKING:
    from tessera.evaluate.miniature.detector import Detector

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@functools.lru_cache(maxsize=8)
def judge_accuracy(world: WorldConfig, number: int = 400) -> dict[str, float]:
    """Return `measure_judge` of the shipped network, cached."""
    return measure_judge(world, number)


def measure_judge(world: WorldConfig, number: int = 400, network: "Detector | None" = None) -> dict[str, float]:
    """Return the judge's accuracy (0..1) on `number` renders of one object, as many of two, half as many for counting.

    one_object: shape and color right and nothing else found. two_objects: the same of both, and their relation.
    counting: two to four equal objects counted. wrong_refused: a line with one wrong fact is judged wrong.
    color_objects: both colors found, in the right relation, without the network.
    seam_renders, seam_cutmix: mean seam score of these renders, and of CutMix (half) images made of them.
    torn, merged, blurred, softened: share of spoiled renders (`spoil`) that are judged right, also for each way of
    spoiling; it should be near 0 but for the softened ones, whose shapes can still be recognized.
    Two-object numbers are left out of a world with a single shape or color.
    """
    from tessera.evaluate.miniature.detector import detect  # loads torch

    def drawn(scenes: list[Scene]) -> np.ndarray:
        return np.stack([render(scene, world.size) for scene in scenes])  # (N, S, S, 3)

    out: dict[str, float] = {}
    images: dict[str, np.ndarray] = {}
    refused: list[bool] = []
    pairs_differ = len(world.shapes) > 1 and len(world.colors) > 1
    for objects, name in ((1, "one_object"), (2, "two_objects")) if pairs_differ else ((1, "one_object"),):
        scenes = held_out(world, objects, number)
        images[name] = drawn(scenes)
        found = detect(images[name], network)
        lines = [metadata_of(scene) for scene in scenes]
        refused += [
            not judge(altered(line, index), items).correct for index, (line, items) in enumerate(zip(lines, found))
        ]
        alone = [sum(item.score > MIN_SCORE for item in items) == objects for items in found]  # nothing in excess
        out[name] = float(np.mean([one and judge(*each).correct for one, each in zip(alone, zip(lines, found))]))
        if objects == 2:
            out["color_objects"] = float(np.mean(list(map(_colors_right, scenes, color_objects(images[name])))))
    out["wrong_refused"] = float(np.mean(refused))
    counted = []
    for objects in (2, 3, 4):
        scenes = held_out(world, objects, max(1, number // 6), same=True)
        for scene, items in zip(scenes, detect(drawn(scenes), network)):
            asked = {"class": scene.objects[0].shape, "count": objects}
            line = {"tag": "counting", "include": [asked], "exclude": [asked | {"count": objects + 1}]}
            counted.append(judge(line, items).correct)
    out["counting"] = float(np.mean(counted))
    out["seam_renders"] = float(np.mean([seam_scores(each).mean() for each in images.values()]))
    single = images["one_object"]
    mixed = [
        compose(base, partner, placement_at("half", world.size, index % 2), "centre")
        for index, (base, partner) in enumerate(zip(single, np.roll(single, 1, axis=0)))
    ]
    out["seam_cutmix"] = float(seam_scores(np.stack(mixed)).mean())
    for objects, kinds in ((1, ONE), (2, TWO)) if pairs_differ else ((1, ONE),):
        scenes = held_out(world, objects, max(1, number // 8))
        for kind, ways in kinds.items():
            for way, spoiled in ways.items():
                drawn_so = np.stack([spoiled(scene, i, world.size) for i, scene in enumerate(scenes)])
                # Where the objects lie is no matter: as the tasks "colors" and "color attribution" ask.
                lines = [_without_position(metadata_of(scene)) for scene in scenes]
                right = [judge(*each).correct for each in zip(lines, detect(drawn_so, network))]
                out[f"{kind}: {way}"] = float(np.mean(right))
            out[kind] = float(np.mean([out[f"{kind}: {way}"] for way in ways]))
    return out


def held_out(world: WorldConfig, objects: int, number: int, same: bool = False) -> list[Scene]:
    """Return `number` scenes of so many objects; unless `same`, two differ in shape and color as the prompts' do."""
    scenes, address = [], 0
    while len(scenes) < number:
        scene = draw_composed(world, address, objects, f"judge/heldout/{objects}", same=same)
        address += 1
        first, second = scene.objects[0], scene.objects[-1]
        if objects != 2 or same or (first.shape != second.shape and first.color != second.color):
            scenes.append(scene)
    return scenes


def relation_of(first: tuple[float, float], second: tuple[float, float]) -> str:
    """Return how the center `first` lies to `second` in GenEval's words, along the axis of the larger distance."""
    dx, dy = first[0] - second[0], first[1] - second[1]
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def metadata_of(scene: Scene) -> dict[str, Any]:
    """Return the metadata line that a scene satisfies: shape and color of each object, and where the second is."""
    clauses: list[dict[str, Any]] = [{"class": o.shape, "count": 1, "color": o.color} for o in scene.objects]
    if len(clauses) == 2:
        clauses[1]["position"] = [relation_of(scene.objects[1].center, scene.objects[0].center), 0]
    return {"tag": "", "include": clauses}


def _without_position(metadata: dict[str, Any]) -> dict[str, Any]:
    clauses = [{k: v for k, v in clause.items() if k != "position"} for clause in metadata["include"]]
    return {**metadata, "include": clauses}


def altered(
    metadata: dict[str, Any], number: int, classes: Sequence[str] = SHAPES, colors: Sequence[str] = tuple(COLORS)
) -> dict[str, Any]:
    """Return the line with one fact of its last object made wrong, by turns of `number`: class or, where they are
    stated, color or relation."""
    clause = dict(metadata["include"][-1])
    facts = ["class", *(name for name in ("color", "position") if name in clause)]
    fact, turn = facts[number % len(facts)], number // len(facts)
    if fact == "class":
        asked = {c["class"] for c in metadata["include"]}
        others = [name for name in classes if name not in asked]
        clause["class"] = others[turn % len(others)]
    elif fact == "color":
        others = [color for color in colors if color != clause["color"]]
        clause["color"] = others[turn % len(others)]
    else:
        clause["position"] = [_OPPOSITE[clause["position"][0]], 0]
    return {**metadata, "include": [*metadata["include"][:-1], clause]}


def _colors_right(scene: Scene, found: Sequence[ColorObject]) -> bool:
    first, second = scene.objects
    exact = sorted(item.color for item in found) == sorted((first.color, second.color))
    return exact and colors_in_relation(found, first.color, second.color, relation_of(first.center, second.center))
