"""Markdown and CSV of tables: the same numbers, with intervals or the reasons for none."""

import csv
import re
from dataclasses import replace

from tessera.evaluate.intervals import WILSON
from tessera.evaluate.scores import Number, Protocol, Scores, read_scores, write_scores
from tessera.report.measured import measured_tables
from tessera.report.scores_page import report_scores
from tessera.report.tables import printed_tables
from tessera.report.text_tables import about_intervals
from tiny.quality_scores import geneval


def test_csv_and_markdown_hold_the_same_numbers(tmp_path):
    written = tmp_path
    for name, scores in {"a": geneval("TA", 0.4), "b": geneval("TA+IA", 0.8, 1)}.items():
        write_scores(written / name, scores)
    report_scores(written / "report", [written / "a", written / "b"])
    with open(written / "report" / "tables.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = {(row["model"], row["metric"]): float(row["value"]) for row in rows if row["printed"] == "0"}
    assert measured["TA+IA", "geneval/overall"] == geneval("TA+IA", 0.8, 1).number("geneval/overall").value
    assert sum(row["printed"] == "1" for row in rows) == 6 * 16 + 15 * 7 + 14 * 7 + 8 * 6 + 10 * 3 * 2
    markdown = re.sub(" +", " ", (written / "report" / "tables.md").read_text(encoding="utf-8"))
    assert "| CAD-I, TA+IA | 6.62 | 91.72 | 0.80 | 0.70 | 0.90 | 0.76 | 8.53 | 38.17 |" in markdown
    assert "as printed" in markdown


def test_intervals_and_the_reasons_for_none_stand_in_every_table(tmp_path):
    def number(metric, value, *ends, interval):
        low, high = ends or (None, None)
        about = Protocol(metric=metric.split("/")[0], name="full", images=100)
        return Number(metric=metric, value=value, low=low, high=high, n=100, interval=interval, protocol=about)

    jackknife, few = "jackknife over prompts", "none: 12 prompts | at least 20 are needed"
    numbers = (
        number("fid", 9.5, 9.1, 9.9, interval=jackknife),
        number("kid", 0.0123, 0.0101, 0.0145, interval=jackknife),
        number("precision/full", 0.7, 0.62, 0.78, interval=jackknife),
        number("cmmd", 1.5, interval=few),
        number("recall/full", 0.4, interval=few),
    )
    write_scores(tmp_path / "q", Scores(kind="quality", name="m", numbers=numbers))
    assert read_scores(tmp_path / "q").numbers == numbers
    report_scores(tmp_path / "report", [tmp_path / "q"])
    markdown = re.sub(" +", " ", (tmp_path / "report" / "tables.md").read_text(encoding="utf-8"))
    cells = "9.50 (9.10 to 9.90) | 0.0123 (0.0101 to 0.0145) | 0.70 (0.62 to 0.78) | 1.50 | 0.40 |"
    assert f"| m | {cells}" in markdown
    assert "- No interval for m: CMMD, Recall (full) (12 prompts \\| at least 20 are needed)" in markdown
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "<td>9.50<small>9.10 to 9.90</small></td>" in page
    assert "No interval for m: CMMD, Recall (full) (12 prompts | at least 20 are needed)" in page
    plots = "".join(re.findall(r"<svg[^>]*>", page))
    assert "Precision (full)" in plots
    assert "KID" not in plots  # a distance is no share, however small it is
    with open(tmp_path / "report" / "tables.csv", encoding="utf-8", newline="") as file:
        rows = {row["metric"]: row for row in csv.DictReader(file) if row["model"] == "m"}
    assert (rows["kid"]["low"], rows["kid"]["high"], rows["kid"]["interval"]) == ("0.0101", "0.0145", jackknife)
    assert (rows["cmmd"]["low"], rows["cmmd"]["interval"]) == ("", few)


def test_the_report_says_how_its_intervals_came_about(tmp_path):
    about = Protocol(metric="geneval/counting", name="g")
    number = Number(metric="geneval/counting", value=0.5, low=0.4, high=0.6, n=9, protocol=about)
    given = {
        name: Scores(kind=kind, name=name, numbers=(replace(number, interval=how),))
        for name, kind, how in (
            ("new", "geneval", f"{WILSON} over prompts"),
            ("copies", "copies", f"{WILSON} over images"),
            ("clip", "quality", "bootstrap over prompts, 9 resamples"),
            ("fid", "quality", "jackknife over prompts"),
            ("folder", "quality", "jackknife over images"),
        )
    }
    read = {}
    for name, scores in given.items():
        write_scores(tmp_path / name, scores)
        read[name] = read_scores(tmp_path / name)
    reference = (
        "the jackknife's for distances to a reference, precision, recall, density and coverage, the reference held"
    )
    shares, unknown = (
        "score intervals (Wilson's) for shares and percentages",
        "over images, where their prompts are unknown",
    )
    parts = {
        "new": shares,
        "copies": f"{shares} ({unknown})",
        "clip": "the bootstrap's for CLIPScores",
        "fid": f"{reference} fixed",
        "folder": f"{reference} fixed ({unknown})",
    }
    for names in (["new"], ["copies"], ["clip"], ["fid"], ["folder"], ["new", "clip", "fid"]):
        expected = f"The 95% confidence intervals are over prompts: {'; '.join(parts[name] for name in names)}."
        assert about_intervals(measured_tables([read[name] for name in names])) == expected
    assert about_intervals(printed_tables()) == ""
