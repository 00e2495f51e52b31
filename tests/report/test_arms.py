"""The arms of a page: fixed colors, curves of damaged logs, scores with their differences."""

import json

import pytest

from tessera.evaluate.scores import write_scores
from tessera.report.arms import describe_arms, loss_plot, loss_points, scores_of, scores_part, time_bars
from tiny.scores import judged, miniature_scores

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def test_the_papers_arms_have_the_same_colors_on_every_page():
    assert [(arm.label, arm.color) for arm in describe_arms(["ta_ia", "ta"])] == [("TA+IA", 1), ("TA", 0)]
    arms = describe_arms(["mine", "ta", *"abcdefg"])
    assert (arms[0].label, arms[0].color, arms[0].meaning) == ("mine", 1, "")
    assert sorted(arm.color for arm in arms[:6]) == [0, 1, 2, 3, 4, 5]
    assert all(arm.color < 6 for arm in arms)


def test_a_log_that_is_being_written_is_read_and_a_long_one_averaged(tmp_path):
    log = tmp_path / "log.jsonl"
    assert loss_points(log) == []
    log.write_text('{"num_images": 10, "loss": 0.5}\n[]\n{"num_images": 15}\n{"num_images": 20, "lo')
    assert loss_points(log) == [(10, 0.5)]
    lines = [{"num_images": n, "loss": float(n % 2)} for n in range(1, 1001)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    points = loss_points(log)
    assert len(points) == 200
    assert points[-1] == (1000, pytest.approx(0.4))
    (arm,) = describe_arms(["<b>"])
    assert "<b>" not in loss_plot([(arm, log)], "loss")
    assert loss_plot([(arm, tmp_path / "none")], "loss") is None


def test_scores_are_paired_with_those_of_the_arm_before(tmp_path):
    arms = describe_arms(["ta", "ta_ia", "later"])
    for name, right in (("ta", False), ("ta_ia", True)):
        items = [judged(p, k, TAGS[p % 6], right) for p in range(60) for k in range(2)]
        write_scores(tmp_path / "scores" / name / "short", miniature_scores(name, items, {"one_object": 0.99}))
    scores = scores_of(tmp_path, arms, "short")
    assert list(scores) == ["ta", "ta_ia"]
    part = scores_part(arms, {"extended": {}, "short": scores}, tmp_path / "prompts")
    (grid,) = part.tables
    assert grid.title == "Short prompts"
    assert [column.label for column in grid.columns] == ["TA", "TA+IA", "TA+IA \u2212 TA", "the judge itself"]
    row = next(row for row in grid.rows if row.label == "Single object")
    assert [cell["value"] for cell in row.cells] == ["0.00", "1.00", "+1.00*", "0.990"]
    assert row.cells[2]["kind"] == "clear"
    assert part.note.startswith("* The 95% interval")
    assert ("Overall", "Mean of the six tasks below") in [(row.label, row.title) for row in grid.rows]
    assert scores_part(arms, {"short": {}}, tmp_path) is None


def test_bars_are_shares_of_the_longest():
    bars = time_bars({"a": (5.0, "5 s"), "b": (20.0, "20 s")})
    assert [(bar["stage"], bar["share"]) for bar in bars] == [("a", 25.0), ("b", 100.0)]
    assert time_bars({"a": (0.0, "0 s")})[0]["share"] == 0
