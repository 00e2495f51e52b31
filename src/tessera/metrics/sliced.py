"""MIND (Berthet et al. 2026, arXiv 2605.06797): the sliced Wasserstein distance of features, as torch-fidelity has it.

3 d times the mean, over random directions, of the squared 2-Wasserstein distance between the projections of both sets,
which sorting gives. The larger set is cut to the number of the smaller one at random.
"""

from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.devices import usual_defaults
from tessera.metrics.arrays import as_floats, same_width
from tessera.metrics.jackknife import LeftOut

DIRECTIONS, SEED = 1000, 2020
"""Directions, and the seed of PyTorch's generator that draws them and the cut, as in torch-fidelity."""
_AT_ONCE = 2**21


def mind(real: Any, fake: Any, directions: int = DIRECTIONS, seed: int = SEED) -> float:
    """Return MIND of features (N, d) and (M, d), N, M >= 1; 0 or more."""
    return mind_left_out(real, fake, None, directions, seed)[0].value


@usual_defaults
def mind_left_out(
    real: Any, fake: Any, blocks: np.ndarray | None, directions: int = DIRECTIONS, seed: int = SEED
) -> tuple[LeftOut, np.ndarray]:
    """Return MIND with the same without each block of fake, and the rows of fake that count; blocks (M,): 0..B - 1.

    Without a block there are fewer images than in the reference: the distance of distributions of unequal numbers.
    Each block needs an image among the rows that count, and one outside it.
    """
    import torch

    real, fake = (np.asarray(as_floats(x, name), np.float32) for x, name in ((real, "real"), (fake, "fake")))
    same_width(real.shape[1], fake.shape[1])
    if directions < 1:
        raise UserError(f"mind: {directions} directions; give at least 1")
    generator, count = torch.Generator().manual_seed(seed), min(len(real), len(fake))
    chosen = np.arange(len(fake))
    if len(fake) > count:
        chosen = torch.randperm(len(fake), generator=generator)[:count].numpy()
    elif len(real) > count:
        real = real[torch.randperm(len(real), generator=generator)[:count].numpy()]
    fake, labels = fake[chosen], np.zeros(count, np.int64) if blocks is None else blocks[chosen]
    axes = torch.randn(directions, fake.shape[1], generator=generator)
    axes /= axes.norm(dim=1, keepdim=True).clamp_min(1e-12)
    number = 0 if blocks is None else int(blocks.max()) + 1
    value, without, step = 0.0, np.zeros(number), max(1, _AT_ONCE // count)
    for start in range(0, directions, step):
        part = axes[start : start + step]
        of_real = (part @ torch.from_numpy(real).T).sort(1).values.double().numpy()  # (D, count)
        values, order = (part @ torch.from_numpy(fake).T).sort(1)
        of_fake = values.double().numpy()
        value += float(np.square(of_real - of_fake).mean(1).sum())
        for block in range(number):
            kept = of_fake[labels[order.numpy()] != block].reshape(len(part), -1)
            without[block] += _squared_distances(of_real, kept).sum()
    scale = 3.0 * fake.shape[1] / directions
    return LeftOut(scale * value, scale * without), chosen


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the squared 2-Wasserstein distance of each row of sorted values (D, N), (D, M), of equal weight. (D,)"""
    (n, m) = a.shape[1], b.shape[1]
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # of equal quantiles, times N M
    weights, middles = np.diff(ends, prepend=0), ends - 0.5
    difference = a[:, (middles // m).astype(int)] - b[:, (middles // n).astype(int)]
    return np.square(difference) @ weights / (n * m)
