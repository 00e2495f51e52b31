"""Presets: whole configurations as functions. A variant is `dataclasses.replace` on one of them.

A user's own: `tessera run my_runs.py:big_dit`, a function without arguments that returns a RunConfig.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tessera.config import UserError, call, lookup
from tessera.curate.augment import AugmentConfig
from tessera.curate.caption import Captioner
from tessera.curate.collect import CollectConfig
from tessera.curate.encode import EncodeConfig
from tessera.evaluate.miniature import EvaluateConfig
from tessera.evaluate.prompts import PromptConfig
from tessera.generate.folder import GenerateConfig
from tessera.imagenet import TRAIN_PRESETS, arms_of
from tessera.miniature import WorldConfig
from tessera.models.dit import DiTConfig
from tessera.models.rin import RINConfig
from tessera.train.export import ExportConfig
from tessera.train.loop import TrainConfig
from tessera.train.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One model of a comparison (paper Table 1): its captions, with or without image augmentation, its training."""

    name: str
    """`aio`, `ta`, `ta_ia` are the paper's; the name of the arm's folders."""
    captioner: Captioner
    augmented: bool
    """Trains on CutMix pictures too (IA)."""
    train: TrainConfig
    short_share: float = 0.0
    """Share of the pictures whose caption is replaced by a short one, in [0, 1]: so that short prompts work too."""

    def __post_init__(self):
        if not 0 <= self.short_share <= 1:
            raise UserError(f"arm {self.name}: short_share is {self.short_share}; give a number from 0 to 1")
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise UserError(f"arm name {self.name!r}: use letters, digits, - and _ only")
        if (self.train.augment_prob > 0) != self.augmented:
            raise UserError(f"arm {self.name}: augmented is {self.augmented}, augment_prob {self.train.augment_prob}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything `tessera run` does, from pictures to report."""

    arms: tuple[Arm, ...]
    collect: CollectConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    prompts: PromptConfig | None = None
    """The judge's prompts; None = "An image of <class-name>", and no judge."""
    evaluate: EvaluateConfig | None = None
    """None = no judge: a user's own pictures."""
    class_prompts: int = 12
    """Without a judge: so many classes are drawn, at most."""
    parallel: int = 2
    """Arms trained at the same time, each a process."""

    def __post_init__(self):
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) != len(names):
            raise UserError(f"arms are {names}: give at least one, no name twice")
        if self.evaluate is not None and self.prompts is None:
            raise UserError("evaluate needs prompts: the judge knows its own prompts only")
        if self.parallel < 1 or self.class_prompts < 1:
            raise UserError("parallel and class_prompts must be at least 1")

    def sample_sets(self) -> dict[str, GenerateConfig]:
        """What is drawn for every arm: the short prompts and, where there are any, the extended ones."""
        sets = {"short": self.generate}
        if self.prompts is not None:
            sets["extended"] = replace(self.generate, extended=True)
        return sets


SMALL_DIT = DiTConfig(
    latent_channels=48,
    latent_size=8,
    patch_size=1,
    width=96,
    depth=4,
    heads=3,
    text_width=64,
    text_positions=True,
    layer_scale_init=0.5,
    conv_stem=True,
)
"""DiT-I for 32-px pictures as 48 x 8 x 8 latents: 64 image tokens, about a million parameters."""

SMALL_RIN = RINConfig(
    latent_channels=48,
    latent_size=8,
    patch_size=1,
    interface_width=96,
    num_latent_tokens=32,
    latent_width=96,
    blocks=2,
    layers_per_block=2,
    read_write_heads=4,
    compute_heads=4,
    text_width=64,
    refiner_heads=4,
    text_registers=4,
    text_positions=True,
    table_init_std=1.0,
)
"""CAD-I at the same size."""

MINIATURE_WORLD = WorldConfig(
    num_images=8000,
    shapes=("circle", "square", "triangle", "cross", "moon"),
    colors=("red", "green", "blue", "yellow", "purple"),
    textures=("plain", "striped"),
    sizes=("medium", "large"),
    backgrounds=("sky", "sand", "night", "snow"),
)


def miniature() -> RunConfig:
    """TA beside TA+IA on the miniature world, chosen so that the paper's point shows in minutes on two cores.

    Trains two DiT-I of a million parameters, one core each; expected: single objects >= 0.8 in both, both colours of
    two-object prompts >= 0.8 in TA+IA and <= 0.4 in TA. It departs from the paper where that is cheaper: the network
    predicts x0, Muon moves its matrices, and IA comes as a second phase. `miniature-paper` is the paper's way.

        tessera run miniature --out out/miniature
    """
    ta = TrainConfig(
        model=SMALL_DIT,
        num_images=33_600,
        batch_size=32,
        noise_schedule="cosine",
        prediction="x0",
        augment_prob=0.0,
        caption_drop_prob=0.05,
        latent_scale=(0.2,),
        optim=OptimConfig(
            name="muon",
            lr=1.5e-3,
            muon_lr=0.01,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            warmup_images=1000,
            clip_norm=1.0,
        ),
        ema_decay=0.99,
        compute="bf16",
        checkpoint_every_images=8_000,
        log_every_images=960,
        threads=1,
    )
    return RunConfig(
        collect=CollectConfig(size=32, world=MINIATURE_WORLD),
        augment=AugmentConfig(pattern="half", half_view="centre"),
        arms=(
            Arm(name="ta", captioner="scene", augmented=False, train=ta),
            Arm(
                name="ta_ia",
                captioner="scene",
                augmented=True,
                train=replace(ta, augment_prob=0.55, augment_start_image=8_000),
            ),
        ),
        export=ExportConfig(guidance_scale=2.0, sampling_steps=14, clip_denoised=0.2),
        generate=GenerateConfig(per_prompt=2, seed=7, batch_size=40, threads=1),
        prompts=PromptConfig(per_task=20, seed=7),
        evaluate=EvaluateConfig(threads=1),
    )


def miniature_paper() -> RunConfig:
    """The paper's way in miniature: eps-prediction, the linear schedule, AdamW, IA (all four patterns) from the start.

    Learns several times slower than `miniature`, so each arm sees 400,000 images, 35 minutes of a core at 190 images/s.

        tessera run miniature-paper --out out/miniature-paper
    """
    base = miniature()
    ta = replace(
        base.arms[0].train,
        num_images=400_000,
        noise_schedule="linear",
        prediction="eps",
        optim=OptimConfig(name="adamw", lr=1e-3, betas=(0.9, 0.99), warmup_images=5_000, clip_norm=1.0),
        ema_decay=0.999,
        checkpoint_every_images=40_000,
        log_every_images=8_000,
    )
    return replace(
        base,
        augment=AugmentConfig(pattern="all"),
        arms=(
            Arm(name="aio", captioner="aio", augmented=False, train=ta),
            Arm(name="ta", captioner="scene", augmented=False, train=ta),
            Arm(name="ta_ia", captioner="scene", augmented=True, train=replace(ta, augment_prob=0.5)),
        ),
    )


def miniature_cad() -> RunConfig:
    """`miniature` with the paper's other network, CAD-I (a RIN), on the same data, prompts and budget of images.

    A RIN learns far slower than a DiT at this size: at this budget colours and places are right, shapes blurred.

        tessera run miniature-cad --out out/miniature-cad
    """
    base = miniature()
    return replace(base, arms=tuple(replace(arm, train=replace(arm.train, model=SMALL_RIN)) for arm in base.arms))


def miniature_smoke() -> RunConfig:
    """Every stage of `miniature` at toy size, in under a minute: to see that it runs, not to learn anything.

    tessera run miniature-smoke --out out/miniature-smoke
    """
    base = miniature()
    small = replace(SMALL_DIT, width=32, depth=1, heads=2, refiner_depth=1)
    arms = []
    for arm in base.arms:
        train = replace(
            arm.train,
            model=small,
            num_images=960,
            checkpoint_every_images=320,
            log_every_images=320,
            augment_start_image=320 if arm.augmented else 0,
        )
        arms.append(replace(arm, train=train))
    return replace(
        base,
        collect=CollectConfig(size=32, world=replace(MINIATURE_WORLD, num_images=240)),
        arms=tuple(arms),
        export=replace(base.export, sampling_steps=4),
        generate=replace(base.generate, per_prompt=1),
        prompts=PromptConfig(per_task=2, seed=7),
        evaluate=EvaluateConfig(judge_renders=40, threads=1),
    )


def my_pictures() -> RunConfig:
    """TA+IA on your own class folders (AIO captions, or a file of captions) at 32 px, a toy model in minutes, no judge.

    Real photographs need the full-size networks and a captioner; this shows the way and the rejects.

        tessera run my-pictures --images photos/ --out out/my-pictures
    """
    base = miniature()
    train = replace(base.arms[1].train, num_images=14_400, augment_start_image=0, augment_prob=0.25)
    return replace(
        base,
        collect=CollectConfig(source="my-pictures", size=32),
        augment=AugmentConfig(pattern="all"),
        arms=(Arm(name="aio_ia", captioner="aio", augmented=True, train=train),),
        generate=replace(base.generate, per_prompt=4),
        prompts=None,
        evaluate=None,
    )


RUN_PRESETS: dict[str, Callable[[], RunConfig]] = {
    "miniature": miniature,
    "miniature-paper": miniature_paper,
    "miniature-cad": miniature_cad,
    "miniature-smoke": miniature_smoke,
    "my-pictures": my_pictures,
}


def load_run_preset(
    name: str, *, images: Path | None = None, with_captions: bool = False, single_class: str | None = None
) -> RunConfig:
    """The preset called `name`, or FILE.py:FUNCTION, fitted to the user's folder `images` where it has no world.

    `with_captions`: the pictures have a captions file. A single class has no partners, so it trains without IA.
    Raises UserError for an unknown name (the nearest one is said), or where `images` is missing,
    or it or what is said about it not wanted.
    """
    config = call(name, RUN_PRESETS)
    if not isinstance(config, RunConfig):
        raise UserError(f"preset {name}: gives a {type(config).__name__}, wanted is a RunConfig")
    if config.collect.world is not None:
        given = {"images": images is not None, "captions": with_captions, "single-class": single_class is not None}
        for option in (option for option, there in given.items() if there):
            raise UserError(f"preset {name} draws its own pictures; for --{option} use: tessera run my-pictures")
        return config
    if images is None:
        raise UserError(f"preset {name} needs your pictures: add --images FOLDER, with a folder for each class in it")
    collect = replace(config.collect, source=images.resolve().name or "images", single_class=single_class)
    arms = config.arms
    if with_captions:
        arms = tuple(replace(arm, name=arm.name.replace("aio", "ta"), captioner="import") for arm in arms)
    if single_class is not None:
        arms = tuple(
            replace(arm, name=arm.name.removesuffix("_ia"), augmented=False, train=replace(arm.train, augment_prob=0.0))
            for arm in arms
        )
    return replace(config, collect=collect, arms=arms)


def load_train_preset(name: str, *, num_images: int | None = None, seed: int | None = None) -> TrainConfig:
    """The training of one arm: PRESET:ARM, or FILE.py:FUNCTION; with another budget or seed where given."""
    preset, colon, arm_name = name.partition(":")
    if preset.endswith(".py"):
        config = call(name, {}, "train preset")
        if not isinstance(config, TrainConfig):
            raise UserError(f"preset {name}: gives a {type(config).__name__}, wanted is a TrainConfig")
    else:
        preset = preset.replace("_", "-")
        if preset in TRAIN_PRESETS:
            arms = arms_of(TRAIN_PRESETS[preset]())
        else:
            known = {known: RUN_PRESETS.get(known) for known in (*RUN_PRESETS, *TRAIN_PRESETS)}
            found = lookup(preset, known)
            assert found is not None
            arms = {arm.name: arm.train for arm in found().arms}
        if not colon:
            raise UserError(f"preset {name}: say which arm, for example {preset}:{next(iter(arms))}")
        config = lookup(arm_name, arms, f"arm of {preset}")
    changes = {"num_images": num_images, "seed": seed}
    return replace(config, **{field: value for field, value in changes.items() if value is not None})
