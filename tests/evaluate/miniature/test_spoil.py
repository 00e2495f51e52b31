"""Spoiled renders: what stays of a scene and what does not."""

from dataclasses import replace

import numpy as np
import pytest

from tessera.evaluate.miniature.calibrate import held_out
from tessera.evaluate.miniature.color_objects import color_objects
from tessera.evaluate.miniature.spoil import (
    ONE,
    TWO,
    around_middle,
    blended,
    blurred,
    half_gone,
    joined,
    overlaid,
    resampled,
    swapped,
    torn,
)
from tessera.miniature import WorldConfig, render

WORLD = WorldConfig(seed=11, backgrounds=("sky",), textures=("plain",))


def scenes(objects: int, number: int = 6):
    return held_out(WORLD, objects, number)


@pytest.mark.parametrize("angle", [0.0, 1.0, 2.5, 4.0])
def test_halves_that_meet_are_the_render_itself(angle):
    for scene in scenes(2):
        whole, last = render(scene), scene.objects[-1]
        np.testing.assert_array_equal(torn(scene, angle, 0), whole)
        np.testing.assert_array_equal(joined(scene, angle, last), whole)
        empty = render(replace(scene, objects=scene.objects[:-1]))
        two_halves = half_gone(scene, angle), half_gone(scene, angle + np.pi)
        for half in two_halves:
            assert ((half == whole) | (half == empty)).all(-1).all()
            assert (half != whole).any()
            assert (half != empty).any()
        either = np.where((two_halves[0] == whole).all(-1, keepdims=True), two_halves[0], two_halves[1])
        np.testing.assert_array_equal(either, whole)


def test_a_shift_moves_the_halves_along_the_cut_and_a_gap_apart():
    (scene,) = scenes(1, 1)
    thing = replace(scene.objects[0], shape="square", center=(0.5, 0.5), diameter=0.5, color="red")
    scene = replace(scene, objects=(thing,))
    empty = render(replace(scene, objects=()))

    def covered(image, rows):
        columns = np.flatnonzero((image[rows] != empty[rows]).any(-1).any(0))
        return columns.min(), columns.max()

    whole, shifted = render(scene), torn(scene, 0.0, 0.5)  # the cut lies along x, halves above and below it
    left, right = covered(whole, slice(12, 14))
    assert covered(shifted, slice(12, 14)) == (left - 4, right - 4)  # a quarter of 16 px
    assert covered(shifted, slice(18, 20)) == (left + 4, right + 4)
    apart = torn(scene, 0.0, 0, 0.25)
    np.testing.assert_array_equal(apart[14:18], empty[14:18])  # a gap of 4 px
    assert (apart[10:14] != empty[10:14]).any()
    assert (apart[18:22] != empty[18:22]).any()


def test_two_objects_lie_around_the_middle():
    (scene,) = scenes(2, 1)
    first, second = around_middle(scene, 0.0, 0.4)
    middle = np.mean([first.center, second.center], axis=0)
    assert middle == pytest.approx((0.5, 0.5))
    distance = np.hypot(*np.subtract(second.center, first.center))
    assert distance == pytest.approx(0.4 * (first.diameter + second.diameter) / 2)
    over, under = (render(replace(scene, objects=pair)).astype(float) for pair in ((first, second), (second, first)))
    np.testing.assert_array_equal(overlaid(scene, 0.0, 0.4), over)
    np.testing.assert_array_equal(blended(scene, 0.0, 0.4), np.round((over + under) / 2))


def test_colors_are_swapped_by_halves():
    for scene in scenes(2):
        image = swapped(scene, 0.3)
        asked = {thing.color for thing in scene.objects}
        found = [item.color for item in color_objects(image[None])[0]]
        assert set(found) == asked
        assert len(found) >= 3 or scene.objects[0].diameter < 0.35  # two patches of each color, but of thin shapes


def test_a_blur_keeps_the_mean_and_flat_images():
    image = render(scenes(1, 1)[0])
    flat = np.full((32, 32, 3), 77, np.uint8)
    for soft in (blurred(image, 2), resampled(image, 8)):
        assert soft.shape == image.shape
        assert soft.dtype == np.uint8
        assert soft.std() < image.std()
        assert soft.mean() == pytest.approx(image.mean(), abs=3)
    np.testing.assert_array_equal(blurred(flat, 3), flat)
    np.testing.assert_array_equal(resampled(flat, 6), flat)
    dot = np.zeros((64, 64, 3), np.uint8)
    dot[32, 32] = 255
    across = blurred(dot, 1)[32, :, 0].astype(float)  # at 64 px a deviation of 1 is one of 2 px
    np.testing.assert_allclose(across[32], 255 / (2 * np.pi * 4), atol=0.6)
    assert across[30] == pytest.approx(across[34]) == pytest.approx(across[32] * np.exp(-0.5), abs=1)


def test_every_way_draws_an_image_of_its_own_at_every_size():
    for objects, kinds in ((1, ONE), (2, TWO)):
        (scene,) = scenes(objects, 1)
        for ways in kinds.values():
            for way in ways.values():
                for size in (16, 32, 48):
                    image = way(scene, 0, size)
                    assert image.shape == (size, size, 3)
                    assert image.dtype == np.uint8
                    assert (image != render(scene, size)).any()
