"""The reader of captions files: each format, folders, names in one form, and what is not well formed."""

import pytest

from tessera.config import UserError
from tessera.curate.caption.file import find_captions, read_captions_file
from tiny.captions import TRICKY, write_captions


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_rows_come_in_order_with_names_in_one_form(tmp_path, suffix):
    rows = [(".\\fox\\1.png", TRICKY), ("e\u0301/2", "x"), ("fox/1.png", " spaces stay ")]
    path = write_captions(tmp_path / f"c{suffix}", rows, "file_name", "caption")
    expected = [("fox/1.png", TRICKY), ("\u00e9/2", "x"), ("fox/1.png", " spaces stay ")]
    assert list(read_captions_file(path)) == expected


def test_known_names_begin_rows_of_an_unquoted_tsv(tmp_path):
    path = tmp_path / "c.tsv"
    path.write_text('fox\ta "quoted\tthing\nwolf\tis not a row here\ncat\tb"\n')
    assert list(read_captions_file(path, {"fox", "cat"})) == [
        ("fox", 'a "quoted\tthing\nwolf\tis not a row here'),
        ("cat", 'b"'),
    ]
    assert [name for name, _ in read_captions_file(path, {"fox", "cat", "wolf"})] == ["fox", "wolf", "cat"]


def test_folders_name_their_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_captions(tmp_path / name / "metadata.csv", [("1.png", f"of {name}")], "file_name")
    assert list(read_captions_file(tmp_path)) == [("a/1.png", "of a"), ("b/1.png", "of b")]
    path, record = find_captions(tmp_path)
    assert (path, record[:-13]) == (str(tmp_path), f"{tmp_path.name}")
    write_captions(tmp_path / "b" / "metadata.csv", [("1.png", "changed")], "file_name")
    assert find_captions(tmp_path)[1] != record


def test_what_is_not_there_is_told(tmp_path):
    for name in ("/none/at/all", "none.csv", "owner/name.tsv"):
        with pytest.raises(UserError, match="there is no such captions file; give one, a folder"):
            find_captions(name)
    (tmp_path / "c.xml").write_text("<a/>")
    with pytest.raises(UserError, match=r"is none of \.csv, .* \.parquet; convert it"):
        list(read_captions_file(tmp_path / "c.xml"))
    (tmp_path / "1.txt").write_bytes(b"\xff")
    (tmp_path / "c.xml").unlink()
    with pytest.raises(UserError, match=r"1\.txt: is not UTF-8 text"):
        list(read_captions_file(tmp_path))
