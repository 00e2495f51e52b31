"""GenEval's verdict on one image from its detections (Ghosh et al. 2023, "GenEval", MIT; the paper's Table 2).

Pure functions: whatever detector found the objects, the rules here decide.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MIN_SCORE = 0.3
"""A detection counts when its score is above this."""
MIN_SCORE_COUNTING = 0.9
"""The same for prompts of the task "counting", where a doubtful object would spoil the count."""
MAX_DETECTIONS = 16
"""At most this many of the best detections of a class are looked at."""
POSITION_SHRINK = 0.1
"""An offset is shrunk by this times the sum of the two boxes' widths (heights) before its direction is judged."""


@dataclass(frozen=True)
class Detection:
    """An object found in an image."""

    class_name: str
    score: float
    """Sureness of class and object, 0..1."""
    box: tuple[float, float, float, float]
    """left, top, right, bottom in pixels."""
    color: str | None = None
    """Its color's name; None where nobody looked."""


@dataclass(frozen=True)
class Verdict:
    """The judgment of one image."""

    correct: bool
    reason: str
    """The objects found, or every rule that failed, separated by "; "."""


def judge(metadata: Mapping[str, Any], detections: Sequence[Detection]) -> Verdict:
    """Return GenEval's verdict: `metadata` is a prompt's line with "tag", "include" and, where asked, "exclude".

    Each clause of "include" takes the best `count` detections of its class above the threshold; fewer are a failure, as
    are a wrong color among them or a wrong position of any of them to any object of the clause that "position" names.
    A clause of "exclude" fails when there are `count` of its class, or more.
    """
    found = _by_class(detections, MIN_SCORE_COUNTING if metadata.get("tag") == "counting" else MIN_SCORE)
    groups: list[list[Detection] | None] = []  # of each include clause: its objects, or None when it failed
    failures: list[str] = []
    for clause in metadata.get("include", ()):
        objects = found.get(clause["class"], [])[: clause["count"]]
        failure = _check(clause, objects, groups)
        failures += [failure] if failure else []
        groups.append(None if failure else objects)
    for clause in metadata.get("exclude", ()):
        number = len(found.get(clause["class"], ()))
        if number >= clause["count"]:
            failures.append(f"expected fewer than {clause['count']} {clause['class']}, found {number}")
    if failures:
        return Verdict(False, "; ".join(failures))
    named = [(item.color, item.class_name, f"{item.score:.2f}") for group in groups if group for item in group]
    shown = [" ".join(filter(None, words)) for words in named]
    return Verdict(True, f"found {', '.join(shown)}" if shown else "nothing was asked that is not there")


def relative_position(a: Detection, b: Detection) -> set[str]:
    """Return how `a` lies to `b`: of "left of", "right of", "above", "below" none, one or two.

    The offset of the box centers is shrunk towards 0 by 0.1 (w_a + w_b, h_a + h_b) and divided by the raw offset's
    norm: a part beyond 0.5 counts. y grows downwards.
    """
    boxes = np.array([a.box, b.box], dtype=np.float64).reshape(2, 2, 2)  # (object, corner, xy)
    centers, sizes = boxes.mean(1), boxes[:, 1] - boxes[:, 0]
    offset = centers[0] - centers[1]
    shrunk = np.maximum(np.abs(offset) - POSITION_SHRINK * np.abs(sizes).sum(0), 0) * np.sign(offset)
    if np.all(np.abs(shrunk) < 1e-3):  # GenEval's own guard, in pixels: on top of each other
        return set()
    dx, dy = shrunk / np.linalg.norm(offset)
    names = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, holds in names.items() if holds}


def _by_class(detections: Sequence[Detection], threshold: float) -> dict[str, list[Detection]]:
    """Return detections above the threshold by class, best first, at most 16 of each; ties keep their order."""
    found: dict[str, list[Detection]] = {}
    for item in sorted(detections, key=lambda item: -item.score):
        if item.score > threshold and len(found.setdefault(item.class_name, [])) < MAX_DETECTIONS:
            found[item.class_name].append(item)
    return found


def _check(clause: Mapping[str, Any], objects: list[Detection], groups: list[list[Detection] | None]) -> str:
    """Return why the clause fails, or ""; `groups` holds the objects of the clauses before it."""
    name, count = clause["class"], clause["count"]
    if len(objects) < count:
        return f"expected {count} {name}, found {len(objects)}"
    if "color" in clause:
        colors = [item.color or "no color" for item in objects]
        right = colors.count(clause["color"])
        if right < count:
            return f"expected {count} {clause['color']} {name}, found {right} ({', '.join(colors)})"
    if "position" in clause:
        expected, target = clause["position"]
        others = groups[target]
        if others is None:
            return f"no target for {name} to be {expected}"
        for item, other in itertools.product(objects, others):
            relations = relative_position(item, other)
            if expected not in relations:
                actual = " and ".join(sorted(relations)) or "neither left nor right, above or below"
                return f"expected {name} {expected} {other.class_name}, found it {actual}"
    return ""
