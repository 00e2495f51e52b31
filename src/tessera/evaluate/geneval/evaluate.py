"""evaluate geneval: images of GenEval's prompts to the paper's Table 2, original and extended prompts side by side.

original/scores.json             the numbers with intervals and protocol, and every image's verdict
original/verdicts/NNNNN.json     of each prompt, every image's verdict, reason and detections, as they came about
extended/...                     the same for images of the extended texts
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.devices import pick_device, usual_defaults, world_size
from tessera.evaluate.geneval import verdict as geneval
from tessera.evaluate.intervals import task_numbers
from tessera.evaluate.samples import Samples, check_clauses, read_samples
from tessera.evaluate.scores import FILE, Protocol, Scores, read_scores, write_scores
from tessera.files import sha256_file
from tessera.prompts import geneval as geneval_prompts
from tessera.stages import open_stage
from tessera.workers import work_through

if TYPE_CHECKING:
    from tessera.pretrained.detector.colors import ClipColors
    from tessera.pretrained.detector.mask2former import FoundObject, ObjectDetector

COLUMNS = {"original": "samples", "extended": "extended-samples"}
"""Kinds of prompts, and the option for images of each."""
METRIC = "geneval-1"
"""Name of the protocol; a change to any rule of the judge changes it."""
METRICS = [f"geneval/{name}" for name in ("overall", *geneval_prompts.TASKS)]
_BATCH = 4  # images of one prompt detected at once


@dataclass(frozen=True, kw_only=True)
class GenEvalConfig:
    """The networks that judge."""

    detector: str
    """mmdetection's checkpoint of Mask2Former Swin-S, a folder of a Mask2Former that transformers saved, or a Hub
    repository with either."""
    clip: str = "openai/clip-vit-large-patch14"
    """A CLIP of the Hub or of a folder: the colors."""


@usual_defaults
def evaluate_geneval(
    out: Path,
    samples: Path | None,
    config: GenEvalConfig,
    *,
    extended: Path | None = None,
    device: str | None = None,
) -> bool:
    """Judge directories made by `generate` from GenEval's prompts and write `out`/original/scores.json and so on.

    samples: images of the original prompts; extended: of the same prompts' extended texts; at least one of them.
    Resumable; under torchrun the ranks share the prompts and the last one writes the scores. Return whether they
    are there. Raises UserError for missing or damaged images, or networks that are not the judges.
    """
    from tessera.pretrained.detector.colors import load_colors
    from tessera.pretrained.detector.mask2former import detector_weights, load_detector
    from tessera.pretrained.features.clip import find_clip

    out, folders = Path(out), _folders(samples, extended)
    networks = {"detector": sha256_file(detector_weights(config.detector)), "clip": find_clip(config.clip).sha256}
    described = {"metric": METRIC, "networks": networks}
    inputs = {name: folder.directory for name, folder in folders.items()}
    stage = open_stage(out, stage="evaluate", config=described, inputs=inputs, shared=world_size() > 1)
    if stage.done:
        return True

    @functools.cache
    def judges() -> "tuple[ObjectDetector, ClipColors]":
        where = pick_device(device)
        return load_detector(config.detector, where), load_colors(config.clip, geneval_prompts.COLORS, where)

    def judged(name: str) -> list[list[dict[str, Any]]] | None:
        directory, folder = out / name / "verdicts", folders[name]
        work = functools.partial(_verdicts, folder, judges)
        return work_through(directory, len(folder.lines), work, description=f"geneval {name}")

    columns: dict[str, list[dict[str, Any]]] = {}
    for name, done in {name: judged(name) for name in folders}.items():
        done = done or judged(name)  # other ranks may have done their part of it meanwhile
        if done is None:
            return False  # another rank completes it
        columns[name] = [row for rows in done for row in rows]
    for name, rows in columns.items():
        found = task_numbers(rows, METRICS, protocol_of(folders[name], networks))
        write_scores(out / name, Scores(kind="geneval", name=out.name, numbers=found, items=tuple(rows)))
    images, prompts = sum(map(len, columns.values())), sum(len(folder.lines) for folder in folders.values())
    stage.finish({"images": images, "prompts": prompts}, facts={"metric": METRIC}, joint=(FILE,))
    return True


def _verdicts(
    samples: Samples, judges: "Callable[[], tuple[ObjectDetector, ClipColors]]", prompt: int
) -> list[dict[str, Any]]:
    """Return the item of each image of a prompt: the verdict on it, with its detections."""
    (detector, colors), line, items = judges(), samples.lines[prompt], []
    for start in range(0, samples.per_prompt, _BATCH):
        numbers = range(start, min(start + _BATCH, samples.per_prompt))
        images = [samples.read(prompt, k) for k in numbers]
        if len({image.shape for image in images}) > 1:
            raise UserError(f"{samples.image(prompt, start).parent}: images of one prompt have one size")
        for k, image, found in zip(numbers, images, detector.detect(images, geneval.MIN_SCORE)):
            detections = _detections(line, image, found, colors)
            verdict = geneval.judge(line, detections)
            items.append(
                samples.item(prompt, k)
                | {
                    "tag": line["tag"],
                    "text": line.get("text", line["prompt"]),
                    "values": {f"geneval/{name}": float(verdict.correct) for name in ("overall", line["tag"])},
                    "correct": verdict.correct,
                    "reason": verdict.reason,
                    "detections": [
                        {"class": item.class_name, "score": item.score, "box": list(item.box), "color": item.color}
                        for item in detections
                    ],
                }
            )
    return items


def _detections(
    line: Mapping[str, Any], image: NDArray[np.uint8], found: "Sequence[FoundObject]", colors: "ClipColors"
) -> list[geneval.Detection]:
    """Return the found objects as GenEval's rules take them; a color for those of which a clause asks one."""
    named = [geneval_prompts.CLASSES[item.class_index] for item in found]
    asked: dict[str, int] = {}
    for clause in line["include"]:  # clauses of one class look at the same objects, each at its own number of them
        if "color" in clause:
            asked[clause["class"]] = max(clause["count"], asked.get(clause["class"], 0))
    color_of: dict[int, str] = {}
    for name, count in asked.items():
        members = [i for i, other in enumerate(named) if other == name][:count]  # found ones stand best first
        color_of |= dict(zip(members, colors.name(image, [(found[i].box, found[i].mask) for i in members], name)))
    return [
        geneval.Detection(name, item.score, item.box, color_of.get(i))
        for i, (name, item) in enumerate(zip(named, found))
    ]


def protocol_of(samples: Samples, networks: Mapping[str, str]) -> Protocol:
    """Return all that the numbers of one column depend on."""
    own = [{key: value for key, value in line.items() if key not in ("text", "extended")} for line in samples.lines]
    return samples.protocol(
        metric="geneval",
        name=METRIC,
        encoder="mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco",
        encoder_sha256=networks["detector"],
        resize="bilinear to 800 (long side at most 1333), padded with level 128",
        prompts_sha256=geneval_prompts.prompts_sha256(own),
        settings={
            "clip_sha256": networks["clip"],
            "extended": samples.extended,
            "min_score": geneval.MIN_SCORE,
            "min_score_counting": geneval.MIN_SCORE_COUNTING,
            "per_prompt": samples.per_prompt,
        },
    )


def side_by_side(out: Path) -> str:
    """Return the table of a finished directory in percent: a row for each task, a column for each kind of prompts."""
    there = [name for name in COLUMNS if (out / name).is_dir()]
    scores = [read_scores(out / name) for name in there]
    lines = [f"{'':<14}" + "".join(f"{name:>24}" for name in there)]
    for metric in METRICS:
        cells = [found.number(metric) for found in scores]
        shown = [
            f"{100 * cell.value:.1f} [{100 * (cell.low or 0):.1f}, {100 * (cell.high or 0):.1f}]" if cell else "-"
            for cell in cells
        ]
        lines.append(f"{metric.split('/')[1]:<14}" + "".join(f"{cell:>24}" for cell in shown))
    return "\n".join([*lines, "In percent, with 95% intervals over prompts."])


def _folders(samples: Path | None, extended: Path | None) -> dict[str, Samples]:
    """Return the images of each kind of prompts; UserError for a folder of the other kind, or that cannot be judged."""
    given = {name: path for name, path in zip(COLUMNS, (samples, extended)) if path is not None}
    if not given:
        raise UserError("give --samples, --extended-samples or both: directories made by `tessera generate`")
    folders = {name: read_samples(path) for name, path in given.items()}
    for name, folder in folders.items():
        if folder.extended != (name == "extended"):
            drawn = "extended" if folder.extended else "original"
            raise UserError(f"{given[name]}: was drawn from the {drawn} prompts; give it as --{COLUMNS[drawn]}")
        for prompt, line in enumerate(folder.lines):
            where = folder.metadata(prompt)
            if line.get("tag") not in geneval_prompts.TASKS or not line.get("include"):
                known = ", ".join(geneval_prompts.TASKS)
                raise UserError(f"{where}: needs a tag ({known}) and a list include; draw --prompts geneval")
            check_clauses(where, line, geneval_prompts.CLASSES, geneval_prompts.COLORS)
    if len({tuple(line["prompt"] for line in folder.lines) for folder in folders.values()}) > 1:
        raise UserError(f"{samples} and {extended}: are not of the same prompts; draw both from one file")
    return folders
