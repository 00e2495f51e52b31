"""The optimisers against independent ones written out here, parameter by parameter."""

import contextlib
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tessera.config import UserError
from tessera.models.build import build_network
from tessera.randomness import philox
from tessera.train.optim.config import OptimConfig, lr_fraction
from tessera.train.optim.ema import EMA
from tessera.train.optim.lamb import Lamb
from tessera.train.optim.master import MasterOptimizer, kinds
from tessera.train.optim.muon import Muon, orthogonalize
from tiny.training_sets import DIT, RIN


def tensor(*shape, seed=0, scale=1.0):
    return torch.from_numpy(philox(seed, "test/optim", sum(shape)).standard_normal(shape) * scale).float()


def network_of(config=DIT):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return build_network(config)


def set_gradients(network, step, scale=1.0):
    for i, p in enumerate(network.parameters()):
        p.grad = tensor(*p.shape, seed=1000 * step + i, scale=scale).to(p.dtype)


# Which parameter is what


@pytest.mark.parametrize("config", [DIT, replace(DIT, conv_stem=True), RIN])
def test_kinds_of_parameters(config):
    found = kinds(network_of(config))
    assert "hidden" in found.values()
    for name, kind in found.items():
        last = name.split(".")[-1]
        if last == "bias" or "norm" in name or "table" in name or "positions" in name or "_scale" in name:
            assert kind == "other", name
        elif "blocks." in name:
            assert kind == "hidden", name
        elif last == "weight":
            assert kind == "matrix", name
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
    kind_of = kinds(network)
    for n, p in network.named_parameters():
        if kind_of[n] == "other":
            assert torch.equal(p, before[n]), n
        elif name == "lamb":  # the whole step is the decay, scaled to the weight's own norm
            assert torch.allclose(p, before[n] * (1 - 0.1), atol=1e-6), n
        else:
            assert torch.allclose(p, before[n] * (1 - 0.1 * 0.5), atol=1e-7), n


# LAMB


def reference_lamb(weights, gradients, *, lr, betas, decay, adapt, eps=1e-6):
    """You et al. 2020, Algorithm 2, in float64, one tensor."""
    w, m, v = weights.double(), 0.0, 0.0
    for count, gradient in enumerate(gradients, 1):
        g = gradient.double()
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        step = (m / (1 - betas[0] ** count)) / (torch.sqrt(v / (1 - betas[1] ** count)) + eps) + decay * w
        trust = 1.0
        if adapt and w.norm() > 0 and step.norm() > 0:
            trust = w.norm() / step.norm()
        w = w - lr * trust * step
    return w


def test_lamb_against_a_reference():
    shapes = [(5, 3), (4, 4), (2, 3, 2)]
    # One weight is huge and one tiny, so that a clipped trust ratio would be seen.
    starts = [tensor(*s, seed=7, scale=c) for s, c in zip(shapes, (100.0, 1e-3, 1.0))]
    params = [nn.Parameter(s.clone()) for s in starts]
    free = nn.Parameter(tensor(6, seed=9))
    free_start = free.detach().clone()
    betas = (0.9, 0.99)
    groups = [
        {"params": params, "lr": 0.01, "weight_decay": 0.1, "adapt": True},
        {"params": [free], "lr": 0.01, "weight_decay": 0.0, "adapt": False},
    ]
    lamb = Lamb(groups, betas)
    gradients = [[tensor(*p.shape, seed=20 + step, scale=0.3) for p in (*params, free)] for step in range(5)]
    for step in gradients:
        for p, g in zip((*params, free), step):
            p.grad = g.clone()
        lamb.step()
    for i, (p, start) in enumerate(zip(params, starts)):
        expected = reference_lamb(start, [g[i] for g in gradients], lr=0.01, betas=betas, decay=0.1, adapt=True)
        assert torch.allclose(p.double(), expected, rtol=1e-5, atol=1e-9)
    expected = reference_lamb(free_start, [g[3] for g in gradients], lr=0.01, betas=betas, decay=0.0, adapt=False)
    assert torch.allclose(free.double(), expected, rtol=1e-5)


def test_lamb_of_a_zero_weight_steps_like_adam():
    p = nn.Parameter(torch.zeros(3, 2))
    lamb = Lamb([{"params": [p], "lr": 0.01, "weight_decay": 0.1}], (0.9, 0.999))
    p.grad = tensor(3, 2)
    lamb.step()
    assert torch.allclose(p, -0.01 * p.grad.sign(), rtol=1e-3)


# Muon


def reference_muon(weight, gradients, *, lr, decay, momentum=0.95):
    """Jordan et al. 2024, in float64, one matrix."""
    w, buffer = weight.double(), torch.zeros_like(weight, dtype=torch.float64)
    for gradient in gradients:
        g = gradient.double()
        buffer = momentum * buffer + (1 - momentum) * g
        x = (1 - momentum) * g + momentum * buffer
        flipped = x.shape[0] > x.shape[1]
        x = x.T if flipped else x
        x = x / x.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x - 4.7750 * (gram @ x) + 2.0315 * (gram @ gram @ x)
        x = x.T if flipped else x
        w = w * (1 - lr * decay) - lr * math.sqrt(max(1, w.shape[0] / w.shape[1])) * x
    return w


SHAPES = [(8, 8), (24, 8), (8, 24), (8, 8), (32, 8), (8, 24)]


def muon_steps(optimizer, params, count=3):
    gradients = [[tensor(*p.shape, seed=40 + 10 * step + i) for i, p in enumerate(params)] for step in range(count)]
    for step in gradients:
        for p, g in zip(params, step):
            p.grad = g.clone()
        optimizer.step()
    return gradients


def test_muon_against_a_reference():
    params = [nn.Parameter(tensor(*s, seed=i)) for i, s in enumerate(SHAPES)]
    starts = [p.detach().clone() for p in params]
    muon = Muon(params, dtype=torch.float32)
    muon.param_groups[0].update(lr=0.02, weight_decay=0.1)
    gradients = muon_steps(muon, params)
    for i, (p, start) in enumerate(zip(params, starts)):
        expected = reference_muon(start, [g[i] for g in gradients], lr=0.02, decay=0.1)
        assert torch.allclose(p.double(), expected, atol=2e-5), SHAPES[i]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({}, True),
        ({"nesterov": False}, False),
        ({"adjust_lr_fn": "match_rms_adamw"}, False),
        ({"momentum": 0.5}, False),
        ({"ns_steps": 4}, False),
        ({"ns_coefficients": (1.875, -1.25, 0.375)}, False),
        ({"weight_decay": 1.0}, False),
    ],
)
def test_muon_against_torch(other, same):
    """torch's updates with these settings and no others."""
    ours = [nn.Parameter(tensor(*s, seed=i)) for i, s in enumerate(SHAPES)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    muon = Muon(ours)
    muon.param_groups[0].update(lr=0.02, weight_decay=0.1)
    muon_steps(muon, ours)
    settings = {
        "lr": 0.02,
        "weight_decay": 0.1,
        "momentum": 0.95,
        "nesterov": True,
        "ns_coefficients": (3.4445, -4.7750, 2.0315),
        "ns_steps": 5,
        "adjust_lr_fn": "original",
    }
    muon_steps(torch.optim.Muon(theirs, **(settings | other)), theirs)
    off = [(a - b).norm() / (0.02 * 3 * math.sqrt(a.numel())) for a, b in zip(ours, theirs)]
    assert (max(off) < 0.02) == same  # bfloat16's rounding, no more


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


def test_orthogonalize_keeps_directions_and_evens_out_lengths():
    u, _ = torch.linalg.qr(tensor(6, 6, seed=1))
    v, _ = torch.linalg.qr(tensor(10, 6, seed=2))
    x = u @ torch.diag(torch.tensor([1.0, 0.7, 0.4, 0.2, 0.1, 0.05])) @ v.T
    inner = u.T @ orthogonalize(x[None])[0] @ v
    assert torch.allclose(inner, torch.diag(inner.diag()), atol=1e-4)
    assert inner.diag().min() > 0.6
    assert inner.diag().max() < 1.3


# The rest


def test_learning_rate_over_a_run():
    config = OptimConfig(warmup_images=100, decay="cosine", final_lr_fraction=0.2)
    assert lr_fraction(config, 25, 1100) == 0.25
    assert lr_fraction(config, 100, 1100) == 1.0
    assert lr_fraction(config, 600, 1100) == pytest.approx(0.6)
    assert lr_fraction(config, 350, 1100) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert lr_fraction(config, 1100, 1100) == pytest.approx(0.2)
    assert lr_fraction(replace(config, decay="linear"), 350, 1100) == pytest.approx(0.8)
    assert lr_fraction(replace(config, decay="constant"), 1100, 1100) == 1.0
    assert lr_fraction(replace(config, warmup_images=0), 0, 1000) == 1.0
    assert lr_fraction(replace(config, warmup_images=5000), 1000, 1000) == 0.2  # never more than the ramp


LATE = 10**6  # a step long after the warm-up


def test_ema_has_its_closed_form():
    start, end, decay = tensor(4, seed=1), tensor(4, seed=2), 0.9
    ema = EMA([start], decay)
    ema.update([end], LATE)
    assert torch.allclose(ema.weights[0], 0.9 * start + 0.1 * end)  # the right way round: mostly the old
    for step in range(1, 20):
        ema.update([end], LATE + step)
    assert torch.allclose(ema.weights[0], decay**20 * start + (1 - decay**20) * end, atol=1e-6)


def test_ema_with_warmup_forgets_the_start():
    start, end = tensor(4, seed=1), tensor(4, seed=2)
    ema = EMA([start], 0.9999)
    left = 1.0
    for step in range(60):
        ema.update([end], step)
        left *= (1 + step) / (10 + step)
    assert torch.allclose(ema.weights[0], left * start + (1 - left) * end, atol=1e-6)
    assert left < 1e-6
    # The warm-up never exceeds the decay itself.
    late = EMA([start], 0.5)
    late.update([end], 10_000)
    assert torch.allclose(late.weights[0], 0.5 * start + 0.5 * end)


def test_ema_does_not_follow_its_source():
    weight = tensor(3)
    ema = EMA([weight], 0.9)
    before = weight.clone()
    weight.zero_()
    assert torch.equal(ema.weights[0], before)


def test_clipping_scales_the_whole_gradient():
    network = network_of()
    optimizer = MasterOptimizer(network, OptimConfig(name="lamb", clip_norm=0.5))
    set_gradients(network, 1)
    whole = torch.cat([p.grad.flatten() for p in network.parameters()])
    norm = optimizer.clip()
    clipped = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert float(norm) == pytest.approx(float(whole.norm()), rel=1e-5)
    assert torch.allclose(clipped, whole * 0.5 / whole.norm(), rtol=1e-4)
    unlimited = MasterOptimizer(network, OptimConfig(name="lamb", clip_norm=None))
    unlimited.clip()
    assert torch.equal(torch.cat([p.grad.flatten() for p in network.parameters()]), clipped)


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
    grad = optimizer.masters[optimizer.names.index("out_projection.weight")].grad
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


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 0.0},
        {"muon_lr": -1.0},
        {"betas": (0.9, 1.0)},
        {"weight_decay": -0.1},
        {"warmup_images": -1},
        {"final_lr_fraction": 1.5},
        {"clip_norm": 0.0},
        {"name": "sgd"},
        {"decay": "step"},
    ],
)
def test_fields_out_of_range_are_named(changes):
    with pytest.raises(UserError, match=rf"^(optim\.)?{next(iter(changes))}"):
        OptimConfig(**changes)


# Skipping a step


def trained(name, *, masked, skips, scale=1.0):
    """The optimiser of the small network after a step for each of `skips` (True: NaN gradients, to be skipped)."""
    network = network_of()
    optimizer = MasterOptimizer(network, OptimConfig(name=name, lr=0.01, weight_decay=0.1))
    optimizer.masked = masked
    average = EMA(optimizer.masters, 0.9)
    for step, skip in enumerate(skips):
        set_gradients(network, step, float("nan") if skip else scale)
        flag = torch.tensor(skip)
        optimizer.step(1.0, flag)
        if masked or not skip:
            average.update(optimizer.masters, step, flag if masked else None)
    return optimizer.state_dict() | {f"ema/{i}": w for i, w in enumerate(average.weights)}


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
    average = [torch.full_like(m, 0.5) for m in masters]
    with contextlib.suppress(KeyError), optimizer.using(average):
        assert all((p == 0.5).all() for p in network.parameters())
        raise KeyError
    assert all(torch.equal(p, b) for p, b in zip(network.parameters(), before))
    assert all(torch.equal(m, b) for m, b in zip(optimizer.masters, masters))


def test_ema_against_its_closed_form():
    """With weights w_k after step k, the average after n steps is d^n w_0 + (1 - d) sum_k d^(n-k) w_k."""
    weights = [torch.zeros(3, 2)]
    averages = {decay: EMA(weights, decay) for decay in (0.5, 0.9, 0.999)}
    points = [tensor(3, 2, seed=50 + k).double() for k in range(8)]
    for k, point in enumerate(points):
        weights[0].copy_(point)
        for average in averages.values():
            average.update(weights, LATE + k)
    n = len(points)
    for decay, average in averages.items():
        closed = (1 - decay) * sum(decay ** (n - 1 - k) * point for k, point in enumerate(points))
        assert torch.allclose(average.weights[0].double(), closed, atol=1e-6)
        assert not torch.allclose(average.weights[0].double(), points[-1], atol=1e-2)  # inverted it would be this
