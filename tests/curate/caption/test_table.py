"""The table of captions: its levels, and directories without them."""

import pyarrow.parquet as pq
import pytest

from tessera.config import UserError
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.table import CAPTIONS_TABLE, check_level, in_order, read_captions, read_levels
from tessera.curate.index import read_images
from tessera.stages import read_manifest


def test_levels_are_rows_of_an_image_long_first(images, tmp_path):
    caption(tmp_path / "out", images, CaptionConfig(captioner="scene"))
    table = pq.read_table(tmp_path / "out" / CAPTIONS_TABLE)
    assert table.column_names == ["key", "level", "text", "captioner", "prompt", "settings", "revision"]
    keys = [row.key for row in read_images(images)]
    assert table["key"].to_pylist() == [key for key in keys for _ in range(3)]
    assert table["level"].to_pylist() == ["long", "medium", "short"] * len(keys)
    levels = read_levels(tmp_path / "out")
    assert list(levels) == ["long", "medium", "short"]
    assert [list(texts) for texts in levels.values()] == [keys] * 3
    assert list(levels["short"].values()) == table["text"].to_pylist()[2::3]
    assert read_captions(tmp_path / "out") == levels["long"]
    counts = read_manifest(tmp_path / "out").counts
    assert counts["records"] == counts["captions_long"] == counts["captions_short"] == len(keys)


def test_a_table_without_levels_has_one_caption_an_image(images, tmp_path):
    caption(tmp_path / "out", images, CaptionConfig(captioner="aio"))
    assert "level" not in pq.read_table(tmp_path / "out" / CAPTIONS_TABLE).column_names
    assert read_levels(tmp_path / "out") == {"long": read_captions(tmp_path / "out")}


def test_the_order_and_the_names_of_levels():
    assert in_order(["tags", "short", "long", "tags"]) == ("long", "tags", "short")
    assert check_level("long-2", "here") == "long-2"
    for wrong in ("a b", "", "a,b", "a=b", "a/b"):
        with pytest.raises(UserError, match=r"here: .* names no level of captions"):
            check_level(wrong, "here")
