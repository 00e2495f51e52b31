"""A study's results as tables, and as markdown that reads well in a terminal too.

The markdown has a table for each kind of prompts: a row for each arm and for each difference, a column for each of the
study's first measures. All measures are in results.json and on the page.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.report.arms import KINDS
from tessera.report.differences import Pair
from tessera.report.tables import Row, Table, cell_of, name_of
from tessera.report.text_tables import aligned, difference_text, value_text
from tessera.study.design import Study


def study_table(
    title: str, found: Mapping[str, Any], metrics: Sequence[str], labels: Mapping[str, str]
) -> tuple[Table, list[Pair]]:
    """Return one kind's part of results.json as a table of `metrics`, and its differences. labels: arm -> its name."""

    def cells(scores: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(cell_of(scores.get(metric)) for metric in metrics)

    rows = tuple(Row(labels[name], cells(arm["scores"])) for name, arm in found["arms"].items())
    pairs = [
        Pair(" \u2212 ".join(labels[name] for name in names.split(" - ")), cells(pair["scores"]))
        for names, pair in found["differences"].items()
    ]
    return Table(title, tuple(metrics), rows), pairs


def text_tables(study: Study, found: Mapping[str, Any]) -> str:
    """Return markdown of the results `found` (of `tessera.study.results.results`).

    "0.91 (0.87 to 0.95)" is a value with its 95% interval; a star marks a difference whose interval leaves 0 out; each
    row has its number of seeds in brackets.
    """
    done = len(found["cells"])
    lines = [f"# {study.title}", "", study.question, ""]
    lines += [f"{done} of {done + len(found['missing'])} cells are done.", ""]
    for kind, data in found["tables"].items():
        metrics = [metric for metric in study.scores if any(arm["scores"][metric] for arm in data["arms"].values())]
        table, pairs = study_table(KINDS[kind], data, metrics, {name: name for name in data["arms"]})
        rows = [
            [f"{row.model} ({len(arm['seeds'])})", *(value_text(cell, 1.0) for cell in row.cells)]
            for row, arm in zip(table.rows, data["arms"].values())
        ]
        rows += [
            [f"{name} ({len(data['differences'][name]['seeds'])})"]
            + [difference_text(cell, 1.0).replace("\u2212", "-") for cell in pair.cells]
            for name, pair in zip(data["differences"], pairs)
        ]
        protocol = data["protocol"]
        lines += [f"## {table.title}", ""]
        lines += [f"{protocol['images']:,} images of {protocol['prompts']:,} prompts for each cell.", ""]
        lines += [*aligned(["arm (seeds)", *map(name_of, metrics)], rows), ""]
    if "likeness" in found and found["likeness"]["arms"]:
        likeness = found["likeness"]
        rows = [[f"{name} ({len(arm['seeds'])})", f"{arm['value']:.3f}"] for name, arm in likeness["arms"].items()]
        rows.append(["held-out renders", f"{likeness['floor']:.3f}"])
        lines += ["## Distance to held-out images", "", *aligned(["arm (seeds)", "distance"], rows), ""]
    return "\n".join(lines).rstrip() + "\n"
