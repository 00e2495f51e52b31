"""A checkpoint is there whole or not at all."""

import json
import os
import pickle
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tessera.config import UserError
from tessera.train import checkpoint

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b/c.d": torch.ones(4, dtype=torch.bfloat16),
    "step": torch.tensor(3.0),
    "count": torch.tensor(7),
}
STATE = "shard-00001-model-00001-of-00001.safetensors"


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


def names(run):
    return [path.name for path in sorted((run / "checkpoints").iterdir())]


def test_what_is_saved_is_loaded(tmp_path):
    saved = checkpoint.save(tmp_path, 640, TENSORS, {"skipped": 2})
    assert saved == tmp_path / "checkpoints" / "000000000640" == checkpoint.latest(tmp_path)
    loaded = checkpoint.load(saved)
    assert loaded.num_images == 640
    assert loaded.meta["skipped"] == 2
    assert loaded.tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert loaded.tensors[name].dtype == value.dtype
        assert torch.equal(loaded.tensors[name], value)


def test_equal_states_are_equal_bytes(tmp_path):
    """Of eight, for torch's writer puts the notes in a header in random order."""
    first = checkpoint.save(tmp_path / "first", 1, TENSORS, {"x": 1, "y": 2})
    for n in range(8):
        other = checkpoint.save(tmp_path / str(n), 1, TENSORS, {"y": 2, "x": 1})
        for file in (STATE, "meta.json"):
            assert (first / file).read_bytes() == (other / file).read_bytes()


def test_no_pickle_is_written(tmp_path, monkeypatch):
    for module, name in ((torch, "save"), (pickle, "dump"), (pickle, "dumps"), (pickle, "Pickler")):
        monkeypatch.setattr(module, name, None)
    saved = checkpoint.save(tmp_path, 1, TENSORS, {})
    assert sorted(os.listdir(saved)) == ["meta.json", STATE]
    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, None)
    assert checkpoint.load(saved).tensors.keys() == TENSORS.keys()


def test_large_states_are_several_files(tmp_path):
    saved = checkpoint.save(tmp_path, 1, TENSORS, {}, file_bytes=24)
    files = sorted(path.name for path in saved.glob("*.safetensors"))
    assert files == [f"shard-00001-model-{n:05d}-of-00002.safetensors" for n in (1, 2)]
    assert list(json.loads((saved / "meta.json").read_text())["files"]) == files
    loaded = checkpoint.load(saved).tensors
    assert all(torch.equal(loaded[name], value) for name, value in TENSORS.items())


def test_tensors_are_read_into_those_that_are_there(tmp_path):
    saved = checkpoint.save(tmp_path, 1, TENSORS, {})
    into = {name: torch.zeros_like(value) for name, value in TENSORS.items()}
    assert checkpoint.load(saved, into).tensors["a"] is into["a"]
    assert all(torch.equal(into[name], value) for name, value in TENSORS.items())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"new": torch.zeros(2)}, r"missing: new\)"),
        ({"a": None}, r"unknown: a\)"),
        ({"a": None, "z": torch.zeros(2, 3)}, r"missing: z; unknown: a\)"),
        ({"a": torch.zeros(3, 2)}, r"of another shape: a\)"),
        ({str(n): torch.zeros(1) for n in range(4)}, r"missing: 0, 1, 2, \.\.\.\)"),
    ],
)
def test_missing_renamed_and_other_tensors_are_named(tmp_path, changed, said):
    saved = checkpoint.save(tmp_path, 8, TENSORS, {})
    into = {name: value for name, value in (TENSORS | changed).items() if value is not None}
    with pytest.raises(UserError, match=rf"000000000008: is not of this network \({said}; delete the run"):
        checkpoint.load(saved, into)


def test_the_last_two_are_kept(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    for num_images in (8, 16, 24, 1000):
        checkpoint.save(tmp_path, num_images, TENSORS, {})
    assert names(tmp_path) == ["000000000024", "000000001000"]
    checkpoint.prune(tmp_path, 1)
    assert names(tmp_path) == ["000000001000"]


def test_milestones_are_kept_for_ever(tmp_path):
    """Every 20 images, or the first checkpoint after: 24 for 20, 48 for 40; 104 stands for 60, 80 and 100."""
    for num_images in (8, 16, 24, 32, 48, 104, 112, 120, 128):
        checkpoint.save(tmp_path, num_images, TENSORS, {}, keep=2, every=20)
    assert [int(name) for name in names(tmp_path)] == [24, 48, 104, 120, 128]
    checkpoint.prune(tmp_path, 1, 20)
    assert [int(name) for name in names(tmp_path)] == [24, 48, 104, 120, 128]
    checkpoint.prune(tmp_path, 1)
    assert [int(name) for name in names(tmp_path)] == [128]


def test_a_killed_save_never_counts(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 8, TENSORS, {})

    def killed(*_args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(Killed):
            checkpoint.save(tmp_path, 16, TENSORS, {})
    assert len(names(tmp_path)) == 2  # it left its unfinished directory
    assert checkpoint.latest(tmp_path).name == "000000000008"
    checkpoint.save(tmp_path, 24, TENSORS, {})
    assert names(tmp_path) == ["000000000008", "000000000024"]


def test_a_killed_deletion_never_counts(tmp_path, monkeypatch):
    for num_images in (8, 16):
        checkpoint.save(tmp_path, num_images, TENSORS, {})

    def half_removed(directory, **_kwargs):
        (directory / "meta.json").unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half_removed)
        with pytest.raises(Killed):
            checkpoint.save(tmp_path, 24, TENSORS, {})
    assert [path.name for path in checkpoint.found(tmp_path)] == ["000000000016", "000000000024"]
    checkpoint.prune(tmp_path, 2)
    assert names(tmp_path) == ["000000000016", "000000000024"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    """The system refuses to make a file larger than 64 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    try:
        with pytest.raises(UserError, match=r"000000000008: the checkpoint cannot be written: .*File too large"):
            checkpoint.save(tmp_path, 8, {"large": torch.zeros(10**6)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def test_one_wrong_bit_is_named_with_its_checksum(tmp_path):
    saved = checkpoint.save(tmp_path, 8, TENSORS, {})
    data = bytearray((saved / STATE).read_bytes())
    data[-1] ^= 1
    (saved / STATE).write_bytes(data)
    with pytest.raises(UserError, match=rf"{STATE}: is damaged \(its SHA-256 is .*, meta.json says .*\); delete"):
        checkpoint.load(saved)
    (saved / STATE).unlink()
    with pytest.raises(UserError, match=rf"{STATE}: is missing; delete"):
        checkpoint.load(saved)


@pytest.mark.parametrize("file", [STATE, "meta.json"])
def test_a_damaged_file_is_named(tmp_path, file):
    saved = checkpoint.save(tmp_path, 8, TENSORS, {})
    data = (saved / file).read_bytes()
    (saved / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=file):
        checkpoint.load(saved)


def test_space_is_checked_before(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000_000)
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage)
    run = tmp_path / "not" / "yet"
    checkpoint.check_space(run, 1_600_000_000, 3)
    with pytest.raises(UserError, match=r"yet: checkpoints need 5\.10 GB, only 5\.00 GB are free"):
        checkpoint.check_space(run, 1_700_000_000, 3)
    assert asked == [tmp_path, tmp_path]


def other_weights(path):
    save_file({name: value + 1 for name, value in TENSORS.items()}, path)


@pytest.mark.parametrize(
    ("name", "stray"),
    [
        ("model.safetensors", other_weights),
        ("zz.safetensors", other_weights),
        (f"{STATE[:-12]} (1).safetensors", other_weights),
        ("shard-00002-model-00001-of-00001.safetensors", other_weights),
        ("more.safetensors", lambda path: save_file({"extra": torch.zeros(9)}, path)),
        (f"._{STATE}", lambda path: path.write_bytes(b"\0\5\x16\7" + bytes(78))),  # macOS's, on other file systems
        ("half.safetensors", lambda path: path.write_bytes(b"half")),
        ("folder.safetensors", lambda path: path.mkdir()),
        ("nowhere.safetensors", lambda path: path.symlink_to("gone")),
        (".DS_Store", lambda path: path.write_bytes(b"Bud1")),
    ],
)
def test_files_that_are_not_listed_are_not_read(tmp_path, name, stray):
    """torch's reader takes every *.safetensors of the folder; those of meta.json alone are verified."""
    saved = checkpoint.save(tmp_path, 8, TENSORS, {})
    stray(saved / name)
    for into in (None, {name: torch.zeros_like(value) for name, value in TENSORS.items()}):
        loaded = checkpoint.load(saved, into).tensors
        assert loaded.keys() == TENSORS.keys()
        assert all(torch.equal(loaded[name], value) for name, value in TENSORS.items())


@pytest.mark.parametrize("text", ["[]", "{}", '{"num_images": 8}', '{"files": [], "num_images": 8}', '{"files": {}}'])
def test_a_list_of_files_that_is_none_is_named(tmp_path, text):
    saved = checkpoint.save(tmp_path, 8, TENSORS, {})
    (saved / "meta.json").write_text(text)
    with pytest.raises(UserError, match=r"meta.json: does not list the checkpoint's files; delete .*000000000008"):
        checkpoint.load(saved)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1.5, "lr: is 1.5; a checkpoint holds dense tensors"),
        (3, "lr: is 3;"),
        (True, "lr: is True;"),
        ("adamw", "lr: is 'adamw';"),
        (None, "lr: is a NoneType;"),
        ([1.0], "lr: is a list;"),
        (np.float32(2), "lr: is a float32;"),
        (np.ones(3), "lr: is a ndarray;"),
        (torch.eye(3).to_sparse(), "lr: is a Tensor;"),
        (torch.empty(3, device="meta"), "lr: is a Tensor;"),
    ],
)
def test_what_is_no_tensor_is_refused_before_anything_is_written(tmp_path, value, said):
    with pytest.raises(UserError, match=re.escape(said)):
        checkpoint.save(tmp_path, 8, TENSORS | {"lr": value}, {})
    assert not (tmp_path / "checkpoints").exists()


def test_files_that_a_network_shows_late_are_waited_for(tmp_path, monkeypatch):
    late, exists = iter([False, False]), Path.exists
    monkeypatch.setattr(checkpoint.time, "sleep", lambda seconds: None)

    def shown(path, **how):
        return next(late, True) if path.match("shard-*.safetensors") else exists(path, **how)

    monkeypatch.setattr(Path, "exists", shown)
    saved = checkpoint.save(tmp_path, 8, {"a": torch.ones(3)}, {})
    assert torch.equal(checkpoint.load(saved).tensors["a"], torch.ones(3))
    monkeypatch.setattr(checkpoint, "PATIENCE", 0.0)
    late = iter([False] * 9)
    with pytest.raises(UserError, match="all ranks need one shared folder"):
        checkpoint.save(tmp_path, 16, {"a": torch.ones(3)}, {})
