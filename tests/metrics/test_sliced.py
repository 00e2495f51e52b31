"""MIND: against a slow computation, torch-fidelity's rules, exact answers and its interval."""

import numpy as np
import pytest
import torch

from tessera.config import UserError
from tessera.metrics import deal_blocks, jackknife, mind, mind_left_out


def slow_mind(x, y, directions, seed):
    """From the paper's formula, direction by direction, with the draws in torch-fidelity's order."""
    generator = torch.Generator().manual_seed(seed)
    n = min(len(x), len(y))
    if len(x) > n:
        x = x[torch.randperm(len(x), generator=generator)[:n].numpy()]
    if len(y) > n:
        y = y[torch.randperm(len(y), generator=generator)[:n].numpy()]
    total = 0.0
    for axis in torch.randn(directions, x.shape[1], generator=generator).double().numpy():
        axis /= np.sqrt(sum(v * v for v in axis))
        a, b = sorted(float(row @ axis) for row in x), sorted(float(row @ axis) for row in y)
        total += sum((p - q) ** 2 for p, q in zip(a, b)) / n
    return 3 * x.shape[1] * total / directions


@pytest.mark.parametrize(("rows", "others"), [(40, 40), (70, 40), (40, 70)])
def test_it_is_the_slow_one(rows, others):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, 9)).astype(np.float32), 1.3 * rng.normal(size=(others, 9)).astype(np.float32) + 0.4
    assert mind(x, y, 50, 3) == pytest.approx(slow_mind(x.astype(float), y.astype(float), 50, 3), rel=1e-5)
    assert mind(x, x[::-1], 50, 3) == pytest.approx(0, abs=1e-9)


def test_a_shift_is_three_times_its_square():
    """The mean of (axis . shift)^2 over directions is |shift|^2 / d."""
    x = np.random.default_rng(1).normal(size=(30, 16))
    assert mind(x, x + 2.0, 20_000) == pytest.approx(3 * 16 * 4.0, rel=0.03)


@pytest.mark.parametrize("others", [60, 90])
def test_without_a_block_is_the_distance_of_unequal_numbers(others):
    """Repeated until both sets are equally many, which leaves their distributions as they are."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 5)).astype(np.float32), rng.normal(size=(others, 5)).astype(np.float32) + 0.5
    blocks = np.arange(others) % 3
    found, chosen = mind_left_out(x, y, blocks, 30, 0)
    assert found.value == mind(x, y, 30, 0)
    assert len(chosen) == 60
    generator = torch.Generator().manual_seed(0)
    if others > 60:
        torch.randperm(others, generator=generator)
    axes = torch.nn.functional.normalize(torch.randn(30, 5, generator=generator)).numpy()
    for block in range(3):
        kept = y[chosen][blocks[chosen] != block]
        a, b = np.repeat(x, len(kept), 0) @ axes.T, np.repeat(kept, len(x), 0) @ axes.T
        expected = 15 * np.square(np.sort(a, 0) - np.sort(b, 0)).mean()
        assert found.without[block] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow  # 200 simulated models
def test_its_interval_holds_what_other_images_of_the_same_model_give():
    rng = np.random.default_rng(3)
    real = rng.normal(size=(400, 6))
    draws = [1.2 * rng.normal(size=(400, 6)) + 0.3 for _ in range(200)]
    truth, held = np.mean([mind(real, fake, 30) for fake in draws]), 0
    for fake in draws:
        blocks = deal_blocks(range(400))
        found, _ = mind_left_out(real, fake, blocks, 30)
        interval = jackknife(found, np.bincount(blocks), 0.0)
        held += interval.low <= truth <= interval.high
    assert 0.9 <= held / 200 <= 1


def test_unlike_features_are_refused():
    with pytest.raises(UserError, match="features are 3 wide, those of real 2"):
        mind(np.zeros((4, 2)), np.zeros((4, 3)))
    with pytest.raises(UserError, match="0 directions"):
        mind(np.zeros((4, 2)), np.zeros((4, 2)), 0)
