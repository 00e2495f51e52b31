"""Short captions in the place of some long ones."""

import pytest
from PIL import Image

from tessera.config import UserError
from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.caption.caption import CaptionConfig, caption, read_captions
from tessera.curate.caption.shorten import shorten
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.index import read_scenes
from tessera.miniature import WorldConfig, describe_short
from tessera.records import Scene, SceneObject
from tessera.stages import read_manifest


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short")
    collect(folder / "images", CollectConfig(size=32, world=WorldConfig(num_images=400)))
    augment(folder / "recipe", folder / "images", AugmentConfig(pattern="half", half_view="centre"))
    caption(folder / "plain", folder / "images", CaptionConfig(captioner="scene"))
    caption(folder / "mixed", folder / "images", CaptionConfig(captioner="scene"), recipe=folder / "recipe")
    return folder


@pytest.mark.parametrize(("name", "recipe"), [("plain", None), ("mixed", "recipe")])
def test_a_share_of_the_captions_is_short_and_the_rest_as_before(made, tmp_path, name, recipe):
    recipe = made / recipe if recipe else None
    shorten(tmp_path / "out", made / name, made / "images", 0.25, recipe)
    before, after = read_captions(made / name), read_captions(tmp_path / "out")
    assert list(before) == list(after)
    changed = [key for key in before if before[key] != after[key]]
    assert 60 < len(changed) < 140
    assert read_manifest(tmp_path / "out").counts["short"] >= len(changed)
    assert all(len(after[key].split()) <= 13 for key in changed)
    # A larger share keeps those and adds to them; nothing and everything are possible.
    shorten(tmp_path / "more", made / name, made / "images", 0.5, recipe)
    more = read_captions(tmp_path / "more")
    assert all(more[key] == after[key] for key in changed)
    shorten(tmp_path / "none", made / name, made / "images", 0.0, recipe)
    assert read_captions(tmp_path / "none") == before


def test_they_tell_the_truth(made, tmp_path):
    shorten(tmp_path / "out", made / "plain", made / "images", 1.0)
    scenes = read_scenes(made / "images")
    for key, text in read_captions(tmp_path / "out").items():
        (thing,) = scenes[key].objects
        assert text.split()[-1] == thing.shape
        assert text.split()[-2] in ("a", "an", thing.color)


def test_two_objects_in_either_order_with_their_relation():
    left = SceneObject(shape="circle", color="red", texture="plain", size="small", center=(0.25, 0.5), diameter=0.3)
    right = SceneObject(shape="moon", color="orange", texture="plain", size="small", center=(0.75, 0.5), diameter=0.3)
    said = {describe_short(Scene(objects=(left, right), backgrounds=("sky",), seed=0), 0, n) for n in range(400)}
    assert {
        "a circle and a moon",
        "a photo of a moon right of a circle",
        "a picture of an orange moon and a red circle",
    } <= said
    assert "a red circle to the left of an orange moon" in said
    for text in said:
        assert not ("circle" in text.partition("left of")[2] and "left of" in text)
        assert not ("moon" in text.partition("right of")[2] and "right of" in text)


def test_a_users_pictures_get_their_class_name(tmp_path):
    from PIL import Image

    for name in ("fox", "wolf"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 40), (number * 20, 50, 90)).save(tmp_path / "photos" / name / f"{number}.png")
    collect(tmp_path / "images", CollectConfig(source="photos", size=32), tmp_path / "photos")
    lines = [f"{name}/{n}.png,a long text about it {n}" for name in ("fox", "wolf") for n in range(3)]
    (tmp_path / "c.csv").write_text("file_name,text\n" + "\n".join(lines) + "\n")
    caption(tmp_path / "long", tmp_path / "images", CaptionConfig(captioner="import"), captions_file=tmp_path / "c.csv")
    shorten(tmp_path / "out", tmp_path / "long", tmp_path / "images", 1.0)
    assert set(read_captions(tmp_path / "out").values()) == {"An image of fox", "An image of wolf"}
    with pytest.raises(UserError, match=r"is 1\.5: give a number from 0 to 1"):
        shorten(tmp_path / "x", tmp_path / "long", tmp_path / "images", 1.5)


def test_short_captions_of_crops_are_those_of_one_picture(tmp_path):
    for name in ("red fox", "grey cat"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / "photos" / name / f"{i}.png")
    collect(tmp_path / "images", CollectConfig(source="photos", size=16), tmp_path / "photos")
    augment(tmp_path / "recipe", tmp_path / "images", AugmentConfig(pattern="crop"))
    caption(tmp_path / "long", tmp_path / "images", CaptionConfig(), recipe=tmp_path / "recipe")
    shorten(tmp_path / "short", tmp_path / "long", tmp_path / "images", 1.0, tmp_path / "recipe")
    assert read_captions(tmp_path / "short") == {
        f"{name}/{i}+mix": f"An image of {name}" for name in ("grey cat", "red fox") for i in range(3)
    }


def test_a_crops_ground_truth_is_not_known(made, tmp_path):
    augment(tmp_path / "recipe", made / "images", AugmentConfig(pattern="crop"))
    caption(tmp_path / "long", made / "images", CaptionConfig(), recipe=tmp_path / "recipe")
    with pytest.raises(UserError, match="does not know what a crop leaves out"):
        shorten(tmp_path / "short", tmp_path / "long", made / "images", 1.0, tmp_path / "recipe")
