"""The exponential moving average of the weights."""

# pyright: reportPrivateImportUsage=false
# torch's own optimizers are made of the _foreach_ functions; they have no public name.

import torch
from torch import Tensor


class EMA:
    """Averaged weights: ema <- d * ema + (1 - d) * weights after each step.

    At step n = 0, 1, ... d = min(decay, (1 + n) / (10 + n)), so that a short run's average forgets the random start.
    """

    def __init__(self, weights: list[Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = [w.detach().clone() for w in weights]

    @torch.no_grad()
    def update(self, weights: list[Tensor], step: int, skip: Tensor | None = None) -> None:
        """Average in the weights after step number `step`. skip: a bool on the device; True: nothing changes."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [w.detach() for w in weights]
        if skip is None:
            torch._foreach_lerp_(self.weights, current, 1 - decay)
        else:
            share = torch.where(skip, 0.0, 1 - decay)
            for average, weight in zip(self.weights, current):
                average.lerp_(weight, share)
