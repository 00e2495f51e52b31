"""The report's pictures: the same prompts drawn by every arm, side by side, with the judge's verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.files import read_json
from tessera.images import read_rgb
from tessera.report.comparison import TASKS, ArmScores
from tessera.report.examples import embed


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One model of the report."""

    name: str
    """Of its folders."""
    label: str
    meaning: str
    color: int
    """Number of its colour on the page."""


def prompt_groups(
    folders: Mapping[str, Path], arms: Sequence[Arm], scores: Mapping[str, ArmScores], at_once: int, more: int
) -> list[dict[str, Any]]:
    """The prompts of the sample `folders` (arm -> folder in GenEval's layout) by task: [{title, note, prompts, more}].

    Of each task `at_once` prompts are in "prompts", up to `more` further ones in "more". scores: arm -> its scores.
    """
    drawn_by = [arm for arm in arms if arm.name in folders]
    verdicts = {name: found.verdicts() for name, found in scores.items()}
    paths = [path for folder in folders.values() for path in folder.iterdir() if path.name.isdecimal()]
    groups: dict[str, dict[str, Any]] = {}
    for number in sorted({int(path.name) for path in paths}):
        metadata = _metadata([folder / f"{number:05d}" for folder in folders.values()])
        if metadata is None:
            continue
        tag = metadata.get("tag", "")
        group = groups.setdefault(tag, {"title": TASKS.get(tag, ""), "prompts": [], "more": []})
        for place, room in ((group["prompts"], at_once), (group["more"], more)):
            if len(place) < room:
                place.append(_prompt(number, metadata, drawn_by, folders, verdicts))
                break
    order = list(TASKS)
    tags = sorted(groups, key=lambda tag: order.index(tag) if tag in order else len(order))
    return [{**groups[tag], "note": _task_note(tag, scores)} for tag in tags]


def _metadata(folders: Sequence[Path]) -> dict[str, Any] | None:
    for folder in folders:
        if (folder / "metadata.jsonl").is_file():
            return read_json(folder / "metadata.jsonl")
    return None


def _prompt(
    number: int,
    metadata: dict[str, Any],
    arms: Sequence[Arm],
    folders: Mapping[str, Path],
    verdicts: Mapping[str, Mapping[tuple[int, int], Any]],
) -> dict[str, Any]:
    """One prompt with each arm's pictures and their verdicts."""
    text = metadata.get("text", metadata["prompt"])
    drawn = []
    for arm in arms:
        judged = verdicts.get(arm.name, {})
        shots = []
        for path in sorted((folders[arm.name] / f"{number:05d}" / "samples").glob("*.png")):
            verdict = judged.get((number, int(path.stem)), {})
            correct, reason = verdict.get("correct"), verdict.get("reason", "")
            said = "" if correct is None else f", judged {'right' if correct else 'wrong'}: {reason}"
            picture = embed(read_rgb(path), f"{arm.label} draws: {text}{said}")
            shots.append({"picture": picture, "correct": correct, "reason": reason})
        drawn.append({"label": arm.label, "color": arm.color, "shots": shots})
    any_verdict = any(shot["correct"] is not None for arm in drawn for shot in arm["shots"])
    # A long text is judged by its short prompt: both are shown.
    asked = metadata["prompt"] if text != metadata["prompt"] else ""
    return {"text": text, "asked": asked, "arms": drawn, "judged": any_verdict}


def _task_note(tag: str, scores: Mapping[str, ArmScores]) -> str:
    """The task's accuracy of each arm."""
    found = [(arm.label, arm.interval(tag)) for arm in scores.values()]
    return ", ".join(f"{label} {bounds[1]:.2f}" for label, bounds in found if bounds is not None)
