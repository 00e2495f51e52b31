"""The training of a detector: targets by hand, a loss without colors, garbage, the same weights by the same seed."""

import numpy as np
import pytest
import torch

from tessera.evaluate.miniature.detector import GRID, Detector
from tessera.evaluate.miniature.fitting import fit, loss_of, noise, shuffled, targets, weights_of


def test_targets_by_hand():
    out = targets([(1, 2, (0.5, 0.25), 0.5)], nothing=3)
    assert out.shape == (5, GRID, GRID)
    assert (out[0] == 1).sum() == 4  # the cells around the corner where four of them meet
    assert set(np.unique(out[0])) == {-1, 1, 3}
    assert (out[1][out[0] == 1] == 2).all()
    assert (out[2, 4, 7], out[3, 4, 7]) == (0.5, -0.5)
    assert out[4, 4, 7] == pytest.approx(np.log(1.0))


def test_a_color_that_nobody_knows_has_no_part_in_the_loss():
    torch.manual_seed(0)
    network, images = Detector(("a", "b"), ("red", "blue"), 4), torch.randn(2, 3, 32, 32)
    found = [[(0, color, (0.5, 0.5), 0.5)] for color in (-1, 0, 1)]
    losses = [loss_of(network, images, torch.from_numpy(np.stack([targets(each, 2)] * 2))) for each in found]
    assert losses[0] < min(losses[1], losses[2])
    assert losses[1] != losses[2]
    loss_of(network, images, torch.from_numpy(np.stack([targets([], 2)] * 2))).backward()  # nothing in sight


def test_the_same_seed_gives_the_same_weights():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    target = np.stack([targets([(0, 1, (0.5, 0.5), 0.5)], 2)] * 64)
    found = []
    for seed in (0, 0, 1):
        network = Detector(("a", "b"), ("red", "blue"), 4)
        fit(network, images, target, steps=20, batch=8, lr=1e-3, seed=seed)
        found.append(weights_of(network)["head.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_garbage_keeps_the_size():
    image = np.full((32, 32, 3), 128, np.uint8)
    image[:4, :4] = 0
    assert noise(image, np.random.default_rng(0)).shape == (32, 32, 3)
    moved = shuffled(image, np.random.default_rng(0))
    assert moved.sum() == image.sum()
    assert (moved != image).any()
