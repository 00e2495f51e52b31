"""The opening of a run's page: images, one sentence about what is drawn rightly, and a budget that was too small."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tessera.evaluate.scores import Scores, judge_text
from tessera.report.arms import Arm
from tessera.report.gallery import CAPTIONS
from tessera.report.tables import TASKS

DRAWN, PARTLY = 0.8, 0.2
"""A task is drawn rightly from the first share of its images on, in part from the second one on."""
_WORDS = {
    "single_object": "single objects",
    "colors": "single objects in their color",
    "two_object": "two objects",
    "position": "two objects in their places",
    "color_attr": "two objects in their colors",
    "counting": "counted objects",
}
_STRIP = 6  # prompts without tasks
_SAID = ("rightly", "in part", "not")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A training that is known to draw."""

    preset: str
    num_images: int


def strips(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the first prompt of each task for each kind of prompts in `samples`, or the first prompts where there are
    no tasks: [{title, prompts}]."""
    found = []
    for kind in samples:
        firsts = [group["prompts"][0] for group in kind["groups"]]
        if all(group.get("title") in ("", *CAPTIONS.values()) for group in kind["groups"]):
            firsts = [prompt for group in kind["groups"] for prompt in group["prompts"]][:_STRIP]
        found.append({"title": kind["title"], "prompts": firsts})
    return [strip for strip in found if len(strip["prompts"]) > 1]


def what_is_drawn(arms: Sequence[Arm], scores: Mapping[str, Scores], kind: str) -> str:
    """Return a sentence about each task's share of right images by the judge, and the judge itself, or "".

    kind: the kind of prompts that `scores` (arm -> its scores) is about.
    """
    told = []
    for arm in arms:
        found = {tag: number for tag in _WORDS if arm.name in scores and (number := scores[arm.name].number(tag))}
        parts = []
        if found and all(number.value < PARTLY for number in found.values()):
            most = max(number.value for number in found.values())
            told.append(f"{arm.label} draws nothing rightly (at most {most:.2f} of a task)")
            continue
        for said, low, high in zip(_SAID, (DRAWN, PARTLY, -1.0), (2.0, DRAWN, PARTLY)):
            names = [f"{_WORDS[tag]} ({n.value:.2f})" for tag, n in found.items() if low <= n.value < high]
            if names:
                parts.append(f"{_listed(names)} {said}")
        if parts:
            told.append(f"{arm.label} draws {', '.join(parts)}")
    if not told:
        return ""
    judge = next((scores[arm.name].facts.get("judge") or {} for arm in arms if arm.name in scores), {})
    about = judge_text(judge) or (f"the judge is right about {judge['one_object']:.2f} of renders" if judge else "")
    return f"Of the {kind}, {'; '.join(told)}.{f' {about[0].upper()}{about[1:]}.' if about else ''}"


def too_small(
    arms: Sequence[Arm],
    scores: Mapping[str, Scores],
    points: Mapping[str, Sequence[tuple[float, float]]],
    budget: Budget | None,
) -> str:
    """Return that a training ended before anything was drawn rightly, and a budget that was enough, or "".

    points: arm -> (images seen, loss) of its log.
    """
    told, seen = [], 0
    for arm in arms:
        found = scores.get(arm.name)
        values = [number.value for tag in TASKS if found and (number := found.number(tag))]
        if not values or max(values) >= PARTLY or not points.get(arm.name):
            continue
        (first, *_), (images, last) = points[arm.name], points[arm.name][-1]
        overall = found.number("overall") if found else None
        score = overall.value if overall else max(values)
        fell = f"loss {last:.3f}" if first[1] == last else f"loss {first[1]:.3f} at first, {last:.3f} at last"
        told.append(f"{arm.label} after {images:,.0f} images ({fell}; strict score {score:.2f})")
        seen = max(seen, images)
    if not told:
        return ""
    text = f"Nothing is drawn rightly yet: {_listed(told)}."
    if budget is not None and seen < budget.num_images:
        text += f" The budget is too small: the preset {budget.preset} draws after {budget.num_images:,} images."
    return text


def _listed(parts: Sequence[str]) -> str:
    return ", ".join([*parts[:-2], " and ".join(parts[-2:])])
