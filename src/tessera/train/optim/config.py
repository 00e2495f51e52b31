"""The configuration of the optimizer and the learning rate."""

import math
from dataclasses import dataclass
from typing import Literal

from tessera.config import UserError, check_ranges


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its schedule. Decay, averaging and clipping default to those of CAD-I's published recipe."""

    name: Literal["adamw", "adamw8bit", "lamb", "muon"] = "adamw"
    """`muon` updates the blocks' matrices by Muon and everything else by AdamW; `adamw8bit` is AdamW whose means take
    2 bytes for each weight in place of 8 (extra fp8)."""
    lr: float = 1e-3
    """Peak learning rate of AdamW or LAMB, > 0."""
    muon_lr: float = 0.015
    """Peak learning rate of Muon, > 0; a step's largest singular value, before the factor sqrt(rows / columns)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square, each in [0, 1)."""
    weight_decay: float = 0.01
    """Decoupled weight decay, times the learning rate, >= 0; matrices only."""
    warmup_images: int = 0
    """Images over which the learning rate rises linearly from 0, >= 0."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of its fall from there to the end of training."""
    final_lr_fraction: float = 0.0
    """Learning rate at the end, as a fraction of the peak, in [0, 1]."""
    cooldown_images: int = 0
    """Images at the end over which a constant rate falls linearly to `final_lr_fraction`, >= 0."""
    clip_norm: float | None = 2.0
    """Largest norm of the whole gradient, > 0; None = no limit."""

    def __post_init__(self) -> None:
        check_ranges(self, **dict.fromkeys(("lr", "muon_lr", "clip_norm"), "(0, inf)"), betas="[0, 1)")
        check_ranges(self, weight_decay="[0, inf)", warmup_images="[0, inf)", final_lr_fraction="[0, 1]")
        check_ranges(self, cooldown_images="[0, inf)")
        if self.cooldown_images and self.decay != "constant":
            raise UserError(f"cooldown_images: only a constant learning rate is cooled down; decay is {self.decay}")


def lr_fraction(config: OptimConfig, num_images: int, total_images: int) -> float:
    """Return the learning rate of the step that brings the count to `num_images`, as a fraction of its peak. Where a
    cooldown begins within the warm-up, the lower of the two rates counts."""
    rise = num_images / config.warmup_images if num_images < config.warmup_images else 1.0
    if config.decay == "constant":
        left = (total_images - num_images) / config.cooldown_images if config.cooldown_images else 1.0
        return min(rise, config.final_lr_fraction + (1 - config.final_lr_fraction) * min(1.0, left))
    if rise < 1:
        return rise
    done = min(1.0, (num_images - config.warmup_images) / max(1, total_images - config.warmup_images))
    fall = (1 + math.cos(math.pi * done)) / 2 if config.decay == "cosine" else 1 - done
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * fall
