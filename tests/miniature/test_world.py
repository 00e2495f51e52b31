import numpy as np
import pytest

from tessera.config import UserError
from tessera.miniature import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    WorldConfig,
    draw_composed,
    draw_scene,
    mix_scene,
    render,
    scene_key,
)
from tessera.miniature.world import SIZES, TEXTURES, size_word
from tessera.records import Placement, Scene, SceneObject

WORLD = WorldConfig(num_images=64)


def scene(shape="circle", color="red", texture="plain", background="night", center=(0.5, 0.5), diameter=0.5) -> Scene:
    thing = SceneObject(
        shape=shape, color=color, texture=texture, size=size_word(diameter), center=center, diameter=diameter
    )
    return Scene(objects=(thing,), backgrounds=(background,), seed=3)


def test_a_number_is_an_address():
    assert draw_scene(WORLD, 7) == draw_scene(WORLD, 7)
    assert draw_scene(WORLD, 7) != draw_scene(WORLD, 15)  # same class, other attributes
    assert (render(draw_scene(WORLD, 7)) == render(draw_scene(WORLD, 7))).all()
    assert draw_scene(WorldConfig(num_images=64, seed=1), 7) != draw_scene(WORLD, 7)


def test_classes_are_balanced_and_in_the_key():
    for number in range(16):
        shape = draw_scene(WORLD, number).objects[0].shape
        assert scene_key(WORLD, number) == f"{shape}/{number:06d}"
        assert shape == SHAPES[number % len(SHAPES)]


def test_one_object_near_the_middle_at_most_half_a_frame_wide():
    for number in range(200):
        (thing,) = draw_scene(WORLD, number).objects
        assert all(abs(c - 0.5) <= 0.09 for c in thing.center)
        low, high = SIZES[thing.size]
        assert low <= thing.diameter <= high <= 0.5
        assert size_word(thing.diameter) == thing.size


def test_all_attributes_occur():
    scenes = [draw_scene(WORLD, number) for number in range(400)]
    assert {s.objects[0].color for s in scenes} == set(COLORS)
    assert {s.objects[0].texture for s in scenes} == set(TEXTURES)
    assert {s.backgrounds[0] for s in scenes} == set(BACKGROUNDS)


@pytest.mark.parametrize("size", [16, 32, 64, 100])
def test_a_circle_covers_its_area_in_its_color(size):
    picture = render(scene(background="night"), size).astype(int)
    assert picture.shape == (size, size, 3)
    exact = (np.abs(picture - COLORS["red"]).max(-1) <= 1).mean()
    near = (picture[..., 0] > 120).mean()
    area = np.pi * 0.25**2
    assert exact <= area <= near + 0.01
    assert near == pytest.approx(area, rel=0.12)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_inside_their_diameter_and_apart_from_each_other(shape):
    def mask(name):
        return render(scene(shape=name), 64)[..., 0] > 120

    ours = mask(shape)
    rows, columns = np.nonzero(ours)
    assert rows.min() >= 14
    assert rows.max() <= 50
    assert columns.min() >= 14
    assert columns.max() <= 50
    for other in SHAPES:
        if other != shape:
            theirs = mask(other)
            assert (ours & theirs).sum() / (ours | theirs).sum() < 0.9


def test_shape_landmarks():
    ring, moon, cross = (render(scene(shape=name), 65)[..., 0] > 120 for name in ("ring", "moon", "cross"))
    assert not ring[32, 32]
    assert ring[32, 19]
    assert moon[32, 18]  # thick on the left
    assert not moon[32, 45]
    assert cross[32, 32]
    assert not cross[20, 20]
    triangle = render(scene(shape="triangle"), 65)[..., 0] > 120
    assert triangle[45].sum() > triangle[20].sum()  # stands on its base


def test_textures_darken_without_changing_the_hue():
    for texture in TEXTURES[1:]:
        picture = render(scene(texture=texture, diameter=0.9), 64).astype(float)[28:36, 28:36]
        hue = picture / picture.max(-1, keepdims=True)
        assert np.abs(hue - np.array(COLORS["red"]) / 222).max() < 0.05
        assert picture[..., 0].min() < 170 < picture[..., 0].max()


def test_composed_objects_do_not_touch():
    for number in range(60):
        things = draw_composed(WORLD, number, 2 + number % 3, "test").objects
        assert len(things) == 2 + number % 3
        for i, a in enumerate(things):
            for b in things[:i]:
                assert np.hypot(a.center[0] - b.center[0], a.center[1] - b.center[1]) > (a.diameter + b.diameter) / 2
    same = draw_composed(WORLD, 1, 3, "test", same=True).objects
    assert len({(thing.shape, thing.color) for thing in same}) == 1
    assert draw_composed(WORLD, 1, 2, "a") != draw_composed(WORLD, 1, 2, "b")
    with pytest.raises(UserError, match="1 to 4"):
        draw_composed(WORLD, 0, 5, "test")


def test_mixed_scenes_say_where_things_come_to_lie():
    base, partner = scene(), scene(shape="square", color="blue", background="snow", center=(0.56, 0.5))
    side = mix_scene(base, partner, Placement("half", (16, 0, 32, 32), 32), "centre")
    assert side.objects[0].center == pytest.approx((0.25, 0.5))
    assert side.objects[1].center == pytest.approx((0.81, 0.5))
    assert side.backgrounds == ("night", "snow")
    stacked = mix_scene(base, partner, Placement("half", (0, 16, 32, 32), 32), "aligned")
    assert stacked.objects[0].center[1] < 0.5 < stacked.objects[1].center[1]
    corner = mix_scene(base, partner, Placement("quarter", (16, 0, 32, 16), 32))
    assert corner.objects[0] == base.objects[0]
    assert corner.objects[1].center == pytest.approx((0.78, 0.25))
    assert corner.objects[1].diameter == pytest.approx(0.25)


def test_unknown_names_are_named_with_the_nearest():
    with pytest.raises(UserError, match=r"world\.colors.*'redd'.*red"):
        WorldConfig(colors=("redd",))
    with pytest.raises(UserError, match="seed is -1; give"):
        WorldConfig(seed=-1)
    with pytest.raises(UserError, match="num_images"):
        WorldConfig(num_images=0)
    with pytest.raises(UserError, match="size is 8; give at least 16"):
        WorldConfig(size=8)
    with pytest.raises(UserError, match="twice"):
        WorldConfig(shapes=("star", "star"))
