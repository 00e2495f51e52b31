"""Captions from class names, of images, CutMix images and crops."""

import pytest

from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.caption.aio import aio_caption_of, mix_places
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.captioner import iter_requests
from tessera.curate.caption.table import read_captions
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
        ("half", 0, ("on the left", "on the right")),
        ("half", 1, ("at the top", "at the bottom")),
        ("quarter", 1, ("in the center", "in the top right corner")),
        ("quarter", 2, ("in the center", "in the bottom left corner")),
    ],
)
def test_places_of_mixes(pattern, index, expected):
    assert mix_places(placement_at(pattern, 256, index)) == expected


def test_places_of_a_ninth_on_each_border():
    found = {mix_places(placement_at("ninth", 256, 4 * 74 + side)) for side in range(4)}
    places = ("at the top", "at the bottom", "on the left", "on the right")
    assert found == {("in the center", place) for place in places}


def test_the_order_of_two_classes_is_drawn(images, recipe):
    requests = [r for r in iter_requests(images, read_recipe(recipe)) if r.placement.spans_frame]
    told = {request.key: aio_caption_of(request, 0) for request in requests}
    for request in requests:
        base, partner = (
            f"{name} {place}"
            for name, place in zip((request.class_name, request.partner_class_name), mix_places(request.placement))
        )
        assert told[request.key] in (f"An image of {base} and {partner}", f"An image of {partner} and {base}")
    assert len({told[r.key].startswith(f"An image of {r.class_name} ") for r in requests}) == 2


def test_captions_of_crops_are_those_of_one_picture(images, tmp_path):
    recipe = tmp_path / "recipe"
    augment(recipe, images, AugmentConfig(pattern="crop"))
    classes = {row.key: row.class_name for row in read_images(images)}
    caption(tmp_path / "aio", images, CaptionConfig(), recipe=recipe)
    rows = read_recipe(recipe).rows
    assert read_captions(tmp_path / "aio") == {row.key: f"An image of {classes[row.base]}" for row in rows}
