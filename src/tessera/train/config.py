"""The configuration of a training run, and the options that change how it runs but not what it computes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from tessera.config import UserError, check_ranges, nearest
from tessera.diffusion.schedule import SCHEDULES
from tessera.models.dit import DiTConfig
from tessera.models.rin import RINConfig
from tessera.train.algorithm1 import CaptionMix, Times
from tessera.train.optim.config import OptimConfig

TAU_BY = ("recipe", "pattern")
"""Values of augment_min_t that are no numbers."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The model, the budget of images and the recipe of a training run."""

    model: DiTConfig | RINConfig
    num_images: int
    """Samples seen in total, a multiple of batch_size."""
    batch_size: int = 1024
    """Samples per step, over all devices (paper section 4.1)."""
    latent_shift: tuple[float, ...] = (0.0,)
    """Subtracted from the stored latents; one number, or one for each channel."""
    latent_scale: tuple[float, ...] = (1.0,)
    """Then multiplied in, > 0; likewise. 0.18215 for Stable Diffusion's VAE; smaller: images drown at an earlier t."""
    noise_schedule: str = "linear"
    """A name of tessera.diffusion.schedule; the authors' for CAD-I is linear."""
    prediction: Literal["eps", "x0", "v", "velocity"] = "eps"
    """Output of the network; the paper's is eps. velocity: eps - x0, rectified flow's."""
    t_distribution: Literal["uniform", "logit_normal"] = "uniform"
    """Distribution of the samples' t; the paper's is uniform."""
    t_shift: float = 1.0
    """t becomes t_shift t / (1 + (t_shift - 1) t), > 0: above 1 more samples have much noise, which large images need.
    augment_min_t is compared with the t that results."""
    augment_min_t: float | Literal["recipe", "pattern"] = 0.4
    """The paper's tau on this noise schedule: augmented images only where t is above it, in [0, 1]. recipe: of each
    image its own, from a directory of `tessera tau`; pattern: of each pattern its own, from there."""
    augment_max_t: float = 1.0
    """Augmented images only up to this t, in (0, 1]: 1 in the paper. The reverse of tau, for images that are right in
    their texture alone, such as crops."""
    seam_margin: int | None = None
    """Augmented images at and below augment_min_t too, without the loss within so many latents of their border (from a
    directory of `tessera tau`), >= 1. None = not there, as in the paper."""
    augment_prob: float = 0.5
    """The paper's p: probability of an augmented image there, in [0, 1]. 0 = never; no augmented set is needed then."""
    augment_start_image: int = 0
    """Augmented images only from this sample number on: a second phase."""
    augment_prob_end: float | None = None
    """p at the end, in [0, 1], reached linearly from `augment_start_image` on. None = constant, as in the paper."""
    caption_drop_prob: float = 0.1
    """Probability that a caption is replaced by the null condition, which guidance needs, in [0, 1]."""
    sentence_drop_prob: float = 0.0
    """Probability of each sentence of a caption to be left out, in [0, 1], but not of all; for sets whose text is
    encoded on the fly. Not the paper's."""
    condition_noise: float = 0.0
    """Gamma >= 0 of condition embedding perturbation (Chen et al. 2024): noise of variance gamma / D is added to the
    numbers of a text of width D. 0 = none, as in the paper."""
    caption_mix: Mapping[str, float] = field(default_factory=dict)
    """Probability of each level of captions of images that have several: {"long": 0.7, "short": 0.3}; their sum is 1.
    Empty = the first level of each image, `long` if it has that, as in the paper."""
    caption_mix_start_image: int = 0
    """Images seen before `caption_mix` begins, >= 0; before that the first level of each image."""
    objective: str = "paper"
    """Loss to minimize, a name of `diffusion.objective`, or "FILE.py:NAME" for one of your own. balanced (not the
    paper's): each sample's loss is divided by the running mean of its kind. self-aligned (not the paper's): inner
    tokens follow those of the average of the weights at less noise; feature-aligned: a vision network's features;
    balanced-self-aligned, balanced-feature-aligned: both."""
    align_until_image: int | None = None
    """Images seen until which an objective aligns, a multiple of batch_size, >= 1; None = to the end."""
    self_condition_prob: float = 0.9
    """Probability that a RIN gets the latent tokens of a first pass, in [0, 1]; unused by a DiT."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema_decay: float = 0.9999
    """Per step, in [0, 1); lower in the first steps, so that a short run forgets its random start."""
    compute: Literal["auto", "fp32", "bf16", "fp8", "fp8-first"] = "auto"
    """Precision in which the network computes; weights, optimizer and EMA are fp32 either way. auto: bf16 on devices
    where it is the faster one (`devices.is_fast_in_bf16`), the same at each start on one machine. fp8: bf16, and FP8 in
    large linear layers (`models.fp8`); fp8-first: in those of a RIN's first forward alone, which has no gradients."""
    seed: int = 0
    """Seed for weight initialization and all random draws, >= 0."""
    checkpoint_every_images: int = 1_000_000
    """Images between checkpoints, >= 1; there is one at the end in any case."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep while training, >= 1; a finished run keeps its last one."""
    keep_every_images: int | None = None
    """Also keep the first checkpoint at or after each multiple of this, >= 1; None = no others."""
    log_every_images: int = 10_000
    """Images between lines of log.jsonl, >= 1."""
    validation_records: int = 0
    """Records at the end of the plain set whose loss is measured; they and their mixes are not trained on. 0 = none."""
    validate_every_images: int | None = None
    """Images between two measurements of that loss, >= 1; None = with each checkpoint."""
    stop_after_no_gain: int | None = None
    """Images after the lowest loss of the EMA on those records at which the run ends, >= 1; None = never."""
    sample_every_images: int | None = None
    """Images between two grids of images sampled with the EMA weights, >= 1; None = none."""
    threads: int | None = None
    """CPU threads of torch; None = its own choice."""

    def __post_init__(self) -> None:
        counts = ("num_images", "batch_size", "checkpoint_every_images", "keep_checkpoints", "keep_every_images")
        counts += ("log_every_images", "validate_every_images", "sample_every_images", "threads", "stop_after_no_gain")
        counts += ("seam_margin", "align_until_image")
        if isinstance(own := self.augment_min_t, str) and own not in TAU_BY:
            raise UserError(f"augment_min_t is {own!r}; give a number in [0, 1], {' or '.join(TAU_BY)}")
        shares = ("augment_prob", "augment_prob_end", "caption_drop_prob", "self_condition_prob")
        shares += ("sentence_drop_prob",)
        shares += () if isinstance(own, str) else ("augment_min_t",)
        check_ranges(
            self,
            **dict.fromkeys(counts, "[1, inf)"),
            **dict.fromkeys(shares, "[0, 1]"),
            **dict.fromkeys(
                ("augment_start_image", "caption_mix_start_image", "validation_records", "seed"), "[0, inf)"
            ),
            ema_decay="[0, 1)",
            latent_scale="(0, inf)",
            augment_max_t="(0, 1]",
            t_shift="(0, inf)",
            condition_noise="[0, inf)",
        )
        if (name := self.noise_schedule) not in SCHEDULES:
            known = ", ".join(SCHEDULES)
            raise UserError(f"noise_schedule: unknown {name!r};{nearest(name, SCHEDULES)} known: {known}")
        if self.num_images % self.batch_size:
            below = self.num_images // self.batch_size * self.batch_size
            near = f"{below} or {below + self.batch_size}" if below else str(self.batch_size)
            multiple = f"a multiple of batch_size {self.batch_size}"
            raise UserError(f"num_images: {self.num_images} is not {multiple}; use {near}")
        if (until := self.align_until_image or 0) % self.batch_size:
            near = -(-until // self.batch_size) * self.batch_size
            raise UserError(f"align_until_image: {until} is not a multiple of batch_size {self.batch_size}; use {near}")
        if not isinstance(own, str) and self.seam_margin is None and own >= self.augment_max_t < 1:
            raise UserError(f"augment_max_t: no t is above augment_min_t {own:g} and up to {self.augment_max_t:g}")
        if self.stop_after_no_gain is not None and not self.validation_records:
            raise UserError(
                "stop_after_no_gain: needs the loss on held-out records; set validation_records, such as 256"
            )
        if self.caption_mix_start_image and not self.caption_mix:
            raise UserError(
                'caption_mix_start_image: needs a caption_mix to start, such as {"long": 0.6, "short": 0.4}'
            )
        if self.compute == "fp8-first" and not (isinstance(self.model, RINConfig) and self.self_condition_prob):
            raise UserError("compute: fp8-first is for a RIN with self-conditioning; give fp8 or bf16")
        if isinstance(self.model, RINConfig) and self.model.coherence:
            raise UserError("model.coherence: guidance needs a token that is not trained here; set it to False")
        _check_mix("caption_mix", self.caption_mix or {"long": 1.0})
        for name in ("latent_shift", "latent_scale"):
            if len(getattr(self, name)) not in (1, channels := self.model.latent_channels):
                raise UserError(f"{name}: give one number, or one for each of the {channels} channels")

    @property
    def needs_seams(self) -> bool:
        """True where training needs the borders of augmented images, or their own least t."""
        return self.augment_prob > 0 and (isinstance(self.augment_min_t, str) or self.seam_margin is not None)

    @property
    def times(self) -> Times:
        """The distribution of t."""
        return Times(distribution=self.t_distribution, shift=self.t_shift)

    @property
    def mix(self) -> CaptionMix | None:
        """The levels of captions with their probabilities; None = the first of each image."""
        if not self.caption_mix:
            return None
        levels, weights = zip(*self.caption_mix.items())
        return CaptionMix(levels=levels, weights=weights, start=self.caption_mix_start_image)


def parse_mix(text: str) -> dict[str, float]:
    """Return the probabilities that "long=0.7,short=0.3" says, by level. UserError where it says something else."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        weights = [(level.strip(), float(weight)) for level, weight in pairs]
    except ValueError:
        raise UserError(f"{text!r} is no mix of captions; give levels and probabilities: long=0.7,short=0.3") from None
    mix = dict(weights)
    if len(mix) < len(weights):
        raise UserError(f"{text!r} names a level twice; give each level once: long=0.7,short=0.3")
    return mix


def _check_mix(name: str, mix: Mapping[str, float]) -> None:
    """Raise UserError unless the mix gives levels probabilities whose sum is 1."""
    for level, weight in mix.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
            raise UserError(f"{name}: {level!r} has the probability {weight!r}; give a number in [0, 1]")
    if abs((total := sum(mix.values())) - 1) > 1e-6:
        fix = ",".join(f"{level}={weight / total:.3g}" for level, weight in mix.items()) if total else "long=1"
        raise UserError(f"{name}: the probabilities add up to {total:g}, not 1; such as {fix}")


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """The judge of images that the EMA weights draw on the way: a process of its own."""

    evaluate_every_images: int
    """Images between two evaluations, >= 1; there is one at the end in any case."""
    command: tuple[str, ...]
    """Command line, to which the folder of an evaluation is added. It draws by FOLDER/export, writes
    {"scores": {name: {"value": number}}} to FOLDER/values.json, and ends when its standard input closes."""
    described: Mapping[str, Any] = field(default_factory=dict)
    """Its prompts and metrics as data; the same in all evaluations of a run."""
    wait: bool = False
    """Wait for the scores before the next step; otherwise train on, until the next evaluation or the end."""

    def __post_init__(self) -> None:
        check_ranges(self, evaluate_every_images="[1, inf)")


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """The way in which a run is carried out: not part of what is trained, so it may differ from call to call."""

    device_batch_size: int | Literal["auto"] | None = None
    """Samples per forward pass on one device, a micro-batch, >= 1; their gradients are summed. "auto" = the most, up to
    `loop.AUTO_SAMPLES`, for which memory suffices, found by trying and remembered in the run; None = so on CUDA,
    elsewhere all of the device's share of a step."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of blocks for the backward pass, which computes the blocks again: about a third of the
    memory, a third more time."""
    compile: bool | Literal["whole"] | None = None
    """Compile each block of the network, or the "whole" network as one program; None = each block on a GPU, if it can
    be done there and `shard` does not split it."""
    shard: bool = False
    """Split weights, optimizer and EMA over the ranks (FSDP2), for networks that do not fit otherwise."""
    shard_optimizer: bool = False
    """Split optimizer and EMA over the ranks, not the network (ZeRO-1): each steps its share of the tensors."""
    peak_tflops: float | None = None
    """A device's peak in TFLOP/s, dense bf16, > 0; None = that of its model in `tessera.devices.PEAK_TFLOPS`."""
    wandb: str | None = None
    """Log to this Weights & Biases project too; None = no."""
    verify: bool = False
    """Read whole sets first, each rank its share, and compare checksums, minutes for large ones; small ones in any
    case."""
    loader_threads: int = 2
    """Threads that read records, >= 1; more for a file system on a network."""
    encode_text: Callable[[Sequence[str]], Sequence[np.ndarray]] | None = None
    """Captions -> an array (L, D) each, for sets without stored text."""
    decode: Callable[[torch.Tensor], np.ndarray] | None = None
    """Stored latents (B, C, H, W) -> uint8 (B, S, S, 3), for grids of images."""
    content_hash: Callable[[str, str], str | None] | None = None
    """("latent_codec" or "text_encoder", its id) -> the hash of its files, if they are on this machine; for initial
    weights whose network has another name than the sets' one."""

    judge: JudgeOptions | None = None
    """Scores of images on the way; None = none."""

    def __post_init__(self) -> None:
        check_ranges(self, peak_tflops="(0, inf)", loader_threads="[1, inf)")
        if self.device_batch_size != "auto":
            check_ranges(self, device_batch_size="[1, inf)")
