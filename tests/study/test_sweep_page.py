"""The page of a sweep: the trade-off, every setting once, the same prompts drawn."""

import pytest

from tessera.study.sweep import Cell, Settings, SweepConfig, read_cells, sweep
from tessera.study.sweep_page import _series, said, sweep_page, text_table
from tessera.study.trial import TrialConfig
from tiny.exports import write_export
from tiny.trials import make_miniature
from tiny.workspaces import Page, assert_sound


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    export, renders = write_export(folder / "export"), make_miniature(folder / "images")
    trial = TrialConfig(reference=str(renders), images=6, device="cpu")
    config = SweepConfig(trial=trial, guidance_scales=(1.0, 2.0, 4.0), guidance_intervals=((0.2, 0.9),), steps=(1, 2))
    sweep(folder / "sweep", export, config, "likeness")
    return folder / "sweep"


def test_the_page_shows_all_settings_and_their_images(swept):
    page = Page(swept / "report" / "index.html")
    assert_sound(page)
    cells, _ = read_cells(swept)
    assert len(cells) == 6
    for cell in cells:
        assert said(cell.settings) in page.text
    assert "Guidance of export" in page.text
    labels = [image["alt"] for image in page.images]
    assert any("guidance 2 for t from 0.2 to 0.9" in text for text in labels)
    assert page.html.count('aria-label="Overall against Distance to held-out images') == 2  # wide and narrow
    assert (swept / "table.md").read_text().splitlines()[0].split("|")[2].strip() == "Distance to held-out images"


def test_the_table_has_the_best_first_with_intervals(tmp_path):
    def cell(scale, value):
        scores = {"fid": {"value": value, "low": value - 1, "high": value + 1}, "mind": {"value": 0.5}}
        return Cell(Settings(scale, (0.0, 1.0), 25), scores, tmp_path)

    lines = text_table([cell(1.5, 7.0), cell(3.0, 9.5)], "fid").splitlines()
    assert [word.strip() for word in lines[0].split("|")[1:-1]] == ["settings", "FID", "MIND"]
    cells = [[word.strip() for word in line.split("|")[1:-1]] for line in lines[2:]]
    assert cells == [
        ["guidance 1.5, 25 steps", "7.00 (6.00 to 8.00)", "0.50"],
        ["guidance 3, 25 steps", "9.50 (8.50 to 10.50)", "0.50"],
    ]


def test_what_is_drawn_without_guidance_begins_the_line_of_every_interval(tmp_path):
    def cell(scale, interval, steps=25):
        return Cell(Settings(scale, interval, steps), {"fid": {"value": 1.0}}, tmp_path)

    whole, part = (0.0, 1.0), (0.1, 0.8)
    cells = [cell(3.0, part), cell(2.0, part), cell(1.0, whole), cell(2.0, whole), cell(1.0, whole, 50)]
    found = [(title, [c.settings.guidance_scale for c in members]) for title, members in _series(cells)]
    assert found == [
        ("t from 0 to 1, 25 steps", [1.0, 2.0]),
        ("t from 0.1 to 0.8, 25 steps", [1.0, 2.0, 3.0]),
        ("t from 0 to 1, 50 steps", [1.0]),
    ]


def test_without_an_alignment_the_distance_is_shown_over_guidance(tmp_path):
    cells = [
        Cell(Settings(w, (0.0, 1.0), 25), {"fid": {"value": v}}, tmp_path) for w, v in ((1.5, 7.0), (1.0, 8.0), (3, 9))
    ]
    results = {"chosen_by": "fid", "images": 8, "protocols": {}, "cells": []}
    page = sweep_page("x", cells, results)
    assert page.scores is not None
    assert "FID over guidance" in str(page.scores.plot)
    assert page.samples == []
    page.write(tmp_path / "index.html")
    assert "the best FID of 3 settings" in Page(tmp_path / "index.html").text
