import re
from dataclasses import replace

import pytest

from tessera.miniature import (
    SHAPES,
    WorldConfig,
    describe,
    describe_medium,
    describe_short,
    draw_composed,
    draw_scene,
    mix_scene,
    place,
    plural,
)
from tessera.miniature.words import relation, with_articles
from tessera.records import Placement, Scene, SceneObject

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


def _object(shape, color, x=0.5):
    return SceneObject(shape=shape, color=color, texture="plain", size="small", center=(x, 0.5), diameter=0.3)


def _said(say, *objects):
    scene = Scene(objects=objects, backgrounds=("sky",), seed=0)
    return {say(scene, 0, number) for number in range(600)}


def test_short_captions_are_what_a_person_types():
    """Single objects, two from left to right, positions, colors, both, and counts."""
    left, right = _object("circle", "red", 0.25), _object("moon", "orange", 0.75)
    assert _said(describe_short, right) == {
        f"{start}{noun}" for start in ("a photo of ", "a picture of ", "") for noun in ("a moon", "an orange moon")
    }
    two = _said(describe_short, left, right)
    assert {
        "a circle and a moon",
        "a photo of a moon right of a circle",
        "a picture of a red circle and an orange moon",
        "a red circle to the left of an orange moon",
    } <= two
    assert not {"a moon and a circle", "an orange moon and a red circle"} & two
    above = _said(describe_short, left, replace(right, center=(left.center[0], 0.9)))
    assert {"a circle above a moon", "an orange moon below a red circle"} <= above
    assert not any(" and " in text for text in above)
    for text in two:
        assert not ("circle" in text.partition("left of")[2] and "left of" in text)
        assert not ("moon" in text.partition("right of")[2] and "right of" in text)
    same = _said(describe_short, left, _object("circle", "red", 0.75))
    assert {"two circles", "a photo of two red circles"} <= same
    unlike = _said(describe_short, left, _object("circle", "blue", 0.75))
    assert {"two circles", "a red circle and a blue circle", "a blue circle right of a red circle"} <= unlike
    many = _said(describe_short, right, left, left)
    assert {"two circles and a moon", "a photo of two red circles and an orange moon"} <= many
    assert not any("  " in text for text in two | same | unlike | many)


def test_medium_captions_leave_out_clauses_but_no_object():
    left, right = _object("circle", "red", 0.25), _object("moon", "orange", 0.75)
    said = _said(describe_medium, left, right)
    assert len(said) > 200
    for text in said:
        assert {"circle", "moon"} <= set(re.findall(r"\w+", text))
        assert text[0].isupper()
        assert text.endswith(".")
        assert not ("circle" in text.partition(" left of ")[2].partition(".")[0] and " left of " in text)
    for word in ("red", "orange", "small", "plain", "on the left", "left of", "sky"):
        share = sum(word in text for text in said) / len(said)
        assert 0.05 < share < 0.95, word
    assert _said(describe_medium, left, left) >= {
        "Two circles.",
        "Two red circles. Behind both there is a clear blue sky.",
    }
