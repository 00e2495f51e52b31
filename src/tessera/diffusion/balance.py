"""Weights by which kinds of samples count alike in the loss, whatever it is for each (not the paper's).

Where a short caption leaves most of an image open, what cannot be known makes most of the loss, and its gradient is
noise that drowns what other samples teach. Dividing each sample's loss by the running mean of its kind is what the
learned weights of EDM2 (Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models") come
to; here they depend on the caption too, not on the noise level alone.
"""

import numpy as np
import torch
from torch import Tensor

BINS = 8
"""Equal stretches of t."""
RATE = 0.04
"""Share of a running mean that one more sample of its kind replaces."""


class LossBalance:
    """The running mean loss of each kind of sample: by stretch of t; by dropped caption or else level of the caption
    and plain or augmented image."""

    def __init__(self, levels: int, device: torch.device) -> None:
        """Take the number of levels of captions that are drawn."""
        self.means = torch.zeros((1 + 2 * levels) * BINS, device=device)
        """(kinds,), fp32; 0 = none seen yet."""

    def kinds(self, draws: np.recarray) -> Tensor:
        """Return the kind of each sample, by its draws (fields of `algorithm1.DRAWS`), as a number (n,)."""
        content = np.where(draws.drop_caption, 0, 1 + 2 * draws.level.astype(np.int64) + draws.augmented)
        place = content * BINS + np.minimum((draws.t * BINS).astype(np.int64), BINS - 1)
        return torch.from_numpy(place).to(self.means.device, non_blocking=True)

    def weights(self, kinds: Tensor) -> Tensor:
        """Return the weight (n,) of each sample's loss: the mean over the kinds seen, divided by that of its kind."""
        seen = self.means > 0
        overall = self.means.sum() / seen.sum().clamp_min(1)
        return torch.where(seen, overall / self.means, 1.0)[kinds]

    def update(self, kinds: Tensor, losses: Tensor, skip: Tensor) -> None:
        """Take in the losses (n,) of a step's samples. skip: a bool on the device; True: nothing changes."""
        of_kind = torch.nn.functional.one_hot(kinds, len(self.means)).T.float()  # (kinds, n)
        counts = of_kind.sum(1)
        means = of_kind @ losses / counts.clamp_min(1)
        share = torch.where(self.means > 0, 1 - (1 - RATE) ** counts, 1.0)
        self.means.copy_(torch.where(skip | (counts == 0), self.means, self.means.lerp(means, share)))
