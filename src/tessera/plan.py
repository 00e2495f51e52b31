"""plan: disk, GPU-hours, money and command lines for a set of some size, before anything is started.

Counts of floating-point operations are of the networks' own shapes; everything else that is assumed is a constant here,
and printed. Speeds are assumed too, or measured on this machine (`tessera.measure`). FLOP = 2 multiply-adds.
"""

import shlex
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from tessera.config import UserError, check_ranges, nearest
from tessera.cutmix import PATTERNS
from tessera.devices import PEAK_TFLOPS
from tessera.models.flops import step_flops
from tessera.models.memory import activation_bytes, state_bytes
from tessera.presets.fitted import scaled
from tessera.presets.imagenet import TEXT, VAE
from tessera.presets.lookup import load_train_preset
from tessera.train.config import TrainConfig

if TYPE_CHECKING:
    from tessera.measure import Measured

TEXT_WIDTH = 2048  # flan-t5-xl
TOKEN_BYTES = TEXT_WIDTH + 2 * TEXT_WIDTH // 64  # int8 codes and an fp16 scale for each 64 of them
LATENT_BYTES = 2 * 4 * 32 * 32 * 2  # mean and std (4, 32, 32), fp16
BYTES_PER_TOKEN = 4.6  # of English text in T5's pieces
RECORD_BYTES = 200  # key, class, offsets
CROP_BYTES = 115_000  # a photograph of 256 px as PNG, about
RECIPE_BYTES = 60  # one row, compressed
CAPTION_SHARE = 0.45  # what zstd leaves of captions
MEDIUM_SHARE = 0.46  # of a long caption's tokens that its medium form keeps, on average
SHORT_TOKENS = 15  # of a short caption
LEVELS = "_levels"  # end of the name of a directory with captions of several levels

CAPTIONER_PARAMETERS = 8.03e9  # llama3-llava-next-8b, its language part
PROMPT_TOKENS = 60
IMAGE_TOKENS = 576  # of one image, or of one quadrant in addition
VISION_FLOP = 0.38e12  # CLIP ViT-L/14 at 336 px, one image
CAPTION_UTILIZATION = {
    "GB200": 0.11,
    "B200": 0.12,
    "H200 NVL": 0.24,
    "H100 NVL": 0.24,
    "H100 PCIe": 0.25,
    "H20": 0.49,
    "A100": 0.39,
    "A30": 0.17,
    "L40S": 0.23,
    "L40": 0.34,
    "L4": 0.10,
    "RTX 3090": 0.30,
    "RTX 4090": 0.18,
}
"""Share of its peak that captions reach on a model of GPU, estimated: a token of all answers that fit into memory takes
27 ms of launches, or, if that is longer, the reading of weights, keys and values at 0.8 of the memory's bandwidth; the
prompt is read at half of the peak."""
OTHER_CAPTION_UTILIZATION = 0.20  # of an H100 or H200 too
VAE_FLOP = 0.28e12  # the encoder at 256 px
T5_PARAMETERS = 1.22e9  # flan-t5-xl's encoder
ENCODE_UTILIZATION = 0.38  # half of the peak in T5's products, less in the VAE's convolutions
ENCODE_TFLOPS = 198  # for which one process reads, quantizes and writes fast enough, 3.6 ms a record
TRAIN_UTILIZATION = {("H100", "dit"): 0.35, ("H100", "cad"): 0.38, ("H200", "dit"): 0.39, ("H200", "cad"): 0.42}
"""Share of its peak that training reaches on a model of GPU, by a roofline of its products, memory and attention."""
OTHER_UTILIZATION = 0.36
MANY_VIEWS = 2560  # of an image: dit-i-s on the smallest set that it is for
MEMORY_SHARE = 0.9  # of a GPU's; the rest is for kernels' workspaces and the allocator's gaps

NETWORKS = {
    "dit": ("dit-i-l2", "DiT-I L/2"),
    "cad": ("cad-i-l", "CAD-I L"),
    "dit-xs": ("dit-i-xs", "DiT-I XS/2"),
    "dit-s": ("dit-i-s", "DiT-I S/2"),
    "dit-b": ("dit-i-b", "DiT-I B/2"),
}
"""Network -> its training preset, and its name."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Question to answer: the set, the network and the GPUs."""

    images: int
    """Images of the set."""
    sets: int = 2
    """Encoded sets: 1 the plain one, 2 with CM all, up to 6 with each of the patterns by itself."""
    mean_tokens: float = 180.0
    """T5 tokens of a caption, on average."""
    levels: bool = False
    """Each image has shorter captions next to its long one, by rules (`--captioner shorten`)."""
    network: Literal["dit", "cad", "dit-xs", "dit-s", "dit-b"] = "dit"
    """DiT-I L/2, CAD-I L, or DiT-I XS/2, S/2 or B/2 for small sets."""
    init: str | None = None
    """Weights to start from, an export: the preset is then the one for tuning. None = at random."""
    train_images: int | None = None
    """Samples seen in training, rounded up to whole steps. None = the preset's: 250,000 steps of 1024 as in the paper's
    tables, 4000 of 256 for tuning, and fewer for small networks."""
    gpu: str | None = None
    """Model of the GPUs, a name of `tessera.devices.PEAK_TFLOPS`. None = an H100 or H200."""
    gpu_tflops: float | None = None
    """Peak of one GPU in TFLOP/s, dense bf16. None = the model's by its data sheet."""
    utilisation: float | None = None
    """Share of that peak that training reaches. None = as estimated for the model in TRAIN_UTILIZATION."""
    gpus: int = 8
    """GPUs that work in parallel; divides the hours on the clock, and has to divide a step's samples."""
    gpu_memory: float | None = None
    """Memory of one GPU in GiB, for which the images of a pass are found that fit. None = not asked."""
    price: float | None = None
    """Price of an hour of one GPU, in any currency. None = unknown, and no money is named."""

    def __post_init__(self):
        positive = dict.fromkeys(
            ("images", "mean_tokens", "train_images", "gpu_tflops", "gpus", "gpu_memory", "price"), "(0, inf)"
        )
        check_ranges(self, **positive, utilisation="(0, 1]", sets=f"[1, {2 + len(PATTERNS)}]")
        if self.gpu not in (None, *PEAK_TFLOPS):
            known = ", ".join(PEAK_TFLOPS)
            raise UserError(
                f"gpu: {self.gpu!r} is not known;{nearest(str(self.gpu), PEAK_TFLOPS)} known: {known}; or give its "
                "--gpu-tflops"
            )
        if self.batch % self.gpus:
            below = max(n for n in range(1, self.gpus) if self.batch % n == 0)
            raise UserError(f"gpus is {self.gpus}: {self.batch} samples of a step cannot be split so; give {below}")

    @property
    def peak(self) -> float:
        """Peak of one GPU in TFLOP/s."""
        return self.gpu_tflops or PEAK_TFLOPS[self.gpu or "H200"]

    @property
    def train_utilization(self) -> float:
        """Share of the peak that training reaches."""
        return self.utilisation or TRAIN_UTILIZATION.get((self.gpu or "", self.network), OTHER_UTILIZATION)

    @property
    def caption_utilization(self) -> float:
        """Share of the peak that captions reach."""
        return CAPTION_UTILIZATION.get(self.gpu or "", OTHER_CAPTION_UTILIZATION)

    @property
    def encode_utilization(self) -> float:
        """Share of the peak that encoding reaches."""
        return min(ENCODE_UTILIZATION, ENCODE_TFLOPS / self.peak)

    @property
    def augmented(self) -> tuple[str, ...]:
        """Patterns of the sets other than the plain one."""
        return ("all", *PATTERNS)[: self.sets - 1]

    @property
    def preset(self) -> str:
        """Preset of `tessera train`, without the arm."""
        name = NETWORKS[self.network][0]
        return f"{name}-tune" if self.init and self.network in ("dit", "cad") else name

    @property
    def training(self) -> TrainConfig:
        """The preset's configuration, of the arm with augmented images."""
        return load_train_preset(f"{self.preset}:ta_ia")

    @property
    def batch(self) -> int:
        """Samples of a training step of the preset, shared out evenly among the GPUs."""
        return self.training.batch_size

    @property
    def samples(self) -> int:
        """Samples that each training sees: those of the preset, or as asked in whole steps."""
        if self.train_images is None:
            return self.training.num_images
        return -(-self.train_images // self.batch) * self.batch

    @property
    def trainings(self) -> int:
        """Number of trainings: one for each augmented set, or one of the plain set."""
        return max(len(self.augmented), 1)


def step_flop(config: PlanConfig) -> float:
    """Count a training step on one sample; the backward pass counts as two forward ones."""
    training = config.training
    return step_flops(training.model, config.mean_tokens, training.self_condition_prob)


def views(config: PlanConfig) -> float:
    """Return how often each training shows each image of the set, plain or mixed."""
    return config.samples / config.images


def stored_tokens(config: PlanConfig) -> dict[str, float]:
    """Return the tokens of all captions of an image, by set: mixed images have short ones, and no medium ones."""
    shorter = {"plain": MEDIUM_SHARE * config.mean_tokens + SHORT_TOKENS} | dict.fromkeys(
        config.augmented, SHORT_TOKENS
    )
    return {name: config.mean_tokens + config.levels * tokens for name, tokens in shorter.items()}


def disk(config: PlanConfig) -> dict[str, float]:
    """Return the bytes of each directory."""
    caption = config.mean_tokens * BYTES_PER_TOKEN * CAPTION_SHARE
    sizes = {"images": float(CROP_BYTES)} | {f"recipe/{name}": float(RECIPE_BYTES) for name in config.augmented}
    for name, tokens in stored_tokens(config).items():
        sizes[f"captions/{name}"] = caption
        if config.levels:
            sizes[f"captions/{name}{LEVELS}"] = tokens * BYTES_PER_TOKEN * CAPTION_SHARE
        sizes[f"encoded/{name}"] = tokens * (TOKEN_BYTES + BYTES_PER_TOKEN) + LATENT_BYTES + RECORD_BYTES
    return {name: size * config.images for name, size in sizes.items()}


def stage_flops(config: PlanConfig) -> dict[str, float]:
    """Count each stage's work on one image of the plain set with its caption, or in training on one sample."""
    return {
        "caption": 2 * CAPTIONER_PARAMETERS * (IMAGE_TOKENS + PROMPT_TOKENS + config.mean_tokens) + VISION_FLOP,
        "encode": VAE_FLOP + 2 * T5_PARAMETERS * config.mean_tokens,
        "train": step_flop(config),
    }


def gpu_hours(config: PlanConfig, measured: "Measured | None" = None) -> dict[str, float]:
    """Return the GPU-hours of each stage that needs a GPU, and "in all"; `train` is one training. measured: the speed
    of stages that takes the place of the assumed one."""
    # The captioner sees one image of the plain set and of CM 1/2, and a quadrant too of other patterns: of "all", 3/4.
    quadrants = {"plain": 0.0, "all": 0.75, "half": 0.0}
    seen = sum(1 + quadrants.get(name, 1.0) for name in ("plain", *config.augmented))
    words = config.sets * (PROMPT_TOKENS + config.mean_tokens)
    caption = 2 * CAPTIONER_PARAMETERS * (IMAGE_TOKENS * seen + words) + VISION_FLOP * seen
    encode = config.sets * VAE_FLOP + 2 * T5_PARAMETERS * sum(stored_tokens(config).values())
    work = {
        "caption": (config.images * caption, config.caption_utilization),
        "encode": (config.images * encode, config.encode_utilization),
        "train": (config.samples * step_flop(config), config.train_utilization),
    }
    speed = {name: config.peak * 1e12 * share for name, (_, share) in work.items()}  # FLOP/s
    if measured is not None:
        one = stage_flops(config)
        speed |= {name: rate * one[name] for name, rate in measured.images_per_second.items()}
    hours = {name: flop / speed[name] / 3600 for name, (flop, _) in work.items()}
    return hours | {"in all": hours["caption"] + hours["encode"] + hours["train"] * config.trainings}


def memory(config: PlanConfig) -> dict[str, float]:
    """Return the bytes of a training's state and of one image's activations in bf16, and "fits": the images of a pass,
    a divisor of the step's samples for each GPU, that a GPU of `gpu_memory` has room for; 0 = not even one."""
    training = config.training
    one = activation_bytes(training.model, 2, round(config.mean_tokens)) / 2
    state = state_bytes(training.model, training.optim.name)
    room = (config.gpu_memory or 0) * 2**30 * MEMORY_SHARE - state
    share = config.batch // config.gpus
    fits = max((n for n in range(1, share + 1) if share % n == 0 and n * one <= room), default=0)
    return {"state": state, "activations of an image": one, "fits": fits}


def to_json(config: PlanConfig, measured: "Measured | None" = None) -> dict[str, Any]:
    """Return the plan for scripts; hours of `train` are those of one training, money is null without a price."""
    hours = gpu_hours(config, measured)
    return {
        "asked": asdict(config)
        | {"train_images": config.samples, "gpu_tflops": config.peak, "utilisation": config.train_utilization},
        "bytes": {name: round(size) for name, size in disk(config).items()},
        "gpu_hours": hours,
        "trainings": config.trainings,
        "views": views(config),
        "money": None if config.price is None else hours["in all"] * config.price,
        "memory": None if config.gpu_memory is None else memory(config),
        "measured": None if measured is None else asdict(measured),
        "commands": commands(config),
    }


def commands(config: PlanConfig) -> list[str]:
    """List the command lines in order; IMAGES stands for the folder of images."""
    lines = ["tessera collect IMAGES --out images"]
    where = "" if config.gpus == 1 else " --engine processes"  # one for each GPU
    encoders = f"--latents {VAE} --text {TEXT}{where}"
    for name in ("plain", *config.augmented):
        recipe = "" if name == "plain" else f"--recipe recipe/{name} "
        if recipe:
            lines.append(f"tessera augment images --pattern {name} --out recipe/{name}")
        lines.append(f"tessera caption images {recipe}--captioner llava{where} --out captions/{name}")
        told = f"captions/{name}"
        if config.levels:
            told += LEVELS
            shorten = f"--captioner shorten --captions captions/{name}"
            lines.append(f"tessera caption images {recipe}{shorten} --out {told}")
        lines.append(f"tessera encode images {told} {recipe}{encoders} --out encoded/{name}")
    train = "tessera" if config.gpus == 1 else f"torchrun --standalone --nproc-per-node {config.gpus} -m tessera.cli"
    preset = f"{config.preset}:{'ta_ia' if config.augmented else 'ta'}"
    start = f" --init {shlex.quote(config.init)}" if config.init else ""
    length, training = "", config.training
    if config.train_images is not None:
        length = f" --num-images {config.samples}"
        if cooldown := scaled(training, config.samples / training.num_images).optim.cooldown_images:
            length += f" --cooldown-images {cooldown}"
    length += " --caption-mix long=0.7,short=0.3" if config.levels else ""
    for name in config.augmented or ("",):
        sets = "--plain encoded/plain" + (f" --augmented encoded/{name}" if name else "")
        lines.append(f"{train} train {preset}{start} {sets}{length} --out runs/{name or 'plain'}")
    return lines


def describe(config: PlanConfig, measured: "Measured | None" = None) -> str:
    """Return the whole plan as text; each row says whether it rests on what is assumed or was measured."""
    sizes, hours, runs = disk(config), gpu_hours(config, measured), config.trainings
    total = hours["in all"]
    each = f", of which each of the {runs} runs trains {hours['train']:.1f}" if runs > 1 else ""
    sizes["in all"] = sum(sizes.values())
    rates = measured.images_per_second if measured else {}
    basis = {name: "measured" if name in rates else "assumed" for name in hours}
    basis["in all"] = "measured" if len(rates) == len(hours) - 1 else "in part measured" if rates else "assumed"
    lines = [f"{config.images:,} images, {config.sets} sets, {config.mean_tokens:g} tokens a caption"]
    lines += ["", "Disk", *(f"  {name:20} {_bytes(size):>9}  assumed" for name, size in sizes.items())]
    lines += ["", "GPU-hours", *(f"  {name:20} {value:9.1f}  {basis[name]}" for name, value in hours.items())]
    lines[-1] += each
    lines += [f"  each image is seen {views(config):,.0f} times{_too_often(config)}", *_never_at_peak(config)]
    if config.price is not None:
        paid = f"  {'in all':20} {total * config.price:9.1f}  {basis['in all']}"
        lines += ["", "Money", f"{paid}, at {config.price:g} for an hour of a GPU"]
    if config.gpu_memory is not None:
        found = memory(config)
        fits = found.pop("fits")
        said = (
            f"--device-batch-size {fits:.0f} fits"
            if fits
            else "not even one image fits: train with --gradient-checkpointing or a smaller network"
        )
        lines += [
            "",
            "Memory of a GPU in training",
            *(f"  {name:23} {_bytes(size):>9}  assumed" for name, size in found.items()),
        ]
        lines += [f"  in {config.gpu_memory:g} GiB, {1 - MEMORY_SHARE:.0%} of it kept free: {said}"]
    if config.gpus > 1:
        lines += ["", f"  On {config.gpus} GPUs: {total / config.gpus:.1f} hours on the clock, if all are busy."]
    if measured is not None:
        lines += ["", *_measured(config, measured)]
    medium = f"medium captions have {MEDIUM_SHARE:.0%} of a long one's tokens, short ones {SHORT_TOKENS}"
    shorter = f"\n  {medium}; training counted at long ones" if config.levels else ""
    shares = {
        "train": f"training reaches {config.train_utilization:.0%} of it",
        "caption": f"captions {config.caption_utilization:.0%}",
        "encode": f"encoding {config.encode_utilization:.0%}",
    }
    speeds = ", ".join(said for name, said in shares.items() if name not in rates)
    assumed = f"""
Assumed
  {config.peak:g} TFLOP/s peak of a GPU; {speeds or "no share of it, as all was measured"}
  {NETWORKS[config.network][1]}, {step_flop(config) / 1e9:.0f} GFLOP a sample, \
{config.samples:,} samples
  LLaVA-NeXT 8B with {IMAGE_TOKENS} tokens an image; VAE and T5-XL encoders; text as int8, {TOKEN_BYTES} bytes a token
  crops of {CROP_BYTES / 1e3:.0f} kB, {BYTES_PER_TOKEN} bytes of text a token{shorter}

Commands"""
    return "\n".join([*lines, assumed, *(f"  {line}" for line in commands(config))])


def _measured(config: PlanConfig, measured: "Measured") -> list[str]:
    """Return the lines on what was measured."""
    peak, flops = config.gpu_tflops or measured.peak_tflops, stage_flops(config)
    told = f"peak {peak:g} TFLOP/s" if peak else "whose peak is not known (--gpu-tflops)"
    lines = [f"Measured on this machine ({measured.device}, {told})"]
    for stage in ("train", "encode", "caption"):
        said, rate = measured.how[stage], measured.images_per_second.get(stage)
        if rate is None:
            lines.append(f"  {stage:8} not measured: {said}")
            continue
        share = f", {rate * flops[stage] / (peak * 1e12):.0%} of the peak" if peak else ""
        lines.append(f"  {stage:8} {rate:.3g} images/s{share}; {said}")
    lines[1] += f"; at most {_bytes(measured.memory)} of memory" * bool(measured.memory)
    return [*lines, f"  check    {measured.check}"]


def _too_often(config: PlanConfig) -> str:
    """Return a warning of a budget far beyond what the presets give a set of the size they are made for, or ""."""
    if views(config) <= MANY_VIEWS:
        return ""
    most = MANY_VIEWS * config.images
    ways = [] if config.network not in ("dit", "cad") else ["--network dit-s for up to 20,000 images"]
    ways += [f"--train-images {most}"] if most >= config.training.optim.warmup_images else []
    return f", far more than the paper's 200: it may learn them by heart; try {' or '.join(ways or ['more images'])}"


def _never_at_peak(config: PlanConfig) -> list[str]:
    """Return a warning of a training that ends within its warm-up, or nothing."""
    if config.samples >= (rise := config.training.optim.warmup_images):
        return []
    fix = f"give --train-images {2 * rise} or more"
    fix += ", or take a network for small sets" if config.network in ("dit", "cad") else ""
    return [f"  the preset's learning rate rises over {rise:,} images, so no step has its peak; {fix}"]


def _bytes(size: float) -> str:
    unit, scale = next((each for each in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)) if size >= each[1]), ("kB", 1e3))
    return f"{size / scale:.{'0f' if unit == 'kB' or size >= 1e15 else '3g'}} {unit}"
