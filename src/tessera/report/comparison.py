"""Scores of several arms side by side: the report's tiles, plot and tables, with paired differences between arms."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.evaluate.intervals import paired_difference
from tessera.evaluate.scores import Scores, read_scores
from tessera.report.plots import Dots, score_plot

TASKS = {
    "single_object": "Single object",
    "two_object": "Two objects",
    "counting": "Counting",
    "colors": "Colors",
    "position": "Position",
    "color_attr": "Color attribution",
}
"""GenEval's tasks by their tag."""

ROWS = {
    "overall": ("Overall", "Mean of the six tasks below"),
    **{tag: (name, f"GenEval's {tag}") for tag, name in TASKS.items()},
    "color_score": (
        "Colored objects found",
        "Share of the two colors asked for that the two largest objects have",
    ),
    "both_colors": ("Both colors present", "Two-object prompts, whatever the shapes"),
    "colors_in_relation": ("Colors in the right relation", "Two-object prompts, whatever the shapes"),
    "seam": ("Seam score", "How visible a CutMix boundary is in the pictures, 0 = not at all"),
    "seam_visible": ("Seam visible", "Share of pictures with a visible CutMix boundary"),
}
"""Measure -> (name, explanation), in the order of the tables."""

LOWER_IS_BETTER = ("seam", "seam_visible")
_PLOTTED = [name for name in ROWS if name not in LOWER_IS_BETTER]
_TILES = ("both_colors", "colors_in_relation", "single_object")
JUDGE = {  # measure -> what of the judge's own accuracy stands beside it
    "single_object": "one_object",
    "colors": "one_object",
    "two_object": "two_objects",
    "position": "two_objects",
    "color_attr": "two_objects",
    "counting": "counting",
    "color_score": "color_objects",
    "both_colors": "color_objects",
    "colors_in_relation": "color_objects",
    "seam": "seam_renders",
}


@dataclass(frozen=True, kw_only=True)
class ArmScores:
    """What one arm scored on one kind of prompts."""

    label: str
    color: int
    """The arm's number on the page."""
    scores: Scores

    def interval(self, measure: str) -> tuple[float, float, float] | None:
        """(low, value, high), or None where it was not measured."""
        number = self.scores.number(measure)
        return (
            None
            if number is None or number.low is None or number.high is None
            else (number.low, number.value, number.high)
        )

    def verdicts(self) -> dict[tuple[int, int], Mapping[str, Any]]:
        """(prompt, sample) -> the image's item."""
        return {(item["prompt"], item["sample"]): item for item in self.scores.items}


def load_arm(path: Path, label: str, color: int) -> ArmScores | None:
    """The scores.json in the directory `path`; None if there is none."""
    if not (path / "scores.json").is_file():
        return None
    return ArmScores(label=label, color=color, scores=read_scores(path))


def compare_arms(kinds: Mapping[str, Sequence[ArmScores]]) -> dict[str, Any] | None:
    """The page's part on scores: {about, tiles, plot, tables, note, protocol}; None without any scores.

    kinds: title of a kind of prompts -> its arms. The first kind gives the tiles.
    """
    kinds = {title: arms for title, arms in kinds.items() if arms}
    if not kinds:
        return None
    first = next(iter(kinds.values()))
    panels = [
        (title, [_dots(arm) for arm in arms])
        for title, arms in kinds.items()
        if any(any(_dots(a).values) for a in arms)
    ]
    names = ", ".join(arm.label for arm in first)
    return {
        "about": "Share of pictures that show what their prompt asks, as an automatic judge sees it. The ranges are 95%"
        " intervals over prompts.",
        "tiles": _tiles(next(iter(kinds)), first),
        "plot": score_plot([ROWS[name][0] for name in _PLOTTED], panels, f"Scores of {names} with 95% intervals")
        if panels
        else "",
        "tables": [_table(title, arms) for title, arms in kinds.items()],
        "note": judge_note(first[0].scores.facts["judge"]),
        "protocol": "\n\n".join(
            f"{title}, {arm.label}\n{protocol_text(arm.scores)}" for title, arms in kinds.items() for arm in arms
        ),
    }


def protocol_text(scores: Scores) -> str:
    """Return the protocol that all numbers of the miniature's judge share, and its world, as JSON."""
    about = dataclasses.asdict(scores.numbers[0].protocol) | dict(scores.facts)
    left = {name: value for name, value in about.items() if name not in ("metric", "judge")}
    return json.dumps(left, indent=2, sort_keys=True, ensure_ascii=False)


def _dots(arm: ArmScores) -> Dots:
    return Dots(arm=arm.label, color=arm.color, values=tuple(arm.interval(name) for name in _PLOTTED))


def _tiles(kind: str, arms: Sequence[ArmScores]) -> list[dict[str, Any]]:
    tiles = []
    for measure in _TILES:
        cells = []
        for arm in arms:
            bounds = arm.interval(measure)
            if bounds is not None:
                cells.append(
                    {
                        "label": arm.label,
                        "color": arm.color,
                        "value": f"{bounds[1]:.2f}",
                        "interval": range_text(bounds),
                    }
                )
        if cells:
            tiles.append({"label": ROWS[measure][0], "about": f"{ROWS[measure][1]}, {kind.lower()}", "cells": cells})
    return tiles


def _table(title: str, arms: Sequence[ArmScores]) -> dict[str, Any]:
    """Rows: measures. Columns: arms, then each arm minus the one before it, then the judge on pictures it knows."""
    pairs = list(itertools.pairwise(arms))
    differences, unpaired = [], ""
    try:
        differences = [(f"{b.label} \u2212 {a.label}", _paired(a.scores, b.scores)) for a, b in pairs]
    except (
        UserError
    ) as error:  # arms that drew other prompts, or were judged otherwise, stand side by side all the same
        unpaired = str(error)
    rows = []
    for measure, (label, explanation) in ROWS.items():
        bounds = [arm.interval(measure) for arm in arms]
        if not any(bounds):
            continue
        cells = [value_cell(b) for b in bounds]
        cells += [difference_cell(found.get(measure), measure) for _, found in differences]
        own = judge_text(arms[0].scores.facts["judge"], measure)
        rows.append(
            {"label": label, "title": explanation, "strong": measure == "overall", "cells": cells, "judge": own}
        )
    images, prompts = (arms[0].scores.facts[name] for name in ("images", "prompts"))
    return {
        "title": title,
        "note": f"{images:,} pictures of {prompts:,} prompts for each arm",
        "arms": [{"label": arm.label, "color": arm.color} for arm in arms],
        "differences": [name for name, _ in differences],
        "unpaired": unpaired,
        "rows": rows,
    }


def _paired(a: Scores, b: Scores) -> dict[str, tuple[float, float, float]]:
    """Return the interval of b's value minus a's of each measure that both have."""
    names = [name for name in ROWS if a.number(name) is not None and b.number(name) is not None]
    found = {name: paired_difference(a, b, name) for name in names}
    return {name: (x.low, x.value, x.high) for name, x in found.items() if x is not None}


def judge_text(judge: Mapping[str, float], measure: str) -> str:
    """The judge's own number beside a measure; empty where there is none."""
    own = judge.get(JUDGE.get(measure, ""))
    return "" if own is None else f"{own:.3f}" if measure != "seam" else f"{own:.2f}"


def value_cell(bounds: tuple[float, float, float] | None) -> dict[str, str]:
    """A cell of a table: a value with its interval (low, value, high); a dash for None."""
    return {"value": f"{bounds[1]:.2f}", "interval": range_text(bounds), "kind": ""} if bounds else empty_cell()


def difference_cell(bounds: tuple[float, float, float] | None, measure: str) -> dict[str, str]:
    """The same for a difference, starred and coloured where its interval leaves 0 out."""
    if bounds is None:
        return empty_cell()
    low, value, high = bounds
    better = (value > 0) != (measure in LOWER_IS_BETTER)
    clear = low > 0 or high < 0
    kind = "" if not clear else "clear" if better else "clear worse"
    # An interval is read with its signs; bold colour alone would not reach everybody.
    return {
        "value": f"{_signed(value)}{'*' if clear else ''}",
        "interval": f"{_signed(low)} to {_signed(high)}",
        "kind": kind,
    }


def judge_note(judge: Mapping[str, float]) -> str:
    """What the judge's own numbers and the stars mean."""
    text = "* The interval of the difference, over the same prompts and noise, leaves 0 out. "
    text += "The judge itself: its accuracy on rendered pictures of known content, for the seam score the score of "
    text += "pictures without any seam"
    if "seam_cutmix" in judge:
        text += f" (CutMix pictures score {judge['seam_cutmix']:.2f})"
    text += "."
    if "wrong_refused" in judge:
        text += f" It refuses {judge['wrong_refused']:.1%} of captions with one wrong fact."
    return text


def bounds_of(interval: Mapping[str, Any] | None) -> tuple[float, float, float] | None:
    """(low, value, high) of an interval in a scores.json."""
    return None if interval is None else (interval["low"], interval["value"], interval["high"])


def range_text(bounds: tuple[float, float, float]) -> str:
    """ "low-high" of (low, value, high)."""
    return f"{bounds[0]:.2f}\u2013{bounds[2]:.2f}"


def _signed(value: float) -> str:
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "\u2212")


def empty_cell() -> dict[str, str]:
    """A cell of what was not measured."""
    return {"value": "\u2013", "interval": "", "kind": ""}
