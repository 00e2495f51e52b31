"""Scenes of cut-outs: what is said to be in them is in them, where it is said to be."""

import numpy as np
import pytest

from tessera.evaluate.drawings.composed import compose_scene, ground
from tiny.drawings import squares

DRAWN = squares()


def inside(image: np.ndarray, row: int, center: tuple[float, float]) -> bool:
    x, y = (int(c * 32) for c in center)
    return bool(np.abs(image[y, x].astype(int) - DRAWN.pixels[row, 24, 24, :3]).max() < 3)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_drawings_are_where_they_are_said_to_be(count):
    for seed in range(20):
        rows = [0, 1, 2, 6][:count]
        image, placed = compose_scene(DRAWN, rows, np.random.default_rng(seed))
        assert image.shape == (32, 32, 3)
        assert [each.row for each in placed] == rows
        for each in placed:
            assert inside(image, each.row, each.center)
            assert each.diameter / 2 <= min(*each.center, *(1 - c for c in each.center)) + 1e-6


def test_halves_show_the_middle_of_each():
    for seed in range(20):
        image, placed = compose_scene(DRAWN, [0, 1], np.random.default_rng(seed), halves=True)
        assert all(inside(image, each.row, each.center) for each in placed)
        first, second = (each.center for each in placed)
        assert abs(first[0] - second[0]) + abs(first[1] - second[1]) == 0.5


def test_grounds_differ_and_are_a_function_of_their_generator():
    one, two, again = (ground(np.random.default_rng(seed)) for seed in (0, 1, 0))
    assert (one == again).all()
    assert (one != two).any()
