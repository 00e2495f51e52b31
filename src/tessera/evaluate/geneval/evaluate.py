"""evaluate geneval: images of GenEval's prompts to the paper's Table 2, original and extended prompts side by side.

original/scores.json             the numbers with intervals and protocol, and every image's verdict
original/verdicts/NNNNN.json     of each prompt, every image's verdict, reason and detections, as they came about
extended/...                     the same for images of the extended texts
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.devices import pick_device, set_threads, world_size
from tessera.evaluate.geneval import verdict as geneval
from tessera.evaluate.intervals import share_number
from tessera.evaluate.samples import Samples, extender, read_samples
from tessera.evaluate.scores import Number, Protocol, Scores, library_versions, read_scores, write_scores
from tessera.files import sha256_file
from tessera.images import read_rgb
from tessera.prompts import geneval as geneval_prompts
from tessera.stages import open_stage
from tessera.workers import work_through

COLUMNS = ("original", "extended")
METRIC = "geneval-1"
"""Name of the protocol; a change to any rule of the judge changes it."""
DEFAULT_CLIP = "openai/clip-vit-large-patch14"
_BATCH = 4  # images of one prompt detected at once


@dataclass(frozen=True, kw_only=True)
class GenEvalConfig:
    """The networks that judge."""

    detector: str
    """mmdetection's checkpoint of Mask2Former Swin-S, a folder of a Mask2Former that transformers saved, or a Hub
    repository with either."""
    clip: str = DEFAULT_CLIP
    """A CLIP of the Hub or of a folder: the colors."""
    threads: int | None = None
    """CPU threads, at least 1. None = torch's own choice. Not part of the manifest: it only changes the speed."""


class _Judge:
    """The two networks, loaded when the first image asks for them."""

    def __init__(self, config: GenEvalConfig, device: str | None):
        self.config, self.device = config, device
        self.networks: tuple[Any, Any] | None = None

    def verdicts(self, samples: Samples, prompt: int) -> list[dict[str, Any]]:
        """Return the verdict on each image of a prompt, with its detections."""
        if self.networks is None:
            from tessera.pretrained.detector.colors import load_colors
            from tessera.pretrained.detector.mask2former import load_detector

            device = pick_device(self.device)
            detector = load_detector(self.config.detector, device)
            self.networks = detector, load_colors(self.config.clip, geneval_prompts.COLORS, device)
        detector, colors = self.networks
        line, out = samples.lines[prompt], []
        for start in range(0, samples.per_prompt, _BATCH):
            numbers = range(start, min(start + _BATCH, samples.per_prompt))
            images = [read_rgb(samples.image(prompt, k), fix="generate it again") for k in numbers]
            if len({image.shape for image in images}) > 1:
                raise UserError(f"{samples.image(prompt, start).parent}: images of one prompt have one size")
            for k, image, found in zip(numbers, images, detector.detect(images, geneval.MIN_SCORE)):
                detections = _detections(line, image, found, colors)
                verdict = geneval.judge(line, detections)
                file = samples.image(prompt, k).relative_to(samples.directory).as_posix()
                out.append(_row(line, prompt, k, file, verdict, detections))
        return out


def evaluate_geneval(
    out: Path,
    samples: Path | None,
    config: GenEvalConfig,
    *,
    extended: Path | None = None,
    device: str | None = None,
) -> bool:
    """Judge directories made by `generate` from GenEval's prompts and writes `out`/original/scores.json and so on.

    samples: images of the original prompts; extended: of the same prompts' extended texts; at least one of them.
    Resumable; under torchrun the ranks share the prompts and the last one writes the scores. Return whether they
    are there. Raises UserError for missing or damaged images, or networks that are not the judges.
    """
    out = Path(out)
    from tessera.pretrained.detector.mask2former import detector_weights
    from tessera.pretrained.features.clip import find_clip

    folders = _folders(samples, extended)
    for folder in folders.values():
        _check(folder)
    networks = {"detector": sha256_file(detector_weights(config.detector)), "clip": find_clip(config.clip).sha256}
    described = {"metric": METRIC, "networks": networks}
    inputs = {name: folder.directory for name, folder in folders.items()}
    shared = world_size() > 1
    stage = open_stage(out, stage="evaluate", config=described, inputs=inputs, shared=shared)
    if stage.done:
        return True
    set_threads(config.threads)
    judge = _Judge(config, device)

    def judged(name: str) -> list[list[dict[str, Any]]] | None:
        folder = folders[name]
        return work_through(
            out / name / "verdicts",
            len(folder.lines),
            lambda i: judge.verdicts(folder, i),
            description=f"geneval {name}",
        )

    columns: dict[str, list[dict[str, Any]]] = {}
    first = {name: judged(name) for name in folders}
    for name, done in first.items():
        done = done or judged(name)  # other ranks may have done their part of it meanwhile
        if done is None:
            return False  # another rank completes it
        columns[name] = [row for rows in done for row in rows]
    for name, rows in columns.items():
        found = numbers(rows, protocol_of(folders[name], networks))
        scores = Scores(kind="geneval", name=out.name, numbers=found, items=tuple(rows))
        write_scores(out / name, scores)
    images, prompts = sum(map(len, columns.values())), sum(len(folder.lines) for folder in folders.values())
    stage.finish({"images": images, "prompts": prompts}, facts={"metric": METRIC})
    return True


def numbers(rows: Sequence[Mapping[str, Any]], protocol: Protocol) -> tuple[Number, ...]:
    """Accuracy of each task and of all, with 95% intervals over prompts; without those of which there is no image.

    Overall is the mean of the six tasks' accuracies over images, and left out unless all six are there.
    """
    out = []
    for name in ("overall", *geneval_prompts.TASKS):
        chosen = [row for row in rows if name in ("overall", row["tag"])]
        tags = [row["tag"] for row in chosen]
        if not chosen or (name == "overall" and len(set(tags)) < len(geneval_prompts.TASKS)):
            continue
        prompts = [row["prompt"] for row in chosen]
        values = [float(row["correct"]) for row in chosen]
        out.append(share_number(f"geneval/{name}", values, prompts, protocol, tags=tags if name == "overall" else None))
    return tuple(out)


def protocol_of(samples: Samples, networks: Mapping[str, str]) -> Protocol:
    """Return all that the numbers of one column depend on."""
    own = [{key: value for key, value in line.items() if key not in ("text", "extended")} for line in samples.lines]
    return Protocol(
        metric="geneval",
        name=METRIC,
        encoder="mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco",
        encoder_sha256=networks["detector"],
        resize="bilinear to 800 (long side at most 1333)",
        images=len(samples.lines) * samples.per_prompt,
        prompts_sha256=geneval_prompts.prompts_sha256(own),
        extender=extender(samples),
        settings={
            "clip_sha256": networks["clip"],
            "extended": samples.extended,
            "min_score": geneval.MIN_SCORE,
            "min_score_counting": geneval.MIN_SCORE_COUNTING,
            "per_prompt": samples.per_prompt,
        },
        versions=library_versions(),
    )


def side_by_side(out: Path) -> str:
    """Return the table of a finished directory as text: a row for each task, a column for each kind of prompts, in
    percent."""
    there = [name for name in COLUMNS if (out / name).is_dir()]
    scores = [read_scores(out / name) for name in there]
    lines = [f"{'':<14}" + "".join(f"{name:>24}" for name in there)]
    for task in ("overall", *geneval_prompts.TASKS):
        cells = [found.number(f"geneval/{task}") for found in scores]
        shown = [
            f"{100 * cell.value:.1f} [{100 * (cell.low or 0):.1f}, {100 * (cell.high or 0):.1f}]" if cell else "-"
            for cell in cells
        ]
        lines.append(f"{task:<14}" + "".join(f"{cell:>24}" for cell in shown))
    return "\n".join([*lines, "In percent, with 95% intervals over prompts."])


def _folders(samples: Path | None, extended: Path | None) -> dict[str, Samples]:
    folders = {}
    for name, path in zip(COLUMNS, (samples, extended)):
        if path is not None:
            folders[name] = read_samples(path)
            if folders[name].extended != (name == "extended"):
                drawn = "extended" if folders[name].extended else "original"
                raise UserError(f"{path}: was drawn from the {drawn} prompts; give it as --{_OPTIONS[drawn]}")
    if not folders:
        raise UserError("give --samples, --extended-samples or both: directories made by `tessera generate`")
    if len(folders) == 2:
        prompts = [[line["prompt"] for line in folder.lines] for folder in folders.values()]
        if prompts[0] != prompts[1]:
            raise UserError(f"{samples} and {extended}: are not of the same prompts; draw both from one file")
    return folders


_OPTIONS = {"original": "samples", "extended": "extended-samples"}


def _check(samples: Samples) -> None:
    """Raise UserError unless every line can be judged."""
    for i, line in enumerate(samples.lines):
        where = samples.directory / f"{i:05d}" / "metadata.jsonl"
        if line.get("tag") not in geneval_prompts.TASKS:
            known = ", ".join(geneval_prompts.TASKS)
            raise UserError(f"{where}: tag is {line.get('tag')!r}, not one of {known}; draw --prompts geneval")
        for field in ("include", "exclude"):
            clauses = line.get(field, [])
            if not isinstance(clauses, list) or (field == "include" and not clauses):
                raise UserError(f"{where}: {field} must be a list of clauses; draw --prompts geneval")
            for number, clause in enumerate(clauses):
                if not _is_clause(clause, number):
                    raise UserError(f"{where}: {field}[{number}] is not a clause of GenEval: {clause!r}")


def _is_clause(clause: Any, number: int) -> bool:
    if not isinstance(clause, dict) or clause.get("class") not in geneval_prompts.CLASSES:
        return False
    position = clause.get("position", [geneval_prompts.RELATIONS[0], 0])
    return (
        type(clause.get("count")) is int
        and clause["count"] >= 1
        and clause.get("color", geneval_prompts.COLORS[0]) in geneval_prompts.COLORS
        and isinstance(position, list)
        and len(position) == 2
        and position[0] in geneval_prompts.RELATIONS
        and ("position" not in clause or position[1] in range(number))
    )


def _detections(
    line: Mapping[str, Any], image: NDArray[np.uint8], found: Sequence[Any], colors: Any
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
        parts = [(found[i].box, found[i].mask) for i in members]
        color_of |= dict(zip(members, colors.name(image, parts, name)))
    return [
        geneval.Detection(name, item.score, item.box, color_of.get(i))
        for i, (name, item) in enumerate(zip(named, found))
    ]


def _row(
    line: Mapping[str, Any],
    prompt: int,
    k: int,
    file: str,
    verdict: geneval.Verdict,
    detections: Sequence[geneval.Detection],
) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "sample": k,
        "file": file,
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
