"""Objectives of training: times of the samples, loss, weights of samples, and parameters of an objective's own.

`Objective` is the paper's (Eq. 1-2, every sample counts alike); a subclass changes what differs. `OBJECTIVES` names
them; docs/extending.md shows one of a user's own.

Objectives that align have a further term, by which tokens inside of the network follow others, through a projection
that is trained with it. B images, N = h w tokens of width D.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from tessera.config import UserError
from tessera.diffusion.loss import diffusion_loss
from tessera.diffusion.schedule import add_noise
from tessera.records import Batch, DenoiserState, TextEncoding

BINS = 8
"""Equal stretches of t."""
RATE = 0.04
"""Share of a running mean that one more sample of its kind replaces."""
ALIGNED, DEEPER = 0.3, 0.7
"""Shares of the blocks behind which tokens are aligned, and behind which those of the average are taken."""
ALIGNMENT_WEIGHT = 0.5
"""Weight of the alignment in the loss (Yu et al. 2024, "Representation Alignment for Generation")."""


class Objective(nn.Module):
    """The paper's objective: the mean of Eq. 1-2 over the samples of Algorithm 1.

    A subclass's parameters are trained with the network's, averaged with them and saved as objective.NAME, but not
    exported; on a network that computes in bf16 they do so too. Buffers are saved, keep their precision and must be the
    same on all ranks.
    """

    def __init__(self, prediction: str, times: Callable[[np.ndarray], np.ndarray], levels: int) -> None:
        """Take what the network outputs, the configured t of draws from U(0, 1), and the number of levels of captions
        that are drawn."""
        super().__init__()
        self.prediction, self.configured_times = prediction, times

    average_blocks = 0
    """Number of blocks of the network with averaged weights that `forward` gets as `average`; 0 = it gets none."""
    aligns = False
    """True: batches have what an alignment needs, until the configured image."""
    needs_features = False
    """True: so the features of a vision network, which the sets have to hold."""

    def fit(self, model: Any, features: int | None) -> None:
        """Make what depends on the network, by the config of its shapes, and on the width of the sets' features, None
        where the sets are not known yet."""

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
        # Without waiting on CUDA alone: Apple's GPUs may still read it when its memory is in use again.
        return torch.from_numpy(place).to(self.loss_means.device, non_blocking=self.loss_means.is_cuda)

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


class Tapped:
    """A network whose last call's text (B captions) and tokens behind a block (B, N, D) can be read."""

    text: TextEncoding
    tokens: Tensor

    def __init__(self, network: Any, block: int) -> None:
        self.network, self.block, self.encode_text = network, block, network.encode_text

    def __call__(
        self, x: Tensor, alpha_bar: Tensor, text: TextEncoding, state: DenoiserState | None = None
    ) -> tuple[Tensor, DenoiserState]:
        output, after = self.network(x, alpha_bar, text, replace(state or DenoiserState(), tap=self.block))
        assert after.tapped is not None
        self.text, self.tokens = text, after.tapped
        return output, after


def aligned_block(blocks: int) -> int:
    """Return the number, from 1, of the block behind which tokens are aligned."""
    return max(1, int(ALIGNED * blocks))


def misalignment(tokens: Tensor, wanted: Tensor) -> Tensor:
    """Return 1 - the mean cosine of tokens and those wanted (B, N, D), whose mean over an image's tokens is taken off
    and whose deviation is made 1 (iREPA's spatial normalization): what all of them share says nothing of the image."""
    deviation, mean = torch.std_mean(wanted.float(), dim=1, keepdim=True)
    return 1 - cosine_similarity(tokens.float(), (wanted.float() - mean) / (deviation + 1e-6), dim=-1).mean()


class SelfAligned(Objective):
    """Tokens of an early block, projected, follow those that the network with averaged weights has in a later block on
    a view with less of the same noise (not the paper's): it learns to see through noise what it sees without, and no
    foreign network teaches it.

    After SRA (Jiang et al. 2025, "No Other Representation Component Is Needed", arXiv:2505.02831) and Self-Flow (Chefer
    et al. 2026, arXiv:2603.06507), whose views differ in the noise of single tokens.
    """

    aligns = True

    def fit(self, model: Any, features: int | None) -> None:
        blocks, width = model.tapped_blocks, model.tapped_width
        if blocks < 2:
            raise UserError("objective: aligning a network with itself takes 2 blocks or more, the model has 1")
        self.block = aligned_block(blocks)
        self.average_blocks = max(self.block + 1, int(DEEPER * blocks))
        self.projection = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(
        self, network: Any, batch: Batch, null_condition: Tensor, *, average: Any = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        if batch.cleaner_alpha_bar is None:
            return super().forward(network, batch, null_condition, **options)
        tapped = Tapped(network, self.block)
        loss, per_sample = super().forward(tapped, batch, null_condition, **options)
        with torch.no_grad():
            alpha_bar = batch.cleaner_alpha_bar.float()
            x = add_noise(batch.latents.float(), batch.noise.float(), alpha_bar)
            _, state = average(x, alpha_bar, tapped.text, DenoiserState(tap=self.average_blocks))
        return loss + ALIGNMENT_WEIGHT * misalignment(self.projection(tapped.tokens), state.tapped), per_sample


class BalancedSelfAligned(SelfAligned, Balanced):
    """Both: kinds of samples count alike, and tokens are aligned."""


class FeatureAligned(Objective):
    """Tokens of an early block, projected by a convolution over their grid, follow the features that a vision network
    has of the image (not the paper's): what they show is learned in fewer steps.

    REPA (Yu et al. 2024, arXiv:2410.06940) with iREPA's projection and normalization (Singh et al. 2025,
    arXiv:2512.10794). The features are stored by `tessera encode --features`; a CutMix image has its own.
    """

    aligns = needs_features = True

    def fit(self, model: Any, features: int | None) -> None:
        self.block, self.patch_size = aligned_block(model.tapped_blocks), model.patch_size
        if features is not None:
            self.projection = nn.Conv2d(model.tapped_width, features, 3, padding=1)

    def forward(self, network: Any, batch: Batch, null_condition: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        if batch.features is None:
            return super().forward(network, batch, null_condition, **options)
        tapped = Tapped(network, self.block)
        loss, per_sample = super().forward(tapped, batch, null_condition, **options)
        height, width = (side // self.patch_size for side in batch.latents.shape[-2:])
        side = math.isqrt(batch.features.shape[1])
        wanted = batch.features.transpose(1, 2).unflatten(2, (side, side))  # (B, F, side, side)
        if (side, side) != (height, width):
            wanted = interpolate(wanted.float(), (height, width), mode="bilinear", antialias=True)
        found = self.projection(tapped.tokens.transpose(1, 2).unflatten(2, (height, width)))  # (B, F, h, w)
        found, wanted = (each.flatten(2).transpose(1, 2) for each in (found, wanted))  # (B, N, F)
        return loss + ALIGNMENT_WEIGHT * misalignment(found, wanted), per_sample


class BalancedFeatureAligned(FeatureAligned, Balanced):
    """Both: kinds of samples count alike, and tokens follow features."""


OBJECTIVES: dict[str, type[Objective]] = {
    "paper": Objective,
    "balanced": Balanced,
    "self-aligned": SelfAligned,
    "balanced-self-aligned": BalancedSelfAligned,
    "feature-aligned": FeatureAligned,
    "balanced-feature-aligned": BalancedFeatureAligned,
}
"""Name in a training's configuration -> the class."""
