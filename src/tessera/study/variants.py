"""The runs that studies vary, and rows made of them."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tessera.curate.collect.collect import CollectConfig
from tessera.diffusion.schedule import same_noise
from tessera.models.dit import DiTConfig
from tessera.models.rin import RINConfig
from tessera.presets.config import Arm, RunConfig
from tessera.presets.fitted import budgeted, scaled
from tessera.presets.miniature import CONV_DIT, MINIATURE_WORLD, miniature
from tessera.prompts.miniature import PromptConfig
from tessera.study.design import SCORES, Variant
from tessera.train.config import TrainConfig

BUDGET = 24_000
PLANNED = 88_000
"""Images of an arm of `miniature` when the studies were planned; the shares of its phases are of this number."""
WORLD = replace(MINIATURE_WORLD, num_images=8_000)
PHASE = 6_000
"""IA comes in after a quarter of the images."""


def base(budget: int = BUDGET) -> RunConfig:
    """Return `miniature` with a study's prompts and budget, and TA alone, as the studies' results were measured: the
    rate falls by a cosine, tau is 0.4, words do not see their neighbors, and the world has 8,000 images."""
    config = today(budget)

    def change(train: TrainConfig) -> TrainConfig:
        return replace(
            train,
            model=first_form(CONV_DIT),
            augment_min_t=0.4,
            caption_mix={},
            caption_mix_start_image=0,
            objective="paper",
            optim=replace(train.optim, decay="cosine", warmup_images=1000, cooldown_images=0),
        )

    return replace(retrained(config, change), collect=CollectConfig(size=32, world=WORLD))


def today(budget: int = 48_000) -> RunConfig:
    """Return `miniature`, TA alone, with a study's prompts and `budget` images; its phases take the same shares of
    them. The network has convolutions, and short captions begin, as when the studies were planned."""
    config = miniature()
    arm = next(arm for arm in config.arms if arm.name == "ta")
    train = _at(budget, replace(budgeted(arm.train, PLANNED), model=CONV_DIT, caption_mix_start_image=60_000))
    return replace(
        config,
        arms=(replace(arm, train=train),),
        prompts=PromptConfig(per_task=24, seed=21),
        generate=replace(config.generate, per_prompt=2, seed=21),
    )


def first_form(model: DiTConfig | RINConfig) -> DiTConfig | RINConfig:
    """Return the small network before its text window, and a RIN before the start that it learns from."""
    if isinstance(model, DiTConfig):
        return replace(model, text_window=1)
    return replace(model, text_window=1, conv_stem=False, sincos_start=False, zero_output=False, qk_norm=False)


def aio(config: RunConfig) -> RunConfig:
    """Return the run without text augmentation: captions only name the class."""
    return replace(config, arms=(replace(config.arms[0], name="aio", captioner="aio"),))


def with_ia(config: RunConfig, *, prob: float = 0.55, start: int | None = None, **train: float | None) -> RunConfig:
    """Return the run with image augmentation: with probability `prob` above tau, from image number `start` on (None = a
    quarter of all)."""
    (arm,) = config.arms
    start = arm.train.num_images * PHASE // BUDGET if start is None else start
    changed = replace(arm.train, augment_prob=prob, augment_start_image=start, **train)
    return replace(config, arms=(Arm(name="ta_ia", captioner=arm.captioner, augmented=True, train=changed),))


def retrained(config: RunConfig, change: Callable[[TrainConfig], TrainConfig]) -> RunConfig:
    """Return the run with another training."""
    (arm,) = config.arms
    return replace(config, arms=(replace(arm, train=change(arm.train)),))


def preset(budget: int = 48_000, name: str = "ta_ia") -> RunConfig:
    """Return the arm `name` of `miniature` as it is, with a study's prompts and `budget` images; its phases take the
    same shares of them."""
    arm = next(arm for arm in miniature().arms if arm.name == name)
    return replace(today(), arms=(replace(arm, train=_at(budget, budgeted(arm.train, PLANNED))),))


def _at(budget: int, train: TrainConfig) -> TrainConfig:
    """Return a training of `PLANNED` images with `budget` of them."""
    return replace(scaled(train, budget / PLANNED), checkpoint_every_images=8_000, keep_every_images=None)


def at_budgets(
    runs: Mapping[int, RunConfig], name: str, change: Callable[[RunConfig], RunConfig]
) -> tuple[Variant, ...]:
    """Return the runs, by their numbers of images, and what `change` makes of each: `name`-44k against preset-44k."""
    rows: list[Variant] = []
    for budget, run in runs.items():
        size = f"{budget // 1000}k"
        rows += variants({f"preset-{size}": run, f"{name}-{size}": change(run)}, (budget, budget))
    return tuple(rows)


def first_half(train: TrainConfig) -> int:
    """Return half of the training's images, in whole batches."""
    return train.num_images // 2 // train.batch_size * train.batch_size


def tau_at(train: TrainConfig, schedule: str) -> float:
    """Return the t at which the noise schedule `schedule` has the noise that the training's has at its tau."""
    assert not isinstance(train.augment_min_t, str)
    return round(same_noise(train.augment_min_t, train.noise_schedule, schedule), 4)


def variants(
    configs: Mapping[str, RunConfig], values: Sequence[float | None] = (), chained: bool = False
) -> tuple[Variant, ...]:
    """Return a variant of each configuration, against the first one, or the one before; `values`: of all of them."""
    names, made = list(configs), []
    for n, (name, value) in enumerate(itertools.zip_longest(names, values)):
        against = names[n - 1 if chained else 0] if n else None
        made.append(Variant(name=name, config=configs[name], against=against, value=value))
    return tuple(made)


def family(config: RunConfig, prefix: str = "", **ia: Any) -> tuple[Variant, ...]:
    """Return AIO, TA and TA+IA of one run, each against the one before; `ia`: as `with_ia` takes it."""
    configs = {"aio": aio(config), "ta": config, "ta_ia": with_ia(config, **ia)}
    return variants({prefix + name: each for name, each in configs.items()}, chained=True)


def first(*names: str) -> tuple[str, ...]:
    """Return all measures of studies, `names` first."""
    return (*names, *(name for name in SCORES if name not in names))
