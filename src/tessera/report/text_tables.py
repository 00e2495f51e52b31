"""The report's tables as markdown and as CSV."""

import csv
import io
from collections.abc import Sequence

from tessera.evaluate.intervals import MOST, WILSON
from tessera.report.differences import Pair, about, signed_interval, signed_text, sizes_of, with_minus
from tessera.report.tables import Table, label


def about_intervals(tables: Sequence[Table]) -> str:
    """What the ranges of measured numbers are, by how those came about; "" where there are none."""
    hows = {
        ("share" if scores.kind in MOST else "", number.interval or "")
        for table in tables
        for scores in table.members
        for number in scores.numbers
        if number.low is not None
    }
    captions = [not share and how.startswith("bootstrap") for share, how in hows]
    distances = [how for _, how in hows if how.startswith("jackknife")]
    over = " (over pictures, where nothing is known of prompts)" if any("pictures" in how for how in distances) else ""
    parts = (
        (("share", WILSON) in hows, "of shares and percentages score intervals (Wilson's)"),
        (any(captions), "of CLIPScores the bootstrap's"),
        (
            any(distances),
            "of distances to a reference, precision, recall, density and coverage the jackknife's, the reference held"
            f" fixed{over}",
        ),
    )
    found = [text for there, text in parts if there]
    return f"Ranges are 95% intervals over prompts: {'; '.join(found)}." if found else ""


def as_markdown(tables: Sequence[Table], pairs: Sequence[Sequence[Pair]]) -> str:
    """Of each table its pairs in the same order."""
    lines = ["# Scores", "", f'{about_intervals(tables)} Tables marked "as printed" are the paper\'s.'.strip(), ""]
    for table, own in zip(tables, pairs, strict=True):
        sizes = table.sizes()
        lines += [f"## {_plain(table.title)}", ""]
        lines += [_plain(table.note), ""] if table.note else []
        lines += [
            "| model | " + " | ".join(_plain(label(m)) for m in table.columns) + " |",
            "|---" * (len(table.columns) + 1) + "|",
        ]
        for row in table.rows:
            cells = [
                with_minus(f"{c.text(size)}{f' ({c.interval(size)})' if c.interval() else ''}") if c else "-"
                for c, size in zip(row.cells, sizes)
            ]
            lines.append(f"| {_plain(row.model)} | " + " | ".join(cells) + " |")
        lines.append("")
        lines += [f"{_plain(row.model)}: {_plain(row.note)}" for row in table.rows if row.note]
        lines += [f"- {_plain(line)}" for line in table.missing]
        lines += _differences(table, own)
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _differences(table: Table, pairs: Sequence[Pair]) -> list[str]:
    """A table of them, of the columns that have any; then why others are not there."""
    kept = [i for i, _ in enumerate(table.columns) if any(pair.cells[i] for pair in pairs)]
    lines, sizes = [], sizes_of(pairs)
    if kept:
        lines += ["", _plain(about(pairs)), ""]
        lines += ["| difference | " + " | ".join(_plain(label(table.columns[i])) for i in kept) + " |"]
        lines += ["|---" * (len(kept) + 1) + "|"]
        for pair in pairs:
            cells = [
                f"{_plain(signed_text(c, sizes[i]))} ({signed_interval(c, sizes[i])})" if (c := pair.cells[i]) else "-"
                for i in kept
            ]
            lines.append(f"| {_plain(pair.name)} | " + " | ".join(cells) + " |")
    reasons = [f"- {_plain(line)}" for pair in pairs for line in pair.reasons()]
    return lines + (["", *reasons] if reasons else [])


def _plain(text: str) -> str:
    """Text that stays text in markdown."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return " ".join(text.split())


def as_csv(tables: Sequence[Table], pairs: Sequence[Sequence[Pair]]) -> str:
    """One line a number, and one a paired difference; where that could not be, `interval` says why."""
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
