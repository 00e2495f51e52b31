"""Tables as markdown and as CSV."""

import csv
import io
from collections.abc import Sequence

from tessera.evaluate.intervals import MOST, WILSON
from tessera.report.differences import Pair, about, signed_interval, signed_text, with_minus
from tessera.report.tables import Cell, Table, label, sizes_of


def about_intervals(tables: Sequence[Table]) -> str:
    """Return what the intervals of measured numbers are, by their methods; "" where there are none."""
    hows = {
        ("share" if scores.kind in MOST else "", number.interval or "")
        for table in tables
        for scores in table.members
        for number in scores.numbers
        if number.low is not None
    }
    distances = [how for _, how in hows if how.startswith("jackknife")]
    shares = [how for share, how in hows if share and how.startswith(WILSON)]
    unknown = " (over images, where their prompts are unknown)"
    found = []
    if shares:
        over = any("over images" in how for how in shares)
        found.append(f"score intervals (Wilson's) for shares and percentages{unknown if over else ''}")
    if any(not share and how.startswith("bootstrap") for share, how in hows):
        found.append("the bootstrap's for CLIPScores")
    if distances:
        over = any("over prompts" not in how for how in distances)
        found.append(
            "the jackknife's for distances to a reference, precision, recall, density and coverage, the reference held"
            f" fixed{unknown if over else ''}"
        )
    return f"The 95% confidence intervals are over prompts: {'; '.join(found)}." if found else ""


def as_markdown(tables: Sequence[Table], pairs: Sequence[Sequence[Pair]], note: str = "") -> str:
    """Return the tables with their differences, `pairs` in the same order; note: a sentence above them."""
    about = [about_intervals(tables), note, 'Tables marked "as printed" are the paper\'s.']
    lines = ["# Scores", "", " ".join(filter(None, about)), ""]
    for table, own in zip(tables, pairs, strict=True):
        lines += [f"## {_plain(table.title)}", ""]
        lines += [_plain(table.note), ""] if table.note else []
        rows = [[_plain(row.model), *map(value_text, row.cells, table.sizes())] for row in table.rows]
        lines += [*aligned(["model", *(_plain(label(metric)) for metric in table.columns)], rows), ""]
        lines += [f"{_plain(row.model)}: {_plain(row.note)}" for row in table.rows if row.note]
        lines += [f"- {_plain(line)}" for line in table.missing]
        lines += [*_differences(table, own), ""]
    return "\n".join(lines).rstrip() + "\n"


def _differences(table: Table, pairs: Sequence[Pair]) -> list[str]:
    """Return a table of them, of the columns that have any; then why others are missing."""
    lines, sizes = [], sizes_of(pair.cells for pair in pairs)
    columns = [i for i, _ in enumerate(sizes) if any(pair.cells[i] for pair in pairs)]
    if columns:
        rows = [[pair.name, *(difference_text(pair.cells[i], sizes[i]) for i in columns)] for pair in pairs]
        head = ["difference", *(label(table.columns[i]) for i in columns)]
        head, *rows = [[*map(_plain, row)] for row in (head, *rows)]
        lines += ["", _plain(about(pairs)), "", *aligned(head, rows)]
    reasons = [f"- {_plain(line)}" for pair in pairs for line in pair.reasons()]
    return lines + (["", *reasons] if reasons else [])


def value_text(cell: Cell | None, size: float | None = None) -> str:
    """Return "0.91 (0.87 to 0.95)", or "-" for None."""
    if cell is None:
        return "-"
    return with_minus(f"{cell.text(size)}{f' ({cell.interval(size)})' if cell.interval() else ''}")


def difference_text(cell: Cell | None, size: float) -> str:
    """Return "+0.12* (+0.05 to +0.19)", or "-" for None."""
    return "-" if cell is None else f"{signed_text(cell, size)} ({signed_interval(cell, size)})"


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a markdown table, with columns of one width."""
    everything = [head, *rows]
    widths = [max(len(row[i]) for row in everything) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in everything]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _plain(text: str) -> str:
    """Return the text so that it stays text in markdown."""
    escapes = {sign: f"\\{sign}" for sign in "\\`*_[]|"} | {"<": "&lt;", ">": "&gt;"}
    return " ".join(text.translate(str.maketrans(escapes)).split())


def as_csv(tables: Sequence[Table], pairs: Sequence[Sequence[Pair]]) -> str:
    """Return a line for each number and each paired difference; where that could not be, `interval` says why."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["table", "printed", "difference", "model", "metric", "value", "low", "high", "note", "interval"])
    for table, own in zip(tables, pairs, strict=True):
        for difference, name, cells, note in [
            *((0, row.model, row.cells, row.note) for row in table.rows),
            *((1, pair.name, pair.cells, "") for pair in own),
        ]:
            first = (table.title, int(table.printed), difference, name)
            for metric, cell in zip(table.columns, cells):
                if cell is not None:
                    ends = ["" if x is None else repr(x) for x in (cell.low, cell.high)]
                    writer.writerow([*first, metric, repr(cell.value), *ends, note, cell.how])
        for pair in own:
            for metric, reason in pair.unpaired.items():
                writer.writerow([table.title, 0, 1, pair.name, metric, "", "", "", "", f"none: {reason}"])
    return buffer.getvalue()
