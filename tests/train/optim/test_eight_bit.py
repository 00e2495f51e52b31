"""AdamW with means in 8 bits: near AdamW, a quarter of the bytes, resumed bit for bit, refused in one line."""

import importlib.util
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tessera.config import UserError
from tessera.train import checkpoint
from tessera.train.loop import train
from tessera.train.optim.config import OptimConfig
from tessera.train.optim.eight_bit import TRANSIENT
from tessera.train.optim.master import EMA, MasterOptimizer
from tiny.gradients import network_of, set_gradients, tensor
from tiny.ranks import on_ranks
from tiny.runs import contents, log_of, state_of, stop_at
from tiny.training_sets import DIT, config_of

needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
WIDE = replace(DIT, width=64, depth=1)
"""Most of its weights are in tensors of 4,096 or more."""
ADAMW, EIGHT_BIT = (OptimConfig(name=name, lr=3e-3, warmup_images=16) for name in ("adamw", "adamw8bit"))


def bytes_of_means(optimizer: MasterOptimizer) -> int:
    return sum(value.nbytes for key, value in optimizer.state_dict().items() if "/exp_avg" in key)


@needs_torchao
def test_the_first_step_is_adamws_and_the_means_take_a_quarter():
    """The step itself is made of means that were not rounded yet."""
    networks = [network_of(WIDE) for _ in range(2)]
    plain, small = (MasterOptimizer(net, c) for net, c in zip(networks, (ADAMW, EIGHT_BIT)))
    count = sum(master.numel() for master in small.masters)
    assert bytes_of_means(plain) == 8 * count
    assert bytes_of_means(small) < 0.4 * 8 * count  # with the tensors that are too small, and tables of codes
    for network, optimizer in zip(networks, (plain, small)):
        set_gradients(network, 1)
        optimizer.clip()
        optimizer.step(1.0)
    for one, other in zip(plain.masters, small.masters):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert bytes_of_means(small) < 0.4 * 8 * count


@needs_torchao
def test_of_a_large_tensor_a_weight_takes_two_bytes_and_a_step_no_more_than_its_margin():
    network = nn.Module()
    network.weight = nn.Parameter(tensor(512, 1024))
    optimizer = MasterOptimizer(network, EIGHT_BIT)
    assert bytes_of_means(optimizer) == pytest.approx(2 * 512 * 1024, rel=0.04)
    network.weight.grad = tensor(512, 1024, seed=1)
    optimizer.gradients()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        optimizer.step(1.0)
    sizes = [event.nbytes() for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = now = 0
    for size in sizes:
        now += size
        peak = max(peak, now)
    assert 0.5 * optimizer.margin < peak / 4 <= optimizer.margin == TRANSIENT * 512 * 1024


@needs_torchao
def test_it_fits_a_matrix_as_adamw_does():
    wanted, x = tensor(64, 64), tensor(256, 64, seed=1)
    losses = []
    for config in (ADAMW, EIGHT_BIT):
        network = nn.Linear(64, 64, bias=False)
        network.weight.data.zero_()
        optimizer = MasterOptimizer(network, replace(config, lr=0.05, weight_decay=0.0))
        for _ in range(60):
            loss = (network(x) - x @ wanted.T).square().mean()
            loss.backward()
            optimizer.clip()
            optimizer.step(1.0)
            losses.append(loss.item())
    one, other = torch.tensor(losses).view(2, -1)
    assert one[-1] < 0.1 * one[0]
    torch.testing.assert_close(other, one, rtol=0.1, atol=0.01 * float(one[0]))
    assert not torch.equal(one, other)


@needs_torchao
@pytest.mark.slow
def test_it_trains_as_adamw_does(plain, tmp_path):
    """On the small set; the EMA too."""
    losses = {}
    for config in (ADAMW, EIGHT_BIT):
        run = tmp_path / config.name
        train(run, plain, None, config_of(model=WIDE, optim=config, augment_prob=0.0, num_images=480))
        losses[config.name] = [line["loss"] for line in log_of(run)]
    first, last = losses["adamw"][0], losses["adamw"][-1]
    assert last < 0.9 * first
    assert losses["adamw8bit"] != losses["adamw"]
    assert losses["adamw8bit"] == pytest.approx(losses["adamw"], rel=0.02)
    one, other = (state_of(tmp_path / name) for name in losses)
    ema = [key for key in one if key.startswith("ema/")]
    distance = sum(float((one[key] - other[key]).square().sum()) for key in ema)
    assert 0 < distance < 0.05 * sum(float((one[key] - one[f"master{key[3:]}"]).square().sum()) for key in ema) + 1


@needs_torchao
def test_a_stopped_run_ends_with_the_same_bytes(plain, tmp_path, monkeypatch):
    config = config_of(model=WIDE, optim=EIGHT_BIT, augment_prob=0.0, num_images=40, compute="bf16")
    train(tmp_path / "whole", plain, None, config)
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped", plain, None, config)
    train(tmp_path / "stopped", plain, None, config, resume=True)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    dtypes = {key: value.dtype for key, value in state_of(tmp_path / "whole").items() if key.endswith(".codes")}
    assert set(dtypes.values()) == {torch.uint8}


@needs_torchao
def test_skipped_steps_change_nothing():
    network = network_of(WIDE)
    optimizer = MasterOptimizer(network, EIGHT_BIT)
    ema = EMA(optimizer.weights, 0.9)
    for step, scale in enumerate((1.0, float("nan"))):
        set_gradients(network, step, scale)
        optimizer.clip()
        optimizer.step(1.0, torch.tensor(step == 1), ema, step)
        state = optimizer.state_dict() | {"ema": ema.weights}
        if step == 0:
            before = {key: value.clone() for key, value in state.items()}
    assert all(torch.equal(value, before[key]) for key, value in state.items())


@needs_torchao
@pytest.mark.slow
@pytest.mark.parametrize("shard_optimizer", [False, True])
def test_two_ranks_are_one(plain, augmented, tmp_path, shard_optimizer):
    """To the rounding of sums of gradients, which moves a code here and there."""
    config = config_of(model=WIDE, optim=replace(EIGHT_BIT, lr=1e-4), num_images=96)
    train(tmp_path / "one", plain, augmented, config)
    assert on_ranks(2, config, tmp_path / "two", plain, augmented, shard_optimizer=shard_optimizer) == [0, 0]
    one, two = state_of(tmp_path / "one"), state_of(tmp_path / "two")
    assert one.keys() == two.keys()
    for key in (key for key in one if key.startswith(("master/", "ema/"))):
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=1e-5, msg=key)
    stopped = tmp_path / "stopped"
    assert on_ranks(2, config, stopped, plain, augmented, stop=5, shard_optimizer=shard_optimizer) == [7, 7]
    assert on_ranks(2, config, stopped, plain, augmented, shard_optimizer=shard_optimizer) == [0, 0]
    again = checkpoint.load(checkpoint.latest(stopped)).tensors
    assert all(torch.equal(value, again[key]) for key, value in two.items())


def test_where_it_cannot_be_is_told_in_one_line(monkeypatch):
    with pytest.raises(UserError, match=r"^optim.name: adamw8bit needs whole tensors; train without --shard, or "):
        MasterOptimizer(network_of(), EIGHT_BIT, split="network")
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(UserError, match=r'^optim.name: adamw8bit needs more libraries; run: pip install "[^"]+"$'):
        MasterOptimizer(network_of(), EIGHT_BIT)
