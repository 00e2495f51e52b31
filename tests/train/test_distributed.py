"""Several processes are one"""

import signal
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from tessera.config import UserError
from tessera.encoded import store as store_module
from tessera.encoded.store import open_encoded
from tessera.stages import read_manifest
from tessera.train import checkpoint, distributed
from tessera.train.distributed import GradientExchange
from tessera.train.loop import train
from tessera.train.optim.config import OptimConfig
from tessera.train.optim.master import MasterOptimizer
from tiny.ranks import assert_same, config, on_ranks
from tiny.training_sets import DIT, FEATURES, RIN, make_records, with_features, with_short, write_set


def test_two_ranks_are_one(plain, augmented, tmp_path):
    settings = config(DIT, objective="balanced")
    train(tmp_path / "one", plain, augmented, settings)
    assert on_ranks(2, settings, tmp_path / "two", plain, augmented, device_batch_size=3) == [0, 0]
    assert_same(tmp_path / "one", tmp_path / "two")
    assert read_manifest(tmp_path / "two").counts == read_manifest(tmp_path / "one").counts


@pytest.mark.slow
def test_a_mix_of_captions_on_two_ranks_and_then_three(tmp_path):
    """Every sample has the caption of its address, whatever the number of ranks and across a stop."""
    both = write_set(tmp_path / "both", with_short(make_records(37)), levels=("long", "short"))
    settings = config(DIT, augment_prob=0.0, caption_mix={"long": 0.7, "short": 0.3}, caption_mix_start_image=24)
    train(tmp_path / "one", both, None, settings)
    assert on_ranks(2, settings, tmp_path / "run", both, stop=2) == [7, 7]
    assert on_ranks(3, settings, tmp_path / "run", both) == [0, 0, 0]
    assert_same(tmp_path / "one", tmp_path / "run")
    without = replace(settings, caption_mix={}, caption_mix_start_image=0)
    train(tmp_path / "without", both, None, without)
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "one", tmp_path / "without")


@pytest.mark.slow
@pytest.mark.parametrize("model", [DIT, replace(RIN, blocks=2)])
def test_aligned_with_its_average_two_ranks_and_then_three_are_one(plain, augmented, tmp_path, model):
    settings = config(model, objective="balanced-self-aligned", align_until_image=60)
    train(tmp_path / "one", plain, augmented, settings)
    run = tmp_path / "run"
    assert on_ranks(2, settings, run, plain, augmented, stop=2, device_batch_size=2) == [7, 7]
    assert on_ranks(3, settings, run, plain, augmented) == [0, 0, 0]
    assert_same(tmp_path / "one", run)
    assert on_ranks(2, settings, tmp_path / "split", plain, augmented, shard_optimizer=True) != [0, 0]


@pytest.mark.slow
def test_aligned_with_stored_features_two_ranks_are_one(tmp_path):
    sets = [
        write_set(tmp_path / name, with_features(make_records(count, seed=seed)), feature_shape=FEATURES)
        for name, count, seed in (("plain", 37, 0), ("augmented", 23, 1))
    ]
    settings = config(DIT, objective="balanced-feature-aligned", align_until_image=48)
    train(tmp_path / "one", sets[0], sets[1], settings)
    assert on_ranks(2, settings, tmp_path / "two", *sets, device_batch_size=3) == [0, 0]
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("model", [DIT, RIN])
@pytest.mark.parametrize("size", [12, 2])
def test_two_ranks_and_then_three_are_one(plain, augmented, tmp_path, model, size):
    settings = config(model)
    train(tmp_path / "one", plain, augmented, settings)
    run = tmp_path / "run"
    assert on_ranks(2, settings, run, plain, augmented, stop=2, device_batch_size=min(size, 6)) == [7, 7]
    newest = checkpoint.latest(run)
    assert newest is not None
    assert 24 < int(newest.name) < 72
    assert on_ranks(3, settings, run, plain, augmented, device_batch_size=min(size, 4)) == [0, 0, 0]
    assert_same(tmp_path / "one", run)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "compute"), [(DIT, "fp32"), (DIT, "bf16"), (RIN, "fp32"), (RIN, "bf16")])
def test_each_rank_steps_its_share_of_the_tensors(plain, augmented, tmp_path, model, compute):
    """ZeRO-1: the weights of the whole optimizer, also after a stop and with other numbers of ranks."""
    settings = config(model, compute=compute)
    assert on_ranks(2, settings, tmp_path / "copies", plain, augmented, device_batch_size=2) == [0, 0]
    run, options = tmp_path / "run", {"shard_optimizer": True, "device_batch_size": 2}
    assert on_ranks(2, settings, run, plain, augmented, stop=2, **options) == [7, 7]
    newest = checkpoint.latest(run)
    assert newest is not None
    names = [set(load_file(path)) for path in sorted(newest.glob("*.safetensors"))]
    assert len(names) == 2
    assert not names[0] & names[1]
    assert on_ranks(2, settings, run, plain, augmented, **options) == [0, 0]
    assert_same(tmp_path / "copies", run)
    if compute == "fp32" and model is RIN:
        mixed = tmp_path / "mixed"
        assert on_ranks(2, settings, mixed, plain, augmented, stop=1, shard_optimizer=True) == [7, 7]
        assert on_ranks(3, settings, mixed, plain, augmented, stop=0, shard_optimizer=True) == [7, 7, 7]
        train(mixed, plain, augmented, settings)
        assert_same(tmp_path / "copies", mixed)


@pytest.mark.parametrize(("ranks", "expected"), [(1, [0] * 6), (2, [0, 0, 0, 1, 1, 1]), (3, [0, 0, 1, 1, 2, 2])])
def test_shares_of_the_tensors_are_neighbors_of_nearly_equal_size(monkeypatch, ranks, expected):
    monkeypatch.setattr(distributed, "world_size", lambda: ranks)
    assert distributed.owners_of([4, 4, 4, 4, 4, 4]) == expected
    sizes = [1000, 1, 1, 1, 500, 500, 3, 990]
    owners = distributed.owners_of(sizes)
    assert owners == sorted(owners)
    assert set(owners) == set(range(ranks))
    assert max(sum(s for s, o in zip(sizes, owners) if o == r) for r in range(ranks)) <= sum(sizes) / ranks + 500


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


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bucket", [1, 1024, 10**9])
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
    exchange = GradientExchange(optimizer, bucket)
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
    assert [flat.data_ptr() for flat in sent] == [part.data_ptr() for part in exchange.parts]
    assert len(sent) == (1 if bucket == 10**9 else 9)
    assert sum(len(flat) for flat in sent) == len(optimizer.weights) == 9
    other, reference = build()
    for part in x:
        other(part).square().sum().backward()
        reference.add_gradients()
    for name, ours, theirs in zip(optimizer.names, optimizer.gradients(), reference.gradients()):
        assert torch.equal(ours, theirs), name


def test_ranks_wait_for_each_other_for_hours_and_name_their_gpu(monkeypatch):
    asked = []
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *a, **o: asked.append((a, o)))
    monkeypatch.setattr(distributed.atexit, "register", lambda function: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(
        distributed.dist, "all_gather_object", lambda names, own: names.__setitem__(slice(2), [own] * 2)
    )
    for device in ("cuda:1", "cpu"):
        distributed.join(torch.device(device))
    hours = timedelta(hours=2)
    assert asked == [
        (("nccl",), {"timeout": hours, "device_id": torch.device("cuda:1")}),
        (("gloo",), {"timeout": hours, "device_id": None}),
    ]


def test_gpus_of_different_models_are_told_in_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    names = ["NVIDIA H100", "NVIDIA A100", "NVIDIA H100"]
    monkeypatch.setattr(distributed.dist, "all_gather_object", lambda found, own: found.__setitem__(slice(3), names))
    with pytest.raises(UserError, match=r"different models: 1 x NVIDIA A100, 2 x NVIDIA H100; start .*VISIBLE_DEVICES"):
        distributed._check_gpus("NVIDIA H100")


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({}, False),
        ({"TORCHELASTIC_RUN_ID": "x"}, True),
        ({"TORCHELASTIC_RUN_ID": "x", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "119"}, True),
        ({"TORCHELASTIC_RUN_ID": "x", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}, False),
    ],
)
def test_a_stop_that_torchrun_makes_too_short_is_told(given, warned):
    said = distributed.warn_of_short_stops(given)
    assert (said is not None) == warned
    assert not warned or "export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600" in str(said)


def test_each_rank_verifies_its_share(plain, monkeypatch):
    read = []
    monkeypatch.setattr(store_module, "sha256_file", lambda path: read.append(path.name) or "same")
    store = open_encoded(plain)
    names = [f"shard-{number:05d}.arrow" for number in range(8)]
    monkeypatch.setattr(store, "_paths", [plain / name for name in names])
    monkeypatch.setattr(type(store), "facts", {store_module.SHARD_SHA256: dict.fromkeys(names, "same")})
    for part in range(3):
        read.clear()
        store.verify(part, 3)
        assert read == names[part::3]
