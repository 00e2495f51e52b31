"""The optimizer's configuration and the learning rate over a run."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from tessera.config import UserError
from tessera.train.optim.config import OptimConfig, lr_fraction


def test_learning_rate_over_a_run():
    config = OptimConfig(warmup_images=100, decay="cosine", final_lr_fraction=0.2)
    assert lr_fraction(config, 25, 1100) == 0.25
    assert lr_fraction(config, 100, 1100) == 1.0
    assert lr_fraction(config, 600, 1100) == pytest.approx(0.6)
    assert lr_fraction(config, 350, 1100) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert lr_fraction(config, 1100, 1100) == pytest.approx(0.2)
    assert lr_fraction(replace(config, decay="linear"), 350, 1100) == pytest.approx(0.8)
    constant = replace(config, decay="constant")
    assert lr_fraction(constant, 1100, 1100) == 1.0
    cooled = replace(constant, cooldown_images=200)
    assert [lr_fraction(cooled, n, 1100) for n in (50, 900, 1000, 1100)] == pytest.approx([0.5, 1.0, 0.6, 0.2])
    for decay in ("cosine", "linear"):
        with pytest.raises(UserError, match=f"only a constant learning rate is cooled down; decay is {decay}"):
            replace(cooled, decay=decay)
    assert lr_fraction(replace(config, warmup_images=0), 0, 1000) == 1.0
    assert lr_fraction(replace(config, warmup_images=5000), 1000, 1000) == 0.2  # never more than the ramp


def test_a_cooldown_that_begins_within_the_warm_up_makes_no_jump():
    """Such as a preset's by a small --num-images."""
    config = OptimConfig(warmup_images=100, decay="constant", cooldown_images=400)
    rates = [lr_fraction(config, n, 200) for n in range(201)]
    assert max(abs(a - b) for a, b in pairwise(rates)) <= 0.0101
    assert (rates[20], rates[100], rates[200]) == (0.2, 0.25, 0.0)


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
