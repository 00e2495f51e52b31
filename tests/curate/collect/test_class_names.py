"""Names of classes: files of every form, and numbers that nothing names."""

import tarfile

import pytest

from tessera.config import UserError
from tessera.curate.collect.class_names import read_class_names
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.index import read_images
from tessera.stages import read_manifest
from tiny.layouts import CONFIG, add, hub_set, jpeg, mapping_file, write_folders


def test_numbers_and_words_as_classes(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    with tarfile.open(source / "a.tar", "w") as tar:
        for i in range(4):
            add(tar, f"some/{i}.a.jpg", jpeg(i))
            add(tar, f"some/{i}.cls", str(i % 2).encode())
    config = CollectConfig(source="mine", size=16)
    with pytest.raises(UserError, match="no file near it names 2 of 2 classes"):
        collect(tmp_path / "out", config, source)
    (source / "classnames.txt").write_text("red fox\ngrey cat\n")
    collect(tmp_path / "out", config, source)
    assert {row.key: row.class_name for row in read_images(tmp_path / "out")} == {
        "0/some-0": "red fox", "1/some-1": "grey cat", "0/some-2": "red fox", "1/some-3": "grey cat",
    }  # fmt: skip
    with tarfile.open(source / "a.tar", "w") as tar:
        for i, word in enumerate(("red_fox", "grey cat", "")):
            add(tar, f"{i}.png", jpeg(i))
            add(tar, f"{i}.cls", word.encode())
    collect(tmp_path / "words", config, source)
    assert {row.class_name for row in read_images(tmp_path / "words")} == {"red fox", "grey cat"}
    assert read_manifest(tmp_path / "words").rejects == {"a.tar/2.png": "no class with it (.cls, or .json with label)"}
    assert read_manifest(tmp_path / "words").facts["exif_rotation"] == "upright"


def test_wordnet_ids_in_the_hubs_own_list_name_nothing(tmp_path):
    source = hub_set(tmp_path / "hub", [0, 1], ["n01440764", "n02099601"])
    with pytest.raises(UserError, match=r"no file near it names 2 of 2 classes"):
        collect(tmp_path / "images", CollectConfig(source="hub", size=16), source)
    mapping_file(source)
    collect(tmp_path / "images", CollectConfig(source="hub", size=16), source)
    assert {row.class_name for row in read_images(tmp_path / "images")} == {"tench", "golden retriever"}


def test_class_name_files(tmp_path):
    def read(name, text):
        (tmp_path / name).write_text(text)
        return read_class_names(tmp_path / name)

    assert read("a.txt", "red_fox\tRed fox\nb\tB\n").by_label == {"red_fox": "Red fox", "b": "B"}
    assert read("a.txt", "one\ntwo words\n").in_order == ["one", "two words"]
    assert read("a.json", '["one", "two"]').in_order == ["one", "two"]
    for name, text, message in (
        ("b.txt", "n01440764 tench\nfree line\n", "lines with a label and lines without, such as 'free line'"),
        ("b.txt", "n01440764\n", "line 1 has no name"),
        ("b.txt", "n01440764 a\nn01440764 b\n", "line 2 names n01440764 a second time"),
        ("b.txt", "\n", "has no class names"),
        ("b.json", "{", "is not JSON"),
        ("b.json", '{"a": 1}', "expected is an object of label -> name"),
    ):
        with pytest.raises(UserError, match=message):
            read(name, text)


def test_names_that_two_classes_share_are_told_in_full(tmp_path):
    source = write_folders(tmp_path / "source", {("n02012849", "a"): jpeg(1), ("n03126707", "b"): jpeg(2)})
    (source / "LOC_synset_mapping.txt").write_text("n02012849 crane, bird\nn03126707 crane, lifting machine\n")
    collect(tmp_path / "out", CONFIG, source)
    assert {row.class_name for row in read_images(tmp_path / "out")} == {"crane, bird", "crane, lifting machine"}
