"""Objectives of training: times of the samples, loss, weights of samples, and parameters of an objective's own.

`Objective` is the paper's (Eq. 1-2, every sample counts alike); a subclass changes what differs. `OBJECTIVES` names
them; docs/extending.md shows one of a user's own.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tessera.diffusion.loss import diffusion_loss
from tessera.records import Batch

BINS = 8
"""Equal stretches of t."""
RATE = 0.04
"""Share of a running mean that one more sample of its kind replaces."""


class Objective(nn.Module):
    """The paper's objective: the mean of Eq. 1-2 over the samples of Algorithm 1.

    A subclass's parameters are trained with the network's, averaged with them and saved as objective.NAME, but not
    exported; on a network that computes in bf16 they do so too, and floating-point buffers with them. Buffers are saved
    and must be the same on all ranks.
    """

    def __init__(self, prediction: str, times: Callable[[np.ndarray], np.ndarray], levels: int) -> None:
        """Take what the network outputs, the configured t of draws from U(0, 1), and the number of levels of captions
        that are drawn."""
        super().__init__()
        self.prediction, self.configured_times = prediction, times

    def times(self, uniforms: np.ndarray) -> np.ndarray:
        """Return t in [0, 1) of draws from U(0, 1), float64, any shape: of each draw by itself."""
        return self.configured_times(uniforms)

    def weights(self, draws: np.recarray) -> Tensor | None:
        """Return weights (n,) of a step's samples by their draws (fields of `algorithm1.DRAWS`); None = all are 1."""
        return None

    def forward(
        self, network: Any, batch: Batch, null_condition: Tensor, *, weights: Tensor | None = None, **conditioning: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of a pass, its samples' weighted mean, and each sample's own (B,), detached, which the log
        shows. conditioning: RIN's, to hand on. `diffusion_loss` says the rest."""
        return diffusion_loss(
            network, batch, null_condition, prediction=self.prediction, weights=weights, **conditioning
        )

    def update(self, draws: np.recarray, losses: Tensor, skip: Tensor) -> None:
        """Take in the losses (n,) of a whole step's samples. skip: a bool on the device; True: nothing may change."""


class Balanced(Objective):
    """Weights by which kinds of samples count alike in the loss, whatever it is for each (not the paper's).

    Where a short caption leaves most of an image open, what cannot be known makes most of the loss, and its gradient is
    noise that drowns what other samples teach. Dividing each sample's loss by the running mean of its kind is what the
    learned weights of EDM2 (Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models")
    come to; here they depend on the caption too, not on the noise level alone. A kind is a stretch of t with a dropped
    caption, or with a level of captions and a plain or augmented image.
    """

    loss_means: Tensor
    """(kinds,), fp32; 0 = none seen yet."""

    def __init__(self, prediction: str, times: Callable[[np.ndarray], np.ndarray], levels: int) -> None:
        super().__init__(prediction, times, levels)
        self.register_buffer("loss_means", torch.zeros((1 + 2 * levels) * BINS))

    def kinds(self, draws: np.recarray) -> Tensor:
        """Return the kind of each sample, by its draws, as a number (n,)."""
        content = np.where(draws.drop_caption, 0, 1 + 2 * draws.level.astype(np.int64) + draws.augmented)
        place = content * BINS + np.minimum((draws.t * BINS).astype(np.int64), BINS - 1)
        return torch.from_numpy(place).to(self.loss_means.device, non_blocking=True)

    def weights(self, draws: np.recarray) -> Tensor:
        """Return the weight of each sample's loss: the mean over the kinds seen, divided by that of its kind."""
        seen = self.loss_means > 0
        overall = self.loss_means.sum() / seen.sum().clamp_min(1)
        return torch.where(seen, overall / self.loss_means, 1.0)[self.kinds(draws)]

    def update(self, draws: np.recarray, losses: Tensor, skip: Tensor) -> None:
        of_kind = torch.nn.functional.one_hot(self.kinds(draws), len(self.loss_means)).T.float()  # (kinds, n)
        counts = of_kind.sum(1)
        means = of_kind @ losses / counts.clamp_min(1)
        share = torch.where(self.loss_means > 0, 1 - (1 - RATE) ** counts, 1.0)
        self.loss_means.copy_(torch.where(skip | (counts == 0), self.loss_means, self.loss_means.lerp(means, share)))


OBJECTIVES: dict[str, type[Objective]] = {"paper": Objective, "balanced": Balanced}
"""Name in a training's configuration -> the class."""
