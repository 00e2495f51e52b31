"""Tables of scores as data: models in rows, metrics in columns, each number with its interval.

`tessera.report.measured` makes them of scores, `tessera.report.grid` shows them on pages, `tessera.report.text_tables`
as markdown and CSV.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tessera.evaluate.quality.metrics import METRICS
from tessera.evaluate.scores import Direction, Scores

_QUALITY = {name: shown for metric in METRICS.values() for name, shown in metric.shows.items()}
LABELS = {  # of metrics that are not called by their name
    **{name: label for name, (label, _) in _QUALITY.items()},
    "two_object": "Two objects",
    "color_attr": "Color attribution",
    "color_score": "Colored objects found",
    "both_colors": "Both colors present",
    "colors_in_relation": "Colors in the right relation",
    "seam": "Seam score",
    "copies": "Copies",
    "copies_ratio": "Distance to training images",
    "authenticity": "Authentic",
    "sscd_copies": "Copies by SSCD",
    "sscd_copies_ratio": "Distance to training images by SSCD",
    "pixel_copies": "Copies, in pixels",
    "pixel_copies_ratio": "Distance to training images, in pixels",
    "likeness": "Distance to held-out images",
}
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's tasks by their tag."""
MEANINGS = {
    "overall": "Mean of the six tasks below",
    **{tag: f"GenEval's {tag}" for tag in TASKS},
    "color_score": "Share of the two colors asked for that the two largest objects have",
    "both_colors": "Two-object prompts, whatever the shapes",
    "colors_in_relation": "Two-object prompts, whatever the shapes",
    "seam": "How visible a CutMix boundary is in the images, 0 = not at all",
    "seam_visible": "Share of images with a visible CutMix boundary",
    "copies": "Share of images nearer to a training image, also mirrored, than 99 of 100 held-out images are; the"
    " judge's features",
    "copies_ratio": "Median distance to the nearest training image over that of held-out images: 0 for copies, 1 for"
    " images like unseen ones",
    "pixel_copies": "The same in pixels",
    "pixel_copies_ratio": "The same in pixels",
}
"""The miniature's measures in the order of tables -> what each says."""
LOWER_IS_BETTER = {name for name, (_, direction) in _QUALITY.items() if direction == "lower"}
LOWER_IS_BETTER |= {"seam", "seam_visible", "copies", "pixel_copies", "sscd_copies", "likeness"}
RATIOS = {"copies_ratio", "pixel_copies_ratio", "sscd_copies_ratio"}
"""Measures that are no share of images, though they may lie within 0..1."""


@dataclass(frozen=True)
class Cell:
    """A number as shown."""

    value: float
    low: float | None = None
    high: float | None = None
    how: str = ""
    """The interval's method, or "none: " and the reason."""

    @property
    def size(self) -> float:
        """The largest of its numbers, without sign."""
        return max(abs(x) for x in (self.low, self.value, self.high) if x is not None)

    def text(self, size: float | None = None) -> str:
        """Return its value, with as many digits as a reader needs; `size`: as in `shown`."""
        return shown(self.value, self.size if size is None else size)

    def interval(self, size: float | None = None) -> str:
        """Return "low to high", or "" for none."""
        if self.low is None or self.high is None:
            return ""
        size = self.size if size is None else size
        return f"{shown(self.low, size)} to {shown(self.high, size)}"

    def bounds(self) -> tuple[float, float, float] | None:
        """Return (low, value, high); None without an interval."""
        return None if self.low is None or self.high is None else (self.low, self.value, self.high)


@dataclass(frozen=True)
class Row:
    """A model's numbers."""

    model: str
    cells: tuple[Cell | None, ...]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Numbers that may share columns."""

    title: str
    columns: tuple[str, ...]
    """Metrics; `label` names them."""
    rows: tuple[Row, ...]
    printed: bool = False
    """The paper's own numbers, not measured here."""
    note: str = ""
    missing: tuple[str, ...] = ()
    """A line for each model and reason without an interval."""
    members: tuple[Scores, ...] = ()

    def sizes(self) -> list[float]:
        """Return each column's largest number, which decides its digits; the paper's have two after every point."""
        nothing = (None,) * len(self.columns)
        return [1.0] * len(nothing) if self.printed else sizes_of([nothing, *(row.cells for row in self.rows)])


def sizes_of(rows: Iterable[Sequence[Cell | None]]) -> list[float]:
    """Return the largest number of each column, without sign."""
    return [max((cell.size for cell in column if cell), default=0.0) for column in zip(*rows)]


def by_reason(reasons: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return (reason, the names of all metrics that it holds for) of (metric, reason)."""
    found: dict[str, list[str]] = {}
    for metric, reason in reasons:
        found.setdefault(reason, []).append(name_of(metric))
    return [(reason, ", ".join(names)) for reason, names in found.items()]


def shown(value: float, size: float | None = None) -> str:
    """Return two digits after the point, four for numbers below 0.1; `size`: the largest number of the column."""
    size = size or abs(value)
    return f"{value:.2f}" if size >= 0.1 or size == 0 else f"{value:.4f}"


def add_labels(scores: Scores) -> None:
    """Take the labels and directions of users' own metrics, which their numbers bring along, into the tables above."""
    for number in scores.numbers:
        if number.label is not None:
            add_label(number.metric, number.label, number.direction)


def add_label(metric: str, label: str, direction: Direction | None) -> None:
    """Take a metric's label and better direction into the tables above, unless they have it."""
    if metric not in LABELS:
        LABELS[metric] = label
        if direction == "lower":
            LOWER_IS_BETTER.add(metric)


def name_of(metric: str) -> str:
    """Return a metric's name in words, with its protocol in brackets."""
    if metric in LABELS:
        return LABELS[metric]
    parts = _parts(metric)
    name = next((LABELS[part] for part in parts if part in LABELS), parts[-1].replace("_", " ").capitalize())
    rest = [part for part in parts if part not in LABELS and len(parts) > 1 and part != parts[-1]]
    if parts[0] in LABELS:
        rest = parts[1:]
    return f"{name}{f' ({rest[0]})' if rest else ''}"


def label(metric: str) -> str:
    """Return a column's heading: the metric's name with an arrow towards the better."""
    arrow = "\u2193" if is_lower_better(metric) else "\u2191"
    return f"{name_of(metric)} {arrow}"


def is_lower_better(metric: str) -> bool:
    """Return whether smaller numbers of the metric are better."""
    return _parts(metric)[0] in LOWER_IS_BETTER


def _parts(metric: str) -> list[str]:
    return metric.removeprefix("geneval/").removeprefix("dpg/").split("/")


def printed_tables() -> list[Table]:
    """Return the paper's Tables 1 to 5 as they are printed."""
    source = resources.files("tessera").joinpath("assets", "paper", "tables.json").read_text(encoding="utf-8")
    tables = []
    for data in json.loads(source).values():
        rows = []
        for row in data["rows"]:
            values = [row["values"][name] for name in data["columns"]]
            cells = tuple(None if value is None else Cell(value) for value in values)
            rows.append(Row(row["model"], cells, f"Misprint: {row['misprint']}." if "misprint" in row else ""))
        title = f"Table {data['table']}: {data['title']}, as printed"
        tables.append(Table(title, tuple(data["columns"]), tuple(rows), printed=True, note=data.get("note", "")))
    return tables


def cell_of(interval: Mapping[str, Any] | None) -> Cell | None:
    """Return {low, value, high} of a file as a cell; None for None."""
    return None if interval is None else Cell(interval["value"], interval["low"], interval["high"])
