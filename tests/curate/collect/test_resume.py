"""Resuming collect: only crops of the same, unchanged source are used again."""

import time
from pathlib import Path

import pytest

from tessera.config import UserError
from tessera.curate.collect import collect as collect_module
from tessera.curate.collect.collect import collect
from tessera.curate.index import read_images
from tessera.images import read_rgb
from tiny.class_folders import FOLDER, put


def test_a_source_changed_before_the_end_is_cropped_again(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    put(source / "a" / "1.png", (255, 0, 0))
    (source / "b").mkdir()
    (source / "b" / "2.png").write_bytes(b"bad")
    with pytest.raises(UserError, match=r"no readable image of class 'b' \('b/2.png': not an image"):
        collect(out, FOLDER, source)
    time.sleep(0.02)  # file times are of the kernel's ticks
    put(source / "a" / "1.png", (0, 0, 255))
    put(source / "b" / "2.png")
    collect(out, FOLDER, source)
    assert read_rgb(out / "a" / "1.png")[0, 0].tolist() == [0, 0, 255]


def interrupted(out, source, monkeypatch) -> None:
    """All crops are there, and images.parquet is not."""
    with monkeypatch.context() as patch:
        patch.setattr(collect_module, "_check_classes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            collect(out, FOLDER, source)


def red_and_blue(source: Path) -> Path:
    put(source / "a" / "1.png", (255, 0, 0))
    put(source / "b" / "1.png", (0, 0, 255))
    return source


def colors(out: Path) -> dict[str, list[int]]:
    return {row.key: read_rgb(out / str(row.file))[0, 0].tolist() for row in read_images(out)}


def test_crops_of_another_folder_of_that_name_are_not_kept(tmp_path, monkeypatch):
    out, older = tmp_path / "out", tmp_path / "older" / "my-pictures"
    put(older / "a" / "1.png", (0, 255, 0))
    put(older / "b" / "1.png", (0, 255, 0))
    time.sleep(0.02)
    interrupted(out, red_and_blue(tmp_path / "newer" / "my-pictures"), monkeypatch)
    collect(out, FOLDER, older)
    assert colors(out) == {"a/1": [0, 255, 0], "b/1": [0, 255, 0]}


@pytest.mark.parametrize("whole", [True, False])
def test_folders_that_changed_places_before_the_end_are_cropped_again(tmp_path, monkeypatch, whole):
    source, out = red_and_blue(tmp_path / "sets" / "my-pictures"), tmp_path / "out"
    other = tmp_path / "other"
    if whole:
        red_and_blue(other / "my-pictures")
        put(other / "my-pictures" / "a" / "1.png", (0, 255, 0))
    time.sleep(0.02)
    interrupted(out, source, monkeypatch)
    time.sleep(0.02)
    pairs = [(tmp_path / "sets", other)] if whole else [(source / "a", source / "b")]
    for one, two in pairs:
        one.rename(tmp_path / "third")
        two.rename(one)
        (tmp_path / "third").rename(two)
    collect(out, FOLDER, source)
    assert colors(out) == {"a/1": [0, 255, 0] if whole else [0, 0, 255], "b/1": [0, 0, 255] if whole else [255, 0, 0]}


def test_a_link_that_leads_elsewhere_before_the_end_is_cropped_again(tmp_path, monkeypatch):
    source, out = red_and_blue(tmp_path / "my-pictures"), tmp_path / "out"
    put(tmp_path / "one.png", (0, 0, 0))
    put(tmp_path / "two.png", (9, 9, 9))
    (source / "a" / "2.png").symlink_to(tmp_path / "one.png")
    time.sleep(0.02)
    interrupted(out, source, monkeypatch)
    time.sleep(0.02)
    (source / "a" / "2.png").unlink()
    (source / "a" / "2.png").symlink_to(tmp_path / "two.png")
    collect(out, FOLDER, source)
    assert colors(out)["a/2"] == [9, 9, 9]


def test_a_picture_that_was_damaged_before_the_end_leaves_no_crop(tmp_path, monkeypatch):
    source, out = red_and_blue(tmp_path / "my-pictures"), tmp_path / "out"
    put(source / "a" / "2.png")
    interrupted(out, source, monkeypatch)
    (source / "a" / "2.png").write_bytes(b"bad")
    collect(out, FOLDER, source)
    tables = ["images.parquet", "manifest.json", "source_files.parquet"]
    assert sorted(path.name for path in out.iterdir()) == ["a", "b", *tables]
    assert not (out / "a" / "2.png").exists()
