"""Configurations of a whole run: its arms and every stage."""

from dataclasses import dataclass, field, replace

from tessera.config import UserError, nearest
from tessera.curate.augment import AugmentConfig
from tessera.curate.caption.caption import CAPTIONERS
from tessera.curate.collect.collect import CollectConfig
from tessera.curate.encode import EncodeConfig
from tessera.evaluate.miniature.evaluate import EvaluateConfig
from tessera.generate.folder import GenerateConfig
from tessera.prompts.miniature import PromptConfig
from tessera.train.config import TrainConfig
from tessera.train.export import ExportConfig


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One model of a comparison (paper Table 1): its captions, with or without image augmentation, its training."""

    name: str
    """`aio`, `ta`, `ta_ia` are the paper's; the name of the arm's folders."""
    captioner: str
    """A name in `tessera.curate.caption.caption.CAPTIONERS`."""
    augmented: bool
    """Trains on CutMix pictures too (IA)."""
    train: TrainConfig
    short_share: float = 0.0
    """Share of the pictures whose caption is replaced by a short one, in [0, 1]: so that short prompts work too."""

    def __post_init__(self):
        if self.captioner not in CAPTIONERS:
            near, known = nearest(self.captioner, CAPTIONERS), ", ".join(CAPTIONERS)
            raise UserError(f"arm {self.name}: unknown captioner {self.captioner!r};{near} known: {known}")
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
