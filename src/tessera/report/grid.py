"""Tables as pages show them, with models in rows or in columns, and what goes with them: plot, tiles, notes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tessera.report.differences import (
    Pair,
    about,
    is_better,
    is_clear,
    signed_interval,
    signed_text,
    sizes_of,
    with_minus,
)
from tessera.report.plots import Dots, score_plot
from tessera.report.tables import MEANINGS, Cell, Table, is_lower_better, label, name_of

NOTHING = {"value": "\u2013", "interval": "", "kind": ""}
"""A cell of what was not measured."""
JUDGE = {  # measure -> what of the judge's own accuracy is shown in its row
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
class Column:
    """A column's heading."""

    label: str
    color: int | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of a table on a page."""

    label: str
    cells: Sequence[Mapping[str, str]]
    note: str = ""
    title: str = ""
    """Explanation shown on hovering."""
    color: int | None = None
    strong: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table on a page."""

    title: str
    about: str = ""
    note: str = ""
    head: str = "model"
    columns: Sequence[Column]
    rows: Sequence[Line]
    pairs: Sequence[Line] = ()
    """Differences as further rows."""
    lines: Sequence[str] = ()
    """Notes below."""
    plot: Markup | None = None


def value_cell(cell: Cell | None, size: float | None = None) -> dict[str, str]:
    """Return a value with its interval as shown; a dash for None."""
    if cell is None:
        return NOTHING
    return {"value": with_minus(cell.text(size)), "interval": with_minus(cell.interval(size)), "kind": ""}


def difference_cell(cell: Cell | None, metric: str, size: float) -> dict[str, str]:
    """Return a difference as shown: starred and colored where its interval leaves 0 out."""
    if cell is None:
        return NOTHING
    kind = "" if not is_clear(cell) else "clear" if is_better(cell, metric) else "clear worse"
    return {"value": signed_text(cell, size), "interval": signed_interval(cell, size), "kind": kind}


def by_model(table: Table, pairs: Sequence[Pair], colors: Sequence[int]) -> Grid:
    """Return the table with a row for each model and difference, and its plot; `colors`: the rows' own."""
    sizes, widths = table.sizes(), sizes_of(pairs)
    rows = [
        Line(
            label=row.model,
            note=row.note,
            color=None if table.printed else color,
            cells=[value_cell(cell, size) for cell, size in zip(row.cells, sizes)],
        )
        for row, color in zip(table.rows, colors)
    ]
    differences = [
        Line(label=pair.name, cells=[difference_cell(*each) for each in zip(pair.cells, table.columns, widths)])
        for pair in pairs
        if any(any(other.cells) for other in pairs)
    ]
    lines = [*table.missing, *([about(pairs)] if differences else []), *(line for p in pairs for line in p.reasons())]
    return Grid(
        title=table.title,
        note=table.note,
        columns=[Column(label=label(metric)) for metric in table.columns],
        rows=rows,
        pairs=differences,
        lines=lines,
        plot=None if table.printed else table_plot({"": table}, {"": colors}, table.title),
    )


def by_measure(
    table: Table,
    pairs: Sequence[Pair],
    colors: Sequence[int],
    judge: Mapping[str, float] | None = None,
    about: str = "",
    head: str = "share of images",
) -> Grid:
    """Return the table with a row for each metric: models, differences, the judge on images it knows in columns."""
    sizes, widths = table.sizes(), sizes_of(pairs)
    rows = []
    for i, metric in enumerate(table.columns):
        cells = [value_cell(row.cells[i], sizes[i]) for row in table.rows]
        cells += [difference_cell(pair.cells[i], metric, max(sizes[i], widths[i])) for pair in pairs]
        if all(cell is NOTHING for cell in cells):
            continue
        if judge is not None:
            own = judge.get(JUDGE.get(metric, ""))
            text = "" if own is None else f"{own:.2f}" if is_lower_better(metric) else f"{own:.3f}"
            cells.append({"value": text, "interval": "", "kind": "soft"})
        rows.append(Line(label=name_of(metric), title=MEANINGS.get(metric, ""), strong=i == 0, cells=cells))
    columns = [Column(label=row.model, color=color) for row, color in zip(table.rows, colors)]
    columns += [Column(label=pair.name) for pair in pairs]
    columns += [] if judge is None else [Column(label="the judge itself")]
    lines = [*table.missing, *(line for pair in pairs for line in pair.reasons())]
    return Grid(title=table.title, about=about, note=table.note, head=head, columns=columns, rows=rows, lines=lines)


def table_plot(tables: Mapping[str, Table], colors: Mapping[str, Sequence[int]], alt: str) -> Markup:
    """Return dots with intervals of the metrics that lie in 0..1, a panel for each of `tables`; "" without any.

    colors: of the rows of each table.
    """
    wanted = [metric for table in tables.values() for metric in _shares(table)]
    metrics = [metric for metric in dict.fromkeys(wanted) if wanted.count(metric) == len(tables)]
    if not metrics:
        return Markup("")
    panels = []
    for title, table in tables.items():
        of = [table.columns.index(metric) for metric in metrics]
        dots = []
        for row, color in zip(table.rows, colors[title]):
            cells = [row.cells[i] for i in of]
            dots.append(Dots(arm=row.model, color=color, values=tuple(cell and cell.bounds() for cell in cells)))
        panels.append((title, dots))
    names = [name_of(metric) for metric in metrics]
    return score_plot(names, panels, f"{alt}: {', '.join(names)} with 95% intervals")


def _shares(table: Table) -> list[str]:
    """Return the metrics whose intervals all lie in 0..1, and of which more is better."""
    found = []
    for metric, column in zip(table.columns, table.by_column()):
        bounds = [cell.bounds() for cell in column if cell is not None]
        inside = all(ends is not None and ends[0] >= 0 and ends[2] <= 1 for ends in bounds)
        if bounds and inside and not is_lower_better(metric):
            found.append(metric)
    return found


def tiles(table: Table, colors: Sequence[int], metrics: Sequence[str], where: str = "") -> list[dict[str, Any]]:
    """Return the headline numbers of a page: each of `metrics` for every model."""
    made = []
    for metric in metrics:
        i = table.columns.index(metric) if metric in table.columns else None
        shown = [(row.model, row.cells[i], color) for row, color in zip(table.rows, colors)] if i is not None else []
        largest = max((cell.size for _, cell, _ in shown if cell), default=0.0)
        cells = [{"label": name, "color": color, **value_cell(cell, largest)} for name, cell, color in shown if cell]
        if cells:
            said = ", ".join(text for text in (MEANINGS.get(metric, ""), where) if text)
            made.append({"label": name_of(metric), "about": said, "cells": cells})
    return made


def judge_note(judge: Mapping[str, float]) -> str:
    """Return what the judge's own numbers mean."""
    text = "The judge itself: its accuracy on rendered images of known content; for the seam score, the score of images"
    text += " without any seam"
    if "seam_cutmix" in judge:
        text += f" (CutMix images score {judge['seam_cutmix']:.2f})"
    text += "."
    if "wrong_refused" in judge:
        text += f" It refuses {judge['wrong_refused']:.1%} of captions with one wrong fact."
    return text
