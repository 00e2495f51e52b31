"""Tars and tables of a source."""

import tarfile
from collections import Counter

import pytest

from tessera.config import UserError
from tessera.curate.collect.collect import collect
from tessera.curate.collect.packed import all_files, files_with_suffix, first_file, is_compressed
from tessera.stages import read_manifest
from tiny.class_folders import FOLDER
from tiny.layouts import add, jpeg


def test_files_of_a_suffix_are_found_below_and_others_are_counted(tmp_path):
    source, out = tmp_path / "s", tmp_path / "s" / "made"
    for name in ("b/two.TAR", "one.tar", ".hidden.tar", "b/notes.txt", "b/cat.jpg", "images.parquet"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"x")
    all_files.cache_clear()
    found, others = files_with_suffix(source, out, ".tar")
    assert [path.relative_to(source).as_posix() for path in found] == ["b/two.TAR", "one.tar"]
    assert others == Counter({"*.txt": 1, "*.jpg": 1})
    assert first_file("tar files", source, out, ".tar") == "tar files (b/two.TAR)"
    assert first_file("Parquet files", source, out, ".parquet") == ""


@pytest.mark.parametrize("name", ["a.tar.gz", "a.TGZ", "a.zip"])
def test_a_compressed_file_among_others_is_refused(tmp_path, name):
    for each in (name, "b.tar"):
        (tmp_path / each).write_bytes(b"x")
    all_files.cache_clear()
    assert is_compressed(tmp_path / name)
    assert not is_compressed(tmp_path / "b.tar")
    with pytest.raises(UserError, match="is compressed, so that its images cannot be read in place"):
        files_with_suffix(tmp_path, tmp_path / "out", ".tar")


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["train-00000-of-00003", "train-00002-of-00003"], {"train-*-of-3, not there": 1}),
        (["part-1-of-3", "part-2-of-3"], {"part-*-of-3, not there": 1}),
        (["a_0_of_5", "b_0_of_2", "b_1_of_2"], {"a_*_of_5, not there": 4}),
        (["train-00000-of-00002", "train-00001-of-00002"], {}),
        (["1-of-a-kind", "7-of-9-lives"], {}),
    ],
)
def test_shards_that_are_not_there_are_counted(tmp_path, names, missing):
    for number, name in enumerate(names):
        (tmp_path / "s").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "s" / f"{name}.tar", "w") as tar:
            for i, label in enumerate((b"cat", b"dog")):
                add(tar, f"{number}-{i}.jpg", jpeg(i))
                add(tar, f"{number}-{i}.cls", label)
    collect(tmp_path / "out", FOLDER, tmp_path / "s")
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.counts["images"], manifest.facts.get("ignored") or {}) == (2 * len(names), missing)
