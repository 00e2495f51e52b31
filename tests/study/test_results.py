"""A study's tables from scores of known content."""

import pytest

from tessera.config import UserError
from tessera.evaluate.scores import write_scores
from tessera.prompts.miniature import draw_prompts, prompts_sha256
from tessera.stages import open_stage
from tessera.study.design import cells
from tessera.study.results import results
from tessera.study.studies import claims_smoke
from tessera.study.study_page import text_tables
from tiny.scores import judged, miniature_scores


def put(study, out, name, seed, values, **protocol):
    """Scores of one cell: `values` are the color scores of prompts 0, 1, ..., two images each."""
    (cell,) = cells(study, [name], [seed])
    place = out / "cells" / cell.folder
    open_stage(place / "runs" / cell.variant.arm.name, stage="train", config={}).finish({})
    for kind in study.kinds:
        folder = place / "scores" / cell.variant.arm.name / kind
        stage = open_stage(folder, stage="evaluate", config={})
        items = [
            judged(p, k, "two_object", False, color_score=value) for p, value in enumerate(values) for k in range(2)
        ]
        write_scores(folder, miniature_scores(name, items, {"color_objects": 0.99}, **protocol))
        stage.finish({})


def test_values_differences_and_missing_cells(tmp_path):
    study = claims_smoke()
    put(study, tmp_path, "ta", 0, [0.5] * 20)
    put(study, tmp_path, "ta", 1, [0.5] * 20)
    put(study, tmp_path, "ta_ia", 0, [1] * 18 + [0.5] * 2)
    put(study, tmp_path, "ta_ia", 1, [1] * 20)
    found = results(study, tmp_path)
    table = found["tables"]["extended"]
    plain = table["arms"]["ta"]["scores"]["color_score"]
    assert (plain["value"], plain["by_seed"], plain["prompts"]) == (0.5, [0.5, 0.5], 20)
    assert plain["low"] < 0.5 < plain["high"]  # that all prompts agree is no certainty
    mine = table["arms"]["ta_ia"]["scores"]["color_score"]
    assert mine["by_seed"] == [0.95, 1]
    assert mine["value"] == 0.975
    assert table["arms"]["ta_ia"]["scores"]["overall"] is None  # not all six tasks
    difference = table["differences"]["ta_ia - ta"]
    assert difference["seeds"] == [0, 1]
    assert difference["scores"]["color_score"]["value"] == 0.475
    assert 0 < difference["scores"]["color_score"]["low"] < 0.475
    assert list(table["differences"]) == ["ta_ia - ta"]  # nothing of aio is there to take off
    assert found["missing"] == ["aio-seed0", "aio-seed1"]
    text = text_tables(study, found).splitlines()
    assert "- So far 4 of 6 cells are done." in text
    head, _, ta, ta_ia, pair = text[text.index("40 images of 20 prompts for each cell.") + 2 :][:5]
    assert [cell.strip() for cell in head.split("|")[1:3]] == ["arm (seeds)", "Colored objects found"]
    assert [cell.strip() for cell in ta.split("|")[1:3]] == [
        "ta (2)",
        f"0.50 ({plain['low']:.2f} to {plain['high']:.2f})",
    ]
    assert [cell.strip() for cell in ta_ia.split("|")[1:3]] == [
        "ta_ia (2)",
        f"0.97 ({mine['low']:.2f} to {mine['high']:.2f})",
    ]
    low, high = (difference["scores"]["color_score"][name] for name in ("low", "high"))
    assert [cell.strip() for cell in pair.split("|")[1:3]] == ["ta_ia - ta (2)", f"+0.47* ({low:+.2f} to {high:+.2f})"]
    assert len({len(line) for line in (head, ta, ta_ia, pair)}) == 1
    assert table["judge"] == {"color_objects": 0.99}


def test_chance_of_the_prompts_that_were_judged(tmp_path):
    study = claims_smoke()
    config = study.variants[0].config
    lines = draw_prompts(config.collect.world, config.prompts)
    put(study, tmp_path, "ta", 0, [0.5] * 4, prompts_sha256=prompts_sha256(lines))
    table = results(study, tmp_path)["tables"]["short"]
    assert table["chance"]["single_object"] == 0.2  # of five shapes
    assert table["chance"]["colors"] == 0.04  # of as many colors too
    text = text_tables(study, results(study, tmp_path))
    (row, _) = [line for line in text.splitlines() if line.startswith("| chance")]
    assert row.split("|")[2].strip() == f"{table['chance']['color_score']:.2f}"


def test_other_prompts_have_no_chance_level(tmp_path):
    study = claims_smoke()
    put(study, tmp_path, "ta", 0, [0.5] * 4)
    assert results(study, tmp_path)["tables"]["short"]["chance"] == {}
    assert "chance" not in text_tables(study, results(study, tmp_path))


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
    with pytest.raises(UserError, match=r"ta_ia seed 0 was judged otherwise: prompts_sha256: 'q' vs '0'"):
        results(study, tmp_path)
