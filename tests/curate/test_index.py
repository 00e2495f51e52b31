"""Rows of a set, and the composer of its images."""

import numpy as np
import pytest

from tessera.config import UserError
from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.index import Composer, list_entries, read_images, read_recipe
from tessera.cutmix import compose
from tessera.images import read_rgb, write_png


@pytest.fixture(scope="module")
def recipe(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("index") / "recipe"
    augment(out, images, AugmentConfig(half_view="centre"))
    return read_recipe(out)


def test_rows_are_a_sequence(images):
    rows = read_images(images)
    assert len(rows) == len(list(rows)) == 24
    assert rows[3] == list(rows)[3] == rows[-21]
    assert rows[2:4] == list(rows)[2:4]
    assert [row.key for row in rows.where("class", ["star"])] == [row.key for row in rows if row.class_name == "star"]
    with pytest.raises(IndexError):
        rows[24]


def test_plain_images_are_their_crops(images):
    composer = Composer(images, size=16)
    for row, entry in zip(read_images(images), list_entries(read_images(images))):
        assert (entry.key, entry.class_name) == (row.key, row.class_name)
        assert np.array_equal(composer(entry), read_rgb(images / f"{row.key}.png"))


@pytest.mark.parametrize("cache_bytes", [0, 3 * 3 * 16 * 16, 2**20])
def test_augmented_images_are_composed_by_their_rows(images, recipe, cache_bytes):
    composer = Composer(images, recipe.half_view, size=16, cache_bytes=cache_bytes)
    for row, entry in zip(recipe.rows, list_entries(read_images(images), recipe.rows)):
        base, partner = (read_rgb(images / f"{key}.png") for key in (row.base, row.partner))
        assert np.array_equal(composer(entry), compose(base, partner, row.placement, "centre"))
        assert entry.class_name == " + ".join(key.split("/")[0] for key in (row.base, row.partner))


def test_missing_and_wrongly_sized_crops_are_named(images, tmp_path):
    entry = list_entries(read_images(images))[0]
    with pytest.raises(UserError, match=r"circle/000000\.png: there is no such image; delete its directory"):
        Composer(tmp_path)(entry)
    write_png(tmp_path / entry.base, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"circle/000000\.png: is not 16 x 16 RGB"):
        Composer(tmp_path, size=16)(entry)
