"""Scores of several models as tables: measured beside the paper's printed numbers, unlike protocols apart.

Pure data: `tessera.report.scores_page` writes it as HTML, `tessera.report.text_tables` as markdown and CSV.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tessera.evaluate.scores import Number, Scores, comparable

LABELS = {
    "fid": "FID",
    "kid": "KID",
    "fd_dinov2": "FD DINOv2",
    "cmmd": "CMMD",
    "clip_score": "CLIPScore",
    "jina_clip_score": "jina-CLIPScore",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "overall": "Overall",
    "single_object": "Single object",
    "two_object": "Two objects",
    "counting": "Counting",
    "colors": "Colors",
    "position": "Position",
    "color_attr": "Color attribution",
}
DISTANCES = ("fid", "kid", "fd_dinov2", "cmmd")
LOWER_IS_BETTER = (*DISTANCES, "seam", "seam_visible")
TITLES = {
    "quality": "Picture quality (Table 1)",
    "geneval": "GenEval (Table 2)",
    "dpg": "DPG-Bench (Table 3)",
    "miniature": "The miniature's judge",
}


@dataclass(frozen=True)
class Cell:
    """One number as shown."""

    value: float
    low: float | None = None
    high: float | None = None
    how: str = ""
    """How the interval came about, or "none: " and the reason."""

    @property
    def size(self) -> float:
        """The largest of its numbers, without sign."""
        return max(abs(x) for x in (self.low, self.value, self.high) if x is not None)

    def text(self, size: float | None = None) -> str:
        """Its value, with as many digits as a reader needs; `size`: as in `shown`."""
        return shown(self.value, self.size if size is None else size)

    def interval(self, size: float | None = None) -> str:
        """ "low to high", or "" for none."""
        if self.low is None or self.high is None:
            return ""
        size = self.size if size is None else size
        return f"{shown(self.low, size)} to {shown(self.high, size)}"


@dataclass(frozen=True)
class Row:
    """One model."""

    model: str
    cells: tuple[Cell | None, ...]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Numbers that may stand in one column."""

    title: str
    columns: tuple[str, ...]
    """Metrics; `label` names them."""
    rows: tuple[Row, ...]
    printed: bool = False
    """The paper's own numbers, not measured here."""
    note: str = ""
    missing: tuple[str, ...] = ()
    """Whose numbers have no interval, and why."""
    members: tuple[Scores, ...] = ()

    def sizes(self) -> list[float]:
        """Of each column the largest number, which decides the digits of all; the paper has two after every point."""
        if self.printed:
            return [1.0] * len(self.columns)
        cells = [[row.cells[i] for row in self.rows] for i in range(len(self.columns))]
        return [max((cell.size for cell in column if cell), default=0.0) for column in cells]


def shown(value: float, size: float | None = None) -> str:
    """Two digits after the point, four for numbers below 0.1; `size`: of the largest one that it stands beside."""
    size = size or abs(value)
    return f"{value:.2f}" if size >= 0.1 or size == 0 else f"{value:.4f}"


def label(metric: str) -> str:
    """A column's heading: the metric, its protocol in brackets, an arrow towards the better."""
    parts = metric.removeprefix("geneval/").removeprefix("dpg/").split("/")
    name = next((LABELS[part] for part in parts if part in LABELS), parts[-1].replace("_", " ").capitalize())
    rest = [part for part in parts if part not in LABELS and len(parts) > 1 and part != parts[-1]]
    if parts[0] in LABELS:
        rest = parts[1:]
    arrow = "\u2193" if parts[0] in LOWER_IS_BETTER else "\u2191"
    return f"{name}{f' ({rest[0]})' if rest else ''} {arrow}"


def measured_tables(scores: Sequence[Scores], force: bool = False) -> list[Table]:
    """The tables of what was measured, one for each judge and protocol; with `force`, one for each judge.

    A model stands in the first table all of whose numbers have the protocols of its own.
    """
    tables = []
    for kind, title in TITLES.items():
        groups: list[list[Scores]] = []
        for item in (item for item in scores if item.kind == kind and item.numbers):
            fitting = next((group for group in groups if force or _fits(group, item)), None)
            if fitting is None:
                groups.append([item])
            else:
                fitting.append(item)
        for group in groups:
            lines = _apart(groups[0], group[0]) if group is not groups[0] else []
            note = _note([line for line in lines if not line.startswith(_IN_TITLE)])
            if force and not all(_fits(group[:i], item) for i, item in enumerate(group) if i):
                note = FORCED
            of = _of_pictures if kind == "quality" else _of_prompts
            tables.append(_measured(title + of(group[0]), group, note))
    return tables


_IN_TITLE = ("extender: ", "settings.extended: ")  # how protocols differ that the titles tell apart
_NOTHING_SHARED = "they have no metric in common"
FORCED = "Unlike protocols stand together here because --force says so: their numbers do not compare."


def _fits(group: Sequence[Scores], item: Scores) -> bool:
    """Whether each column stays of one protocol: some share metrics with the item, and none have them otherwise."""
    found = [unlike(member, item) for member in group]
    return [] in found and all(lines in ([], [_NOTHING_SHARED]) for lines in found)


def _apart(group: Sequence[Scores], item: Scores) -> list[str]:
    """How the protocols of the item differ from those of a group that it does not fit."""
    return list(dict.fromkeys(line for member in group for line in unlike(member, item)))


def _note(differing: Sequence[str]) -> str:
    return (
        f"Apart, and not paired with the models above, for its protocols differ: {'; '.join(differing[:4])}"
        if differing
        else ""
    )


def _of_prompts(scores: Scores) -> str:
    extender = scores.numbers[0].protocol.extender
    if extender is None:
        return ", original prompts"
    name, _, revision = extender.model.partition("@")
    return f", prompts extended by {name}{f' at {revision[:12]}' if revision else ''}"


def _of_pictures(scores: Scores) -> str:
    """How many pictures of which prompts and size, and against which: Table 1 has COCO's and ImageNet's."""
    facts, protocols = scores.facts, [number.protocol for number in scores.numbers]
    count = max((protocol.images or 0 for protocol in protocols), default=0)
    size, prompts, reference = (facts.get(name) for name in ("size", "prompts", "reference"))
    said = f": {count:,} pictures" if count else ""
    said += (f" of {size} px" if size else "") + (f" by {prompts}" if prompts else "")
    against = next((protocol.reference_images for protocol in protocols if protocol.reference), None)
    return said + (f", against {against:,}{f' of {reference}' if reference else ''}" if said and against else "")


def unlike(a: Scores, b: Scores) -> list[str]:
    """How the protocols of two differ, over the metrics that both have; each difference once."""
    found: dict[str, None] = {}
    shared = [(number, other) for number in a.numbers if (other := b.number(number.metric)) is not None]
    if not shared:
        return [_NOTHING_SHARED]
    for number, other in shared:
        found |= dict.fromkeys(comparable(number, other))
    return list(found)


def _measured(title: str, group: Sequence[Scores], note: str) -> Table:
    columns = tuple(dict.fromkeys(number.metric for item in group for number in item.numbers))
    rows = tuple(Row(full_name(item), tuple(_cell(item.number(metric)) for metric in columns)) for item in group)
    missing = tuple(line for item in group for line in _missing(item))
    return Table(title, columns, rows, note=note, missing=missing, members=tuple(group))


def _missing(scores: Scores) -> list[str]:
    """A line for each reason why numbers have no interval."""
    found: dict[str, list[str]] = {}
    for number in scores.numbers:
        if number.low is None and number.interval:
            found.setdefault(number.interval.removeprefix("none: "), []).append(label(number.metric)[:-2])
    return [f"No interval for {full_name(scores)}: {', '.join(names)} ({reason})" for reason, names in found.items()]


def full_name(scores: Scores) -> str:
    """A model's name, and how far its training had come where that is known."""
    return scores.name if scores.num_images is None else f"{scores.name} at {scores.num_images:,} images"


def _cell(number: Number | None) -> Cell | None:
    return None if number is None else Cell(number.value, number.low, number.high, number.interval or "")


def printed_tables() -> list[Table]:
    """The paper's Tables 1 to 5 as they are printed."""
    source = resources.files("tessera").joinpath("assets", "paper", "tables.json").read_text(encoding="utf-8")
    tables = []
    for data in json.loads(source).values():
        columns = tuple(data["columns"])
        rows = []
        for row in data["rows"]:
            values: dict[str, Any] = row["values"]
            cells = tuple(None if values[name] is None else Cell(values[name]) for name in columns)
            rows.append(Row(row["model"], cells, f"Misprint: {row['misprint']}." if "misprint" in row else ""))
        title = f"Table {data['table']}: {data['title']}, as printed"
        tables.append(Table(title, columns, tuple(rows), printed=True, note=data.get("note", "")))
    return tables


def ablation_tables(scores: Sequence[Scores], force: bool = False) -> list[Table]:
    """What Tables 4 and 5 show of every model measured so: FID, GenEval by original and by extended prompts.

    Of a model that was measured several times in its training, the last time counts. Unlike protocols stand in tables
    of their own, unless `force` puts them in one.
    """
    columns = ("fid", "geneval/overall", "geneval/overall (extended)")
    groups: list[list[tuple[str, dict[str, Number]]]] = []
    for name in dict.fromkeys(item.name for item in scores):
        found: dict[str, Number] = {}
        own = [item for item in scores if item.name == name]
        for item in sorted(own, key=lambda item: -(item.num_images or 0)):
            for metric in columns[:2]:
                number = item.number(metric)
                if number is not None:
                    extended = " (extended)" if metric != "fid" and number.protocol.extender else ""
                    found.setdefault(metric + extended, number)
        if "fid" in found and len(found) > 1:
            fitting = next((group for group in groups if force or not _differing(group, found)), None)
            if fitting is None:
                groups.append([(name, found)])
            else:
                fitting.append((name, found))
    tables = []
    for group in groups:
        rows = tuple(Row(name, tuple(_cell(found.get(metric)) for metric in columns)) for name, found in group)
        note = _note(_differing(groups[0], group[0][1])) if group is not groups[0] else ""
        if force and any(_differing(group[:i], found) for i, (_, found) in enumerate(group)):
            note = FORCED
        note = f"Protocols: see the tables above. {note}".rstrip()
        tables.append(Table("FID beside GenEval (Tables 4 and 5)", columns, rows, note=note))
    return tables


def _differing(group: Sequence[tuple[str, dict[str, Number]]], found: dict[str, Number]) -> list[str]:
    """How the protocols of a row's numbers differ from those of the rows in the same columns."""
    pairs = [(own[metric], found[metric]) for _, own in group for metric in own.keys() & found.keys()]
    return sorted({line for a, b in pairs for line in comparable(a, b)})


def curve_points(scores: Sequence[Scores], metric: str) -> list[tuple[str, dict[str, list[tuple[int, float]]]]]:
    """The curves of each protocol (Figure 5): (what tells it from the first, {model: [(training images, value)]}).

    A model has a curve where it was measured at two or more places.
    """
    groups: list[tuple[Number, dict[str, list[tuple[int, float]]]]] = []
    for item in scores:
        number = item.number(metric)
        if number is None or item.num_images is None:
            continue
        points = next((points for first, points in groups if not comparable(first, number)), None)
        if points is None:
            points = {}
            groups.append((number, points))
        points.setdefault(item.name, []).append((item.num_images, number.value))
    drawn = [(first, {name: sorted(p) for name, p in points.items() if len(p) > 1}) for first, points in groups]
    drawn = [(first, points) for first, points in drawn if points]
    return [(_told(drawn[0][0], first) if n else "", points) for n, (first, points) in enumerate(drawn)]


def _told(a: Number, b: Number) -> str:
    """How the protocol of `b` differs from that of `a`, in a title's words."""
    extender = b.protocol.extender
    if extender is not None and extender != a.protocol.extender:
        return f"prompts extended by {extender.model.partition('@')[0]}"
    return "; ".join(comparable(a, b)[:2])
