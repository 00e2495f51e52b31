"""The built-in studies: the paper's Tables 2, 4, 5 and Figures 5, 7, in the miniature. Each is a function.

A user's own: `tessera study my_study.py:my_augmentation`, a function without arguments that returns a Study. All
studies on `miniature`'s world share prompts that no preset was chosen by. A cell trains on 24,000 images in the
preset's first form (`base`), about two and a half minutes of an idle core; on 48,000 in today's (`today`), about five.
"""

from collections.abc import Callable
from dataclasses import replace

from tessera.config import UserError, call
from tessera.curate.augment import AugmentConfig
from tessera.curate.collect.collect import CollectConfig
from tessera.cutmix import PATTERNS
from tessera.evaluate.miniature.evaluate import EvaluateConfig
from tessera.evaluate.miniature.likeness import LikenessConfig
from tessera.presets.config import RunConfig
from tessera.presets.miniature import CONV_DIT, SMALL_RIN, miniature, miniature_paper
from tessera.prompts.miniature import PromptConfig
from tessera.study.design import Study, Variant
from tessera.study.improvements import (
    ablation,
    alignment,
    combined,
    conditions,
    flow,
    partners,
    schedule,
    short_captions,
    tau_image,
)
from tessera.study.noise import NoiseStudy
from tessera.study.real_images import drawings
from tessera.study.variants import (
    BUDGET,
    WORLD,
    base,
    family,
    first,
    first_form,
    preset,
    retrained,
    tau_at,
    today,
    variants,
    with_ia,
)
from tessera.train.config import TrainConfig

DIT_BUDGET = 64_000
"""Images of a cell of the small DiT-I, with which TA+IA draws two objects with their shapes."""
CAD_BUDGET = 64_000
"""Images of a cell of the small CAD-I, which learns slower."""
EPS_BUDGET = 280_000
"""Images of a cell of the paper's own recipe; in `miniature-paper`, TA draws single objects from 240,000 on."""


def claims() -> Study:
    """Return the study of paper Table 2: AIO, TA and TA+IA, for DiT-I, CAD-I (cad_*), and eps-prediction (eps_*).
    TA draws single objects at these budgets. DiT-I trains as `miniature` does, with fewer images.

    tessera study claims --arms aio ta ta_ia --out out/studies
    """
    dit = preset(DIT_BUDGET, "ta")
    cad = retrained(today(CAD_BUDGET), lambda train: replace(train, model=SMALL_RIN))
    eps = retrained(today(EPS_BUDGET), _as_the_paper)
    return Study(
        name="claims",
        title="Long captions and CutMix at high noise",
        question="Do long captions (TA) help over class names (AIO), and CutMix images at high noise (TA+IA) over"
        " both? The paper's Table 2 says so, most of all for prompts of two objects.",
        variants=(*family(dit, start=0, prob=0.85), *family(cad, "cad_", start=0), *family(eps, "eps_", start=0)),
        seeds=(0, 1, 2),
        kinds=("extended", "short"),
    )


def _as_the_paper(train: TrainConfig) -> TrainConfig:
    """Return the training with the prediction, schedule and optimizer of `miniature-paper`; tau at equal noise."""
    paper = miniature_paper().arms[0].train
    changes = {name: getattr(paper, name) for name in ("prediction", "noise_schedule", "optim")}
    return replace(train, augment_min_t=tau_at(train, paper.noise_schedule), **changes)


def _with_insets(config: RunConfig) -> RunConfig:
    """Return the run with prompts whose second object is as small as CM 1/4 shows it, of long captions alone."""
    config = retrained(config, lambda train: replace(train, caption_mix={}, caption_mix_start_image=0))
    return replace(config, prompts=PromptConfig(per_task=24, seed=21, layout="insets"))


def patterns() -> Study:
    """Return the study of paper Table 4: the four CutMix patterns and all of them mixed, on prompts of unlike sizes.

    tessera study patterns --out out/studies
    """
    ta = _with_insets(today())
    config = with_ia(ta, start=0)
    augments = {name: AugmentConfig(pattern=name, half_view="centre") for name in (*PATTERNS, "all")}
    return Study(
        name="patterns",
        title="CutMix patterns",
        question="Which CutMix pattern helps most? The paper's Table 4 compares them at p = 0.5. Here the second object"
        " of a prompt is small and in a corner.",
        variants=variants({"ta": ta} | {name: replace(config, augment=a) for name, a in augments.items()}),
    )


def probability() -> Study:
    """Return the study of paper Table 5: p, the probability of a CutMix image above tau, with CM 1/4, on prompts of
    unlike sizes. p = 0 is TA.

    tessera study probability --out out/studies
    """
    config = replace(_with_insets(today()), augment=AugmentConfig(pattern="quarter", half_view="centre"))
    probs = (0.25, 0.5, 0.75, 1.0)
    configs = {"p0": _with_insets(today())} | {f"p{prob:g}": with_ia(config, prob=prob, start=0) for prob in probs}
    return Study(
        name="probability",
        title="How often CutMix images are shown",
        question="How does the probability p of a CutMix image above tau trade single objects for composition?"
        " In the paper's Table 5 a p above 0.5 costs quality.",
        variants=variants(configs, (0.0, *probs)),
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
        variants=variants({"ta": base(), "aligned": aligned, "centre": config}, chained=True),
    )


def tau() -> Study:
    """Return the study of paper Appendix C: the noise level from which on CutMix images are shown, tau; 0 = always.

    tessera study tau --out out/studies
    """
    values = (0.0, 0.2, 0.4, 0.6, 0.8)
    configs = {"ta": base()} | {f"tau{value:g}": with_ia(base(), augment_min_t=value) for value in values}
    return Study(
        name="tau",
        title="The noise level above which CutMix images are shown",
        question="The gate is there to keep seams out of what is drawn: does the seam score fall as tau rises, and what"
        " does that cost in composition?",
        variants=variants(configs, (None, *values)),
        scores=first("seam", "seam_visible"),
        axis="tau",
    )


def phases() -> Study:
    """Return the study of the budget at which TA+IA overtakes TA, with IA from the start and as a second phase.

    tessera study phases --out out/studies
    """
    rows: list[Variant] = []
    for budget in (12_000, 24_000, 48_000, 96_000):
        config = base(budget)
        configs = {"ta": config, "start": with_ia(config, start=0), "phase": with_ia(config)}
        rows += variants({f"{name}-{budget // 1000}k": each for name, each in configs.items()}, (budget,) * 3)
    return Study(
        name="phases",
        title="When image augmentation pays",
        question="At which budget of images does TA+IA overtake TA in GenEval's strict score, with IA from the start"
        " and as a second phase?",
        variants=tuple(rows),
        scores=first("overall"),
        axis="images seen",
    )


def claims_smoke() -> Study:
    """Return every step of `claims` at toy size, in half a minute: to see that it runs, not to learn anything.

    tessera study claims-smoke --out out/studies-smoke
    """
    small = replace(first_form(CONV_DIT), width=32, depth=1, heads=2, refiner_depth=1)
    config = retrained(
        base(960), lambda train: replace(train, model=small, checkpoint_every_images=320, log_every_images=320)
    )
    config = replace(
        config,
        collect=CollectConfig(size=32, world=replace(WORLD, num_images=240)),
        export=replace(config.export, sampling_steps=4),
        generate=replace(config.generate, per_prompt=1),
        prompts=PromptConfig(per_task=2, seed=21),
        evaluate=EvaluateConfig(judge_renders=40, threads=1),
    )
    return replace(claims(), name="claims-smoke", variants=family(config), seeds=(0, 1))


def overfit() -> Study:
    """Return the study of paper Figure 5: distance to held-out images and scores against images seen, on 300 images.

    Each budget continues the one before, at a constant learning rate.

    tessera study overfit --out out/studies
    """
    small = replace(base(), collect=CollectConfig(size=32, world=replace(WORLD, num_images=300)))
    rows: list[Variant] = []
    for name, start in (("ta", None), ("ta_ia", 4_000)):
        before = None
        for budget in (8_000, 16_000, 32_000, 64_000):
            config = retrained(
                small, lambda t, n=budget: replace(t, num_images=n, optim=replace(t.optim, decay="constant"))
            )
            this, against = f"{name}-{budget // 1000}k", None
            if start is not None:
                config, against = with_ia(config, start=start), f"ta-{budget // 1000}k"
            rows.append(Variant(name=this, config=config, against=against, value=budget, follows=before))
            before = this
    return Study(
        name="overfit",
        title="Overfitting",
        question="On a small training set, does image augmentation keep the distance to held-out images from rising"
        " again? In the paper's Figure 5 TA turns up after 300,000 steps and TA+IA does not.",
        variants=tuple(rows),
        seeds=(0,),
        scores=first("single_object"),
        axis="images seen",
        likeness=LikenessConfig(threads=1),
    )


def how_many() -> Study:
    """Return the study of the number of training images, at equal images seen: copies, scores, distance to unseen ones.
    It trains as `miniature` does today, on long captions alone.

    tessera study how_many --out out/studies
    """
    rows: list[Variant] = []
    arms = {arm.name: arm for arm in miniature().arms}
    for count in (100, 300, 1_000, 3_000, 8_000):
        set_of = CollectConfig(size=32, world=replace(WORLD, num_images=count))
        configs = {}
        for name in ("ta", "ta_ia"):
            train = replace(arms[name].train, num_images=BUDGET, caption_mix={}, caption_mix_start_image=0)
            train = replace(train, model=CONV_DIT, augment_prob=0.55 * arms[name].augmented)
            optim = replace(train.optim, cooldown_images=BUDGET // 6)
            train = replace(train, optim=optim, checkpoint_every_images=8_000, keep_every_images=None)
            arm = replace(arms[name], train=train)
            configs[f"{name}-{count}"] = replace(base(), collect=set_of, arms=(arm,))
        rows += variants(configs, (count, count))
    return Study(
        name="how_many",
        title="How many images are enough",
        question="From how many training images on does a model no longer copy them, and draw what was asked for; and"
        " does image augmentation need fewer?",
        variants=tuple(rows),
        scores=first("copies", "overall", "color_score", "single_object"),
        axis="training images",
        copies=True,
        likeness=LikenessConfig(threads=1),
    )


def noise() -> NoiseStudy:
    """Return the study of paper Figure 7, without training: what noise hides of CutMix images and leaves at each t.

    tessera study noise --out out/studies
    """
    return NoiseStudy(world=WORLD)


_OF_THE_PAPER = (claims, patterns, probability, half_view, tau, phases, overfit, how_many, drawings)
_IMPROVEMENTS = (short_captions, schedule, flow, partners, tau_image, alignment, conditions, combined, ablation)
STUDIES: dict[str, Callable[[], Study | NoiseStudy]] = {
    **{study.__name__: study for study in (*_OF_THE_PAPER, *_IMPROVEMENTS)},
    "noise": noise,
    "claims-smoke": claims_smoke,
}


def load_study(name: str) -> Study | NoiseStudy:
    """Return the study called `name`, or that of FILE.py:FUNCTION. UserError for an unknown name."""
    study = call(name, STUDIES, "study")
    if not isinstance(study, Study | NoiseStudy):
        raise UserError(f"study {name}: gives a {type(study).__name__}, wanted is a Study")
    return study
