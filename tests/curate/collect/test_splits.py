"""Splits: their names, in any case and spelling, and sets in which some names only look like one."""

import json
import tarfile
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tessera.config import UserError
from tessera.curate.collect.collect import collect
from tessera.curate.collect.splits import split_of, split_of_path, splits_among
from tessera.curate.index import read_images
from tessera.stages import read_manifest
from tiny.class_folders import FOLDER, put
from tiny.layouts import add, jpeg


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "TRAIN", "Training", "seg_train", "TrainSet", "train2017", "trainval")),
        *((name, "train") for name in ("trainVal", "TrAiN")),
        *((name, "val") for name in ("val", "valid", "Validation", "dev", "val_images", "imagesValid", "valset")),
        *((name, "test") for name in ("Test", "testing", "seg-test", "test.images", "TESTimages", "testdata")),
        *((name, None) for name in ("restrain", "étrain", "contest", "train_test", "dog", "", "latest", "vale")),
    ],
)
def test_words_of_splits(name, split):
    assert (split_of(name) or (None,))[0] == split


def test_splits_among_names():
    assert splits_among(["seg_train", "seg_test", "seg_pred"]) == ({"seg_train": "train", "seg_test": "test"}, True)
    assert splits_among(["Train", "validation", "dog"]) == ({"Train": "train", "validation": "val"}, True)
    assert splits_among(["train", "bus", "car"]) == ({"train": "train"}, False)
    assert splits_among(["bullet_train", "test_tube"]) == ({}, False)
    assert split_of_path("data/train/0001-of-0002.tar") == ("train", "*")
    assert split_of_path("a/b.tar") is None


def collected(folder, source, **options) -> dict[str, str]:
    """Return source -> class of the images collected."""
    collect(folder / "out", replace(FOLDER, **options), source)
    return {row.source: row.class_name for row in read_images(folder / "out")}


def fails(folder, source, message, **options):
    with pytest.raises(UserError, match=message) as caught:
        collect(folder / "out", replace(FOLDER, **options), source)
    assert "\n" not in str(caught.value)
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Test"), ("Training", "Testing"), ("seg_train/seg_train", "seg_test/seg_test"), ("train", "validation"),
     ("images/train", "images/val"), ("train/images", "test/images"), ("data/set/train/train/img", "data/set/test/img"),
     ("archive/TRAIN", "archive/TEST"), ("train2017", "val2017")],
)  # fmt: skip
def test_the_test_images_are_not_trained_on(tmp_path, train, test):
    source = tmp_path / "photos"
    for number, name in enumerate(("cat", "dog")):
        put(source / train / name / "1.png", (number, 0, 0))
        put(source / test / name / "2.png", (number, 9, 0))
        put(source / test / name / "3.png", (number, 9, 9))
    (source / "annotations").mkdir()
    (source / "annotations" / "a.xml").write_text("no image")
    assert collected(tmp_path, source) == {f"{train}/cat/1.png": "cat", f"{train}/dog/1.png": "dog"}
    manifest = read_manifest(tmp_path / "out")
    assert manifest.facts["layout"] == "ImageNet tree"
    passed_over = test.removesuffix("/seg_test").removesuffix("/images").removesuffix("/img")
    assert manifest.facts["ignored"][f"{passed_over}/"] == 4


@pytest.mark.parametrize("name", ["validation", "Valid", "val_set", "DEV"])
def test_val_has_many_names(tmp_path, name):
    put(tmp_path / "photos" / "train" / "cat" / "1.png")
    put(tmp_path / "photos" / name / "cat" / "2.png", (1, 2, 3))
    assert collected(tmp_path, tmp_path / "photos", split="val") == {f"{name}/cat/2.png": "cat"}
    with pytest.raises(UserError, match=rf"photos: has no folder of the split test, only .*{name}.* \(see --split\)"):
        collect(tmp_path / "other", replace(FOLDER, split="test"), tmp_path / "photos")


def test_splits_and_classes_may_be_links(tmp_path):
    put(tmp_path / "elsewhere" / "cat" / "1.png")
    put(tmp_path / "elsewhere" / "more-dogs" / "2.png", (1, 2, 3))
    (tmp_path / "photos" / "Testing").mkdir(parents=True)
    (tmp_path / "photos" / "Testing" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (tmp_path / "photos" / "Training").symlink_to(tmp_path / "elsewhere")
    found = collected(tmp_path, tmp_path / "photos")
    assert found == {"Training/cat/1.png": "cat", "Training/more-dogs/2.png": "more dogs"}


def test_all_takes_every_split(tmp_path):
    source = tmp_path / "photos"
    for name in ("train", "val"):
        put(source / name / "cat" / "1.png", (1, len(name), 0))
    assert collected(tmp_path, source, split="all") == {"train/cat/1.png": "cat", "val/cat/1.png": "cat"}
    assert [row.key for row in read_images(tmp_path / "out")] == ["cat/1-png", "cat/1-png-2"]


def test_splits_inside_of_classes(tmp_path):
    source = tmp_path / "photos"
    for name in ("cat", "dog"):
        put(source / name / "train" / "1.png", (len(name), 0, 0))
        put(source / name / "test" / "2.png", (len(name), 1, 0))
    (source / "fox").mkdir()
    put(source / "fox" / "3.png")
    found = collected(tmp_path, source)
    assert found == {"cat/train/1.png": "cat", "dog/train/1.png": "dog", "fox/3.png": "fox"}
    assert read_manifest(tmp_path / "out").facts["ignored"] == {"cat/test/": 1, "dog/test/": 1}


def test_splits_without_classes_need_the_one_class(tmp_path):
    source = tmp_path / "photos"
    put(source / "train" / "1.png")
    put(source / "test" / "2.png")
    fails(tmp_path, source, r"train: has 1 images, but no class folders.*--single-class NAME")
    assert collected(tmp_path, source, single_class="cat") == {"train/1.png": "cat"}
    assert read_manifest(tmp_path / "out").facts["ignored"] == {"test/": 1}


@pytest.mark.parametrize(("there", "asked"), [("test", "train"), ("train", "val"), ("Testing", "train")])
def test_one_class_of_another_split_is_refused(tmp_path, there, asked):
    put(tmp_path / "photos" / there / "1.png")
    fails(
        tmp_path, tmp_path / "photos", f"no folder of the split {asked}, only {there}", split=asked, single_class="cat"
    )
    flags = {"single_class": "cat", "layout": "class-folders"}
    assert collected(tmp_path, tmp_path / "photos", **flags) == {f"{there}/1.png": "cat"}


def test_one_class_of_folders_of_which_one_is_called_train(tmp_path):
    for name in ("bus", "train", "car"):
        put(tmp_path / "photos" / name / "1.png", (len(name), 0, 0))
    assert len(collected(tmp_path, tmp_path / "photos", single_class="vehicle")) == 3


def test_a_class_may_be_called_train(tmp_path):
    source = tmp_path / "photos"
    for name in ("bus", "train", "car"):
        put(source / name / "1.png")
    assert set(collected(tmp_path, source).values()) == {"bus", "train", "car"}


def test_in_doubt_the_flag_that_decides_is_named(tmp_path):
    source = tmp_path / "photos"
    for name in ("train", "val", "dog"):
        put(source / name / "1.png", (len(name), 0, 0))
    fails(tmp_path, source, r"named like splits \(train, val\) among others with images \(dog\): give --layout class-f")
    assert set(collected(tmp_path, source, layout="class-folders").values()) == {"train", "val", "dog"}
    deep = tmp_path / "deep"
    put(deep / "train" / "cat" / "1.png")
    put(deep / "extra" / "cat" / "2.png")
    with pytest.raises(UserError, match=r"named like splits \(train\) among others with images \(extra\)"):
        collect(tmp_path / "other", FOLDER, deep)
    inner = tmp_path / "inner"
    for name in ("train", "test", "more"):
        put(inner / "cat" / name / "1.png", (len(name), 0, 0))
        put(inner / "dog" / name / "1.png", (len(name), 9, 0))
    with pytest.raises(UserError, match=r"cat: has folders named like splits \(test, train\) among .* \(more\)"):
        collect(tmp_path / "other", FOLDER, inner)


def test_a_lone_test_set_is_not_trained_on(tmp_path):
    put(tmp_path / "photos" / "test" / "cat" / "1.png")
    fails(tmp_path, tmp_path / "photos", "has no folder of the split train, only test")
    assert collected(tmp_path, tmp_path / "photos", split="test") == {"test/cat/1.png": "cat"}


def tars(source, *names):
    source.mkdir()
    for number, name in enumerate(names):
        (source / name).parent.mkdir(exist_ok=True)
        with tarfile.open(source / name, "w") as tar:
            add(tar, f"{number}.jpg", jpeg(number))
            add(tar, f"{number}.cls", name.rpartition("/")[2].encode())
    return source


def tables(source, *names):
    source.mkdir()
    for number, name in enumerate(names):
        image = [{"bytes": jpeg(number), "path": f"{number}.jpg"}]
        pq.write_table(pa.table({"image": image, "label": [name]}), source / name)
    return source


@pytest.mark.parametrize("make", [tars, tables])
@pytest.mark.parametrize(
    "names",
    [("bus.x", "train.x", "car.x"), ("train-00000.x", "extra.x"), ("freight-train.x", "test_tube.x"), ("val.x", "a.x")],
)
def test_no_file_is_dropped_for_the_word_in_anothers_name(tmp_path, make, names):
    names = [name.replace(".x", ".tar" if make is tars else ".parquet") for name in names]
    source = make(tmp_path / "source", *names)
    fails(
        tmp_path, source, r"its files may be those of splits \(.*: give --split all to take every file, or the folder"
    )
    assert len(collected(tmp_path, source, split="all")) == len(names)


@pytest.mark.parametrize(
    "names",
    [("Train-0.tar", "train-1.tar", "Validation-0.tar"), ("a/training/0.tar", "a/training/1.tar", "a/valid/0.tar"),
     ("set_train_0.tar", "set_train_1.tar", "set_val_0.tar"), ("trainset-0.tar", "trainset-1.tar", "valset-0.tar")],
)  # fmt: skip
def test_files_of_other_splits_are_counted(tmp_path, names):
    (tmp_path / "source" / "a" / "valid").mkdir(parents=True)
    (tmp_path / "source" / "a" / "training").mkdir()
    for number, name in enumerate(names):
        with tarfile.open(tmp_path / "source" / name, "w") as tar:
            add(tar, f"{number}.jpg", jpeg(number))
            add(tar, f"{number}.cls", b"fox")
    (tmp_path / "source" / "sizes.json").write_text("{}")
    assert len(collected(tmp_path, tmp_path / "source")) == 2
    assert read_manifest(tmp_path / "out").facts["ignored"] == {"*.json": 1, "split val": 1}
    collect(tmp_path / "val", replace(FOLDER, split="val"), tmp_path / "source")
    assert len(read_images(tmp_path / "val")) == 1


def test_a_split_that_nothing_is_named_for_is_an_error(tmp_path):
    for name in ("photos", "photos.val"):
        put(tmp_path / name / "cat" / "1.png")
    fails(tmp_path, tmp_path / "photos", "no folder or file is named for the split val, so all of it", split="val")
    with tarfile.open(tmp_path / "set_train.tar", "w") as tar:
        add(tar, "1.jpg", jpeg(1))
        add(tar, "1.cls", b"fox")
    fails(tmp_path, tmp_path / "set_train.tar", "is named for the split val", split="val")
    assert collected(tmp_path, tmp_path / "photos.val", split="val") == {"cat/1.png": "cat"}


def test_class_tars_of_other_splits_are_not_taken(tmp_path):
    source = tmp_path / "source"
    for number, split in enumerate(("train", "val")):
        (source / split).mkdir(parents=True)
        with tarfile.open(source / split / "n01440764.tar", "w") as tar:
            add(tar, f"n01440764_{number}.JPEG", jpeg(number))
    (source / "synset_words.txt").write_text("n01440764 tench")
    assert collected(tmp_path, source) == {"n01440764.tar/n01440764_0.JPEG": "tench"}


def test_a_file_that_is_given_itself_is_read_whatever_its_name(tmp_path):
    source = tars(tmp_path / "source", "train.tar", "test.tar")
    assert len(collected(tmp_path, source / "test.tar")) == 1


def test_tars_in_linked_folders_and_with_capitals_are_found(tmp_path):
    tars(tmp_path / "elsewhere", "b.tar")
    source = tars(tmp_path / "source", "a.TAR")
    (source / "more").symlink_to(tmp_path / "elsewhere")
    (source / "again").symlink_to(source)
    assert len(collected(tmp_path, source)) == 2


def test_another_split_is_another_configuration(tmp_path):
    put(tmp_path / "photos" / "train" / "cat" / "1.png")
    put(tmp_path / "photos" / "val" / "cat" / "2.png")
    collected(tmp_path, tmp_path / "photos")
    with pytest.raises(UserError, match='split: the directory has "train", this call has "val"'):
        collect(tmp_path / "out", replace(FOLDER, split="val"), tmp_path / "photos")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]["split"] == "train"
