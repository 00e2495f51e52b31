"""The built-in studies: the paper's Tables 2, 4, 5 and Figures 5, 7, in the miniature. Each is a function.

A user's own: `tessera study my_study.py:my_augmentation`, a function without arguments that returns a Study. All
studies on `miniature`'s world share prompts that no preset was chosen by, and a budget of 24,000 images for each cell,
about two and a half minutes of an idle core.
"""

from collections.abc import Callable
from dataclasses import replace

from tessera.config import UserError, call
from tessera.curate.augment import AugmentConfig
from tessera.curate.collect.collect import CollectConfig
from tessera.cutmix import PATTERNS
from tessera.evaluate.miniature.evaluate import EvaluateConfig
from tessera.evaluate.miniature.likeness import LikenessConfig
from tessera.presets.config import Arm, RunConfig
from tessera.presets.miniature import MINIATURE_WORLD, SMALL_DIT, SMALL_RIN, miniature
from tessera.prompts.miniature import PromptConfig
from tessera.study.design import SCORES, Study, Variant
from tessera.study.noise import NoiseStudy
from tessera.train.config import TrainConfig
from tessera.train.optim.config import OptimConfig

BUDGET = 24_000
PHASE = 6_000
"""IA comes in after a quarter of the images, as in `miniature`."""


def base(budget: int = BUDGET) -> RunConfig:
    """Return `miniature` with a study's prompts and budget, and TA alone."""
    config = miniature()
    arm = next(arm for arm in config.arms if arm.name == "ta")
    return replace(
        config,
        arms=(replace(arm, train=replace(arm.train, num_images=budget)),),
        prompts=PromptConfig(per_task=24, seed=21),
        generate=replace(config.generate, per_prompt=2, seed=21),
    )


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


def _family(config: RunConfig, prefix: str = "") -> tuple[Variant, ...]:
    """Return AIO, TA and TA+IA of one run, each against the one before."""
    return (
        Variant(name=f"{prefix}aio", config=aio(config)),
        Variant(name=f"{prefix}ta", config=config, against=f"{prefix}aio"),
        Variant(name=f"{prefix}ta_ia", config=with_ia(config), against=f"{prefix}ta"),
    )


def claims() -> Study:
    """Return the study of paper Table 2: AIO, TA and TA+IA, for DiT-I, CAD-I (cad_*), and eps-prediction (eps_*).

    tessera study claims --arms aio ta ta_ia --out out/studies
    """
    dit = base()
    cad = retrained(dit, lambda train: replace(train, model=SMALL_RIN))
    eps = retrained(dit, _as_the_paper)
    return Study(
        name="claims",
        title="Long captions and CutMix at high noise",
        question="Do long captions (TA) help over class names (AIO), and CutMix images at high noise (TA+IA) over"
        " both? The paper's Table 2 says so, most of all for prompts of two objects.",
        variants=(*_family(dit), *_family(cad, "cad_"), *_family(eps, "eps_")),
        kinds=("extended", "short"),
    )


def _as_the_paper(train: TrainConfig) -> TrainConfig:
    """Return the training with eps-prediction, the linear schedule, AdamW."""
    adamw = OptimConfig(name="adamw", lr=1e-3, betas=(0.9, 0.99), warmup_images=1000, clip_norm=1.0)
    return replace(train, prediction="eps", noise_schedule="linear", optim=adamw)


def patterns() -> Study:
    """Return the study of paper Table 4: the four CutMix patterns and all of them mixed.

    tessera study patterns --out out/studies
    """
    config = with_ia(base())
    names = (*PATTERNS, "all")
    made = [replace(config, augment=AugmentConfig(pattern=name, half_view="centre")) for name in names]
    return Study(
        name="patterns",
        title="CutMix patterns",
        question="Which CutMix pattern helps most? The paper's Table 4 compares them at p = 0.5.",
        variants=(
            Variant(name="ta", config=base()),
            *(Variant(name=name, config=each, against="ta") for name, each in zip(names, made)),
        ),
    )


def probability() -> Study:
    """Return the study of paper Table 5: p, the probability of a CutMix image above tau, with CM 1/4. p = 0 is TA.

    tessera study probability --out out/studies
    """
    config = replace(base(), augment=AugmentConfig(pattern="quarter", half_view="centre"))
    return Study(
        name="probability",
        title="How often CutMix images are shown",
        question="How does the probability p of a CutMix image above tau trade single objects for composition?"
        " In the paper's Table 5 a p above 0.5 costs quality.",
        variants=(
            Variant(name="p0", config=base(), value=0.0),
            *(
                Variant(name=f"p{prob:g}", config=with_ia(config, prob=prob), against="p0", value=prob)
                for prob in (0.25, 0.5, 0.75, 1.0)
            ),
        ),
        axis="p",
    )


def half_view() -> Study:
    """Return the study of CM 1/2: aligned halves, which cut centered objects in two, or the central halves of both.

    tessera study half_view --out out/studies
    """
    config = with_ia(base())
    aligned = replace(config, augment=AugmentConfig(pattern="half", half_view="aligned"))
    return Study(
        name="half_view",
        title="What the half pattern shows",
        question="The published code puts the base's left half next to the partner's right half, which cuts two"
        " centered objects in two; the central halves keep both. Which is better?",
        variants=(
            Variant(name="ta", config=base()),
            Variant(name="aligned", config=aligned, against="ta"),
            Variant(name="centre", config=config, against="aligned"),
        ),
    )


def tau() -> Study:
    """Return the study of paper Appendix C: the noise level from which on CutMix images are shown, tau; 0 = always.

    tessera study tau --out out/studies
    """
    values = (0.0, 0.2, 0.4, 0.6, 0.8)
    return Study(
        name="tau",
        title="The noise level above which CutMix images are shown",
        question="The gate is there to keep seams out of what is drawn: does the seam score fall as tau rises, and what"
        " does that cost in composition?",
        variants=(
            Variant(name="ta", config=base()),
            *(
                Variant(name=f"tau{v:g}", config=with_ia(base(), augment_min_t=v), against="ta", value=v)
                for v in values
            ),
        ),
        scores=("seam", "seam_visible", *[name for name in SCORES if name != "seam"]),
        axis="tau",
    )


def phases() -> Study:
    """Return the study of the budget at which TA+IA overtakes TA, with IA from the start and as a second phase.

    tessera study phases --out out/studies
    """
    variants = []
    for budget in (12_000, 24_000, 48_000, 96_000):
        config, suffix = base(budget), f"{budget // 1000}k"
        variants += [
            Variant(name=f"ta-{suffix}", config=config, value=budget),
            Variant(name=f"start-{suffix}", config=with_ia(config, start=0), against=f"ta-{suffix}", value=budget),
            Variant(name=f"phase-{suffix}", config=with_ia(config), against=f"ta-{suffix}", value=budget),
        ]
    return Study(
        name="phases",
        title="When image augmentation pays",
        question="At which budget of images does TA+IA overtake TA in GenEval's strict score, with IA from the start"
        " and as a second phase?",
        variants=tuple(variants),
        scores=("overall", *[name for name in SCORES if name != "overall"]),
        axis="images seen",
    )


def claims_smoke() -> Study:
    """Return every step of `claims` at toy size, in half a minute: to see that it runs, not to learn anything.

    tessera study claims-smoke --out out/studies-smoke
    """
    small = replace(SMALL_DIT, width=32, depth=1, heads=2, refiner_depth=1)
    config = base(960)
    config = replace(
        retrained(
            config, lambda t: replace(t, model=small, num_images=960, checkpoint_every_images=320, log_every_images=320)
        ),
        collect=CollectConfig(size=32, world=replace(MINIATURE_WORLD, num_images=240)),
        export=replace(config.export, sampling_steps=4),
        generate=replace(config.generate, per_prompt=1),
        prompts=PromptConfig(per_task=2, seed=21),
        evaluate=EvaluateConfig(judge_renders=40, threads=1),
    )
    return replace(claims(), name="claims-smoke", variants=_family(config))


def overfit() -> Study:
    """Return the study of paper Figure 5: distance to held-out images and scores against images seen, on 300 images.

    Each budget continues the one before, at a constant learning rate.

    tessera study overfit --out out/studies
    """
    small = replace(base(), collect=CollectConfig(size=32, world=replace(MINIATURE_WORLD, num_images=300)))
    variants: list[Variant] = []
    for name, start in (("ta", None), ("ta_ia", 4_000)):
        before = None
        for budget in (8_000, 16_000, 32_000, 64_000):
            config = retrained(
                small, lambda t, n=budget: replace(t, num_images=n, optim=replace(t.optim, decay="constant"))
            )
            config = config if start is None else with_ia(config, start=start)
            this, other = f"{name}-{budget // 1000}k", f"ta-{budget // 1000}k"
            against = None if start is None else other
            variants.append(Variant(name=this, config=config, against=against, value=budget, follows=before))
            before = this
    return Study(
        name="overfit",
        title="Overfitting",
        question="On a small training set, does image augmentation keep the distance to held-out images from rising"
        " again? In the paper's Figure 5 TA turns up after 300,000 steps and TA+IA does not.",
        variants=tuple(variants),
        seeds=(0,),
        scores=("single_object", *[name for name in SCORES if name != "single_object"]),
        axis="images seen",
        likeness=LikenessConfig(threads=1),
    )


def short_captions() -> Study:
    """Return the study of an improvement: short captions for some images, so that short prompts work too.

    tessera study short_captions --out out/studies
    """
    shares = (0.15, 0.3, 0.5)
    variants = []
    for name, config in (("ta", base()), ("ta_ia", with_ia(base()))):
        variants.append(Variant(name=f"{name}-0", config=config, value=0.0))
        for share in shares:
            mixed = replace(config, arms=(replace(config.arms[0], short_share=share),))
            variants.append(Variant(name=f"{name}-{share:g}", config=mixed, against=f"{name}-0", value=share))
    return Study(
        name="short_captions",
        title="Short captions among the long ones",
        question="The paper's models know long captions alone, and short prompts cost them much. Does a share of short"
        " captions in training lift short prompts, and does it cost long ones?",
        variants=tuple(variants),
        kinds=("short", "extended"),
        scores=("single_object", "colors", *[name for name in SCORES if name != "single_object"]),
        axis="share of short captions",
    )


def schedule() -> Study:
    """Return the study of an improvement: p on a schedule, constant, rising or falling; its mean is the same.

    tessera study schedule --out out/studies
    """
    courses = {"constant": (0.55, None), "rising": (0.1, 1.0), "falling": (1.0, 0.1)}
    made = {name: with_ia(base(), prob=first, augment_prob_end=last) for name, (first, last) in courses.items()}
    return Study(
        name="schedule",
        title="The probability of CutMix images on a schedule",
        question="The paper shows CutMix images with one probability all along. Does it pay to begin with few of"
        " them, or to end with few, for the same number in all?",
        variants=(
            Variant(name="ta", config=base()),
            Variant(name="constant", config=made["constant"], against="ta"),
            *(Variant(name=name, config=made[name], against="constant") for name in ("rising", "falling")),
        ),
    )


def noise() -> NoiseStudy:
    """Return the study of paper Figure 7, without training: what noise hides of CutMix images and leaves at each t.

    tessera study noise --out out/studies
    """
    return NoiseStudy(world=MINIATURE_WORLD)


STUDIES: dict[str, Callable[[], Study | NoiseStudy]] = {
    "claims": claims,
    "patterns": patterns,
    "probability": probability,
    "half_view": half_view,
    "tau": tau,
    "phases": phases,
    "overfit": overfit,
    "short_captions": short_captions,
    "schedule": schedule,
    "noise": noise,
    "claims-smoke": claims_smoke,
}


def load_study(name: str) -> Study | NoiseStudy:
    """Return the study called `name`, or that of FILE.py:FUNCTION. UserError for an unknown name."""
    study = call(name, STUDIES, "study")
    if not isinstance(study, Study | NoiseStudy):
        raise UserError(f"study {name}: gives a {type(study).__name__}, wanted is a Study")
    return study
