"""The built-in studies of what the paper does not try: improvements, and what each part of the preset is worth."""

from dataclasses import replace
from typing import Any

from tessera.curate.augment import AugmentConfig
from tessera.curate.collect.collect import CollectConfig
from tessera.presets.config import RunConfig
from tessera.presets.fitted import scaled
from tessera.presets.miniature import CONV_DIT
from tessera.study.design import Study, Variant
from tessera.study.variants import (
    WORLD,
    at_budgets,
    base,
    first,
    first_half,
    preset,
    retrained,
    tau_at,
    today,
    variants,
    with_ia,
)
from tessera.train.config import TrainConfig
from tessera.train.optim.config import OptimConfig


def short_captions() -> Study:
    """Return the study of an improvement: short captions of some visits, so that short prompts work too.

    tessera study short_captions --out out/studies
    """
    shares, rows = (0.0, 0.15, 0.3, 0.5), []
    for name, config in (("ta", base()), ("ta_ia", with_ia(base()))):
        mixes: dict[str, dict[str, float]] = {
            f"{name}-{share:g}": {"long": 1 - share, "short": share} if share else {} for share in shares
        }
        configs = {
            name: retrained(config, lambda t, mix=mix: replace(t, caption_mix=mix)) for name, mix in mixes.items()
        }
        rows += variants(configs, shares)
    return Study(
        name="short_captions",
        title="Short captions among the long ones",
        question="The paper's models know long captions alone, and short prompts cost them much. Does a share of short"
        " captions in training lift short prompts, and does it cost long ones?",
        variants=tuple(rows),
        kinds=("short", "extended"),
        scores=first("single_object", "colors"),
        axis="share of short captions",
    )


def schedule() -> Study:
    """Return the study of an improvement: p on a schedule, constant, rising or falling; its mean is the same.

    tessera study schedule --out out/studies
    """
    courses = {"constant": (0.55, None), "rising": (0.1, 1.0), "falling": (1.0, 0.1)}
    made = {name: with_ia(base(), prob=begin, augment_prob_end=end) for name, (begin, end) in courses.items()}
    constant, *others = variants(made)
    return Study(
        name="schedule",
        title="The probability of CutMix images on a schedule",
        question="The paper shows CutMix images with one probability all along. Does it pay to begin with few of"
        " them, or to end with few, for the same number in all?",
        variants=(Variant(name="ta", config=base()), replace(constant, against="ta"), *others),
    )


def flow() -> Study:
    """Return the study of rectified flow in place of the preset's schedule, tau carried over at equal noise.

    tessera study flow --out out/studies
    """
    config = with_ia(today(), start=0)
    (arm,) = config.arms
    there = tau_at(arm.train, "flow")

    def on_flow(**changes: Any) -> RunConfig:
        return retrained(config, lambda t: replace(t, noise_schedule="flow", augment_min_t=there, **changes))

    return Study(
        name="flow",
        title="Rectified flow",
        question="Does rectified flow, with t near the middle more often, learn the miniature from fewer images than"
        " the preset's cosine schedule and x0?",
        variants=variants(
            {
                "ta_ia": config,
                "flow_x0": on_flow(),
                "flow_x0_middle": on_flow(t_distribution="logit_normal"),
                "flow_velocity": on_flow(t_distribution="logit_normal", prediction="velocity"),
            }
        ),
        seeds=(0, 1, 2),
        kinds=("extended", "short"),
        scores=first("overall"),
    )


def partners() -> Study:
    """Return the study of CutMix partners dealt out evenly, or far in their pixels, in place of drawn at random.

    tessera study partners --out out/studies
    """
    config = with_ia(today(), start=0)
    dealt = replace(config, augment=replace(config.augment, partners="balanced"))
    unlike = replace(config, augment=replace(config.augment, partners="far", embeddings="pixels"))
    return Study(
        name="partners",
        title="Partners by coverage",
        question="Does a model compose better where every pair of classes is seen in every place equally often, or"
        " where the two images of a mix are unlike?",
        variants=variants({"ta_ia": config, "balanced": dealt, "far": unlike}),
        seeds=(0, 1, 2),
        scores=first("overall"),
    )


def tau_image() -> Study:
    """Return the study of tau: one number, each pattern's or each image's own; and of what is below it: mixes without
    the loss next to their borders, or crops.

    tessera study tau_image --out out/studies
    """
    config = replace(with_ia(today(), start=0), augment=AugmentConfig(pattern="all", half_view="centre"))

    def by(**changes: Any) -> RunConfig:
        return retrained(config, lambda t: replace(t, **changes))

    crops = replace(by(augment_min_t=0.0, augment_max_t=0.1), augment=AugmentConfig(pattern="crop"))
    made = {"one": config, "pattern": by(augment_min_t="pattern"), "image": by(augment_min_t="recipe")}
    return Study(
        name="tau_image",
        title="tau for each image",
        question="Does a model compose better, and with fewer seams, where each CutMix image is shown from the noise on"
        " at which a classifier no longer sees its border? And does it help to use them below that too, without the"
        " loss next to the border; or crops, at low noise alone?",
        variants=variants(made | {"masked": by(seam_margin=1), "crops": crops}),
        seeds=(0, 1, 2),
        scores=first("overall", "single_object", "seam"),
    )


def alignment() -> Study:
    """Return the study of alignment with the network's own average, to the end and for the first half, at equal images
    seen. Features of a vision network are studied by `scripts/own_vision.py`.

    tessera study alignment --out out/studies
    """
    config = with_ia(today(), start=0)
    half = first_half(config.arms[0].train)

    def aligned(until: int | None = None) -> RunConfig:
        return retrained(config, lambda t: replace(t, objective="balanced-self-aligned", align_until_image=until))

    return Study(
        name="alignment",
        title="Alignment without a teacher",
        question="Does a model learn the miniature from fewer images where its inner tokens follow those of its own"
        " average at less noise? And if that ends after half of them?",
        variants=variants({"ta_ia": config, "self": aligned(), "self_first_half": aligned(half)}),
        seeds=(0, 1, 2),
        kinds=("extended", "short"),
        scores=first("overall"),
    )


def conditions() -> Study:
    """Return the study of what the network reads: with noise on it, or without some of its sentences, which are encoded
    on the fly for that.

    tessera study conditions --out out/studies
    """
    config = with_ia(today(), start=0)
    noisy = retrained(config, lambda t: replace(t, condition_noise=1.0))
    fewer = retrained(config, lambda t: replace(t, sentence_drop_prob=0.3))
    fewer = replace(fewer, encode=replace(config.encode, text_encoding="none"))
    return Study(
        name="conditions",
        title="Perturbed conditions, and captions without some of their sentences",
        question="Does a model learn more from its captions where noise is on what it reads of them, or where some of"
        " their sentences are left out? And does the latter lift short prompts?",
        variants=variants({"ta_ia": config, "noise": noisy, "sentences": fewer}),
        seeds=(0, 1, 2),
        kinds=("extended", "short"),
        scores=first("overall"),
    )


def combined() -> Study:
    """Return the study of what gained anything, put together, against the preset: a score by the images that it takes.

    tessera study combined --out out/studies
    """

    def best(train: TrainConfig) -> TrainConfig:
        return replace(
            train,
            noise_schedule="flow",
            t_distribution="logit_normal",
            augment_min_t=tau_at(train, "flow"),
            seam_margin=1,
            objective="balanced-self-aligned",
            align_until_image=first_half(train),
        )

    runs = {budget: preset(budget) for budget in (32_000, 48_000)}
    return Study(
        name="combined",
        title="The methods together",
        question="With flow's schedule and t near the middle, mixes below tau without the loss at their borders, and"
        " alignment for the first half: does a model reach the preset's scores with fewer images?",
        variants=at_budgets(runs, "combined", lambda run: retrained(run, best)),
        seeds=(0, 1, 2),
        kinds=("extended", "short"),
        scores=first("overall"),
        axis="images seen",
    )


COSTS = {"batch_16": 1.1, "window_1": 0.93, "no_conv_stem": 0.87, "adamw": 0.82}
"""Processor time of an image in training over the preset's, measured to about 5%; 1 where a row is not named."""


def ablation() -> Study:
    """Return the study of what each part of `miniature` is worth: its TA+IA, with convolutions as they were, and one
    thing changed in each row, all at equal processor time.

    tessera study ablation --out out/studies
    """
    then = retrained(preset(), lambda train: replace(train, model=CONV_DIT))
    train = then.arms[0].train
    phases = {"warmup_images": train.optim.warmup_images, "cooldown_images": train.optim.cooldown_images}
    adamw = OptimConfig(name="adamw", lr=1e-3, betas=(0.9, 0.99), clip_norm=1.0, decay="constant", **phases)
    trainings: dict[str, dict[str, Any]] = {
        "cosine_rate": {"optim": replace(train.optim, decay="cosine", cooldown_images=0)},
        "no_cooldown": {"optim": replace(train.optim, cooldown_images=0)},
        "adamw": {"optim": adamw},
        "batch_16": {"batch_size": 16},
        "ema_0.999": {"ema_decay": 0.999},
        "window_1": {"model": replace(train.model, text_window=1)},
        "no_conv_stem": {"model": replace(train.model, conv_stem=False)},
        "long_alone": {"caption_mix": {}, "caption_mix_start_image": 0},
        "short_from_start": {"caption_mix_start_image": 0},
        "plain_loss": {"objective": "paper"},
        "p_0.5": {"augment_prob": 0.5},
        "tau_0.4": {"augment_min_t": 0.4},
    }
    rows = {"preset": then}
    for count in (300, 8_000):
        world = replace(WORLD, num_images=count)
        rows[f"images_{count}"] = replace(then, collect=CollectConfig(size=32, world=world))
    for name, changes in trainings.items():
        same_time = scaled(replace(train, **changes), 1 / COSTS.get(name, 1.0))
        rows[name] = retrained(then, lambda _, same_time=same_time: same_time)
    return Study(
        name="ablation",
        title="What each part of the preset is worth",
        question="Which of the choices of `miniature` make it draw, each changed alone, at equal processor time?",
        variants=variants(rows),
        seeds=(0, 1, 2),
        kinds=("extended", "short"),
        scores=first("overall"),
    )
