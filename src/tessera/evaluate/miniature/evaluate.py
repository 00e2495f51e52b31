"""evaluate: judges a folder of pictures of the miniature world, made for GenEval-like prompts, into scores.json.

Three judges: GenEval's rules on the objects that the shipped detector finds (the six tasks); coloured patches without a
network (are both colours of a two-object prompt there, and where asked?); and the seam score. Every number stands with
a 95% interval over prompts, the judge's own accuracy on held-out renders, and the protocol by which it came about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from tessera.config import UserError, nearest, to_dict
from tessera.devices import set_threads
from tessera.evaluate.geneval import verdict as geneval
from tessera.evaluate.intervals import WILSON
from tessera.evaluate.miniature import seam
from tessera.evaluate.miniature.calibrate import judge_accuracy, relation_of
from tessera.evaluate.miniature.color_objects import (
    ColorObject,
    both_colors,
    color_objects,
    color_score,
    colors_in_relation,
)
from tessera.evaluate.miniature.shipped import WEIGHTS, check_judge, detector_sha256
from tessera.evaluate.samples import read_square
from tessera.files import read_json, write_json
from tessera.metrics import Interval, share_difference, share_interval
from tessera.miniature import COLORS, SHAPES, WorldConfig
from tessera.progress import progress
from tessera.prompts.geneval import TASKS
from tessera.prompts.miniature import RELATIONS, prompts_sha256
from tessera.stages import open_stage, read_manifest

FILE = "scores.json"
METRIC = "geneval-miniature-1"
"""Name of the protocol; a change to any rule of the judge changes it."""
MEASURES = ("overall", *TASKS, "color_score", "both_colors", "colors_in_relation", "seam", "seam_visible")
"""What scores.json holds an interval of, where it was measured."""
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How to judge."""

    world: WorldConfig | None = None
    """The world of the judge's own accuracy; None = the shapes, colours and picture size of the samples."""
    judge_renders: int = 400
    """Held-out renders of one object, and of two, for the judge's own accuracy; at least 10."""
    threads: int | None = None
    """CPU threads, at least 1. None = torch's own choice. Not part of the manifest: it only changes the speed."""

    def __post_init__(self):
        if self.judge_renders < 10:
            raise UserError(f"judge_renders is {self.judge_renders}: give at least 10")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads is {self.threads}: give at least 1")


@dataclass(frozen=True)
class _Sample:
    prompt: int
    """Number of its prompt, from its folder's name."""
    number: int
    """Number of the picture among those of the prompt."""
    file: str
    """Relative to the samples directory."""
    metadata: dict[str, Any]


def evaluate(out: Path, samples: Path, config: EvaluateConfig = EvaluateConfig()) -> None:
    """Judges the directory `samples` (GenEval's layout, of `generate`) and writes `out`/scores.json.

    Lines without "include" (plain prompts) only get a seam score. Raises UserError for a folder without pictures, a
    line that is not JSON, a class or colour that the judge does not know, pictures of different sizes, or finished
    scores by an older judge.
    """
    out, samples = Path(out), Path(samples)
    described = {name: value for name, value in to_dict(config).items() if name != "threads"}
    stage = open_stage(out, stage="evaluate", config=described, inputs={"samples": samples})
    if stage.done:
        check_judge(out / FILE, METRIC)
        return
    # torch is only imported once there is something to judge.
    from tessera.evaluate.miniature.detector import detect, load_detector

    set_threads(config.threads)
    extended = bool(read_manifest(samples).config.get("extended", False))
    found = _find(samples)
    size = len(read_square(samples / found[0].file))
    world = config.world or _world_of([sample.metadata for sample in found], size)
    network = load_detector()
    verdicts: list[dict[str, Any]] = []
    with progress("evaluate", len(found)) as bar:
        for start in range(0, len(found), _BATCH):
            part = found[start : start + _BATCH]
            images = np.stack([read_square(samples / sample.file, size) for sample in part])  # (B, S, S, 3)
            judged = zip(part, detect(images, network), color_objects(images), seam.seam_scores(images))
            verdicts += [_verdict(*each, extended=extended) for each in judged]
            bar.advance(len(part))
    lines = {sample.prompt: sample.metadata for sample in found}
    scores = {
        "protocol": _protocol(config, world, lines, len(found), extended),
        "judge": judge_accuracy(world, config.judge_renders),
        **measures(verdicts),
        "verdicts": verdicts,
    }
    write_json(out / FILE, scores)
    stage.finish({"images": len(found), "prompts": len(lines)}, facts={"metric": METRIC})


def read_scores(path: Path) -> dict[str, Any]:
    """The scores.json of `path`, a file or the directory of it; UserError if it is none."""
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    scores = read_json(path)
    if not isinstance(scores, dict) or "verdicts" not in scores or "protocol" not in scores:
        raise UserError(f"{path}: is not a scores.json of `tessera evaluate miniature`")
    return scores


def measures(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any] | None]:
    """The interval over prompts of each of MEASURES; None where no picture was so judged.

    Overall is the mean of the six task accuracies, and None unless all six are there.
    """
    out: dict[str, dict[str, Any] | None] = {}
    for name in MEASURES:
        rows, prompts = measured(verdicts, name)
        if len(rows):
            out[name] = _as_json(share_interval(rows[:, 1], prompts, rows[:, 0]), prompts)
        else:
            out[name] = None
    return out


def paired(scores_a: Mapping[str, Any], scores_b: Mapping[str, Any]) -> dict[str, dict[str, Any] | None]:
    """The interval of b's value minus a's for each of MEASURES; None where it was not measured.

    Both must have judged the same number of pictures of the same prompts, in the same text: otherwise UserError. An
    interval that leaves 0 out is a difference that another draw of prompts would hardly undo.
    """
    for field in ("metric", "detector_sha256", "prompts_sha256", "extended"):
        a, b = (scores["protocol"][field] for scores in (scores_a, scores_b))
        if a != b:
            raise UserError(f"scores cannot be paired: protocol.{field} is {a!r} in the first, {b!r} in the second")
    keys = [[(item["prompt"], item["sample"]) for item in scores["verdicts"]] for scores in (scores_a, scores_b)]
    if keys[0] != keys[1]:
        raise UserError("scores cannot be paired: generate the same number of pictures of each prompt in both")
    out: dict[str, dict[str, Any] | None] = {}
    for name in MEASURES:
        (rows_a, prompts), (rows_b, _) = (measured(scores["verdicts"], name) for scores in (scores_a, scores_b))
        if len(rows_a):
            interval = share_difference(rows_b[:, 1], rows_a[:, 1], prompts, rows_a[:, 0])
            out[name] = _as_json(interval, prompts)
        else:
            out[name] = None
    return out


def asked_colors(metadata: Mapping[str, Any], extended: bool) -> tuple[str, str, str | None] | None:
    """What a prompt asks of two objects' colours: (first, second, how the second lies to the first, or None).

    None for a prompt that does not ask for two objects of two different colours.
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


def _verdict(
    sample: _Sample, objects: list[geneval.Detection], patches: list[ColorObject], seam_score: float, *, extended: bool
) -> dict[str, Any]:
    verdict = geneval.judge(sample.metadata, objects) if "include" in sample.metadata else None
    asked = asked_colors(sample.metadata, extended)
    related = None
    if asked is not None and asked[2] is not None:
        related = colors_in_relation(patches, asked[1], asked[0], asked[2])
    return {
        "prompt": sample.prompt,
        "sample": sample.number,
        "file": sample.file,
        "tag": sample.metadata.get("tag"),
        "correct": None if verdict is None else verdict.correct,
        "reason": "no metadata to judge by" if verdict is None else verdict.reason,
        "color_score": None if asked is None else color_score(patches, asked[:2]),
        "both_colors": None if asked is None else both_colors(patches, asked[:2]),
        "colors_in_relation": related,
        "seam": round(float(seam_score), 4),
        "detections": [
            {
                "class": item.class_name,
                "color": item.color,
                "score": round(item.score, 4),
                "box": [round(edge, 2) for edge in item.box],
            }
            for item in objects
            if item.score > geneval.MIN_SCORE
        ],
        "color_objects": [
            {"color": item.color, "center": [round(c, 3) for c in item.center], "area": round(item.area, 4)}
            for item in patches
        ],
    }


def measured(verdicts: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(task number, value) of each picture that counts for the measure `name`: (N, 2); and their prompts: (N,)."""
    rows, prompts = [], []
    for item in verdicts:
        task, value = 0, item.get(name)
        if name == "overall" and item["tag"] in TASKS:
            task, value = TASKS.index(item["tag"]), item["correct"]
        elif name in TASKS:
            value = item["correct"] if item["tag"] == name else None
        elif name == "seam_visible":
            value = item["seam"] > seam.VISIBLE
        if value is not None:
            rows.append((task, value))
            prompts.append(item["prompt"])
    if name == "overall" and len({task for task, _ in rows}) < len(TASKS):
        rows, prompts = [], []
    return np.array(rows, dtype=np.float64).reshape(-1, 2), np.array(prompts)


def _as_json(interval: Interval, prompts: np.ndarray) -> dict[str, Any]:
    bounds = {"low": interval.low, "value": interval.value, "high": interval.high}
    return {**bounds, "images": len(prompts), "prompts": len(set(prompts.tolist()))}


def _protocol(
    config: EvaluateConfig, world: WorldConfig, lines: Mapping[int, dict[str, Any]], images: int, extended: bool
) -> dict[str, Any]:
    import torch

    own = [{key: value for key, value in line.items() if key != "text"} for _, line in sorted(lines.items())]
    extensions = [line.get("extended", {}) for line in own] if extended else []
    extenders = sorted({(e.get("extender"), e.get("template"), e.get("seed")) for e in extensions}, key=repr)
    return {
        "metric": METRIC,
        "detector": WEIGHTS,
        "detector_sha256": detector_sha256(),
        "min_score": geneval.MIN_SCORE,
        "min_score_counting": geneval.MIN_SCORE_COUNTING,
        "seam_visible_above": seam.VISIBLE,
        "images": images,
        "prompts": len(lines),
        "prompts_sha256": prompts_sha256(own),
        "extended": extended,
        "extenders": [{"extender": name, "template": template, "seed": seed} for name, template, seed in extenders],
        "judge_world": to_dict(world),
        "judge_renders": config.judge_renders,
        "interval": {"method": f"95%, {WILSON}"},
        "versions": {"torch": str(torch.__version__), "numpy": np.__version__, "pillow": PIL.__version__},
    }


def _find(samples: Path) -> list[_Sample]:
    """Every picture of the directory, by prompt and number."""
    found = []
    for folder in sorted(path.parent for path in samples.glob("*/metadata.jsonl")):
        metadata = _metadata(folder / "metadata.jsonl")
        for picture in sorted((folder / "samples").glob("*.png")):
            if not (folder.name.isdecimal() and picture.stem.isdecimal()):
                raise UserError(f"{picture}: expected NNNNN/samples/0000.png, digits only")
            file = picture.relative_to(samples).as_posix()
            found.append(_Sample(int(folder.name), int(picture.stem), file, metadata))
    if not found:
        raise UserError(f"{samples}: holds no pictures NNNNN/samples/0000.png beside NNNNN/metadata.jsonl")
    return found


def _metadata(path: Path) -> dict[str, Any]:
    """The metadata line of one prompt, checked as far as the judge relies on it."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold one JSON object")
    for field in ("include", "exclude"):
        clauses = data.get(field, [])
        if not isinstance(clauses, list) or not all(isinstance(clause, dict) for clause in clauses):
            raise UserError(f"{path}: {field} must be a list of objects {{class, count, ...}}")
        for number, clause in enumerate(clauses):
            _check_clause(path, clause, number)
    return data


def _check_clause(path: Path, clause: Mapping[str, Any], number: int) -> None:
    """Raises UserError if the judge cannot judge by clause `number` of include or exclude."""
    for field, known in (("class", SHAPES), ("color", tuple(COLORS))):
        name = clause.get(field)
        if name not in known and (field == "class" or field in clause):
            names = f"{nearest(name, known) if isinstance(name, str) else ''} known: {', '.join(known)}"
            raise UserError(f"{path}: the miniature's judge knows no {field} {name!r};{names}")
    count = clause.get("count")
    if type(count) is not int or count < 1:
        raise UserError(f"{path}: the count of {clause['class']} must be a positive integer, not {count!r}")
    position = clause.get("position")
    if position is None:
        return
    pair = position if isinstance(position, list) and len(position) == 2 else (None, None)
    if pair[0] not in RELATIONS or pair[1] not in range(number):
        names = ", ".join(RELATIONS)
        raise UserError(f"{path}: position {position!r} must be [one of {names}; the number of an earlier clause]")


def _world_of(lines: Sequence[Mapping[str, Any]], size: int) -> WorldConfig:
    """The smallest world that has the shapes and colours of the prompts; all of them where the prompts name none."""
    asked = [clause for line in lines for clause in line.get("include", ())]
    asked += [thing for line in lines for thing in line.get("extended", {}).get("objects", ())]
    shapes, colors = {clause["class"] for clause in asked}, {clause.get("color") for clause in asked}
    return WorldConfig(
        size=max(size, 16),
        shapes=tuple(name for name in SHAPES if name in shapes) or SHAPES,
        colors=tuple(name for name in COLORS if name in colors) or tuple(COLORS),
    )
