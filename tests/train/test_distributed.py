"""Several processes are one: gradients summed as they come, weights in parts, another number after a stop."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from tessera.config import UserError, to_dict
from tessera.stages import read_manifest
from tessera.train import checkpoint, state
from tessera.train.config import RuntimeOptions
from tessera.train.distributed import GradientExchange
from tessera.train.logs import MEASURED
from tessera.train.loop import train
from tessera.train.optim.config import OptimConfig
from tessera.train.optim.master import MasterOptimizer
from tessera.train.state import compiles
from tiny.training_sets import DIT, RIN, config_of

SCRIPT = """
import json, os, signal, sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from tessera.config import from_dict
from tessera.train import checkpoint, loop, step
from tessera.train.config import RuntimeOptions, TrainConfig
config = from_dict(TrainConfig, json.loads(sys.argv[1]))
stop, shard, kill = int(sys.argv[2]), sys.argv[3] == "shard", float(sys.argv[4])
last = os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
original, steps = step.Stepper.step, iter(range(10**6))
def signalled(self, *args):
    if next(steps) == stop and last:
        os.kill(os.getpid(), signal.SIGUSR1)
    return original(self, *args)
step.Stepper.step = signalled
save, saves, usual = checkpoint.save, iter(range(10**6)), [0.1]
def killed(*args):
    if next(saves) == 1 and last and kill >= 0:
        threading.Thread(target=lambda: (time.sleep(kill * usual[0]), os.kill(os.getpid(), signal.SIGKILL))).start()
    began = time.monotonic()
    save(*args)
    usual[0] = time.monotonic() - began
checkpoint.save = killed
for _ in range(2):
    try:
        loop.train(*map(Path, sys.argv[5:]), config, device="cpu", runtime=RuntimeOptions(shard=shard))
    except KeyboardInterrupt:
        sys.exit(7)
"""


def on_ranks(count, config, *paths, stop=-1, shard=False, kill=-1.0) -> list[int]:
    """Exit codes of so many processes that train together, twice (the second time all is done). The last one is told to
    stop before its step number `stop`; then they end with 7. `kill`: it is killed while the second checkpoint is saved,
    after this share of the time that the first one took."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [json.dumps(to_dict(config)), str(stop), "shard" if shard else "", str(kill), *map(str, paths)]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    processes = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], env=os.environ | common | {"RANK": str(rank)})
        for rank in range(count)
    ]
    try:
        return [process.wait(120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def state_of(run: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.latest(run)
    assert newest is not None
    return checkpoint.load(newest).tensors


def log_of(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]


def assert_same(one: Path, other: Path, atol: float = 1e-6) -> None:
    """Checkpoints within `atol`, logs within 1e-6 relatively."""
    a, b = state_of(one), state_of(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.allclose(value, b[name], atol=atol, rtol=0), (name, float((value - b[name]).abs().max()))
    for line, again in zip(log_of(one), log_of(other), strict=True):
        assert line.keys() == again.keys()
        for name in ("loss", "grad_norm", "augmented_share", "loss_by_t"):
            assert again[name] == pytest.approx(line[name], rel=1e-5), name
        assert again["validation"]["loss"] == pytest.approx(line["validation"]["loss"], rel=1e-5)


def config(model, **changes):
    """Six steps of twelve. Epsilon of AdamW and LAMB magnifies rounding where a gradient is near 0: a low rate."""
    optim = OptimConfig(name="adamw" if model is DIT else "lamb", lr=1e-4, decay="constant")
    return config_of(
        model=model,
        num_images=72,
        batch_size=12,
        log_every_images=24,
        validate_every_images=24,
        validation_records=5,
        optim=optim,
        **changes,
    )


def test_two_ranks_are_one(plain, augmented, tmp_path):
    settings = config(DIT, device_batch_size=3)
    train(tmp_path / "one", plain, augmented, settings)
    assert on_ranks(2, settings, tmp_path / "two", plain, augmented) == [0, 0]
    assert_same(tmp_path / "one", tmp_path / "two")
    assert read_manifest(tmp_path / "two").counts == read_manifest(tmp_path / "one").counts


@pytest.mark.slow
@pytest.mark.parametrize("model", [DIT, RIN])
@pytest.mark.parametrize("size", [12, 2])
def test_two_ranks_and_then_three_are_one(plain, augmented, tmp_path, model, size):
    settings = config(model, device_batch_size=size)
    train(tmp_path / "one", plain, augmented, settings)
    run = tmp_path / "run"
    assert on_ranks(2, settings, run, plain, augmented, stop=2) == [7, 7]
    newest = checkpoint.latest(run)
    assert newest is not None
    assert 24 < int(newest.name) < 72
    assert on_ranks(3, settings, run, plain, augmented) == [0, 0, 0]
    assert_same(tmp_path / "one", run)


@pytest.mark.slow
@pytest.mark.parametrize("model", [DIT, RIN])
def test_split_weights_are_whole_ones(plain, augmented, tmp_path, model):
    settings = config(model, device_batch_size=2, compute="fp32")
    train(tmp_path / "one", plain, augmented, settings)
    assert on_ranks(2, settings, tmp_path / "split", plain, augmented, shard=True) == [0, 0]
    assert_same(tmp_path / "one", tmp_path / "split")
    # Stopped in two parts, continued in three, then whole.
    assert on_ranks(2, settings, tmp_path / "mixed", plain, augmented, stop=1, shard=True) == [7, 7]
    assert_each_wrote_its_part(tmp_path / "mixed", 2)
    assert on_ranks(3, settings, tmp_path / "mixed", plain, augmented, stop=0, shard=True) == [7, 7, 7]
    assert_each_wrote_its_part(tmp_path / "mixed", 3)
    train(tmp_path / "mixed", plain, augmented, settings)
    assert_same(tmp_path / "one", tmp_path / "mixed")


def test_split_weights_are_not_compiled(monkeypatch):
    """Gathering the parts of a block within it breaks its compiled program: on GPUs, where blocks are compiled unless
    told otherwise, no split training would come to its first step."""
    monkeypatch.setattr(state, "compiler_fault", lambda device, dtype: None)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    found = {(c, split): [compiles(RuntimeOptions(compile=c), d, torch.float32, split=split) for d in (gpu, cpu)]
             for c, split in ((None, False), (None, True), (False, True), (True, False))}  # fmt: skip
    assert found == {
        (None, False): [True, False],
        (None, True): [False, False],
        (False, True): [False, False],
        (True, False): [True, True],
    }
    with pytest.raises(UserError, match="leave out --compile or --shard"):
        compiles(RuntimeOptions(compile=True), gpu, torch.float32, split=True)


def test_where_nothing_can_be_compiled_training_goes_on_without(monkeypatch, capsys):
    """A GPU on Windows, in a container without a C compiler, or without bfloat16: by default it trains all the same."""
    asked = []
    monkeypatch.setattr(state, "compiler_fault", lambda *where: asked.append(where) or "no Triton here")
    gpu = torch.device("cuda")
    assert not compiles(RuntimeOptions(), gpu, torch.bfloat16, split=False)
    assert capsys.readouterr().err.count("no Triton here") == 1
    assert asked == [(gpu, torch.bfloat16)]
    assert compiles(RuntimeOptions(compile=True), gpu, torch.bfloat16, split=False)  # the compiler then says it itself
    assert not compiles(RuntimeOptions(compile=False), gpu, torch.bfloat16, split=False)
    assert len(asked) == 1


BESIDE_A_GPU = """
import os, torch
import torch.distributed as dist
from tessera.models.build import build_network
from tessera.models.dit import DiTConfig
from tessera.train.fsdp import Shards
torch._C._get_accelerator = lambda *args: torch.device("cuda")
dist.init_process_group("gloo")
network = build_network(DiTConfig(width=16, depth=1, heads=2, text_width=8, refiner_depth=1))
layout = Shards(network, torch.float32).layout
assert {part.device_mesh.device_type for part in layout.values()} == {"cpu"}
dist.destroy_process_group()
"""


def test_a_network_on_the_cpu_is_split_over_cpus_beside_a_gpu():
    """FSDP's own choice is the machine's GPUs: --device cpu --shard would fail there, and so would these tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "1", "RANK": "0"}
    subprocess.run([sys.executable, "-c", BESIDE_A_GPU], env=os.environ | ranks, check=True, timeout=120)


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
@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("kill", [0.1, 0.5])
def test_a_rank_killed_while_saving_costs_nothing(plain, augmented, tmp_path, shard, kill):
    settings = config(DIT, checkpoint_every_images=24, compute="fp32")
    train(tmp_path / "one", plain, augmented, settings)
    run = tmp_path / "run"
    codes = on_ranks(2, settings, run, plain, augmented, shard=shard, kill=kill)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] != 0
    assert checkpoint.latest(run) in (run / "checkpoints" / "000000000024", run / "checkpoints" / "000000000048")
    assert on_ranks(2, settings, run, plain, augmented, shard=shard) == [0, 0]
    assert_same(tmp_path / "one", run)


@pytest.mark.slow
def test_split_weights_compute_in_bf16(plain, augmented, tmp_path):
    settings = config(DIT, compute="bf16")
    assert on_ranks(2, settings, tmp_path / "split", plain, augmented, shard=True) == [0, 0]
    assert on_ranks(2, settings, tmp_path / "copies", plain, augmented) == [0, 0]
    losses = [[line["loss"] for line in log_of(tmp_path / name)] for name in ("split", "copies")]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert all(value.dtype == torch.float32 for value in state_of(tmp_path / "split").values())


@pytest.fixture
def alone():
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bucket", [1, 500, 10**9])
def test_buckets_hold_the_gradients_of_all_passes(alone, monkeypatch, compute, bucket):
    """Two passes; a parameter without a gradient counts as zero; buckets are sent last layers first."""
    sent = []
    original = dist.all_reduce
    monkeypatch.setattr(dist, "all_reduce", lambda flat, **o: sent.append(flat) or original(flat, **o))

    def build():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [torch.nn.Linear(8, 8) for _ in range(4)]
        network = torch.nn.Sequential(*layers)
        network.unused = torch.nn.Parameter(torch.ones(3))
        return network, MasterOptimizer(network, OptimConfig(), compute)

    x = torch.linspace(-1, 1, 32).view(2, 2, 8).to(compute)
    network, optimizer = build()
    exchange = GradientExchange(optimizer.masters, optimizer.network, bucket)
    for _ in range(2):  # a second step starts from zero again
        sent.clear()
        exchange.begin()
        network(x[0]).square().sum().backward()
        optimizer.add_gradients()
        assert not sent
        exchange.arm()
        network(x[1]).square().sum().backward()
        optimizer.add_gradients()
        exchange.finish()
    assert [flat.data_ptr() for flat in sent] == [flat.data_ptr() for flat in exchange.flat]
    assert sum(flat.numel() for flat in sent) == 4 * 72 + 3
    other, reference = build()
    for part in x:
        other(part).square().sum().backward()
        reference.add_gradients()
    for name, ours, theirs in zip(optimizer.names, optimizer.gradients(), reference.gradients()):
        assert torch.equal(ours, theirs), name
