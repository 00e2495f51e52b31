"""Parquet files of the Hub: missing labels and damage."""

import tarfile

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
