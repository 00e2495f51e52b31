"""A study: variants of one run that differ in one thing, seeds, and measures.

All of it is fixed before the first cell is trained: `plan` gives it as data, which is kept with the results.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tessera.config import UserError, compare, nearest, to_dict
from tessera.evaluate.drawings.evaluate import METRIC as DRAWINGS
from tessera.evaluate.miniature.evaluate import MEASURES, METRIC
from tessera.evaluate.miniature.likeness import LikenessConfig
from tessera.evaluate.miniature.memorized import MEASURES as COPIES
from tessera.presets.config import Arm, RunConfig
from tessera.presets.fitted import scaled
from tessera.train.extension import BUDGET

SCORES = ("color_score", "both_colors", "colors_in_relation", "overall", "two_object", "single_object", "seam")
"""First measures of the tables of studies: the color-object score, and GenEval's strict scores."""

LIKENESS = "held_out"
"""Folder of the images of held-out captions, and of their distance, next to the kinds of prompts."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of a study."""

    name: str
    """Letters, digits, -, _ and points; what --arms takes."""
    config: RunConfig
    """The whole run, of one arm. The seeds of its training are the study's."""
    against: str | None = None
    """The variant whose scores are taken off this one's, prompt by prompt and seed by seed."""
    value: float | None = None
    """The value of what is varied, where it is a number: its place on the plot's axis."""
    follows: str | None = None
    """A variant of fewer images with an equal configuration otherwise, at a constant rate: its training is
    continued."""

    def __post_init__(self):
        if not self.name.replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise UserError(f"variant {self.name!r}: use letters, digits, -, _ and points only")
        if len(self.config.arms) != 1 or (self.config.evaluate is None and self.config.judge is None):
            raise UserError(f"variant {self.name}: its config needs exactly one arm, and a judge (evaluate, judge)")

    @property
    def arm(self) -> Arm:
        return self.config.arms[0]

    @property
    def line(self) -> str:
        """Its line of the plot: its name up to the first "-"; one for all where no name has any."""
        return self.name.partition("-")[0] if "-" in self.name else ""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Variants that are trained, one cell for each seed, and judged on the same prompts and noise."""

    name: str
    title: str
    question: str
    """One or two sentences: what is compared, and what the paper says."""
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...] = (0, 1)
    """Seeds for weight initialization and all random draws in training."""
    kinds: tuple[str, ...] = ("extended",)
    """The kinds of prompts that are drawn and judged: extended, short."""
    copies: bool = False
    """Looks for copies of training images too."""
    likeness: LikenessConfig | None = None
    """Measures the distance to held-out images too; None = not."""
    scores: tuple[str, ...] = SCORES
    """Measures of the first table; all others follow in a second one."""
    axis: str | None = None
    """Name of the variants' `value`; None = they are no numbers."""

    def __post_init__(self):
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) != len(names):
            raise UserError(f"study {self.name}: variants are {names}; give at least one, no name twice")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise UserError(f"study {self.name}: seeds are {list(self.seeds)}; give at least one, >= 0, none twice")
        for variant in self.variants:
            for field, other in (("against", variant.against), ("follows", variant.follows)):
                if other is not None and other not in names:
                    raise UserError(f"study {self.name}: {variant.name}.{field} is {other!r}, which is no variant")
            unknown = [kind for kind in self.kinds if kind not in variant.config.sample_sets()]
            if unknown:
                raise UserError(f"study {self.name}: {variant.name} has no prompts of the kind {unknown[0]!r}")
            if variant.follows is not None:
                _check_continues(self.name, variant, self.variants[names.index(variant.follows)])
        for score in self.scores:
            if score in COPIES and not self.copies:
                raise UserError(f"study {self.name}: scores has {score!r}, which is measured with copies=True alone")
            if score not in self.measures:
                near, known = nearest(score, self.measures), ", ".join(self.measures)
                raise UserError(f"study {self.name}: scores has an unknown measure {score!r};{near} known: {known}")
        first = self.variants[0].config
        if any(_drawn(v.config) != _drawn(first) for v in self.variants):
            raise UserError(
                f"study {self.name}: all variants must draw the same prompts with the same settings, for one judge;"
                " give all the same generate, prompts and world, and where a judge of drawings is given the same judge,"
                " emoji, collect and augment"
            )

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what is measured of each cell's images, where it applies."""
        return (*MEASURES, *COPIES) if self.copies else MEASURES

    @property
    def scored(self) -> str:
        """Folder of a cell's scores: with copies it is another one, as a study without them may have that cell too."""
        return "scores-copies" if self.copies else "scores"


@dataclass(frozen=True)
class Cell:
    """A training and its scores."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant.name}-seed{self.seed}"

    @property
    def config(self) -> RunConfig:
        arm = self.variant.arm
        return replace(self.variant.config, arms=(replace(arm, train=replace(arm.train, seed=self.seed)),))

    @property
    def folder(self) -> str:
        """Its folder's name: what is trained is in it, so studies that have a cell in common train it once."""
        return f"{self.variant.arm.name}-{digest(to_dict(self.config))}"


def cells(study: Study, arms: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Cell]:
    """Return the study's cells, or those of some arms and seeds.

    They go seed by seed, so that a study that is stopped early has all variants of its first seeds. UserError for an
    arm that it does not have, or one without the arm that it follows.
    """
    names = [variant.name for variant in study.variants]
    for name in arms:
        if name not in names:
            known = ", ".join(names)
            raise UserError(f"study {study.name}: has no arm {name!r};{nearest(name, names)} it has: {known}")
    kept = [variant for variant in study.variants if variant.name in arms or not arms]
    for variant in kept:
        if variant.follows is not None and variant.follows not in {other.name for other in kept}:
            raise UserError(f"study {study.name}: {variant.name} continues {variant.follows}; name that arm too")
    return [Cell(variant, seed) for seed in seeds or study.seeds for variant in kept]


def scores_of(study: Study, cell: Cell, out: Path, kind: str) -> Path:
    """Return the directory of the scores of one cell's images of a kind of prompts, or of `LIKENESS`."""
    place = "scores" if kind == LIKENESS else study.scored
    return out / "cells" / cell.folder / place / cell.variant.arm.name / kind


def digest(data: Any) -> str:
    """Return ten hex digits that tell apart JSON-able data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]


def resized(study: Study, num_images: int) -> Study:
    """Return the study with `num_images` >= 1 for its largest cells, the others in proportion, all in whole steps."""
    if num_images < 1:
        raise UserError(f"images is {num_images}: give at least 1, for each cell to train on")
    factor = num_images / max(variant.arm.train.num_images for variant in study.variants)
    return replace(study, variants=tuple(_resized(variant, factor) for variant in study.variants))


def _resized(variant: Variant, factor: float) -> Variant:
    before, train = variant.arm.train, scaled(variant.arm.train, factor)
    value = train.num_images if variant.value == before.num_images else variant.value
    return replace(variant, config=replace(variant.config, arms=(replace(variant.arm, train=train),)), value=value)


def _drawn(config: RunConfig) -> tuple[Any, ...]:
    world = config.collect.world
    told = None if world is None else replace(world, num_images=1, size=16, seed=0)  # what prompts are made of
    of_drawings = None if config.judge is None else (config.emoji, config.collect, config.augment)
    return config.prompts, config.generate, config.judge, told, of_drawings


_MORE = {f"arms.0.train.{field}" for field in ("num_images", *(BUDGET - {"optim.cooldown_images"}))}
"""Fields in which a variant may differ from the one that it continues."""


def _check_continues(study: str, variant: Variant, before: Variant) -> None:
    """Raise UserError where the training of `before`, continued, is not that of `variant`."""
    where, train = f"study {study}: {variant.name} continues {before.name}", variant.arm.train
    pairs = compare(to_dict(before.config), to_dict(variant.config))
    if pairs := [pair for pair in pairs if pair[0] not in _MORE]:
        field, one, other = pairs[0]
        raise UserError(f"{where}, but its {field} is {other}, not {one}; only num_images may differ")
    if before.arm.train.num_images > train.num_images:
        raise UserError(f"{where}, but has fewer images: {train.num_images}; let the larger one follow")
    optim = train.optim
    if optim.decay != "constant" or optim.cooldown_images or train.augment_prob_end is not None:
        raise UserError(
            f"{where}, whose rate or augment_prob depends on num_images; set optim.decay to constant,"
            " optim.cooldown_images to 0 and augment_prob_end to None"
        )


def plan(study: Study) -> dict[str, Any]:
    """Return what is fixed before the runs, as data: metrics, prompts, seeds, and every variant's configuration."""
    common, variants = to_dict(study.variants[0].config), {}
    for variant in study.variants:
        config = to_dict(variant.config)
        (arm,) = config.pop("arms")
        own = {name: value for name, value in config.items() if common.get(name) != value}
        fields = {"against": variant.against, "follows": variant.follows, "value": variant.value}
        given = {name: value for name, value in fields.items() if value is not None}
        variants[variant.name] = {"arm": arm, **own, **given}
    del common["arms"]
    return {
        **({} if study.likeness is None else {"likeness": to_dict(study.likeness)}),
        **({"copies": True} if study.copies else {}),
        "study": study.name,
        "question": study.question,
        "metric": METRIC if study.variants[0].config.judge is None else DRAWINGS,
        "scores": list(study.scores),
        "interval": "95%, score interval over prompts and training seeds",
        "kinds": list(study.kinds),
        "seeds": list(study.seeds),
        "common": common,
        "variants": variants,
    }
