"""The EMA of weights against its closed form."""

import torch

from tessera.train.optim.ema import EMA
from tiny.gradients import tensor

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
