"""The page of a study, of the committed results: scores, differences, plots; no cells are needed."""

import json
import re
from pathlib import Path

import pytest
from markupsafe import escape

from tessera.report.tables import MEANINGS
from tessera.study.studies import load_study
from tessera.study.study_page import study_page, study_table, text_tables
from tiny.chromium import check_file

RESULTS = Path(__file__).parents[2] / "results" / "studies"
COMMITTED = [p.stem for p in sorted(RESULTS.glob("*.json")) if "speed" not in p.stem and p.stem != "noise"]


@pytest.mark.parametrize("name", ["claims", "tau", "overfit"])
def test_committed_results_are_shown(name, tmp_path):
    study, found = load_study(name), json.loads((RESULTS / f"{name}.json").read_text())
    page = study_page(study, tmp_path, found)
    titles = [grid.title for grid in page.scores.tables]
    assert titles[0] == "Extended prompts"
    assert "Extended prompts: differences" in titles
    first = page.scores.tables[0]
    assert [column.label for column in first.columns[-2:]] == ["chance", "the judge itself"]
    assert len(first.columns) == len(found["tables"]["extended"]["arms"]) + 2
    page.write(tmp_path / "index.html")
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'<li><a href="#([a-z]+)">', html) == ["scores", "configuration"]
    assert f"<dt>{first.rows[0].label}</dt>" in html
    assert "var(--arm-0)" in html
    assert ">chance</text>" in html or "chance, in the measure" in html
    assert f"<li>{escape(page.answer[0])}</li>" in html
    assert ("distance to held-out" in html) == ("likeness" in found)


def test_cells_that_are_not_done_are_told_and_the_page_is_for_everybody(browser, tmp_path):
    study, found = load_study("tau"), json.loads((RESULTS / "tau.json").read_text())
    study_page(study, tmp_path, found | {"missing": ["ta-seed9"]}).write(tmp_path / "index.html")
    assert (
        f"So far {len(found['cells'])} of {len(found['cells']) + 1} cells are done"
        in (tmp_path / "index.html").read_text()
    )
    check_file(browser, tmp_path / "index.html")


def test_networks_are_named_and_only_arms_that_were_judged_are_explained(tmp_path):
    study, found = load_study("claims"), committed("claims")
    for table in found["tables"].values():
        table["arms"] = {name: arm for name, arm in table["arms"].items() if name.startswith("cad_")}
        table["differences"] = {name: pair for name, pair in table["differences"].items() if name.startswith("cad_")}
    page = study_page(study, tmp_path, found)
    assert [arm.label for arm in page.arms] == ["CAD-I AIO", "CAD-I TA", "CAD-I TA+IA"]
    assert page.answer[0].startswith("Extended prompts: CAD-I TA+IA, best of 3, draws 0.99 of the two colors")


def committed(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_results_as_text(name):
    study, found = load_study(name), committed(name)
    text = text_tables(study, found)
    for kind in found["tables"].values():
        for arm, data in kind["arms"].items():
            value = data["scores"][study.scores[0]]
            if value is not None:
                assert f"| {arm} ({len(data['seeds'])})" in text
                assert f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines
    assert ("Distance to held-out images" in text) == ("likeness" in found)


def test_a_table_has_the_arms_and_their_differences():
    table = committed("claims")["tables"]["extended"]
    found, pairs = study_table("Long", table, tuple(MEANINGS), {name: name.upper() for name in table["arms"]})
    assert [row.model for row in found.rows] == [name.upper() for name in table["arms"]]
    pair = next(pair for pair in pairs if pair.name == "TA \u2212 AIO")
    assert pair.cells[0].value == table["differences"]["ta - aio"]["scores"]["overall"]["value"]
