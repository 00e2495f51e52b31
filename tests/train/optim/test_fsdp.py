"""Weights split over ranks are whole ones."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tessera.models.build import build_network
from tessera.train import checkpoint
from tessera.train.loop import train
from tessera.train.optim.fsdp import Shards
from tiny.ranks import assert_same, config, on_ranks
from tiny.runs import log_of, state_of
from tiny.training_sets import DIT, RIN


@pytest.mark.slow
@pytest.mark.parametrize("model", [DIT, RIN])
def test_split_weights_are_whole_ones(plain, augmented, tmp_path, model):
    settings = config(model, compute="fp32")
    train(tmp_path / "one", plain, augmented, settings)
    assert on_ranks(2, settings, tmp_path / "split", plain, augmented, shard=True, device_batch_size=2) == [0, 0]
    assert_same(tmp_path / "one", tmp_path / "split")
    # Stopped in two parts, continued in three, then whole.
    assert on_ranks(2, settings, tmp_path / "mixed", plain, augmented, stop=1, shard=True) == [7, 7]
    assert_each_wrote_its_part(tmp_path / "mixed", 2)
    assert on_ranks(3, settings, tmp_path / "mixed", plain, augmented, stop=0, shard=True) == [7, 7, 7]
    assert_each_wrote_its_part(tmp_path / "mixed", 3)
    train(tmp_path / "mixed", plain, augmented, settings)
    assert_same(tmp_path / "one", tmp_path / "mixed")


def test_a_network_on_the_cpu_is_split_over_cpus_beside_a_gpu(alone, monkeypatch):
    """FSDP's own choice is the machine's GPUs: --device cpu --shard would fail there, and so would these tests."""
    monkeypatch.setattr(torch._C, "_get_accelerator", lambda *args: torch.device("cuda"))
    layout = Shards(build_network(DIT), torch.float32).layout
    assert {part.device_mesh.device_type for part in layout.values()} == {"cpu"}


def assert_each_wrote_its_part(run: Path, count: int) -> None:
    """Each rank its own rows of each tensor, and nobody more."""
    newest = checkpoint.latest(run)
    assert newest is not None
    files = sorted(newest.glob("*.safetensors"))
    assert [path.name[:11] for path in files] == [f"shard-{n + 1:05d}" for n in range(count)]
    assert sorted(path.name for path in newest.iterdir()) == ["meta.json", *(path.name for path in files)]
    parts = [load_file(path) for path in files]
    for name, whole in checkpoint.load(newest).tensors.items():
        if whole.ndim:
            rows = [len(part) for part in whole.chunk(count)]
            assert [len(part[name]) for part in parts if name in part and len(part[name])] == rows, name


@pytest.mark.slow
def test_split_weights_compute_in_bf16(plain, augmented, tmp_path):
    settings = config(DIT, compute="bf16")
    assert on_ranks(2, settings, tmp_path / "split", plain, augmented, shard=True) == [0, 0]
    assert on_ranks(2, settings, tmp_path / "copies", plain, augmented) == [0, 0]
    losses = [[line["loss"] for line in log_of(tmp_path / name)] for name in ("split", "copies")]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert all(value.dtype == torch.float32 for value in state_of(tmp_path / "split").values())
