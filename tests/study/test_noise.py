"""The ideal observer of the noise study."""

from dataclasses import replace

import numpy as np
import pytest

from tessera.cli.workflow import study
from tessera.config import UserError
from tessera.presets.miniature import MINIATURE_WORLD
from tessera.study.noise import NoiseStudy, _images, accuracy, measure, run_noise
from tiny.chromium import check_file

SMALL = NoiseStudy(world=MINIATURE_WORLD, pairs=6, times=(0.2, 0.8), schedules=("cosine",))


def test_the_observer_is_as_often_right_as_in_a_simulation():
    """Two signals in noise, told apart by the nearer one: as often as the formula says."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 12)) * 0.5
    for alpha_bar in (0.1, 0.5, 0.9):
        seen = np.sqrt(alpha_bar) * a + np.sqrt(1 - alpha_bar) * rng.normal(size=(40_000, 12))
        near, far = (np.square(seen - np.sqrt(alpha_bar) * x).sum(1) for x in (a, b))
        assert accuracy(float(np.linalg.norm(a - b)), alpha_bar) == pytest.approx((near < far).mean(), abs=0.01)
    assert accuracy(0.0, 0.5) == 0.5
    assert accuracy(3.0, 0.0) == 0.5


def test_more_noise_hides_more():
    tables = measure(SMALL)["tables"]["cosine"]
    for question in tables.values():
        for points in question.values():
            assert 0.5 <= points[1]["value"] < points[0]["value"] <= 1


def test_the_images_differ_in_what_is_asked_alone():
    for pattern in ("half", "quarter"):
        mixed, whole, swapped = _images(SMALL, pattern, 3)
        assert mixed.shape == whole.shape == swapped.shape == (32, 32, 3)
        assert (mixed != whole).any()
        background = (whole == swapped).all(-1)
        assert 0.4 < background.mean() < 0.95  # only objects changed


def test_the_page(tmp_path):
    page = run_noise(SMALL, tmp_path)
    text = page.read_text()
    assert "Schedule cosine: the CutMix artifact" in text
    assert "t = 0.8" in text
    first = (tmp_path / "noise" / "results.json").read_bytes()
    run_noise(SMALL, tmp_path)
    assert (tmp_path / "noise" / "results.json").read_bytes() == first


def test_it_has_nothing_to_plan_or_to_choose(tmp_path):
    with pytest.raises(UserError, match="study noise trains nothing: leave out --plan"):
        study("noise", tmp_path, plan=True)
    with pytest.raises(UserError, match="leave out --seeds"):
        study("noise", tmp_path, seeds=(3,))
    assert list(tmp_path.iterdir()) == []


def test_bad_settings_are_refused():
    for wrong, said in (
        ({"pairs": 1}, "pairs is 1"),
        ({"times": (0.0, 0.5)}, r"times is \(0.0, 0.5\); give a number in \(0, 1\)"),
        ({"world": replace(MINIATURE_WORLD, colors=("red",))}, "two shapes and two colors"),
    ):
        with pytest.raises(UserError, match=said):
            replace(SMALL, **wrong)


def test_the_page_for_everybody(browser, tmp_path):
    check_file(browser, run_noise(SMALL, tmp_path))
