"""evaluate miniature: judge a directory of images of the miniature world, made for GenEval-like prompts.

Three judges: GenEval's rules on the objects that the shipped detector finds (the six tasks); colored patches, without a
network (are both colors of a two-object prompt there, and where asked?); and the seam score. With the training images
also how near the images lie to those (`memorized`). scores.json holds every number with a 95% interval over prompts;
its facts hold the judge's own accuracy on held-out renders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessera.config import UserError, check_ranges, to_dict
from tessera.devices import set_threads, usual_defaults
from tessera.evaluate.geneval import verdict as geneval
from tessera.evaluate.intervals import task_numbers
from tessera.evaluate.miniature import color_objects as colors
from tessera.evaluate.miniature import seam
from tessera.evaluate.miniature.calibrate import judge_accuracy, relation_of
from tessera.evaluate.miniature.memorized import measure_copies
from tessera.evaluate.miniature.shipped import WEIGHTS, detector_sha256
from tessera.evaluate.samples import Samples, check_clauses, read_samples, read_square
from tessera.evaluate.scores import Scores, write_scores
from tessera.miniature import COLORS, SHAPES, WorldConfig
from tessera.progress import progress
from tessera.prompts.geneval import TASKS
from tessera.prompts.miniature import prompts_sha256
from tessera.stages import open_stage

METRIC = "geneval-miniature-2"
"""Name of the protocol; a change to any rule of the judge changes it."""
MEASURES = ("overall", *TASKS, "color_score", "both_colors", "colors_in_relation", "seam", "seam_visible")
"""Metrics of scores.json, where they were measured."""
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Options of the miniature's judge."""

    world: WorldConfig | None = None
    """The world of the judge's own accuracy; None = the shapes, colors and image size of the samples."""
    judge_renders: int = 400
    """Held-out renders of one object, and of two, for the judge's own accuracy; at least 10, or 0: not measured."""
    threads: int | None = None
    """CPU threads, at least 1. None = torch's own choice. Not part of the manifest: it only changes the speed."""

    def __post_init__(self):
        check_ranges(self, judge_renders="[10, inf)" if self.judge_renders else "[0, 0]", threads="[1, inf)")


@usual_defaults
def evaluate(
    out: Path, samples: Path, config: EvaluateConfig = EvaluateConfig(), *, training: Path | None = None
) -> None:
    """Judge the directory `samples` (of `generate`) and write `out`/scores.json.

    training: the directory of images that the model was trained on, for the share of copies; None = not measured.

    Lines without "include" (plain prompts) only get a seam score; facts count them where other lines have one. Raises
    UserError for a directory that misses images, a line that is not JSON or cannot be judged by, a class or color that
    the judge does not know, or images of different sizes.
    """
    out, folder = Path(out), read_samples(samples)
    asked = {"judge_renders": config.judge_renders, "world": None if config.world is None else to_dict(config.world)}
    judge = {"metric": METRIC, "detector_sha256": detector_sha256()}
    inputs = {"samples": folder.directory} | ({} if training is None else {"images": training})
    stage = open_stage(out, stage="evaluate", config=asked | judge, inputs=inputs)
    if stage.done:
        return
    # torch is only imported once there is something to judge.
    from tessera.evaluate.miniature.detector import detect, load_detector

    set_threads(config.threads)
    check_lines(folder, SHAPES, tuple(COLORS))
    images = [(prompt, k) for prompt in range(len(folder.lines)) for k in range(folder.per_prompt)]
    size = len(read_square(folder.image(0, 0)))
    world = config.world or _world_of(folder.lines, size)
    network = load_detector()
    items: list[dict[str, Any]] = []
    every = np.empty((len(images), size, size, 3), np.uint8)
    with progress("evaluate", len(images)) as bar:
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            pixels = every[start : start + len(part)]  # (B, S, S, 3)
            for place, image in zip(pixels, part):
                place[:] = read_square(folder.image(*image), size)
            judged = zip(part, detect(pixels, network), colors.color_objects(pixels), seam.seam_scores(pixels))
            items += [_item(folder, *each) for each in judged]
            bar.advance(len(part))
    counts = {"images": len(images), "prompts": len(folder.lines)}
    accuracy = judge_accuracy(world, config.judge_renders) if config.judge_renders else {}
    facts = {"judge": accuracy, "judge_world": to_dict(world), "judge_renders": config.judge_renders, **counts}
    plain = [item["file"] for item in items if item["correct"] is None]
    if 0 < len(plain) < len(items):
        facts["passed_over"] = f"{len(plain)} of {len(items)} images: no include in their metadata, first {plain[0]}"
    # tessera run keeps the scores of both kinds of prompts in the directory of their arm.
    name = out.parent.name if out.name in ("short", "extended") else out.name
    protocol = folder.protocol(
        metric="miniature",
        name=METRIC,
        encoder=WEIGHTS,
        encoder_sha256=detector_sha256(),
        prompts_sha256=prompts_sha256([{k: v for k, v in line.items() if k != "text"} for line in folder.lines]),
        settings={
            "extended": folder.extended,
            "min_score": geneval.MIN_SCORE,
            "min_score_counting": geneval.MIN_SCORE_COUNTING,
            "seam_visible_above": seam.VISIBLE,
        },
    )
    numbers = task_numbers(items, MEASURES, protocol, TASKS.index)
    if training is not None:
        found, nearest, facts["held_out"] = measure_copies(every, [prompt for prompt, _ in images], training, protocol)
        numbers += tuple(found)
        for item, of in zip(items, nearest):
            item["values"] |= of["values"]
            item["nearest"] = of["nearest"]
    write_scores(out, Scores(kind="miniature", name=name, numbers=numbers, items=tuple(items), facts=facts))
    stage.finish(counts)


def asked_colors(metadata: Mapping[str, Any], extended: bool) -> tuple[str, str, str | None] | None:
    """Return what a prompt asks of two objects' colors: (first, second, relation of the second to the first or None).

    None for a prompt that does not ask for two objects of two different colors.
    """
    things = metadata.get("extended", {}).get("objects", []) if extended else []
    if len(things) == 2:
        first, second = things
        relation = relation_of(tuple(second["center"]), tuple(first["center"]))
    else:
        things = metadata.get("include", [])
        if len(things) != 2:
            return None
        first, second = things
        relation = second["position"][0] if "position" in second else None
    if "color" not in first or "color" not in second or first["color"] == second["color"]:
        return None
    return first["color"], second["color"], relation


def color_values(
    metadata: Mapping[str, Any], extended: bool, patches: Sequence[colors.ColorObject]
) -> dict[str, float]:
    """Return the values of the measures of colors that apply to a prompt (`asked_colors`), by the patches found."""
    asked = asked_colors(metadata, extended)
    if asked is None:
        return {}
    first, second, relation = asked
    values = {
        "color_score": colors.color_score(patches, (first, second)),
        "both_colors": float(colors.both_colors(patches, (first, second))),
    }
    if relation is not None:
        values["colors_in_relation"] = float(colors.colors_in_relation(patches, second, first, relation))
    return values


def check_lines(folder: Samples, classes: Sequence[str], colors: Sequence[str]) -> None:
    """Raise UserError for a line of metadata that a judge of `classes` and `colors` cannot judge by."""
    for prompt, line in enumerate(folder.lines):
        where = folder.metadata(prompt)
        check_clauses(where, line, classes, colors)
        if "include" in line and (line.get("tag") not in TASKS or not line["include"]):
            raise UserError(f"{where}: include must not be empty, and needs a tag, one of {', '.join(TASKS)}")


def judged_item(samples: Samples, image: tuple[int, int], objects: Sequence[geneval.Detection]) -> dict[str, Any]:
    """Return the item of one image: the verdict by GenEval's rules, its values, and the objects found."""
    prompt, k = image
    line = samples.lines[prompt]
    verdict = geneval.judge(line, objects) if "include" in line else None
    values = {} if verdict is None else {name: float(verdict.correct) for name in ("overall", line["tag"])}
    return samples.item(prompt, k) | {
        "tag": line.get("tag"),
        "values": values,
        "correct": None if verdict is None else verdict.correct,
        "reason": "no metadata to judge by" if verdict is None else verdict.reason,
        "detections": [
            {"class": item.class_name, "color": item.color}
            | {"score": round(item.score, 4), "box": [round(edge, 2) for edge in item.box]}
            for item in objects
            if item.score > geneval.MIN_SCORE
        ],
    }


def _item(
    samples: Samples,
    image: tuple[int, int],
    objects: list[geneval.Detection],
    patches: list[colors.ColorObject],
    seam_score: float,
) -> dict[str, Any]:
    """Return the item of one image: its values by every judge, the verdict, and what was found."""
    item, line = judged_item(samples, image, objects), samples.lines[image[0]]
    values = {"seam": round(float(seam_score), 4)}
    values["seam_visible"] = float(values["seam"] > seam.VISIBLE)
    values |= item["values"] | color_values(line, samples.extended, patches)
    found = [
        {"color": item.color, "center": [round(c, 3) for c in item.center], "area": round(item.area, 4)}
        for item in patches
    ]
    return item | {"values": values, "color_objects": found}


def _world_of(lines: Sequence[Mapping[str, Any]], size: int) -> WorldConfig:
    """Return the smallest world with the shapes and colors of the prompts, or with all if they name none."""
    asked = [clause for line in lines for clause in line.get("include", ())]
    asked += [thing for line in lines for thing in line.get("extended", {}).get("objects", ())]
    shapes, colors = {clause["class"] for clause in asked}, {clause.get("color") for clause in asked}
    return WorldConfig(
        size=max(size, 16),
        shapes=tuple(name for name in SHAPES if name in shapes) or SHAPES,
        colors=tuple(name for name in COLORS if name in colors) or tuple(COLORS),
    )
