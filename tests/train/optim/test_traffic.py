"""What a step of the optimizer moves through memory, and in how many calls."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from tessera.models.rin import RINConfig
from tessera.train.optim import lamb
from tessera.train.optim.config import OptimConfig
from tessera.train.optim.master import EMA, MasterOptimizer
from tiny.gradients import network_of, set_gradients
from tiny.training_sets import DIT

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))
import optimizer as bench

WIDE = replace(DIT, width=512, depth=4)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_a_step_moves_at_most_sixty_bytes_a_parameter(monkeypatch, name):
    """Clip, step, EMA and the network's copy; in a cache that holds a fifth of any matrix."""
    monkeypatch.setattr(lamb, "CHUNK_ROWS", 64)
    monkeypatch.setattr(lamb, "GROUP_ROWS", 64)
    steps = bench.Steps(network_of(WIDE), OptimConfig(name=name), torch.bfloat16)
    steps.gradients()
    steps.step()
    cache = steps.optimizer.weights.nbytes // 5
    assert bench.bytes_of_step(steps, cache) < 60


def test_the_counter_counts_what_is_known():
    a, b = torch.zeros(2**20), torch.ones(2**20)
    for operation, expected in ((lambda: a.add_(b), 12), (lambda: a.copy_(b), 8), (lambda: a.add_(1), 8)):
        with bench.Traffic(2**18) as traffic:
            operation()
        assert traffic.finish() / 2**20 == pytest.approx(expected, rel=0.1)
    with bench.Traffic(2**25) as traffic:  # it all stays in the cache
        a.add_(b)
        a.mul_(2)
        torch._foreach_add_([a], [b])
    assert traffic.finish() / 2**20 == pytest.approx(12, rel=0.1)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
@pytest.mark.parametrize("config", [DIT, replace(DIT, depth=4)])
def test_a_gpu_makes_a_step_in_few_calls(monkeypatch, name, config):
    """On the CPU, told to work as a GPU does: the number of calls does not grow with that of tensors."""
    monkeypatch.setattr(lamb, "CHUNK_ROWS", 10**9)
    network = network_of(config)
    optimizer = MasterOptimizer(network, OptimConfig(name=name), torch.bfloat16)
    optimizer.masked, ema = True, EMA(optimizer.weights, 0.9)
    for number in range(2):
        set_gradients(network, number)
        norm = optimizer.clip()
        with bench.Traffic() as traffic:
            optimizer.step(1.0, ~torch.isfinite(norm), ema, number)
    assert traffic.calls < 70


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_steps_are_the_same_and_compiled_once(monkeypatch):
    """As on a GPU; what the host counts and the rate are data of the programs, not part of them."""
    monkeypatch.setattr(lamb, "CHUNK_ROWS", 10**9)

    def trained(compiled):
        network = network_of(RINConfig(latent_size=8, blocks=1, layers_per_block=1, refiner_depth=0, text_width=16))
        optimizer = MasterOptimizer(network, OptimConfig(name="lamb", lr=0.01), torch.bfloat16)
        optimizer.masked, ema = True, EMA(optimizer.weights, 0.9)
        if compiled:
            optimizer.compile()
        for number, skip in enumerate((True, False, False, True, False)):
            set_gradients(network, number, float("nan") if skip else 1.0)
            norm = optimizer.clip()
            optimizer.step(1 / (1 + number), ~torch.isfinite(norm), ema, number)
        return torch.stack([optimizer.weights, ema.weights, optimizer.lamb.mean, optimizer.lamb.square])

    expected = trained(False)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = trained(True)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
