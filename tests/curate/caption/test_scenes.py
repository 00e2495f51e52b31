"""Captions of the miniature from its ground truth."""

import numpy as np
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.table import read_captions, read_levels
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.index import read_images, read_recipe, read_scenes
from tessera.miniature import plural


def test_scene_tells_the_ground_truth(images, recipe, tmp_path):
    caption(tmp_path / "plain", images, CaptionConfig(captioner="scene"))
    scenes = read_scenes(images)
    plain = read_captions(tmp_path / "plain")
    assert list(plain) == [row.key for row in read_images(images)]
    for key, text in plain.items():
        thing = scenes[key].objects[0]
        assert all(word in text for word in (thing.shape, thing.color, thing.texture, thing.size))
    caption(tmp_path / "mixed", images, CaptionConfig(captioner="scene"), recipe=recipe)
    mixed = read_captions(tmp_path / "mixed")
    for row in read_recipe(recipe).rows:
        for key in (row.base, row.partner):
            thing = scenes[key].objects[0]
            assert all(word in mixed[row.key] for word in (thing.shape, thing.color, thing.texture))
    caption(tmp_path / "again", images, CaptionConfig(captioner="scene"))
    assert read_captions(tmp_path / "again") == plain
    caption(tmp_path / "other", images, CaptionConfig(captioner="scene", seed=1))
    assert read_captions(tmp_path / "other") != plain


def test_a_crop_has_a_short_caption_alone(images, tmp_path):
    augment(tmp_path / "recipe", images, AugmentConfig(pattern="crop"))
    caption(tmp_path / "out", images, CaptionConfig(captioner="scene"), recipe=tmp_path / "recipe")
    (told,) = read_levels(tmp_path / "out").values()
    scenes = read_scenes(images)
    for row in read_recipe(tmp_path / "recipe").rows:
        (thing,) = scenes[row.base].objects
        assert thing.shape in told[row.key]
        assert not any(word in told[row.key].split() for word in (thing.size, thing.texture, "center"))


def test_other_images_have_no_ground_truth(images, tmp_path):
    collect(tmp_path / "photos", CollectConfig(source="photos", size=16), folder_of_photos(tmp_path / "source"))
    with pytest.raises(UserError, match="only the miniature has ground truth"):
        caption(tmp_path / "out", tmp_path / "photos", CaptionConfig(captioner="scene"))
    assert not (tmp_path / "out").exists()


def folder_of_photos(folder):
    (folder / "fox").mkdir(parents=True)
    Image.new("RGB", (20, 20), (90, 9, 9)).save(folder / "fox" / "1.png")
    return folder


def test_short_captions_name_what_is_there(images, recipe, tmp_path):
    scenes = read_scenes(images)
    caption(tmp_path / "plain", images, CaptionConfig(captioner="scene"))
    levels = read_levels(tmp_path / "plain")
    for level in ("medium", "short"):
        for key, text in levels[level].items():
            assert scenes[key].objects[0].shape in text
    assert np.mean([len(text.split()) for text in levels["short"].values()]) < 6
    caption(tmp_path / "mixed", images, CaptionConfig(captioner="scene"), recipe=recipe)
    mixed = read_levels(tmp_path / "mixed")
    for row in read_recipe(recipe).rows:
        for level in ("medium", "short"):
            for key in (row.base, row.partner):
                shape = scenes[key].objects[0].shape
                assert shape in mixed[level][row.key] or plural(shape) in mixed[level][row.key]
