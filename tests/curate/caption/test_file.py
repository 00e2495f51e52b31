"""The reader of captions files: each format, folders, names in one form, and what is not well formed."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tessera.config import UserError
from tessera.curate.caption.file import find_captions, read_captions_file
from tiny.captions import TRICKY, write_captions


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_rows_come_in_order_with_names_in_one_form(tmp_path, suffix):
    rows = [(".\\fox\\1.png", TRICKY), ("e\u0301/2", "x"), ("fox/1.png", " spaces stay ")]
    path = write_captions(tmp_path / f"c{suffix}", rows, "file_name", "caption")
    expected = [("fox/1.png", TRICKY), ("\u00e9/2", "x"), ("fox/1.png", " spaces stay ")]
    assert list(read_captions_file(path)) == [(name, "long", text) for name, text in expected]


def test_known_names_begin_rows_of_an_unquoted_tsv(tmp_path):
    path = tmp_path / "c.tsv"
    path.write_text('fox\ta "quoted\tthing\nwolf\tis not a row here\ncat\tb"\n')
    assert list(read_captions_file(path, {"fox", "cat"})) == [
        ("fox", "long", 'a "quoted\tthing\nwolf\tis not a row here'),
        ("cat", "long", 'b"'),
    ]
    assert [name for name, _, _ in read_captions_file(path, {"fox", "cat", "wolf"})] == ["fox", "wolf", "cat"]


def test_folders_name_their_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_captions(tmp_path / name / "metadata.csv", [("1.png", f"of {name}")], "file_name")
    assert list(read_captions_file(tmp_path)) == [("a/1.png", "long", "of a"), ("b/1.png", "long", "of b")]
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


def told(path):
    return sorted(read_captions_file(path))


LEVELS = [("a.png", "long", "A red fox sits."), ("a.png", "short", "fox"), ("a.png", "tags", "red, fox")]


def test_columns_are_levels_where_their_names_are_known_or_given(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text('file_name,Short,text,tags\na.png,fox,A red fox sits.,"red, fox"\nb.png,,A cat.,\n')
    assert [row for row in told(path) if row[2]] == [*LEVELS, ("b.png", "long", "A cat.")]
    path.write_text('file_name,caption,tags\na.png,A red fox sits.,"red, fox"\n')
    assert told(path) == LEVELS[:1]  # tags alone are no sign that several captions are meant
    assert told(f"{path}:file_name,caption,tags") == [LEVELS[0], LEVELS[2]]
    assert told(f"{path}:tags") == [("a.png", "long", "red, fox")]
    path.write_text("file_name,blip,llava\na.png,fox,A red fox sits.\n")
    assert told(f"{path}:file_name,blip,llava") == [("a.png", "blip", "fox"), ("a.png", "llava", "A red fox sits.")]
    with pytest.raises(UserError, match="has no column 'flamingo'"):
        told(f"{path}:file_name,blip,flamingo")
    path.write_text("file_name,my words,text\na.png,fox,A red fox sits.\n")
    with pytest.raises(UserError, match=r"c\.csv: 'my words' names no level of captions"):
        told(f"{path}:file_name,text,my words")


@pytest.mark.parametrize("nothing", [{}, {"words": None}, {"words": float("nan")}])
def test_images_may_lack_a_caption_that_others_have(tmp_path, nothing):
    rows = [
        {"file_name": "a.png", "words": "A red fox sits.", "tags": "red, fox"},
        {"file_name": "b.png", "tags": "cat"} | nothing,
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "c.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist([rows[0], {"file_name": "b.png", "tags": "cat"}]), tmp_path / "c.parquet")
    for name in ("c.jsonl", "c.json", "c.parquet"):
        path = tmp_path / name
        words = ("a.png", "long", "A red fox sits.")
        assert [row for row in told(f"{path}:words") if row[2]] == [words]
        found = [row for row in told(f"{path}:file_name,words,tags") if row[2]]
        assert found == [("a.png", "tags", "red, fox"), (*words[:1], "words", words[2]), ("b.png", "tags", "cat")]
        with pytest.raises(UserError, match="has no column 'ward'"):
            told(f"{path}:ward")


def test_tags_are_no_long_caption_where_other_images_have_one(tmp_path):
    path = tmp_path / "c.jsonl"
    rows = [
        {"file_name": "a.png", "long": "A red fox sits.", "short": "fox", "tags": "red, fox"},
        {"file_name": "b.png", "short": "cat"},
        {"file_name": "c.png", "tags": "dog"},
    ]
    for some in (rows, rows[::-1]):
        path.write_text("\n".join(map(json.dumps, some)))
        found = {row for row in told(path) if row[2]}
        assert found == {*LEVELS, ("b.png", "short", "cat"), ("c.png", "tags", "dog")}


@pytest.mark.parametrize("name", ["c.jsonl", "c.json", "c.parquet"])
def test_lists_are_levels_with_numbers(tmp_path, name):
    path = tmp_path / name
    rows = [{"file_name": "a.png", "captions": ["one", "two", "three"]}, {"file_name": "b.png", "captions": ["four"]}]
    if name == "c.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if name == "c.json" else "\n".join(map(json.dumps, rows)))
    assert told(path) == [
        ("a.png", "long", "one"),
        ("a.png", "long-2", "two"),
        ("a.png", "long-3", "three"),
        ("b.png", "long", "four"),
    ]


def test_a_row_for_each_caption(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("key,level,text\na.png,long,A red fox sits.\na.png,short,fox\n")
    assert told(path) == LEVELS[:2]


@pytest.mark.parametrize("images", [True, False])
def test_texts_with_a_second_suffix_are_levels_of_the_same_image(tmp_path, images):
    folder = tmp_path / "v1.0"
    folder.mkdir()
    texts = {"a.txt": "A red fox sits.", "a.short.txt": "fox", "b.short.txt": "cat", "c.d.txt": "own"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    for name in ("a.png", "b.png", "c.png", "c.d.png") if images else ():
        (folder / name).write_bytes(b"")
    b = ("v1.0/b", "short", "cat") if images else ("v1.0/b.short", "long", "cat")
    expected = [("v1.0/a", "long", "A red fox sits."), ("v1.0/a", "short", "fox"), b, ("v1.0/c.d", "long", "own")]
    assert told(tmp_path) == expected
    # A name that the set has is that image's.
    known = {"v1.0/a.short"}
    assert ("v1.0/a.short", "long", "fox") in read_captions_file(tmp_path, known)


def test_levels_in_a_tar(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("a.png", "a.txt", "a.short.txt", "b.c.png", "b.c.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = len(name)
            tar.addfile(entry, io.BytesIO(name.encode()))
    assert told(tmp_path) == [
        ("0.tar/a", "long", "a.txt"),
        ("0.tar/a", "short", "a.short.txt"),
        ("0.tar/b.c", "long", "b.c.txt"),
    ]
