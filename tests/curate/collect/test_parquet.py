"""Parquet files of the Hub: missing labels and damage."""

import tarfile
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tessera.config import UserError
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.index import read_images
from tessera.stages import read_manifest
from tiny.layouts import add, hub_set, jpeg


@pytest.mark.parametrize("named", [True, False])
def test_minus_one_is_no_label(tmp_path, named):
    source = hub_set(tmp_path / "hub", [0, 1, -1], ["red fox", "grey cat"] if named else None)
    (source / "classnames.txt").write_text("red fox\ngrey cat\n")
    collect(tmp_path / "hub-images", CollectConfig(source="hub", size=16), source)
    assert [row.class_name for row in read_images(tmp_path / "hub-images")].count("grey cat") == 1
    assert read_manifest(tmp_path / "hub-images").rejects == {"a.parquet:2": "no label"}
    source = tmp_path / "tars"
    source.mkdir()
    with tarfile.open(source / "a.tar", "w") as tar:
        for i, label in enumerate((b"fox", b"-1")):
            add(tar, f"{i}.jpg", jpeg(i))
            add(tar, f"{i}.cls", label)
        add(tar, "2.jpg", jpeg(2))
        add(tar, "2.json", b'{"label": -1}')
    collect(tmp_path / "images", CollectConfig(source="tars", size=16), source)
    assert [row.class_name for row in read_images(tmp_path / "images")] == ["fox"]


def test_damage_inside_a_parquet_file_is_one_line(tmp_path):
    config = CollectConfig(source="hub", size=16)
    path = hub_set(tmp_path / "hub", ["fox", "cat"]) / "a.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 20 + data[24:])  # the first page's header
    with pytest.raises(UserError, match=r"a\.parquet: .* is damaged .*; fetch it again") as caught:
        collect(tmp_path / "images", config, tmp_path / "hub")
    assert "\n" not in str(caught.value)
    at = data.rindex(b"\x05bytes") + 1  # in the name of a column chunk
    path.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    with pytest.raises(UserError, match=r"a\.parquet: .* is damaged .*can't decode byte 0xff"):
        collect(tmp_path / "others", config, tmp_path / "hub")
    pq.write_table(pa.table({"image": [{"bytes": jpeg(0), "path": b"a.jpg"}], "label": ["fox"]}), path)
    with pytest.raises(UserError, match="its column image has paths that are no text"):
        collect(tmp_path / "others", config, tmp_path / "hub")


def table(path, columns: dict, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_a_table_of_images_and_texts_is_one_class(tmp_path):
    image = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(2)]
    path = table(tmp_path / "a.parquet", {"image": image, "text": ["a fox", "a red fox"]})
    config = CollectConfig(source="a", size=16)
    with pytest.raises(
        UserError, match=r"none of its 2 images can be used \('a.parquet:0': no column label\); .*--single-class"
    ):
        collect(tmp_path / "out", config, path)
    collect(tmp_path / "out", replace(config, single_class="fox"), path)
    assert [row.key for row in read_images(tmp_path / "out")] == ["fox/0", "fox/1"]


@pytest.mark.parametrize("names", [["0.jpg", "0.jpg"], ["cat/1.png", "dog/1.jpg"], ["t::A.jpg", "t::a.jpg"]])
@pytest.mark.parametrize("single", ["fox", None])
def test_images_of_one_name_are_told_by_their_rows(tmp_path, names, single):
    """datasets keeps the last part of a path, so that those of a/1.jpg and b/1.jpg are the same."""
    image = [{"bytes": jpeg(i), "path": name} for i, name in enumerate(names)]
    (tmp_path / "set").mkdir()
    for number in range(2):
        table(tmp_path / "set" / f"{number}.parquet", {"image": image, "label": ["fox"] * 2}, row_group_size=1)
    collect(tmp_path / "out", CollectConfig(source="a", size=16, single_class=single), tmp_path / "set")
    stems = ("fox-0-0", "fox-0-1", "fox-1-0", "fox-1-1") if single else ("0-0", "0-1", "1-0", "1-1")
    assert [row.key for row in read_images(tmp_path / "out")] == [f"fox/{stem}" for stem in stems]


@pytest.mark.parametrize("column", ["img", "picture", "image_bytes", "jpeg"])
@pytest.mark.parametrize("label", ["labels", "class", "cls"])
def test_an_only_column_of_images_may_have_any_name(tmp_path, column, label):
    for name, image in (("bytes", jpeg(1)), ("pairs", {"bytes": jpeg(1), "path": None})):
        path = table(tmp_path / f"{name}.parquet", {column: [image], "text": ["a fox"], label: ["fox"]})
        collect(tmp_path / name, CollectConfig(source="a", size=16), path)
        assert [row.key for row in read_images(tmp_path / name)] == [f"fox/{name}-0"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["/home/me/1.jpg"]}, "its column image is string, without bytes: it holds only the paths"),
        ({"image": [{"path": "/home/me/1.jpg"}]}, "without bytes: it holds only the paths"),
        ({"image": ["https://a.example/1.jpg"]}, "give the folder of the images"),
        ({"image_path": ["1.jpg"]}, "a table of names or URLs has no images: give their folder"),
        ({"url": ["https://a.example/1.jpg"], "text": ["a fox"]}, "has no images: give their folder"),
    ],
)
def test_tables_without_images_say_what_to_do(tmp_path, columns, message):
    path = table(tmp_path / "a.parquet", columns)
    with pytest.raises(UserError, match=message):
        collect(tmp_path / "out", CollectConfig(source="a", size=16, single_class="fox"), path)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.struct({"bytes": pa.binary()})])
def test_bytes_need_no_paths(tmp_path, kind):
    data = [jpeg(i) if pa.types.is_struct(kind) is False else {"bytes": jpeg(i)} for i in range(3)]
    path = table(
        tmp_path / "a.parquet", {"image": pa.array(data, kind), "label": ["fox", "cat", "fox"]}, row_group_size=2
    )
    collect(tmp_path / "out", CollectConfig(source="a", size=16), path)
    assert [row.key for row in read_images(tmp_path / "out")] == ["cat/a-1", "fox/a-0", "fox/a-2"]


def test_paths_without_bytes_say_what_to_do(tmp_path):
    """As datasets' to_parquet writes a folder of images: bytes are null, paths absolute."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    image = [{"bytes": None, "path": f"/home/me/{i}.jpg"} for i in range(3)]
    path = table(tmp_path / "a.parquet", {"image": pa.array(image, kind), "label": [0, 1, 0]})
    with pytest.raises(UserError, match=r"a.parquet: holds only the paths of its images, .*embed_table_storage"):
        collect(tmp_path / "out", CollectConfig(source="a", size=16), path)
    with pytest.raises(UserError, match="holds only the paths"):
        collect(tmp_path / "out", CollectConfig(source="a", size=16, single_class="fox"), path)
    path = table(tmp_path / "null.parquet", {"image": image, "label": [0, 1, 0]})  # as pandas writes it
    with pytest.raises(UserError, match="holds only the paths"):
        collect(tmp_path / "out", CollectConfig(source="a", size=16), path)
    image[1]["bytes"] = jpeg(1)
    path = table(tmp_path / "b.parquet", {"image": pa.array(image, kind), "label": ["fox"] * 3})
    collect(tmp_path / "out", CollectConfig(source="b", size=16), path)
    assert read_manifest(tmp_path / "out").rejects == dict.fromkeys(
        ("b.parquet:0", "b.parquet:2"), "no bytes in its row"
    )
    texts = table(tmp_path / "c.parquet", {"image": ["/home/me/1.jpg"], "label": ["fox"]})
    with pytest.raises(UserError, match="its column image is string, without bytes"):
        collect(tmp_path / "other", CollectConfig(source="c", size=16), texts)
