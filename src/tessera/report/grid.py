"""Tables as pages show them, with models in rows or in columns, and what goes with them: plot, tiles, notes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tessera.evaluate.miniature.chance import SCENES
from tessera.evaluate.scores import judge_text
from tessera.report.differences import STAR, Pair, about, is_better, is_clear, signed_interval, signed_text, with_minus
from tessera.report.plots import Dots, score_plot
from tessera.report.tables import MEANINGS, RATIOS, Cell, Table, is_lower_better, label, name_of, shown, sizes_of

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
class Line:
    """A row of a table on a page, or without cells a column's heading."""

    label: str
    cells: Sequence[Mapping[str, str]] = ()
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
    columns: Sequence[Line]
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
    widths, rows, differences = sizes_of(pair.cells for pair in pairs), [], []
    for row, color in zip(table.rows, colors):
        cells = [value_cell(cell, size) for cell, size in zip(row.cells, table.sizes())]
        rows.append(Line(label=row.model, note=row.note, color=None if table.printed else color, cells=cells))
    if any(any(pair.cells) for pair in pairs):
        for pair in pairs:
            cells = [difference_cell(*each) for each in zip(pair.cells, table.columns, widths)]
            differences.append(Line(label=pair.name, cells=cells))
    return Grid(
        title=table.title,
        note=table.note,
        columns=[Line(label=label(metric)) for metric in table.columns],
        rows=rows,
        pairs=differences,
        lines=[*table.missing, *[about(pairs)][: len(differences)], *(line for p in pairs for line in p.reasons())],
        plot=None if table.printed else table_plot([("", table, colors)], table.title),
    )


def by_measure(
    table: Table,
    pairs: Sequence[Pair],
    colors: Sequence[int],
    judge: Mapping[str, float] | None = None,
    about: str = "",
    chance: Mapping[str, float] = {},
) -> Grid:
    """Return the table with a row for each metric: models, differences, chance level where a metric has one, and the
    judge on images it knows in columns."""
    sizes, widths, rows = table.sizes(), sizes_of(pair.cells for pair in pairs), []
    for i, metric in enumerate(table.columns):
        cells = [value_cell(row.cells[i], sizes[i]) for row in table.rows]
        cells += [difference_cell(pair.cells[i], metric, max(sizes[i], widths[i])) for pair in pairs]
        if all(cell is NOTHING for cell in cells):
            continue
        if chance:
            text = shown(chance[metric], sizes[i]) if metric in chance else ""
            cells.append({"value": text, "interval": "", "kind": "soft"})
        if judge is not None:
            own = judge.get(JUDGE.get(metric, ""))
            text = "" if own is None else f"{own:.2f}" if is_lower_better(metric) else f"{own:.3f}"
            cells.append({"value": text, "interval": "", "kind": "soft"})
        rows.append(Line(label=name_of(metric), title=MEANINGS.get(metric, ""), strong=i == 0, cells=cells))
    columns = [Line(label=row.model, color=color) for row, color in zip(table.rows, colors)]
    further = [*["chance"] * bool(chance), *["the judge itself"] * (judge is not None)]
    columns += [Line(label=name) for name in (*(pair.name for pair in pairs), *further)]
    lines = [*table.missing, *(line for pair in pairs for line in pair.reasons())]
    head = "share of images"
    return Grid(title=table.title, about=about, note=table.note, head=head, columns=columns, rows=rows, lines=lines)


def table_plot(
    tables: Sequence[tuple[str, Table, Sequence[int]]], alt: str, chance: Sequence[Mapping[str, float]] = ()
) -> Markup:
    """Return dots with intervals of the metrics that all tables have within 0..1, of which more is better.

    tables: a panel for each: its title, the table, and the colors of its rows. chance: metric -> chance level, for each
    table. "" without such a metric.
    """
    wanted = []
    for _, table, _ in tables:
        for metric, column in zip(table.columns, zip(*(row.cells for row in table.rows))):
            bounds = [cell.bounds() for cell in column if cell is not None]
            inside = all(ends is not None and ends[0] >= 0 and ends[2] <= 1 for ends in bounds)
            is_share = inside and metric not in RATIOS and not is_lower_better(metric)
            wanted += [metric] * (bool(bounds) and is_share)
    metrics = [metric for metric in dict.fromkeys(wanted) if wanted.count(metric) == len(tables)]
    if not metrics:
        return Markup("")
    panels = []
    for title, table, colors in tables:
        of, dots = [table.columns.index(metric) for metric in metrics], []
        for row, color in zip(table.rows, colors):
            cells = [row.cells[i] for i in of]
            dots.append(Dots(arm=row.model, color=color, values=tuple(cell and cell.bounds() for cell in cells)))
        panels.append((title, dots))
    names = [name_of(metric) for metric in metrics]
    levels = [[level.get(metric) for metric in metrics] for level in chance]
    return score_plot(names, panels, f"{alt}: {', '.join(names)} with 95% intervals", levels)


def tiles(
    table: Table,
    colors: Sequence[int],
    metrics: Sequence[str],
    where: str = "",
    chance: Mapping[str, float] = {},
) -> list[dict[str, Any]]:
    """Return the headline numbers of a page: each of `metrics` for every model, and its chance level."""
    made = []
    for metric in metrics:
        if metric not in table.columns:
            continue
        i = table.columns.index(metric)
        found = [(row.model, row.cells[i], color) for row, color in zip(table.rows, colors)]
        largest = max((cell.size for _, cell, _ in found if cell), default=0.0)
        cells = [{"label": name, "color": color, **value_cell(cell, largest)} for name, cell, color in found if cell]
        if cells:
            level = f"chance: {shown(chance[metric], largest)}" if metric in chance else ""
            said = ", ".join(text for text in (MEANINGS.get(metric, ""), where, level) if text)
            made.append({"label": name_of(metric), "about": said, "cells": cells})
    return made


def notes(grids: Sequence[Grid], judge: Mapping[str, float] | None, chance: bool = False) -> str:
    """Return what the stars in the tables, the judge's own numbers and, where there are some, chance levels mean."""
    text = STAR if any("*" in cell["value"] for grid in grids for row in grid.rows for cell in row.cells) else ""
    if judge:
        text += " The judge itself: its accuracy on rendered images of known content"
        if "seam_cutmix" in judge:
            text += "; for the seam score, the score of images without any seam (CutMix images score"
            text += f" {judge['seam_cutmix']:.2f})"
        text += "."
        if "wrong_refused" in judge:
            text += f" It refuses {judge['wrong_refused']:.1%} of captions with one wrong fact."
        tried = judge_text(judge)
        if tried and "two_halves" in judge:
            text += f" {tried[0].upper()}{tried[1:]}."
        elif tried:
            text += f" So that no image pleases it by accident: {tried}."
    if chance:
        text += " Chance: what images that show the scenes of other prompts would get, by the judge's rules on the"
        text += f" objects of {SCENES} such scenes of each task, drawn by another seed. Measures that do not look at"
        text += " the prompt have none."
    return text.lstrip()
