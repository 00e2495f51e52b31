"""Colored objects without a network: exact on renders, and by hand on small images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.evaluate.miniature.calibrate import held_out, relation_of
from tessera.evaluate.miniature.color_objects import (
    ColorObject,
    _components,
    both_colors,
    color_mask,
    color_objects,
    color_score,
    colors_in_relation,
    shrink,
)
from tessera.miniature import BACKGROUNDS, COLORS, WorldConfig, render
from tessera.records import Scene

WORLD = WorldConfig(seed=99)


@pytest.mark.parametrize("size", [32, 64])
def test_held_out_renders(size: int):
    scenes = held_out(WORLD, 2, 300)
    found = color_objects(np.stack([render(scene, size) for scene in scenes]))
    right = 0
    for scene, objects in zip(scenes, found):
        a, b = scene.objects
        exact = sorted(o.color for o in objects) == sorted((a.color, b.color))
        right += exact and colors_in_relation(objects, a.color, b.color, relation_of(a.center, b.center))
        for item in objects:
            near = min(np.hypot(item.center[0] - o.center[0], item.center[1] - o.center[1]) for o in (a, b))
            assert near < 0.12
    assert right >= 0.99 * len(scenes)


def test_backgrounds_hold_no_objects():
    grounds = [Scene(objects=(), backgrounds=(name,), seed=seed) for name in BACKGROUNDS for seed in range(10)]
    assert not any(color_objects(np.stack([render(scene, 32) for scene in grounds])))


@pytest.mark.parametrize("name", COLORS)
@pytest.mark.parametrize("light", [0.66, 1.0])
def test_every_color_is_itself_light_or_dark(name: str, light: float):
    pixel = np.round(np.array(COLORS[name]) * light).astype(np.uint8)
    assert list(COLORS)[color_mask(pixel)] == name


def test_greys_are_no_colors():
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    assert (color_mask(greys) == -1).all()


def picture(*patches: tuple[str, int, int, int, int]) -> np.ndarray:
    image = np.full((1, 32, 32, 3), BACKGROUNDS["snow"][1], dtype=np.uint8)
    for name, left, top, right, bottom in patches:
        image[0, top:bottom, left:right] = COLORS[name]
    return image


def test_patches_by_hand():
    (found,) = color_objects(picture(("red", 2, 4, 10, 14), ("blue", 20, 20, 26, 26), ("green", 0, 30, 3, 32)))
    assert found == [
        ColorObject("red", (6 / 32, 9 / 32), 80 / 1024),
        ColorObject("blue", (23 / 32, 23 / 32), 36 / 1024),
    ]  # six green pixels are no object


def test_lines_and_rims_are_no_objects():
    (found,) = color_objects(picture(("red", 0, 16, 32, 17)))
    assert found == []
    (found,) = color_objects(picture(("pink", 8, 8, 22, 22), ("red", 10, 10, 20, 20)))
    assert [item.color for item in found] == ["red"]  # the pink rim is two pixels wide


def test_one_pixel_gaps_join_and_two_do_not():
    (one,) = color_objects(picture(("red", 4, 4, 10, 10), ("red", 11, 4, 17, 10)))
    (two,) = color_objects(picture(("red", 4, 4, 10, 10), ("red", 12, 4, 18, 10)))
    assert [len(one), len(two)] == [1, 2]


def test_relations():
    objects = [
        ColorObject("red", (0.2, 0.5), 0.1),
        ColorObject("blue", (0.8, 0.6), 0.1),
        ColorObject("red", (0.9, 0.5), 0.05),
    ]
    assert both_colors(objects, ("red", "blue"))
    assert not both_colors(objects, ("red", "green"))
    assert colors_in_relation(objects, "red", "blue", "left of")  # the larger red one
    assert colors_in_relation(objects, "blue", "red", "right of")
    assert not colors_in_relation(objects, "red", "blue", "right of")
    assert not colors_in_relation(objects, "red", "blue", "above")
    assert not colors_in_relation(objects, "red", "green", "left of")


def test_shrink_averages_by_area():
    large = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    large[0, ::2] = 100
    assert (shrink(large) == 50).all()
    assert shrink(large[:, :32, :32]) is not None
    assert shrink(np.zeros((2, 16, 16, 3), dtype=np.uint8)).shape == (2, 32, 32, 3)


@settings(max_examples=60)
@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_components_are_those_of_a_search(number: int, edges: list[tuple[int, int]]):
    edges = [(a % number, b % number) for a, b in edges]
    here, there = (np.array([edge[side] for edge in edges], dtype=np.int64) for side in (0, 1))
    reached = list(range(number))
    for _ in range(number):
        for a, b in edges:
            reached[a] = reached[b] = min(reached[a], reached[b])
    assert _components(number, here, there).tolist() == reached


def test_color_score_counts_the_two_largest_objects():
    def score(*names):
        things = [ColorObject(color=name, center=(0.5, 0.5), area=0.1) for name in names]
        return color_score(things, ("red", "blue"))

    assert score("red", "blue") == score("blue", "red") == 1
    assert score("red") == score("red", "red", "blue") == score("blue", "green", "red") == 0.5
    assert score() == score("green", "purple", "red", "blue") == 0
