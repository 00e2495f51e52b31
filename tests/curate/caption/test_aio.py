"""Captions from class names, of images, CutMix images and crops."""

import pytest

from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.caption.aio import aio_mix_caption, mix_places
from tessera.curate.caption.caption import CaptionConfig, caption, read_captions
from tessera.curate.index import read_images, read_recipe
from tessera.cutmix import placement_at
from tessera.files import read_table
from tessera.stages import read_manifest


def test_aio(images, tmp_path):
    out = tmp_path / "captions"
    caption(out, images, CaptionConfig())
    assert read_captions(out) == {row.key: f"An image of {row.class_name}" for row in read_images(images)}
    row = read_table(out / "captions.parquet").to_pylist()[0]
    assert row == {
        "key": "circle/000000",
        "text": "An image of circle",
        "captioner": "aio",
        "prompt": "An image of <class-name>",
        "settings": '{"seed": 0}',
        "revision": "1",
    }
    assert read_manifest(out).counts == {"records": 24, "distinct": 3}
    (out / "captions.parquet").unlink()
    caption(out, images, CaptionConfig())
    assert not (out / "captions.parquet").exists()


def test_aio_of_mixes_names_both_and_where(images, recipe, tmp_path):
    caption(tmp_path / "captions", images, CaptionConfig(), recipe=recipe)
    texts = read_captions(tmp_path / "captions")
    rows = read_recipe(recipe).rows
    assert list(texts) == [row.key for row in rows]
    for row in rows:
        first, second = row.base.split("/")[0], row.partner.split("/")[0]
        assert first in texts[row.key]
        assert second in texts[row.key]
    swapped = [texts[r.key].startswith(f"An image of {r.partner.split('/')[0]}") for r in rows]
    assert 0 < sum(swapped) < len(rows)


@pytest.mark.parametrize(
    ("pattern", "index", "expected"),
    [
        ("half", 0, "An image of fox on the left and cat on the right"),
        ("half", 1, "An image of fox at the top and cat at the bottom"),
        ("quarter", 1, "An image of fox in the center and cat in the top right corner"),
        ("quarter", 2, "An image of fox in the center and cat in the bottom left corner"),
    ],
)
def test_places_of_mixes(pattern, index, expected):
    assert aio_mix_caption("fox", "cat", mix_places(placement_at(pattern, 256, index))) == expected


def test_places_of_a_ninth_on_each_border():
    found = {aio_mix_caption("fox", "cat", mix_places(placement_at("ninth", 256, 4 * 74 + side))) for side in range(4)}
    places = ("at the top", "at the bottom", "on the left", "on the right")
    assert found == {f"An image of fox in the center and cat {place}" for place in places}
    swapped = aio_mix_caption("fox", "cat", mix_places(placement_at("half", 32, 0)), swap=True)
    assert swapped == "An image of cat on the right and fox on the left"


def test_captions_of_crops_are_those_of_one_picture(images, tmp_path):
    recipe = tmp_path / "recipe"
    augment(recipe, images, AugmentConfig(pattern="crop"))
    classes = {row.key: row.class_name for row in read_images(images)}
    caption(tmp_path / "aio", images, CaptionConfig(), recipe=recipe)
    rows = read_recipe(recipe).rows
    assert read_captions(tmp_path / "aio") == {row.key: f"An image of {classes[row.base]}" for row in rows}
