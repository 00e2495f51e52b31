"""What a training run is told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from tessera.config import UserError
from tessera.diffusion.loss import PREDICTIONS
from tessera.diffusion.schedule import SCHEDULES
from tessera.models.dit import DiTConfig
from tessera.models.rin import RINConfig
from tessera.train.algorithm1 import T_DISTRIBUTIONS
from tessera.train.optim.config import OptimConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What is trained, on how much, and how."""

    model: DiTConfig | RINConfig
    num_images: int
    """Samples seen in all, a multiple of batch_size."""
    batch_size: int = 1024
    """Samples per step, over all devices (paper section 4.1)."""
    device_batch_size: int | None = None
    """Samples per forward pass on one device; their gradients are added up. None = no splitting."""
    latent_shift: tuple[float, ...] = (0.0,)
    """Taken off the stored latents; one number, or one for each channel."""
    latent_scale: tuple[float, ...] = (1.0,)
    """Then multiplied in, > 0; one number, or one for each channel. 0.18215 for Stable Diffusion's VAE. A smaller scale
    drowns pictures in noise earlier."""
    noise_schedule: str = "linear"
    """A name of tessera.diffusion.schedule; the authors' for CAD-I is linear."""
    prediction: Literal["eps", "x0", "v"] = "eps"
    """What the network outputs; the paper's is eps."""
    augment_min_t: float = 0.4
    """The paper's tau on this noise schedule: augmented images only where t is above it, in [0, 1]."""
    augment_prob: float = 0.5
    """The paper's p: how often there, in [0, 1]. 0 = never; no augmented set is needed then."""
    augment_start_image: int = 0
    """Augmented images only from this sample number on: a second phase."""
    augment_prob_end: float | None = None
    """p at the end of training, in [0, 1]: from `augment_start_image` on it moves there in a straight line. None = it
    stays, as in the paper."""
    t_distribution: Literal["uniform", "logit_normal"] = "uniform"
    """How t is drawn; the paper's is uniform."""
    min_snr_gamma: float | None = None
    """Limits the weight of nearly clean samples (min-SNR, Hang et al. 2023), > 0; the paper has no such limit: None."""
    caption_drop_prob: float = 0.1
    """How often a caption is replaced by the null condition, which guidance needs, in [0, 1]."""
    self_condition_prob: float = 0.9
    """How often a RIN gets the latent tokens of a first pass, in [0, 1]; no meaning for a DiT."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema_decay: float = 0.9999
    """Per step, in [0, 1)."""
    ema_warmup: bool = True
    """Averages over a growing part of a short run, so that the random start is forgotten."""
    ema_extra_decays: tuple[float, ...] = ()
    """Further averages kept beside it, to choose from afterwards; each costs a copy of the weights."""
    compute: Literal["fp32", "bf16"] = "bf16"
    """What the network computes in; weights, optimiser and EMA are fp32 either way."""
    seed: int = 0
    """Of the starting weights and of every draw, >= 0."""
    checkpoint_every_images: int = 1_000_000
    """Images between checkpoints, >= 1; there is one at the end in any case."""
    keep_checkpoints: int = 2
    """So many of the newest checkpoints are kept while training, >= 1; a finished run keeps its last one."""
    keep_every_images: int | None = None
    """And for ever the first checkpoint at or after each multiple of this, >= 1; None = no others."""
    log_every_images: int = 10_000
    """Images between lines of log.jsonl, >= 1."""
    validation_records: int = 0
    """So many records at the end of the plain set are not trained on, nor augmented ones with one of them as base;
    their loss is measured. 0 = none."""
    validate_every_images: int | None = None
    """Images between two such measurements, >= 1; None = with each checkpoint."""
    sample_every_images: int | None = None
    """Images between two grids of pictures drawn with the averaged weights, >= 1; None = none."""
    threads: int | None = None
    """CPU threads of torch; None = its own choice."""

    def __post_init__(self) -> None:
        counts = ("num_images", "batch_size", "checkpoint_every_images", "log_every_images", "keep_checkpoints")
        for name in (*counts, "keep_every_images", "validate_every_images", "sample_every_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}: {value} is below 1")
        for name in ("augment_min_t", "augment_prob", "caption_drop_prob", "self_condition_prob", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}: {getattr(self, name)} is not in [0, 1]")
        if self.augment_prob_end is not None and not 0 <= self.augment_prob_end <= 1:
            raise UserError(f"augment_prob_end: {self.augment_prob_end} is not in [0, 1]")
        if self.ema_decay == 1:
            raise UserError("ema_decay: 1 would keep the random start; give a value below 1, such as 0.999")
        extra = self.ema_extra_decays
        if not all(0 <= decay < 1 for decay in extra) or len({*extra, self.ema_decay}) != len(extra) + 1:
            raise UserError(f"ema_extra_decays: {list(extra)} must be in [0, 1), none twice, none equal to ema_decay")
        if self.augment_start_image < 0 or self.seed < 0 or self.validation_records < 0:
            raise UserError("augment_start_image, validation_records and seed must not be negative")
        if self.min_snr_gamma is not None and not self.min_snr_gamma > 0:
            raise UserError(f"min_snr_gamma: {self.min_snr_gamma} is not above 0; None = off")
        if self.t_distribution not in T_DISTRIBUTIONS:
            raise UserError(f"t_distribution: {self.t_distribution!r} is none of {', '.join(T_DISTRIBUTIONS)}")
        if self.num_images % self.batch_size:
            below = self.num_images // self.batch_size * self.batch_size
            near = f"{below} or {below + self.batch_size}" if below else str(self.batch_size)
            raise UserError(
                f"num_images: {self.num_images} is not a multiple of batch_size {self.batch_size}; use {near}"
            )
        if self.device_batch_size is not None and (
            self.device_batch_size < 1 or self.batch_size % self.device_batch_size
        ):
            raise UserError(f"device_batch_size: {self.device_batch_size} does not divide batch_size {self.batch_size}")
        for name in ("latent_shift", "latent_scale"):
            if len(getattr(self, name)) not in (1, self.model.latent_channels):
                channels = self.model.latent_channels
                raise UserError(f"{name}: give one number, or one for each of the {channels} channels")
        if not all(scale > 0 for scale in self.latent_scale):
            raise UserError(f"latent_scale: {list(self.latent_scale)} has a number that is not above 0")
        if self.noise_schedule not in SCHEDULES:
            raise UserError(f"noise_schedule: unknown {self.noise_schedule!r}; known: {', '.join(SCHEDULES)}")
        if self.prediction not in PREDICTIONS or self.compute not in ("fp32", "bf16"):
            raise UserError(f"prediction {self.prediction!r} or compute {self.compute!r} is unknown")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads: {self.threads} is below 1")


@dataclass(frozen=True, kw_only=True)
class Means:
    """The means by which a run is carried out. They are not what is trained, so they may differ from call to call."""

    compile: bool | None = None
    """Compile each block of the network; None = on a GPU, if it can be done there and `shard` does not split it."""
    shard: bool = False
    """Split weights, optimiser and averages over the ranks (FSDP2), for networks that do not fit otherwise."""
    peak_tflops: float | None = None
    """The device's stated peak in TFLOP/s, of which the log then says the share reached; None = unknown."""
    wandb: str | None = None
    """Log to this Weights & Biases project too; None = no."""
    verify: bool = False
    """Read the sets whole and compare checksums first, minutes for large ones; small ones are verified in any case."""
    encode_text: Callable[[Sequence[str]], Sequence[np.ndarray]] | None = None
    """Captions -> an array (L, D) each, for sets without stored text."""
    decode: Callable[[torch.Tensor], np.ndarray] | None = None
    """Stored latents (B, C, H, W) -> uint8 (B, S, S, 3), for grids of pictures."""
    content_hash: Callable[[str, str], str | None] | None = None
    """("latent_codec" or "text_encoder", its id) -> the hash of its files, if they are on this machine; for weights to
    start from whose network is called otherwise than the sets' one."""

    def __post_init__(self) -> None:
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise UserError(f"peak_tflops: {self.peak_tflops} is not above 0")
