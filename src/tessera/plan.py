"""plan: what a set of some size takes (disk, GPU-hours, money), and the command lines, before anything is started.

Counts of floating-point operations are of the networks' own shapes; everything else that is assumed is a constant here,
and printed. FLOP = 2 multiply-adds.
"""

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tessera.config import UserError
from tessera.cutmix import PATTERNS

MAX_SETS = 2 + len(PATTERNS)
"""The plain set, "all" and each pattern by itself."""

PAPER_IMAGES = 250_000 * 1024
"""Samples that the paper's tables are trained on."""
TUNING_IMAGES = 4000 * 256
"""Samples that the presets `*-tune` see."""

BATCH, TUNING_BATCH = 1024, 256
"""Samples of a training step in these presets, shared out evenly among the GPUs."""

PRESETS = {"dit": "dit-i-l2", "cad": "cad-i-l"}

TEXT_WIDTH = 2048  # flan-t5-xl
TOKEN_BYTES = TEXT_WIDTH + 2 * TEXT_WIDTH // 64  # int8 codes and an fp16 scale for each 64 of them
LATENT_BYTES = 2 * 4 * 32 * 32 * 2  # mean and std (4, 32, 32), fp16
BYTES_PER_TOKEN = 4.6  # of English text in T5's pieces
RECORD_BYTES = 200  # key, class, offsets
CROP_BYTES = 115_000  # a photograph of 256 px as PNG, about
RECIPE_BYTES = 60  # one row, compressed
CAPTION_SHARE = 0.45  # what zstd leaves of captions

CAPTIONER_PARAMETERS = 8.03e9  # llama3-llava-next-8b, its language part
PROMPT_TOKENS = 60
IMAGE_TOKENS = 576  # of one picture, or of one quadrant beside it
VISION_FLOP = 0.38e12  # CLIP ViT-L/14 at 336 px, one picture
CAPTION_UTILISATION = 0.25  # short generations leave a GPU waiting for memory
VAE_FLOP = 0.28e12  # the encoder at 256 px
T5_PARAMETERS = 1.22e9  # flan-t5-xl's encoder
ENCODE_UTILISATION = 0.3


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What is asked."""

    images: int
    """Pictures of the set."""
    sets: int = 2
    """Encoded sets: 1 the plain one, 2 with CM all, up to 6 with each pattern by itself."""
    mean_tokens: float = 180.0
    """T5 tokens of a caption, on average."""
    network: str = "dit"
    """"dit" (DiT-I L/2) or "cad" (CAD-I L)."""
    init: str | None = None
    """Weights to start from, an export: the preset is then the one for tuning. None = at random."""
    train_images: int | None = None
    """Samples seen in training, rounded up to whole steps. None = the preset's: 250,000 steps of 1024 as in the paper's
    tables, or 4000 of 256."""
    gpu_tflops: float = 790.0
    """What one GPU does at best, dense bf16 (H100 and H200: 790 in practice)."""
    utilisation: float = 0.6
    """Share of it that training reaches."""
    gpus: int = 8
    """GPUs that work beside each other; divides the hours on the clock, and has to divide a step's samples."""
    price: float | None = None
    """What an hour of one GPU costs, in whatever currency. None = not known, and no money is named."""

    def __post_init__(self):
        for name in ("images", "mean_tokens", "train_images", "gpu_tflops", "gpus", "price"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name} is {value}: give a number above 0")
        if not 1 <= self.sets <= MAX_SETS:
            raise UserError(f"sets is {self.sets}: give 1 (plain), 2 (with CM all), up to {MAX_SETS}")
        if self.network not in STEP_FLOP:
            raise UserError(f"network must be one of {', '.join(STEP_FLOP)}, not {self.network!r}")
        if not 0 < self.utilisation <= 1:
            raise UserError(f"utilisation is {self.utilisation}: give a share above 0, at most 1")
        if self.batch % self.gpus:
            below = max(n for n in range(1, self.gpus) if self.batch % n == 0)
            raise UserError(f"gpus is {self.gpus}: {self.batch} samples of a step cannot be split so; give {below}")

    @property
    def augmented(self) -> tuple[str, ...]:
        """Patterns of the sets beside the plain one."""
        return ("all", *PATTERNS)[: self.sets - 1]

    @property
    def preset(self) -> str:
        """Of `tessera train`, without the arm."""
        return PRESETS[self.network] + ("-tune" if self.init else "")

    @property
    def batch(self) -> int:
        """Samples of a training step."""
        return TUNING_BATCH if self.init else BATCH

    @property
    def samples(self) -> int:
        """Samples that each training sees."""
        if self.train_images is not None:
            return -(-self.train_images // self.batch) * self.batch
        return TUNING_IMAGES if self.init else PAPER_IMAGES

    @property
    def trainings(self) -> int:
        """One for each augmented set; one without any."""
        return max(len(self.augmented), 1)


def dit_forward_flop(tokens: float) -> float:
    """One forward of DiT-I L/2 (width 1024, 24 blocks) on one sample: 256 image tokens, so many of text."""
    n, d = 256, 1024
    block = 28 * n * d**2 + 4 * n**2 * d + 4 * tokens * d**2 + 4 * n * tokens * d
    text = 2 * tokens * TEXT_WIDTH * d + 2 * (24 * tokens * d**2 + 4 * tokens**2 * d)
    return 24 * block + text


def cad_step_flop(tokens: float) -> float:
    """A training step of CAD-I L on one sample, with its self-conditioning pass; between the counts at 128 and 256."""
    return 1e9 * (636 + (667 - 636) * (tokens - 128) / 128)


STEP_FLOP: dict[str, Callable[[float], float]] = {
    "dit": lambda tokens: 3 * dit_forward_flop(tokens),  # the backward pass counts as two
    "cad": cad_step_flop,
}


def disk(config: PlanConfig) -> dict[str, float]:
    """Bytes of each directory."""
    record = config.mean_tokens * (TOKEN_BYTES + BYTES_PER_TOKEN) + LATENT_BYTES + RECORD_BYTES
    captions = config.mean_tokens * BYTES_PER_TOKEN * CAPTION_SHARE
    sizes: dict[str, float] = {"images": CROP_BYTES * config.images}
    for name in config.augmented:
        sizes[f"recipe/{name}"] = RECIPE_BYTES * config.images
    for name in ("plain", *config.augmented):
        sizes[f"captions/{name}"] = captions * config.images
        sizes[f"encoded/{name}"] = record * config.images
    return sizes


def gpu_hours(config: PlanConfig) -> dict[str, float]:
    """GPU-hours of each stage that wants one."""

    def hours(flop: float, utilisation: float) -> float:
        return flop / (config.gpu_tflops * 1e12 * utilisation) / 3600

    # The plain pictures and CM 1/2 show the captioner one picture, the other patterns a quadrant too: of "all", 3/4.
    quadrants = {"plain": 0.0, "all": 0.75, "half": 0.0}
    pictures = sum(1 + quadrants.get(name, 1.0) for name in ("plain", *config.augmented))
    words = config.sets * (PROMPT_TOKENS + config.mean_tokens)
    caption = 2 * CAPTIONER_PARAMETERS * (IMAGE_TOKENS * pictures + words) + VISION_FLOP * pictures
    encode = config.sets * (VAE_FLOP + 2 * T5_PARAMETERS * config.mean_tokens)
    train = config.samples * STEP_FLOP[config.network](config.mean_tokens)
    return {
        "caption": hours(config.images * caption, CAPTION_UTILISATION),
        "encode": hours(config.images * encode, ENCODE_UTILISATION),
        "train": hours(train, config.utilisation),
    }


def total_hours(config: PlanConfig) -> float:
    """GPU-hours of all stages and trainings."""
    hours = gpu_hours(config)
    return hours["caption"] + hours["encode"] + hours["train"] * config.trainings


def to_json(config: PlanConfig) -> dict[str, Any]:
    """The plan for scripts; hours of `train` are those of one training, money is null without a price."""
    hours = total_hours(config)
    return {
        "asked": asdict(config) | {"train_images": config.samples},
        "bytes": {name: round(size) for name, size in disk(config).items()},
        "gpu_hours": gpu_hours(config) | {"in all": hours},
        "trainings": config.trainings,
        "money": None if config.price is None else hours * config.price,
        "commands": commands(config),
    }


def commands(config: PlanConfig) -> list[str]:
    """The command lines, in order; PICTURES stands for where they are."""
    lines = ["tessera collect PICTURES --out images"]
    where = "" if config.gpus == 1 else " --engine processes"  # one for each GPU
    captioner = f"--captioner llava{where}"
    encoders = f"--latents stabilityai/sd-vae-ft-ema --text google/flan-t5-xl{where}"
    lines.append(f"tessera caption images {captioner} --out captions/plain")
    lines.append(f"tessera encode images captions/plain {encoders} --out encoded/plain")
    for name in config.augmented:
        recipe = f"--recipe recipe/{name}"
        lines.append(f"tessera augment images --pattern {name} --out recipe/{name}")
        lines.append(f"tessera caption images {recipe} {captioner} --out captions/{name}")
        lines.append(f"tessera encode images captions/{name} {recipe} {encoders} --out encoded/{name}")
    train = "tessera" if config.gpus == 1 else f"torchrun --standalone --nproc-per-node {config.gpus} -m tessera.cli"
    preset = f"{config.preset}:{'ta_ia' if config.augmented else 'ta'}"
    start = f" --init {shlex.quote(config.init)}" if config.init else ""
    length = "" if config.train_images is None else f" --num-images {config.samples}"
    for name in config.augmented or ("",):
        augmented = f" --augmented encoded/{name}" if name else ""
        out = f"runs/{name or 'plain'}"
        lines.append(f"{train} train {preset}{start} --plain encoded/plain{augmented}{length} --out {out}")
    return lines


def describe(config: PlanConfig) -> str:
    """All of it as text."""
    sizes, hours, total = disk(config), gpu_hours(config), total_hours(config)
    runs = config.trainings
    names = {"dit": "DiT-I L/2", "cad": "CAD-I L"}
    lines = [f"{config.images:,} pictures, {config.sets} sets, {config.mean_tokens:g} tokens a caption", "", "Disk"]
    lines += [f"  {name:20} {_bytes(size):>9}" for name, size in sizes.items()]
    lines += [f"  {'in all':20} {_bytes(sum(sizes.values())):>9}", "", "GPU-hours"]
    lines += [f"  {name:20} {value:9.1f}" for name, value in hours.items()]
    each = f", of which each of the {runs} runs trains {hours['train']:.1f}" if runs > 1 else ""
    lines.append(f"  {'in all':20} {total:9.1f}{each}")
    if config.price is not None:
        lines += ["", "Money", f"  {'in all':20} {total * config.price:9.1f}, at {config.price:g} for an hour of a GPU"]
    if config.gpus > 1:
        lines += [
            "",
            f"  On {config.gpus} GPUs: {total / config.gpus:.1f} hours on the clock, if all of them are busy.",
        ]
    step = STEP_FLOP[config.network](config.mean_tokens) / 1e9
    lines += [
        "",
        "Assumed",
        f"  {config.gpu_tflops:g} TFLOP/s a GPU; training reaches {config.utilisation:.0%} of it, captions"
        f" {CAPTION_UTILISATION:.0%}, encoding {ENCODE_UTILISATION:.0%}",
        f"  {names[config.network]}, {step:.0f} GFLOP a sample, {config.samples:,} samples",
        f"  LLaVA-NeXT 8B with {IMAGE_TOKENS} tokens a picture; VAE and T5-XL encoders; text as int8,"
        f" {TOKEN_BYTES} bytes a token",
        f"  crops of {CROP_BYTES / 1e3:.0f} kB, {BYTES_PER_TOKEN} bytes of text a token",
        "",
        "Commands",
    ]
    lines += [f"  {line}" for line in commands(config)]
    return "\n".join(lines)


def _bytes(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size / scale < 1000 else f"{size / scale:.0f} {unit}"
    return f"{size / 1e3:.0f} kB"
