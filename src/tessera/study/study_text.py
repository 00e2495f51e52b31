"""A study's tables as plain text: markdown that reads well in a terminal too.

One table for each kind of prompts: a row for each arm and for each difference, a column for each of the study's first
measures. All measures stand in results.json and on the page.
"""

from collections.abc import Mapping
from typing import Any

from tessera.report.comparison import ROWS, bounds_of, difference_cell
from tessera.report.run_page import KINDS
from tessera.study.design import Study


def text_tables(study: Study, found: Mapping[str, Any]) -> str:
    """Markdown of the results `found` (of `tessera.study.results.results`). "0.91 (0.87 to 0.95)" is a value with its
    95% interval; a star marks a difference whose interval leaves 0 out; in brackets how many seeds a row has."""
    done = len(found["cells"])
    lines = [
        f"# {study.title}",
        "",
        study.question,
        "",
        f"{done} of {done + len(found['missing'])} cells are done.",
        "",
    ]
    for kind, table in found["tables"].items():
        measures = [m for m in study.scores if any(arm["scores"][m] for arm in table["arms"].values())]
        rows = [["arm (seeds)", *[ROWS[measure][0] for measure in measures]]]
        for name, arm in table["arms"].items():
            rows.append([f"{name} ({len(arm['seeds'])})", *[_value(arm["scores"][m]) for m in measures]])
        for name, pair in table["differences"].items():
            cells = [difference_cell(bounds_of(pair["scores"][m]), m) for m in measures]
            texts = [f"{c['value']} ({c['interval']})" if c["interval"] else c["value"] for c in cells]
            rows.append([f"{name} ({len(pair['seeds'])})", *[text.replace("\u2212", "-") for text in texts]])
        protocol = table["protocol"]
        lines += [f"## {KINDS[kind]}", ""]
        lines += [f"{protocol['images']:,} pictures of {protocol['prompts']:,} prompts for each cell.", ""]
        lines += [*_aligned(rows), ""]
    if "likeness" in found and found["likeness"]["arms"]:
        lines += ["## Distance to held-out pictures", ""]
        rows = [["arm (seeds)", "distance"]]
        rows += [[f"{n} ({len(arm['seeds'])})", f"{arm['value']:.3f}"] for n, arm in found["likeness"]["arms"].items()]
        rows.append(["held-out renders", f"{found['likeness']['floor']:.3f}"])
        lines += [*_aligned(rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def _value(interval: Mapping[str, Any] | None) -> str:
    bounds = bounds_of(interval)
    return "-" if bounds is None else f"{bounds[1]:.2f} ({bounds[0]:.2f} to {bounds[2]:.2f})"


def _aligned(rows: list[list[str]]) -> list[str]:
    """The rows of a markdown table, the first one its head, with columns of one width."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
