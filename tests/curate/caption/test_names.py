"""The image that a name in a captions file means: spelled otherwise, from another place, or of another split."""

import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.curate.augment import AugmentConfig, augment, draw_recipe
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.names import ImageNames, image_names
from tessera.curate.caption.table import read_captions
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.index import ImageRow, read_images, read_recipe
from tessera.stages import read_manifest
from tiny.captions import write_captions

IMPORT = CaptionConfig(captioner="import")


def names_of(*sources):
    rows = [
        ImageRow(f"{source.split('/')[-2]}/{source.split('/')[-1][:-4]}", "", f"crop{n}.png", 8, 8, source, None)
        for n, source in enumerate(sources)
    ]
    return ImageNames(rows, image_names(rows))


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("cat/a b.jpg", 0),
        ("cat/a b", 0),
        ("a b", 0),
        ("photos/cat/a b.jpg", 1),
        ("/data/set/cat/a b.jpg", 1),
        ("C:/photos/cat/a b.jpg", 1),
        ("../photos/cat/a b.jpg", 1),
        ("cat/a%20b.jpg", 1),
        ("Cat/A B.JPG", 1),
        ("train/cat/a b.jpg", 1),
        ("file:///data/cat/a%20b.jpg", 1),
        ("https://host/set/cat/a%20b.jpg", 1),
        ("https://host/set/cat/a%20b.jpg?width=512&sig=a/b#top", 1),
        ("cat/x/../a b.jpg", 1),
    ],
)
def test_a_name_that_comes_near_one_image_means_it(name, rank):
    assert names_of("cat/a b.jpg", "dog/a c.jpg").find(name) == (rank, "cat/a b")


def test_folders_of_the_set_may_be_left_away_and_other_splits_are_not_meant():
    names = names_of("train/cat/1.jpg", "train/dog/2.jpg")
    assert names.find("train/cat/1.jpg") == (0, "cat/1")
    assert names.find("photos/train/cat/1.jpg") == (1, "cat/1")
    assert names.find("dog/2.jpg") == (0, "dog/2")
    assert names.find("val/cat/1.jpg") is None
    assert names.find("photos/Test/cat/1.jpg") is None


def test_what_is_near_to_several_images_or_to_none_means_none():
    names = names_of("Cat/1.jpg", "cat/1.jpg", "dog/2.jpg")
    assert names.find("CAT/1.jpg") is None
    assert names.find("other/2.jpg") is None
    assert names.find("dog/3.jpg") is None


def test_a_name_that_two_mixes_have_is_none_of_theirs(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "photos" / label / "0.png")
    images, recipe, out = (tmp_path / name for name in ("images", "recipe", "captions"))
    collect(images, CollectConfig(source="photos", size=16), tmp_path / "photos")
    seeds = (seed for seed in range(99) if len({row.placement.box for row in draw(images, seed)}) == 1)
    augment(recipe, images, AugmentConfig(pattern="half", seed=next(seeds)))
    (box,) = {row.placement.box for row in read_recipe(recipe).rows}
    path = write_captions(tmp_path / "told.csv", [(f"0_0_{'_'.join(map(str, box))}", "of one of them")])
    with pytest.raises(UserError, match="has no caption for 2 of 2 images"):
        caption(out, images, IMPORT, recipe=recipe, captions_file=path)


def draw(images, seed):
    return draw_recipe(read_images(images), AugmentConfig(pattern="half", seed=seed), 16)


@pytest.mark.parametrize("kind", ["tars", "tables"])
def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path, kind):
    buffer, source = io.BytesIO(), tmp_path / "source"
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(buffer, "PNG")
    pictures = [buffer.getvalue(), buffer.getvalue(), b"no image"]
    for label in ("cat", "dog"):
        (source / label).mkdir(parents=True)
        if kind == "tars":
            with tarfile.open(source / label / "0.tar", "w") as tar:
                for n, picture in enumerate(pictures):
                    for suffix, data in (("png", picture), ("cls", label.encode()), ("txt", f"{label} {n}".encode())):
                        entry = tarfile.TarInfo(f"{n}.{suffix}")
                        entry.size = len(data)
                        tar.addfile(entry, io.BytesIO(data))
        else:
            columns = {"image": pictures, "label": [label] * 3, "text": [f"{label} {n}" for n in range(3)]}
            pq.write_table(pa.table(columns), source / label / "0.parquet")
    collect(tmp_path / "images", CollectConfig(source="source", size=16), source)
    assert read_manifest(tmp_path / "images").counts["rejected"] == 2
    caption(tmp_path / "captions", tmp_path / "images", IMPORT, captions_file=source)
    assert [*read_captions(tmp_path / "captions").values()] == ["cat 0", "cat 1", "dog 0", "dog 1"]
