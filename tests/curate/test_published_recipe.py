"""Recipes made from the names of published captions."""

import pytest

from tessera.config import UserError
from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.table import read_captions
from tessera.curate.index import read_recipe
from tessera.stages import read_manifest

IMPORT = CaptionConfig(captioner="import")
TRICKY = 'He said "look, a \u732b",\nthen\t left; it\'s 5\\" \u00e9'


def test_published_captions_say_their_recipe(tmp_path):
    from PIL import Image

    from tessera.curate.collect.collect import CollectConfig, collect

    source = tmp_path / "source"
    for synset in ("n01440764", "n02099601"):
        (source / synset).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (256, 256), (i * 90, 9, 9)).save(source / synset / f"{synset}_{i}.JPEG")
    (source / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\nn02099601 golden retriever\n")
    images = tmp_path / "images"
    collect(images, CollectConfig(source="imagenet", size=256), source)
    told = {
        "n01440764_0_n02099601_1_128_0_256_256": "half",
        "n01440764_1_n02099601_0_0_128_128_256": "quarter",
        "n02099601_0_n01440764_0_171_40_256_125": "ninth",
        "n02099601_0_n01440764_1_12_13_76_77": "sixteenth",
    }
    texts = {name: f'the {pattern}\tsays "assistant"' for name, pattern in told.items()}
    others = {"n01440764_0_n00000001_1_128_0_256_256": "of another set", "n01440764_0": "a plain one"}
    path = tmp_path / "published.tsv"
    path.write_text("".join(f"{name}\t{text}\n" for name, text in (texts | others).items()))
    for unused in ({"pattern": "half"}, {"partners": "balanced"}):
        with pytest.raises(UserError, match="from_captions: their names say which images are mixed, and where"):
            AugmentConfig(from_captions=str(path), **unused)
    config = AugmentConfig(from_captions=str(path))
    augment(tmp_path / "recipe", images, config)
    rows = read_recipe(tmp_path / "recipe").rows
    assert {
        f"{row.base.split('/')[1]}_{row.partner.split('/')[1]}_{'_'.join(map(str, row.placement.box))}": (
            row.placement.pattern
        )
        for row in rows
    } == told
    assert read_manifest(tmp_path / "recipe").counts == {
        "records": 4, "half": 1, "quarter": 1, "ninth": 1, "sixteenth": 1, "names_of_other_images": 1,
    }  # fmt: skip
    caption(tmp_path / "captions", images, IMPORT, recipe=tmp_path / "recipe", captions_file=path)
    found = read_captions(tmp_path / "captions")
    assert sorted(found.values()) == sorted(texts.values())
    for row in rows:
        assert row.placement.pattern in found[row.key]
    augment(tmp_path / "recipe", images, config)  # nothing to do
    for text, message in (
        ("n01440764_0\tx\n", "has no name of the form base_partner_x0_y0_x1_y1, so it says no recipe"),
        ("n01440764_0_n02099601_1_0_0_99_99\tx\n", r"box \(0, 0, 99, 99\) in the name .* is of no pattern at 256 px"),
        ("n01440764_0_n9_1_0_0_99_99\tx\n", "has 1 names of other images"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            augment(tmp_path / "other", images, config)
