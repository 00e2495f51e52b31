"""The configuration of the optimizer and the learning rate."""

import math
from dataclasses import dataclass
from typing import Literal

from tessera.config import UserError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights are moved. Decay, averaging and clipping are by default those of CAD-I's published recipe."""

    name: Literal["adamw", "lamb", "muon"] = "adamw"
    """`muon` moves the blocks' matrices by Muon and everything else by AdamW."""
    lr: float = 1e-3
    """Peak learning rate of AdamW or LAMB, > 0."""
    muon_lr: float = 0.015
    """Peak learning rate of Muon, > 0; a step's largest singular value, before the factor sqrt(rows / columns)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Averaging of the gradient and of its square, each in [0, 1)."""
    weight_decay: float = 0.01
    """Decoupled, times the learning rate, >= 0; matrices only."""
    warmup_images: int = 0
    """Images over which the learning rate rises linearly from 0."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """How it falls from there to the end of training."""
    final_lr_fraction: float = 0.0
    """Where it ends, as a fraction of the peak, in [0, 1]."""
    clip_norm: float | None = 2.0
    """Largest norm of the whole gradient, > 0; None = no limit."""

    def __post_init__(self) -> None:
        checks = {
            "lr": self.lr > 0,
            "muon_lr": self.muon_lr > 0,
            "betas": len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            "weight_decay": self.weight_decay >= 0,
            "warmup_images": self.warmup_images >= 0,
            "final_lr_fraction": 0 <= self.final_lr_fraction <= 1,
            "clip_norm": self.clip_norm is None or self.clip_norm > 0,
            "name": self.name in ("adamw", "lamb", "muon"),
            "decay": self.decay in ("cosine", "linear", "constant"),
        }
        for field, valid in checks.items():
            if not valid:
                raise UserError(f"optim.{field}: {getattr(self, field)!r} is out of range; see OptimConfig.{field}")


def lr_fraction(config: OptimConfig, num_images: int, total_images: int) -> float:
    """The learning rate of the step that brings the count to `num_images`, as a fraction of its peak."""
    if num_images < config.warmup_images:
        return num_images / config.warmup_images
    if config.decay == "constant":
        return 1.0
    done = min(1.0, (num_images - config.warmup_images) / max(1, total_images - config.warmup_images))
    fall = (1 + math.cos(math.pi * done)) / 2 if config.decay == "cosine" else 1 - done
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * fall
