"""Configuration of a whole run: its arms and every stage."""

from dataclasses import dataclass, field, replace

from tessera.config import UserError, check_ranges, nearest
from tessera.curate.augment import AugmentConfig
from tessera.curate.caption.caption import CAPTIONERS, CaptionConfig
from tessera.curate.collect.collect import CollectConfig
from tessera.curate.emoji.draw import EmojiConfig
from tessera.curate.encode import EncodeConfig
from tessera.evaluate.drawings.judge import JudgeConfig
from tessera.evaluate.miniature.evaluate import EvaluateConfig
from tessera.generate.folder import GenerateConfig
from tessera.prompts.miniature import PromptConfig
from tessera.train.config import TrainConfig
from tessera.train.export import ExportConfig

MOST_HELD_OUT = 64


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A model of a comparison (paper Table 1): captions, with or without image augmentation, and training."""

    name: str
    """`aio`, `ta`, `ta_ia` are the paper's; the name of the arm's folders."""
    captioner: str
    """A name in `tessera.curate.caption.caption.CAPTIONERS`."""
    augmented: bool
    """Trains on CutMix images too (IA)."""
    train: TrainConfig

    def __post_init__(self):
        if self.captioner not in CAPTIONERS:
            near, known = nearest(self.captioner, CAPTIONERS), ", ".join(CAPTIONERS)
            raise UserError(f"arm {self.name}: unknown captioner {self.captioner!r};{near} known: {known}")
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise UserError(f"arm name {self.name!r}: use letters, digits, - and _ only")
        if (self.train.augment_prob > 0) != self.augmented:
            raise UserError(f"arm {self.name}: augmented is {self.augmented}, augment_prob {self.train.augment_prob}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run of `tessera run`, from images to report."""

    arms: tuple[Arm, ...]
    collect: CollectConfig
    emoji: EmojiConfig | None = None
    """Drawings from packages, with their captions, to collect; None = other images."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    prompts: PromptConfig | None = None
    """The judge's prompts; None = captions of training images, and no judge."""
    evaluate: EvaluateConfig | None = None
    """None = no judge: a user's own images."""
    judge: JudgeConfig | None = None
    """The judge of drawings, trained in the run; None = that of the miniature, if `evaluate` is given, or none."""
    class_prompts: int = 12
    """Without the miniature's judge: largest number of captions drawn, of as many classes as possible, >= 1."""
    held_out_share: float = 0.0
    """Without the miniature's judge: share of the images, at most `MOST_HELD_OUT`, that no arm trains on, in [0, 1).
    Their captions are drawn, and the loss on them is measured."""
    parallel: int = 2
    """Arms trained at the same time, each in a process, >= 1."""

    def __post_init__(self):
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) != len(names):
            raise UserError(f"arms are {names}: give at least one, no name twice")
        if self.evaluate is not None and self.prompts is None:
            raise UserError("evaluate needs prompts: the judge knows its own prompts only")
        check_ranges(self, parallel="[1, inf)", class_prompts="[1, inf)", held_out_share="[0, 1)")
        if self.judge is not None and (self.prompts is None or self.emoji is None or self.evaluate is not None):
            raise UserError("judge: a judge of drawings needs emoji and prompts, and no evaluate")
        if self.held_out_share and self.prompts is not None and self.judge is None:
            raise UserError("held_out_share: the judge's prompts are drawn, not captions; make it 0, or prompts None")

    def captions(self, arm: Arm) -> CaptionConfig:
        """Return the configuration of an arm's captions, which say a miniature world's scenes by its seed."""
        return CaptionConfig(captioner=arm.captioner, seed=self.collect.world.seed if self.collect.world else 0)

    def held_out(self, images: int) -> int:
        """Return how many of `images` are held out."""
        return min(int(self.held_out_share * images), MOST_HELD_OUT)

    @property
    def draws_captions(self) -> bool:
        """True where captions of the set are drawn: own images, and emoji."""
        return self.prompts is None or self.judge is not None

    def sample_sets(self) -> dict[str, GenerateConfig]:
        """Return the samples of every arm: by the short prompts and, where there are any, the extended ones; by
        captions too, where there are both."""
        sets = {"short": self.generate}
        if self.draws_captions and self.prompts is not None:
            sets = {"captions": self.generate, **sets}
        if self.prompts is not None:
            sets["extended"] = replace(self.generate, extended=True)
        return sets
