"""Tables as data: the paper's numbers to the letter, digits by column."""

import numpy as np

from tessera.evaluate.scores import Number, Protocol, Scores, write_scores
from tessera.report.measured import measured_tables
from tessera.report.scores_page import report_scores
from tessera.report.tables import printed_tables
from tiny.quality_scores import geneval


def test_the_printed_numbers_are_consistent_with_each_other():
    """Overall is the mean of the six tasks wherever the paper prints both, to its two digits; one row is a misprint."""
    tables = {table.title: table for table in printed_tables()}
    off = []
    for title, table in tables.items():
        if "Table 2" not in title:
            continue
        for row in table.rows:
            values = [cell.value for cell in row.cells if cell]
            if values and abs(np.mean(values[1:]) - values[0]) > 0.0151:
                off.append((title, row.model, bool(row.note)))
    assert ("Table 2: GenEval, original prompts, as printed", "CAD-I, AIO", True) in off
    assert not [entry for entry in off if entry[2] is False]
    fid = {
        row.model: row.cells[0].value for row in tables["Table 1: ImageNet validation, 50k pictures, as printed"].rows
    }
    five = next(table for title, table in tables.items() if "Table 5" in title)
    by_p = {row.model: row.cells[0].value for row in five.rows}
    assert (fid["DiT-I, TA"], fid["CAD-I, TA"]) == (by_p["DiT-I, p = 0"], by_p["CAD-I, p = 0"])
    assert (fid["DiT-I, TA+IA"], fid["CAD-I, TA+IA"]) == (8.52, 6.62)


def test_the_digits_of_a_column_are_one_number(tmp_path):
    numbers = {"a": (0.08, 0.03, 0.14), "b": (0.31, 0.25, 0.4), "c": (0.0123, None, None)}
    scores = []
    for name, (value, low, high) in numbers.items():
        about = Protocol(metric="m", name="m")
        scores.append(
            Scores(
                kind="quality",
                name=name,
                numbers=(Number(metric="m", value=value, low=low, high=high, n=9, protocol=about),),
            )
        )
    for chosen, cells in ((scores, ["0.08 (0.03 to 0.14)", "0.31 (0.25 to 0.40)", "0.01"]), (scores[2:], ["0.0123"])):
        (table,) = measured_tables(chosen)
        found = [
            f"{c.text(size)}{f' ({c.interval(size)})' if c.interval(size) else ''}"
            for row in table.rows
            for c, size in zip(row.cells, table.sizes())
        ]
        assert found == cells
    write_scores(tmp_path / "a", geneval("TA", 0.4))
    report_scores(tmp_path / "report", [tmp_path / "a"])
    for name in ("index.html", "tables.md"):
        text = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert "0.0500" not in text  # the paper prints 0.05
        assert "0.0400" not in text
