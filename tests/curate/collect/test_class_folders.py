"""Class folders: keys, links, and folders that are no source."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tessera.config import UserError
from tessera.curate.collect.class_folders import items_of
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.index import read_images
from tessera.stages import read_manifest
from tiny.class_folders import FOLDER, put


def test_single_class_takes_all_below(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    put(source / "1.png")
    put(source / "deep" / "down" / "1.png")
    collect(out, replace(FOLDER, single_class="X-ray"), source)
    assert {(row.key, row.class_name) for row in read_images(out)} == {
        ("X-ray/1", "X-ray"),
        ("X-ray/deep-down-1", "X-ray"),
    }


def test_pictures_beside_class_folders_are_rejected(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    put(source / "a" / "1.png")
    put(source / "2.png")
    collect(out, FOLDER, source)
    assert read_manifest(out).rejects == {"2.png": "lies in no class folder"}
    assert [row.key for row in read_images(out)] == ["a/1"]


def test_links_are_followed_and_the_output_is_not_a_source(tmp_path):
    source = tmp_path / "source"
    put(source / "a" / "1.png")
    put(tmp_path / "elsewhere" / "2.png")
    (source / "b").symlink_to(tmp_path / "elsewhere")
    (source / "a" / "3.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    (source / "a" / "4.png").symlink_to(tmp_path / "nowhere.png")
    (source / "gone").symlink_to(tmp_path / "not-mounted")
    (source / "loop").symlink_to(source)
    out = source / "images"
    collect(out, FOLDER, source)
    assert [row.key for row in read_images(out)] == ["a/1", "a/3", "b/2"]
    assert read_manifest(out).rejects == {
        "a/4.png": "cannot be opened: No such file or directory",
        "gone": "a link that leads nowhere",
        "loop": "a link to the folder that holds it",
    }
    collect(out, FOLDER, source)


def test_no_folder_is_read_twice_however_links_lead(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    put(source / "fox" / "2023" / "1.png")
    put(source / "wolf" / "2.png")
    (source / "fox" / "a-latest").symlink_to(source / "fox" / "2023")
    (source / "fox" / "2023" / "round").symlink_to(source / "fox")
    (source / "fox" / "up").symlink_to(source)
    (source / "fox" / "gone").symlink_to(tmp_path / "not-mounted")
    collect(out, FOLDER, source)
    assert [row.key for row in read_images(out)] == ["fox/2023-1", "wolf/2"]
    manifest = read_manifest(out)
    expected = {"fox/a-latest/": 1, "fox/2023/round/": 1, "fox/up/": 1, "fox/gone": 1}
    assert manifest.facts["ignored"] == expected
    assert manifest.counts["ignored"] == 4


def test_a_link_to_a_folder_above_leads_to_no_other_set(tmp_path):
    put(tmp_path / "all" / "mine" / "fox" / "1.png")
    put(tmp_path / "all" / "theirs" / "cat" / "1.png")
    (tmp_path / "all" / "theirs" / "cat.tar").write_bytes(b"")
    source = tmp_path / "all" / "mine"
    (source / "up").symlink_to(tmp_path / "all")
    (source / "fox" / "up").symlink_to(tmp_path)
    collect(tmp_path / "out", FOLDER, source)
    assert [row.key for row in read_images(tmp_path / "out") if row.reject is None] == ["fox/1"]
    manifest = read_manifest(tmp_path / "out")
    assert manifest.rejects == {"up": "a link to the folder that holds it"}
    assert manifest.facts["ignored"] == {"fox/up/": 1}


def test_what_is_no_image_is_counted_by_kind(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    put(source / "fox" / "1.png")
    for name in ("fox/1.txt", "fox/2.TXT", "fox/3", "fox/4.000123", ".cache/x.png", "fox/.hidden/y.png", "notes.md"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("no image")
    collect(out, FOLDER, source)
    expected = {"*": 2, "*.md": 1, "*.txt": 2, ".cache/": 1, "fox/.hidden/": 1}
    assert read_manifest(out).facts["ignored"] == expected


def test_what_was_made_among_the_pictures_is_not_a_source(tmp_path, monkeypatch):
    """As after `cd photos; tessera run my-pictures --images .`, and again."""
    for name in ("fox/1.png", "wolf/2.png"):
        put(tmp_path / name)
    (tmp_path / "wolf" / "manifest.json").write_text('{"tool": "of somebody else"}')
    monkeypatch.chdir(tmp_path)
    for single, keys in ((None, ["fox/1", "wolf/2"]), ("cat", ["cat/fox-1", "cat/wolf-2"])):
        first, second = (Path("out") / str(single) / name for name in ("first", "second"))
        config = replace(FOLDER, single_class=single)
        collect(first, config, Path("."))
        collect(second, replace(config, size=32), Path("."))
        collect(first, config, Path("."))
        for out in (first, second):
            assert [row.key for row in read_images(out)] == keys
            assert read_manifest(out).facts["folders_without_images"] == []


def test_bad_folders_say_what_is_expected(tmp_path):
    with pytest.raises(UserError, match="nowhere: there is no such folder or file"):
        collect(tmp_path / "out", FOLDER, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: is empty; expected is .*/CLASS/IMAGE, .* jpeg jpg"):
        collect(tmp_path / "out", FOLDER, tmp_path / "empty")
    (tmp_path / "empty" / "a").mkdir()
    (tmp_path / "empty" / "a" / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="has no images among its 1 files"):
        collect(tmp_path / "out", FOLDER, tmp_path / "empty")
    put(tmp_path / "flat" / "1.png")
    with pytest.raises(UserError, match=r"1 images, but no class folders; .*/CLASS/IMAGE .*--single-class NAME"):
        collect(tmp_path / "out", FOLDER, tmp_path / "flat")
    with pytest.raises(UserError, match=r"1\.png: is not a folder"):
        collect(tmp_path / "out", FOLDER, tmp_path / "flat" / "1.png")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="source 'photos': give the folder"):
        collect(tmp_path / "out", CollectConfig(source="photos"))


def test_keys_differ_in_more_than_case_and_suffix():
    def keys(*names):
        files = [(Path("c") / name, "c", name.rsplit(".", 1)[0].replace("/", "-")) for name in names]
        return [item.key for item in items_of(Path("none"), files)]

    assert keys("a.jpg", "b.jpg") == ["c/a", "c/b"]
    assert keys("a.jpg", "a.png") == ["c/a-jpg", "c/a-png"]
    assert keys("A.jpg", "a.JPG") == ["c/A-jpg", "c/a-JPG-2"]
    assert keys("x/a.jpg", "x-a.jpg") == ["c/x-a-jpg", "c/x-a-jpg-2"]
    assert keys("a.jpg", "a.png", "a-jpg.png") == ["c/a-jpg", "c/a-jpg-2", "c/a-png"]
    assert keys("e\u0301.jpg", "q: *?.png", "nul\x07.png") == ["c/nul-", "c/q- --", "c/\u00e9"]
    long = keys("x" * 300 + "1.png", "x" * 300 + "2.png")
    assert len(set(long)) == 2
    assert all(len(key) < 200 for key in long)


def test_names_that_are_not_utf8(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    put(source / "a" / "1.png")
    try:
        os.rename(source / "a" / "1.png", os.fsencode(source) + b"/a/caf\xe9.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    collect(out, FOLDER, source)
    assert [row.key for row in read_images(out)] == ["a/caf\ufffd"]
