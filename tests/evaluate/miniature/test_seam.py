"""The seam score: nothing on renders, high on CutMix images, exact on steps made by hand."""

import numpy as np
import pytest

from tessera.cutmix import compose, placement_at, windows_of
from tessera.evaluate.miniature.calibrate import held_out
from tessera.evaluate.miniature.seam import VISIBLE, seam_scores
from tessera.miniature import BACKGROUNDS, WorldConfig, draw_scene, render

WORLD = WorldConfig(seed=12)


def two_halves(low: int, high: int, axis: int = 1, at: int = 16) -> np.ndarray:
    image = np.full((1, 32, 32, 3), low, dtype=np.uint8)
    if axis == 1:
        image[:, :, at:] = high
    else:
        image[:, at:] = high
    return image


@pytest.mark.parametrize("axis", [0, 1])
def test_a_step_counts_by_its_height(axis: int):
    assert seam_scores(two_halves(0, 255, axis)) == pytest.approx(1)
    assert seam_scores(two_halves(100, 151, axis), ("half",)) == pytest.approx(0.2)
    assert seam_scores(two_halves(100, 100, axis)) == pytest.approx(0)
    assert seam_scores(two_halves(100, 151, axis, at=9), ("half", "quarter")) == pytest.approx(
        0
    )  # not where CutMix cuts


def test_ramps_and_single_lines_are_no_seams():
    ramp = np.repeat(np.linspace(0, 248, 32).astype(np.uint8)[None, None, :, None], 3, -1)  # (1, 1, 32, 3)
    assert seam_scores(np.repeat(ramp, 32, 1)) == pytest.approx(0, abs=1e-6)
    line = two_halves(100, 100)
    line[:, :, 16] = 0
    assert seam_scores(line) == pytest.approx(0, abs=1e-6)


def test_a_quarter_needs_both_edges():
    image = two_halves(100, 100)
    image[:, :16, 16:] = 202
    assert seam_scores(image, ("quarter",)) == pytest.approx(0.4)
    image[:, 14:, 16:] = 100  # now the lower edge is two rows off
    assert seam_scores(image, ("quarter",)) == pytest.approx(0, abs=1e-6)


def test_objects_do_not_count():
    image = two_halves(240, 240)
    image[:, 6:28, 16:26] = (222, 32, 38)  # a red block with an edge on the middle line
    assert seam_scores(image) == pytest.approx(0, abs=1e-6)


def test_renders_score_near_nothing():
    images = np.stack([render(s, 32) for n in (1, 2) for s in held_out(WORLD, n, 100)])
    scores = seam_scores(images)
    assert scores.max() < VISIBLE
    assert scores.mean() < 0.02


@pytest.mark.parametrize(
    ("pattern", "view"), [("half", "aligned"), ("half", "centre"), ("quarter", "aligned"), ("ninth", "aligned")]
)
def test_cutmix_pictures_score_far_above_renders(pattern: str, view: str):
    scenes = [draw_scene(WORLD, number) for number in range(160)]
    pictures = [render(scene, 32) for scene in scenes]
    mixed, grounds = [], []
    for number in range(159):
        placement = placement_at(pattern, 32, number % len(windows_of(pattern, 32)))
        mixed.append(compose(pictures[number], pictures[number + 1], placement, view))
        grounds.append(scenes[number].backgrounds != scenes[number + 1].backgrounds)
    scores = seam_scores(np.stack(mixed))[np.array(grounds)]
    plain = seam_scores(np.stack(pictures))
    assert scores.mean() > 20 * plain.mean()
    assert np.quantile(scores, 0.3) > plain.max()
    assert (scores > VISIBLE).mean() > (0.9 if pattern != "ninth" else 0.6)


def test_equal_grounds_have_no_seam_to_see():
    flat = WorldConfig(seed=3, backgrounds=("snow",))
    a, b = (render(draw_scene(flat, number), 32) for number in (0, 1))
    assert seam_scores(compose(a, b, placement_at("half", 32, 0), "centre")[None]) < VISIBLE
    assert "snow" in BACKGROUNDS


def test_larger_pictures_are_looked_at_at_32_px():
    image = two_halves(100, 151)
    assert seam_scores(image.repeat(2, 1).repeat(2, 2)) == pytest.approx(seam_scores(image))
