"""Results of studies as tables and markdown: the committed ones, and what is missing in them."""

import json
from pathlib import Path

import pytest

from tessera.report.tables import MEANINGS
from tessera.study.studies import load_study
from tessera.study.study_text import study_table, text_tables

RESULTS = Path(__file__).parents[2] / "results" / "studies"
COMMITTED = [p.stem for p in sorted(RESULTS.glob("*.json")) if "speed" not in p.stem and p.stem != "noise"]


def committed(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_results_are_shown(name):
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
