"""A study's tables from scores of known content."""

import json

import numpy as np
import pytest

from tessera.config import UserError
from tessera.files import open_stage
from tessera.metrics import crossed_bootstrap
from tessera.study.plan import cells
from tessera.study.results import by_prompt, results
from tessera.study.studies import claims_smoke
from tessera.study.table import text_tables

PROTOCOL = {"metric": "m", "detector_sha256": "d", "prompts_sha256": "p", "extended": True, "images": 8, "prompts": 4}


def verdict(prompt, sample, tag, correct, score):
    return {"prompt": prompt, "sample": sample, "tag": tag, "correct": correct, "color_score": score, "seam": 0.05}


def put(study, out, name, seed, values, **protocol):
    """Scores of one cell: `values` are the color scores of prompts 0..3, two pictures each."""
    (cell,) = cells(study, [name], [seed])
    place = out / "cells" / cell.folder
    open_stage(place / "runs" / cell.variant.arm.name, stage="train", config={}).finish({})
    for kind in study.kinds:
        folder = place / "scores" / cell.variant.arm.name / kind
        stage = open_stage(folder, stage="evaluate", config={})
        verdicts = [verdict(p, k, "two_object", False, value) for p, value in enumerate(values) for k in range(2)]
        scores = {"protocol": PROTOCOL | protocol, "judge": {"color_objects": 0.99}, "verdicts": verdicts}
        (folder / "scores.json").write_text(json.dumps(scores))
        stage.finish({})


def test_values_differences_and_missing_cells(tmp_path):
    study = claims_smoke()
    put(study, tmp_path, "ta", 0, [0.5, 0.5, 0.5, 0.5])
    put(study, tmp_path, "ta", 1, [0.5, 0.5, 0.5, 0.5])
    put(study, tmp_path, "ta_ia", 0, [1, 1, 1, 0.5])
    put(study, tmp_path, "ta_ia", 1, [1, 1, 1, 1])
    found = results(study, tmp_path)
    table = found["tables"]["extended"]
    assert table["arms"]["ta"]["scores"]["color_score"] == {
        "low": 0.5,
        "value": 0.5,
        "high": 0.5,
        "by_seed": [0.5, 0.5],
        "prompts": 4,
    }
    mine = table["arms"]["ta_ia"]["scores"]["color_score"]
    assert mine["by_seed"] == [0.875, 1]
    assert mine["value"] == 0.9375
    assert table["arms"]["ta_ia"]["scores"]["overall"] is None  # not all six tasks
    difference = table["differences"]["ta_ia - ta"]
    assert difference["seeds"] == [0, 1]
    assert difference["scores"]["color_score"]["value"] == 0.4375
    assert 0 < difference["scores"]["color_score"]["low"] < 0.4375
    assert list(table["differences"]) == ["ta_ia - ta"]  # nothing of aio is there to take off
    assert found["missing"] == ["aio-seed0", "aio-seed1"]
    text = text_tables(study, found).splitlines()
    assert "4 of 6 cells are done." in text
    head, _, ta, ta_ia, pair = text[text.index("8 pictures of 4 prompts for each cell.") + 2 :][:5]
    assert [cell.strip() for cell in head.split("|")[1:3]] == ["arm (seeds)", "Colored objects found"]
    assert [cell.strip() for cell in ta.split("|")[1:3]] == ["ta (2)", "0.50 (0.50 to 0.50)"]
    assert [cell.strip() for cell in ta_ia.split("|")[1:3]] == [
        "ta_ia (2)",
        f"0.94 ({mine['low']:.2f} to {mine['high']:.2f})",
    ]
    low, high = (difference["scores"]["color_score"][name] for name in ("low", "high"))
    assert [cell.strip() for cell in pair.split("|")[1:3]] == ["ta_ia - ta (2)", f"+0.44* ({low:+.2f} to {high:+.2f})"]
    assert len({len(line) for line in (head, ta, ta_ia, pair)}) == 1
    assert table["judge"] == {"color_objects": 0.99}


def test_differences_are_paired_by_seed(tmp_path):
    study = claims_smoke()
    put(study, tmp_path, "ta", 0, [0.5] * 4)
    put(study, tmp_path, "ta_ia", 0, [1] * 4)
    put(study, tmp_path, "ta_ia", 1, [0] * 4)  # no partner
    found = results(study, tmp_path)["tables"]["extended"]
    assert found["differences"]["ta_ia - ta"]["seeds"] == [0]
    assert found["differences"]["ta_ia - ta"]["scores"]["color_score"]["value"] == 0.5


def test_cells_judged_otherwise_are_refused(tmp_path):
    study = claims_smoke()
    put(study, tmp_path, "ta", 0, [0.5] * 4)
    put(study, tmp_path, "ta_ia", 0, [1] * 4, prompts_sha256="q")
    with pytest.raises(UserError, match=r"ta_ia seed 0 was judged otherwise: protocol\.prompts_sha256 is 'q'"):
        results(study, tmp_path)


def test_by_prompt_means_over_pictures():
    rows = [
        verdict(3, 0, "colors", True, None),
        verdict(3, 1, "colors", False, None),
        verdict(1, 0, "colors", True, 0.5),
    ]
    values, tasks = by_prompt({"verdicts": rows}, "colors")
    assert values.tolist() == [1, 0.5]
    assert set(tasks.tolist()) == {0}
    assert by_prompt({"verdicts": rows}, "color_score")[0].tolist() == [0.5]
    assert len(by_prompt({"verdicts": rows}, "overall")[0]) == 0
    values, tasks = by_prompt({"verdicts": rows}, "seam_visible")
    assert values.tolist() == [0, 0]


def test_the_crossed_bootstrap_covers_the_truth_over_seeds_and_prompts():
    """Values = seed effect + prompt effect + noise around a known mean: 95% intervals hold it nearly as often."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        table = 0.5 + 0.1 * rng.normal(size=(12, 1)) + 0.1 * rng.normal(size=(1, 40)) + 0.2 * rng.normal(size=(12, 40))
        interval = crossed_bootstrap(table, n=400, seed=trial)
        assert interval.low <= interval.value <= interval.high
        assert interval.value == pytest.approx(table.mean())
        hits += interval.low <= 0.5 <= interval.high
    assert 0.86 <= hits / 200 <= 0.99


def test_the_crossed_bootstrap_by_hand():
    assert crossed_bootstrap(np.full((3, 4), 0.25)).low == 0.25
    # Groups weigh the same however many columns they have.
    interval = crossed_bootstrap([[0, 0, 0, 1]], groups=[5, 5, 5, 9])
    assert interval.value == 0.5
    # One row: nothing about rows; two far ones: the interval reaches from one to the other.
    wide = crossed_bootstrap([[0.0] * 50, [1.0] * 50])
    assert (wide.low, wide.value, wide.high) == (0, 0.5, 1)
    for wrong in ([], [1, 2], np.zeros((0, 3))):
        with pytest.raises(UserError, match="crossed_bootstrap"):
            crossed_bootstrap(wrong)
    with pytest.raises(UserError, match="groups"):
        crossed_bootstrap([[1, 2]], groups=[1])
