import re

import pytest

from tessera.miniature import (
    SHAPES,
    WorldConfig,
    describe,
    draw_composed,
    draw_scene,
    mix_scene,
    place,
    plural,
)
from tessera.miniature.words import relation, with_articles
from tessera.records import Placement

WORLD = WorldConfig(num_images=64)


def test_a_caption_says_every_attribute():
    for number in range(60):
        scene = draw_scene(WORLD, number)
        (thing,) = scene.objects
        text = describe(scene, 0, number)
        for word in (thing.shape, thing.color, thing.texture, thing.size, "center"):
            assert word in text, (word, text)


def test_phrasings_differ_and_have_an_address():
    scene = draw_scene(WORLD, 3)
    texts = {describe(scene, 0, number) for number in range(40)}
    assert len(texts) >= 8
    assert describe(scene, 5, 9) == describe(scene, 5, 9)


def test_a_mixed_scene_names_both_objects_and_where_they_are():
    placement = Placement("half", (16, 0, 32, 32), 32)
    orders = set()
    for number in range(60):
        a, b = draw_scene(WORLD, number), draw_scene(WORLD, number + 1)
        scene = mix_scene(a, b, placement, "centre")
        text = describe(scene, 0, number)
        for thing in scene.objects:
            assert thing.shape in text
            assert thing.color in text
        assert "left" in text or "right" in text
        assert "composite" not in text
        orders.add(text.index(a.objects[0].shape) < text.index(b.objects[0].shape))
    assert orders == {True, False}  # the base is not always named first


def test_relation_and_place():
    left, right = draw_scene(WORLD, 0), draw_scene(WORLD, 1)
    scene = mix_scene(left, right, Placement("half", (16, 0, 32, 32), 32), "centre")
    assert relation(*scene.objects) == "to the left of"
    assert relation(*scene.objects[::-1]) == "to the right of"
    stacked = mix_scene(left, right, Placement("half", (0, 16, 32, 32), 32), "centre")
    assert relation(*stacked.objects) == "above"
    assert place((0.1, 0.1)) == "in the top left corner"
    assert place((0.5, 0.9)) == "at the bottom"
    assert place((0.5, 0.5)) == "in the center"
    assert place((0.5, 0.5), fine=True) == "exactly in the center"
    assert place((0.4, 0.56), fine=True) == "near the center slightly below and to the left"


def test_counts_are_said():
    text = describe(draw_composed(WORLD, 2, 3, "test", same=True), 0, 0)
    assert "three" in text
    assert re.search(r"\b\w+s with a", text)


@pytest.mark.parametrize("shape", SHAPES)
def test_plural(shape):
    assert plural(shape) == ("crosses" if shape == "cross" else f"{shape}s")


def test_articles():
    assert with_articles("A orange star and a apple on a red sky") == "An orange star and an apple on a red sky"
