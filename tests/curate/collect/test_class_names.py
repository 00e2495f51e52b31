"""Names of classes: files of every form, and numbers that nothing names."""

import json
import math
import tarfile
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from tessera.config import UserError
from tessera.curate.collect.class_names import name_classes, read_class_names, read_label
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.index import read_images
from tessera.stages import read_manifest
from tiny.class_folders import FOLDER, put
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
    for rows in ("label,name\n0,tench\n1,a fox\n", '0,tench\n"1","a fox"\n', "id,class\r\n0.0,tench\r\n1.0,a fox\r\n"):
        assert read("a.csv", rows).by_label == {"0": "tench", "1": "a fox"}
    assert read("a.txt", "0.0\ttench\n1.0\tfox\n").by_label == {"0": "tench", "1": "fox"}
    assert read("a.txt", "7\ttench\n8\tfox\n").in_order == []
    for line in ("{} {}", "{},{}", "{}, {}", "{}: {}", "{}. {}", "{}) {}", "{} - {}", "{}={}"):
        pairs = [(1, "dog"), (0, "house cat, cat"), (10, "7 up")]
        found = read("a.txt", "\n\n".join(line.format(*pair) for pair in pairs))
        assert (found.by_label, found.in_order) == ({"1": "dog", "0": "house cat, cat", "10": "7 up"}, [])
    for text in ("1 euro\n2 euro", "4x4\n2door", "3 wheeler\nfox", "2.5 mm nail\n3.5 mm screw"):
        assert read("a.txt", text).in_order == text.split("\n")
    for name, text, message in (
        ("b.txt", "n01440764 tench\nfree line\n", "lines with a label and lines without, such as 'free line'"),
        ("b.txt", "n01440764\n", "line 1 has no name"),
        ("b.txt", "n01440764 a\nn01440764 b\n", "line 2 names n01440764 a second time"),
        ("b.txt", "\n", "has no class names"),
        ("b.csv", "0,tench\n1\n", "a row is '1'; expected are a label and a name"),
        ("b.csv", "0,tench\n0,fox\n", "names a label a second time"),
        ("b.csv", "label,name\n", "has no class names"),
        ("b.json", "{", "is not JSON"),
        ("b.json", "[" * 100_000, "is not JSON"),
        ("b.json", '{"a": 1}', "expected is an object of label -> name"),
    ):
        with pytest.raises(UserError, match=message):
            read(name, text)


def test_names_that_two_classes_share_are_told_in_full(tmp_path):
    source = write_folders(tmp_path / "source", {("n02012849", "a"): jpeg(1), ("n03126707", "b"): jpeg(2)})
    (source / "LOC_synset_mapping.txt").write_text("n02012849 crane, bird\nn03126707 crane, lifting machine\n")
    collect(tmp_path / "out", CONFIG, source)
    assert {row.class_name for row in read_images(tmp_path / "out")} == {"crane, bird", "crane, lifting machine"}


@pytest.mark.parametrize(
    ("value", "label"),
    [
        *((number, ("3", 3)) for number in (3, 3.0, "3", " 3\n", "3.0", "3.", Decimal(3), Decimal("3.00"))),
        *(
            (none, ("", None))
            for none in (
                None,
                math.nan,
                "nan",
                "NaN",
                "<NA>",
                -1,
                -1.0,
                "-1",
                "-1.0",
                Decimal(-1),
                "",
                "  ",
                Decimal("NaN"),
            )
        ),
        *((none, ("", None)) for none in (0.5, math.inf, -math.inf, Decimal("1.25"), Decimal("Infinity"))),
        (True, ("True", None)),
        ("red fox", ("red fox", None)),
        ("2.0.1", ("2.0.1", None)),
        (b"red fox", ("red fox", None)),
        (b" \xc3\xa9pagneul ", ("épagneul", None)),
        (b"", ("", None)),
        (0.0, ("0", 0)),
        (-0.0, ("0", 0)),
        (2.0**53, ("9007199254740992", 2**53)),
    ],
)
def test_labels_of_every_type(value, label):
    assert read_label(value) == label


@pytest.mark.parametrize(
    "labels",
    [pa.array([0.0, 1.0, None, -1.0]), pa.array([0, 1, None, -1], pa.int8()), pa.array([0.0, 1.0, math.nan, -1.0]),
     pa.array([Decimal(0), Decimal(1), None, Decimal(-1)], pa.decimal128(38, 0))],
    ids=["double", "int8", "nan", "decimal"],
)  # fmt: skip
@pytest.mark.parametrize("own", [True, False])
def test_whole_floats_are_labels(tmp_path, labels, own):
    """pandas with a gap and DuckDB's HUGEINT write doubles."""
    source = hub_set(tmp_path / "hub", labels, ["red fox", "grey cat"] if own else None)
    config = CollectConfig(source="hub", size=16)
    if not own:
        with pytest.raises(UserError, match=r"no file near it names 2 of 2 classes \(0, 1\)"):
            collect(tmp_path / "out", config, source)
        (tmp_path / "names.txt").write_text("red fox\ngrey cat\n")
        config = replace(config, class_names=str(tmp_path / "names.txt"))
    collect(tmp_path / "out", config, source)
    assert [row.class_name for row in read_images(tmp_path / "out")] in (
        ["grey cat", "red fox"],
        ["red fox", "grey cat"],
    )
    assert read_manifest(tmp_path / "out").rejects == {"a.parquet:2": "no label", "a.parquet:3": "no label"}


def test_labels_that_are_no_class_are_refused(tmp_path):
    source = hub_set(tmp_path / "hub", [[0], [1, 2]])
    with pytest.raises(UserError, match=r"its column label is list<.*>; wanted is one class for each image"):
        collect(tmp_path / "out", CollectConfig(source="hub", size=16), source)


def folders(folder, *names):
    for number, name in enumerate(names):
        put(folder / name / "1.png", (number, 0, 0))
    return folder


def test_a_file_that_names_no_class_is_an_error(tmp_path):
    source = folders(tmp_path / "photos", "fox", "wolf")
    names = mapping_file(tmp_path, "other.txt")
    with pytest.raises(
        UserError, match=r"photos: other.txt names none of the 2 classes \(fox, wolf\); a line is LABEL"
    ):
        collect(tmp_path / "out", replace(FOLDER, class_names=str(names)), source)
    names.write_text("fox\tred fox\n")
    collect(tmp_path / "out", replace(FOLDER, class_names=str(names)), source)
    assert {row.class_name for row in read_images(tmp_path / "out")} == {"red fox", "wolf"}


def test_numbers_of_another_file_name_nothing(tmp_path):
    source = hub_set(tmp_path / "hub", [0.0, 1.0], None)
    (tmp_path / "names.txt").write_text("7\ttench\n8\tfox\n")
    with pytest.raises(UserError, match=r"names.txt does not name 2 of 2 classes \(0, 1\)"):
        collect(tmp_path / "out", CollectConfig(source="x", size=16, class_names=str(tmp_path / "names.txt")), source)


def test_a_file_that_is_asked_for_goes_before_the_names_of_the_set(tmp_path):
    source = hub_set(tmp_path / "hub", [0, 1], ["a", "b"])
    names = tmp_path / "names.json"
    names.write_text(json.dumps(["red fox", "grey cat"]))
    collect(tmp_path / "out", CollectConfig(source="hub", size=16, class_names=str(names)), source)
    assert {row.class_name for row in read_images(tmp_path / "out")} == {"red fox", "grey cat"}
    names.write_text(json.dumps({"0": "fox", "1": "cat"}))
    plain = hub_set(tmp_path / "plain", [0.0, 1.0])
    collect(tmp_path / "two", CollectConfig(source="hub", size=16, class_names=str(names)), plain)
    assert {row.class_name for row in read_images(tmp_path / "two")} == {"fox", "cat"}


def test_folders_that_are_numbers_are_named_in_order(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("zero\none\n")
    collect(tmp_path / "out", replace(FOLDER, class_names=str(names)), folders(tmp_path / "digits", "0", "1"))
    assert {row.class_name for row in read_images(tmp_path / "out")} == {"zero", "one"}
    with pytest.raises(UserError, match=r"names.txt does not name 1 of 2 classes \(2\)"):
        collect(tmp_path / "o2", replace(FOLDER, class_names=str(names)), folders(tmp_path / "from-one", "1", "2"))
    collect(tmp_path / "o3", FOLDER, tmp_path / "digits")
    assert {row.class_name for row in read_images(tmp_path / "o3")} == {"0", "1"}


def test_numbers_in_map_clsloc_are_no_names(tmp_path):
    path = tmp_path / "map_clsloc.txt"
    path.write_text("n01440764 1 tench\nn01484850 3 great_white_shark\nn02012849 135 crane\nn03126707 518 crane\n")
    assert list(read_class_names(path).by_label.values()) == ["tench", "great white shark", "crane", "crane"]


@pytest.mark.parametrize(
    ("labels", "names", "codes"),
    [
        (["n02085620-Toy_terrier", "n02110958-pug"], ["Toy terrier", "pug"], ["n02085620", "n02110958"]),
        (["001.Sooty_Albatross", "002.Crested_Auklet"], ["Sooty Albatross", "Crested Auklet"], ["001", "002"]),
        (["10 sks dog"], ["sks dog"], ["10"]),
        (["10_sks dog", "5_cat", "regularisation"], ["sks dog", "cat", "regularisation"], ["10", "5"]),
        (["1 - fox", "2 - wolf"], ["fox", "wolf"], ["1", "2"]),
    ],
)  # fmt: skip
def test_codes_in_front_of_names_are_taken_off(labels, names, codes):
    found, taken_off = name_classes(Path("photos"), labels, {}, None, None)
    assert sorted(found.values()) == sorted(names)
    assert sorted(taken_off.values()) == sorted(codes)


@pytest.mark.parametrize(
    "labels",
    [["1 euro", "2 euro", "5 euro"], ["fox", "wolf", "3 wheeler"], ["4x4", "2door"], ["7", "8"], ["fox 1", "fox 2"]],
)
def test_numbers_that_say_something_stay(labels):
    assert name_classes(Path("photos"), labels, {}, None, None) == (dict(zip(labels, labels)), {})


def test_the_manifest_says_what_was_taken_off(tmp_path):
    collect(tmp_path / "out", FOLDER, folders(tmp_path / "cub", "001.Laysan_Albatross", "002.Sooty_Albatross"))
    assert [(row.key, row.class_name) for row in read_images(tmp_path / "out")] == [
        ("001.Laysan_Albatross/1", "Laysan Albatross"),
        ("002.Sooty_Albatross/1", "Sooty Albatross"),
    ]
    expected = {"Laysan Albatross": "001", "Sooty Albatross": "002"}
    assert read_manifest(tmp_path / "out").facts["codes_taken_off"] == expected


def test_labels_of_tars_may_be_floats(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, (name, text) in enumerate((("cls", b"1.0\n"), ("json", b'{"label": 0.0}'), ("cls", b"-1.0"))):
            add(tar, f"{i}.jpg", jpeg(i))
            add(tar, f"{i}.{name}", text)
    (tmp_path / "classnames.txt").write_text("red fox\ngrey cat\n")
    collect(tmp_path / "out", CollectConfig(source="a", size=16), tmp_path / "a.tar")
    found = {row.key: row.class_name for row in read_images(tmp_path / "out")}
    assert found == {"1/0": "grey cat", "0/1": "red fox"}
    assert len(read_manifest(tmp_path / "out").rejects) == 1
