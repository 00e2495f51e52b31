"""Master weights, and the EMA against its closed form"""

import contextlib
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tessera.train.optim.config import OptimConfig
from tessera.train.optim.lamb import finish
from tessera.train.optim.master import EMA, MasterOptimizer, kind
from tiny.gradients import network_of, set_gradients, tensor
from tiny.training_sets import DIT, RIN


@pytest.mark.parametrize("config", [DIT, replace(DIT, conv_stem=True), RIN])
def test_kinds_of_parameters(config):
    found = {name: kind(name, parameter) for name, parameter in network_of(config).named_parameters()}
    assert "hidden" in found.values()
    for name, its_kind in found.items():
        last = name.split(".")[-1]
        if last == "bias" or "norm" in name or "table" in name or "positions" in name or "_scale" in name:
            assert its_kind == "other", name
        elif "blocks." in name:
            assert its_kind == "hidden", name
        elif last == "weight":
            assert its_kind == "matrix", name
    outside = ("patch_embedding.weight", "out_projection.weight", "text.projection.weight", "time.hidden.weight")
    assert {found[name] for name in outside} == {"matrix"}
    for table in ("latent_tokens", "interface_positions", "text.registers") if config is RIN else ("out_table",):
        assert found[table] == "other"


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_only_matrices_decay(name):
    network = network_of()
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    optimizer = MasterOptimizer(network, OptimConfig(name=name, lr=0.1, muon_lr=0.1, weight_decay=0.5))
    optimizer.gradients()  # all zero
    optimizer.step(1.0)
    for n, p in network.named_parameters():
        if kind(n, p) == "other":
            assert torch.equal(p, before[n]), n
        elif name == "lamb":  # the whole step is the decay, scaled to the weight's own norm
            assert torch.allclose(p, before[n] * (1 - 0.1), atol=1e-6), n
        else:
            assert torch.allclose(p, before[n] * (1 - 0.1 * 0.5), atol=1e-7), n


def test_adamw_against_a_reference():
    """Kingma and Ba 2015 with Loshchilov and Hutter's decoupled decay, in float64."""
    start, lr, decay, betas = tensor(5, 7, seed=3), 0.01, 0.1, (0.9, 0.99)
    network = nn.Module()
    network.weight = nn.Parameter(start.clone())
    config = OptimConfig(name="adamw", lr=lr, weight_decay=decay, betas=betas, clip_norm=None)
    optimizer = MasterOptimizer(network, config)
    w, mean, square = start.double(), 0.0, 0.0
    for n in range(1, 6):
        g = tensor(5, 7, seed=30 + n)
        network.weight.grad = g.clone()
        optimizer.step(1.0)
        mean = betas[0] * mean + (1 - betas[0]) * g.double()
        square = betas[1] * square + (1 - betas[1]) * g.double().square()
        step = mean / (1 - betas[0] ** n) / ((square / (1 - betas[1] ** n)).sqrt() + 1e-8)
        w = w - lr * decay * w - lr * step
        assert torch.allclose(network.weight.double(), w, atol=1e-6)


def test_clipping_scales_the_whole_gradient():
    network = network_of()
    optimizer = MasterOptimizer(network, OptimConfig(name="muon", clip_norm=0.5))
    set_gradients(network, 1)
    whole = torch.cat([p.grad.flatten() for p in network.parameters()])
    norm = optimizer.clip()
    clipped = torch.cat([g.flatten() for g in optimizer.gradients()])
    assert float(norm) == pytest.approx(float(whole.norm()), rel=1e-5)
    assert torch.allclose(clipped, whole * 0.5 / whole.norm(), rtol=1e-4)
    unlimited = MasterOptimizer(network, OptimConfig(name="muon", clip_norm=None))
    set_gradients(network, 1)
    unlimited.clip()
    assert torch.equal(torch.cat([g.flatten() for g in unlimited.gradients()]), whole)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_adamw_clips_within_its_step(compute):
    # Against torch's own clipping before its own step; of large and small gradients by turns, so that a scale that
    # stayed for the next step would show. Decay is left out: it has groups of its own, tested above.
    network, other = network_of(), network_of()
    config = OptimConfig(name="adamw", lr=1e-2, weight_decay=0.0, clip_norm=0.5)
    optimizer = MasterOptimizer(network, config, compute)
    reference = torch.optim.AdamW(other.parameters(), lr=1e-2, betas=config.betas, weight_decay=0.0)
    for step, factor in enumerate((1.0, 1e-3, 10.0, 1e-3)):
        set_gradients(network, step)
        for p, q in zip(network.parameters(), other.parameters()):
            p.grad.mul_(factor)
            q.grad = p.grad.to(q.dtype, copy=True)
        optimizer.add_gradients()
        norm = optimizer.clip()
        expected = torch.nn.utils.clip_grad_norm_(list(other.parameters()), 0.5)
        assert (expected < 0.5) == (factor < 1)
        assert float(norm) == pytest.approx(float(expected), rel=1e-5)
        optimizer.step(1.0)
        reference.step()
    for master, q in zip(optimizer.masters, other.parameters()):
        assert torch.allclose(master, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_bf16_weights_are_the_rounded_masters(name):
    network = network_of()
    optimizer = MasterOptimizer(network, OptimConfig(name=name, lr=1e-5, muon_lr=1e-5), torch.bfloat16)
    start = [m.clone() for m in optimizer.masters]
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert {m.dtype for m in optimizer.masters} == {torch.float32}
    for step in range(3):
        set_gradients(network, step)
        optimizer.add_gradients()
        optimizer.gradients()
        optimizer.step(1.0)
    for master, first, p in zip(optimizer.masters, start, network.parameters()):
        assert torch.equal(p, master.bfloat16())
        assert not torch.equal(master, first)  # steps below bfloat16's resolution are not lost
    assert all(p.grad is None for p in network.parameters())


def test_bf16_gradients_add_up_in_fp32():
    network = network_of()
    optimizer = MasterOptimizer(network, OptimConfig(), torch.bfloat16)
    weight = network.out_projection.weight
    for size in (1.0, 2.0**-10, 2.0**-10):
        weight.grad = torch.full_like(weight, size)
        optimizer.add_gradients()
    grad = optimizer.gradients()[optimizer.names.index("out_projection.weight")]
    assert torch.equal(grad, torch.full_like(grad, 1 + 2.0**-9))  # in bfloat16 it would still be 1
    assert weight.grad is None


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_state_goes_on_bit_for_bit(name, compute):
    config = OptimConfig(name=name, weight_decay=0.1)

    def go(optimizer, network, steps):
        for step in steps:
            set_gradients(network, step)
            optimizer.add_gradients()
            optimizer.clip()
            optimizer.step(1 / (1 + step))

    first = network_of()
    optimizer = MasterOptimizer(first, config, compute)
    go(optimizer, first, range(3))
    state = {k: v.clone() for k, v in optimizer.state_dict().items()}
    go(optimizer, first, range(3, 5))

    second = network_of()
    resumed = MasterOptimizer(second, config, compute)
    resumed.load_state_dict(state)
    go(resumed, second, range(3, 5))
    for key, value in optimizer.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
    for a, b in zip(first.parameters(), second.parameters()):
        assert torch.equal(a, b)


def trained(name, *, masked, skips, scale=1.0):
    """The optimizer of the small network after a step for each of `skips` (True: NaN gradients, to be skipped)."""
    network = network_of()
    optimizer = MasterOptimizer(network, OptimConfig(name=name, lr=0.01, weight_decay=0.1))
    optimizer.masked = masked
    average = EMA(optimizer.weights, 0.9)
    for step, skip in enumerate(skips):
        set_gradients(network, step, float("nan") if skip else scale)
        flag = torch.tensor(skip)
        optimizer.step(1.0, flag, average, step)
    return optimizer.state_dict() | {"ema": average.weights}


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_a_step_skipped_on_the_device_changes_nothing_at_all(name):
    plain = trained(name, masked=True, skips=[False, False])
    skipped = trained(name, masked=True, skips=[False, False, True, True])
    assert plain.keys() == skipped.keys()
    for key, value in plain.items():
        assert torch.equal(value, skipped[key]), key


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_masked_steps_are_steps(name):
    on_host = trained(name, masked=False, skips=[False, True, False, False])
    on_device = trained(name, masked=True, skips=[False, True, False, False])
    # The gradients of a step depend on its number, so that the skipped one is missing from both.
    for key, value in on_host.items():
        assert torch.allclose(value, on_device[key], rtol=1e-4, atol=1e-6), key
    still = trained(name, masked=False, skips=[False])
    assert not torch.allclose(still["master/out_projection.weight"], on_host["master/out_projection.weight"])


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_the_network_uses_an_average_only_for_a_while(compute):
    network = network_of()
    optimizer = MasterOptimizer(network, OptimConfig(), compute)
    before = [p.detach().clone() for p in network.parameters()]
    masters = [m.detach().clone() for m in optimizer.masters]
    average = torch.full_like(optimizer.weights, 0.5)
    with contextlib.suppress(KeyError), optimizer.using(average):
        assert all((p == 0.5).all() for p in network.parameters())
        raise KeyError
    assert all(torch.equal(p, b) for p, b in zip(network.parameters(), before))
    assert all(torch.equal(m, b) for m, b in zip(optimizer.masters, masters))


LATE = 10**6  # a step long after the warm-up


def average_in(ema, weights, step):
    finish(weights, None, None, ema.weights, ema.share(step), None)


def test_ema_has_its_closed_form():
    start, end, decay = tensor(4, seed=1), tensor(4, seed=2), 0.9
    ema = EMA(start, decay)
    average_in(ema, end, LATE)
    assert torch.allclose(ema.weights, 0.9 * start + 0.1 * end)  # the right way round: mostly the old
    for step in range(1, 20):
        average_in(ema, end, LATE + step)
    assert torch.allclose(ema.weights, decay**20 * start + (1 - decay**20) * end, atol=1e-6)


def test_ema_with_warmup_forgets_the_start():
    start, end = tensor(4, seed=1), tensor(4, seed=2)
    ema = EMA(start, 0.9999)
    left = 1.0
    for step in range(60):
        average_in(ema, end, step)
        left *= (1 + step) / (10 + step)
    assert torch.allclose(ema.weights, left * start + (1 - left) * end, atol=1e-6)
    assert left < 1e-6
    # The warm-up never exceeds the decay itself.
    late = EMA(start, 0.5)
    average_in(late, end, 10_000)
    assert torch.allclose(late.weights, 0.5 * start + 0.5 * end)


def test_ema_does_not_follow_its_source():
    weight = tensor(3)
    ema = EMA(weight, 0.9)
    before = weight.clone()
    weight.zero_()
    assert torch.equal(ema.weights, before)


def test_ema_against_its_closed_form():
    """With weights w_k after step k, the average after n steps is d^n w_0 + (1 - d) sum_k d^(n-k) w_k."""
    weights = torch.zeros(3, 2)
    averages = {decay: EMA(weights, decay) for decay in (0.5, 0.9, 0.999)}
    points = [tensor(3, 2, seed=50 + k).double() for k in range(8)]
    for k, point in enumerate(points):
        weights.copy_(point)
        for average in averages.values():
            average_in(average, weights, LATE + k)
    n = len(points)
    for decay, average in averages.items():
        closed = (1 - decay) * sum(decay ** (n - 1 - k) * point for k, point in enumerate(points))
        assert torch.allclose(average.weights.double(), closed, atol=1e-6)
        assert not torch.allclose(average.weights.double(), points[-1], atol=1e-2)  # inverted it would be this


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("skipped", [{0}, {0, 1, 2}, {3}, {0, 2, 5}, {5}])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e38])
def test_steps_skipped_on_the_device_are_as_if_they_had_not_been(name, compute, skipped, bad):
    """As on a GPU, where the host does not know what is skipped; from the first step on."""

    def trained(steps, poisoned):
        network = network_of()
        optimizer = MasterOptimizer(network, OptimConfig(name=name, lr=0.01, weight_decay=0.1), compute)
        optimizer.masked = True
        ema = EMA(optimizer.weights, 0.9)
        for number in steps:
            set_gradients(network, 1 + number)
            for parameter in network.parameters() if number in poisoned else ():
                parameter.grad.fill_(bad)
            optimizer.add_gradients()
            optimizer.clip()
            skip = torch.tensor(number in poisoned)
            optimizer.step(1.0, skip, ema, LATE)
        state = optimizer.state_dict() | {"ema": ema.weights}
        return state | {f"network/{n}": p.detach().float() for n, p in network.named_parameters()}

    found, expected = trained(range(6), skipped), trained([n for n in range(6) if n not in skipped], set())
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-6, rtol=1e-5, msg=key)
