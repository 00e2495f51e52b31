"""The weights that let kinds of samples count alike, against sums by hand and through the trainer."""

import numpy as np
import pytest
import torch

from tessera.diffusion.objective import BINS, RATE, Balanced
from tessera.train.algorithm1 import Algorithm1, CaptionMix, Times

MIX = CaptionMix(levels=("long", "short"), weights=(0.5, 0.5))


def draws_of(count):
    algorithm = Algorithm1(101, 53, 0.4, 0.5, 5, "linear", caption_drop_prob=0.2, caption_mix=MIX)
    return algorithm.draws(np.arange(count))


class ByNumber(Balanced):
    """Takes kinds in place of draws."""

    def kinds(self, draws):
        return draws


def test_samples_alike_in_t_caption_and_image_are_one_kind():
    draws = draws_of(2000)
    kinds = Balanced("eps", Times(), 3).kinds(draws).tolist()
    facts = [
        (int(t * BINS), bool(dropped)) if dropped else (int(t * BINS), level, augmented)
        for t, dropped, level, augmented in zip(
            draws.t.tolist(), draws.drop_caption.tolist(), draws.level.tolist(), draws.augmented.tolist()
        )
    ]
    assert len(set(zip(kinds, facts))) == len(set(facts)) == len(set(kinds)) > 3 * BINS


def test_kinds_are_waited_for_on_all_devices_but_cuda(monkeypatch):
    """Apple's GPUs read memory that is not page-locked later, when it may be in use again."""
    balance, moves, original = Balanced("eps", Times(), 3).to("meta"), [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: moves.append(k) or original(self, *a, **k))
    balance.kinds(draws_of(4))
    assert moves == [{"non_blocking": False}]


def test_weighted_losses_of_all_kinds_are_alike():
    balance, no = ByNumber("eps", Times(), 1), torch.tensor(False)
    kinds = torch.arange(24).repeat(40)
    losses = (1.0 + torch.arange(24) ** 2).repeat(40)
    assert balance.weights(kinds).eq(1).all()
    for part in range(0, len(kinds), 24):
        balance.update(kinds[part : part + 24], losses[part : part + 24], no)
    weighted = losses * balance.weights(kinds)
    assert weighted.std() < 1e-4 * weighted.mean()
    assert weighted.mean() == pytest.approx(float(losses.mean()), rel=1e-5)


def test_a_running_mean_by_hand():
    balance, no = ByNumber("eps", Times(), 1), torch.tensor(False)
    balance.update(torch.tensor([3, 3, 5]), torch.tensor([1.0, 3.0, 4.0]), no)
    assert balance.loss_means[[3, 4, 5]].tolist() == [2, 0, 4]
    balance.update(torch.tensor([3, 3]), torch.tensor([5.0, 7.0]), no)
    expected = 2 + (1 - (1 - RATE) ** 2) * (6 - 2)
    assert balance.loss_means[3].item() == pytest.approx(expected)
    assert balance.weights(torch.tensor([3, 5, 7])).tolist() == pytest.approx(
        [(expected + 4) / 2 / expected, (expected + 4) / 2 / 4, 1]
    )
    before = balance.loss_means.clone()
    balance.update(torch.tensor([3, 9]), torch.tensor([torch.nan, 1.0]), torch.tensor(True))
    assert torch.equal(balance.loss_means, before)
