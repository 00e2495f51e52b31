"""A checkpoint is there whole or not at all."""

import os
import shutil

import pytest
import torch
from safetensors import SafetensorError

from tessera.config import UserError
from tessera.train import checkpoint

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b/c": torch.ones(4, dtype=torch.bfloat16), "step": torch.tensor(3.0)}


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
    backwards = dict(reversed(TENSORS.items()))
    first = checkpoint.save(tmp_path / "a", 1, TENSORS, {"x": 1, "y": 2})
    second = checkpoint.save(tmp_path / "b", 1, backwards, {"y": 2, "x": 1})
    for file in ("state.safetensors", "meta.json"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


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


def test_saving_the_same_state_again_changes_nothing(tmp_path):
    checkpoint.save(tmp_path, 8, TENSORS, {})
    checkpoint.save(tmp_path, 8, TENSORS, {})
    assert names(tmp_path) == ["000000000008"]


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


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch, kind):
    def full(*_args):
        raise kind("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match=r"000000000008: .*No space left on device"):
        checkpoint.save(tmp_path, 8, TENSORS, {})
    assert names(tmp_path) == []


@pytest.mark.parametrize("file", ["state.safetensors", "meta.json"])
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
