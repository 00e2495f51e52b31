"""The built-in study of real drawings: the paper's claims on emoji that a judge tells apart."""

from dataclasses import replace

from tessera.presets.config import Arm, RunConfig
from tessera.presets.emoji import emoji_few
from tessera.prompts.miniature import PromptConfig
from tessera.study.design import Study
from tessera.study.variants import retrained, variants


def drawings() -> Study:
    """Return the study of the paper's claims on the preset `emoji-few`: names alone (AIO), long captions too (TA),
    CutMix images at high noise (TA+IA).

    tessera study drawings --out out/studies
    """
    ta, ta_ia = (_of_arm(arm) for arm in emoji_few().arms)
    aio = retrained(ta, lambda train: replace(train, caption_mix={"short": 1.0}))
    aio = replace(aio, arms=(replace(aio.arms[0], name="aio"),))
    return Study(
        name="drawings",
        title="Long captions and CutMix on real drawings",
        question="Do long captions (TA) help over names (AIO), and CutMix images at high noise (TA+IA) over both, where"
        " artists drew the images? The paper's Table 2 says so of ImageNet. Two things of a prompt stand together in no"
        " training image, those of CutMix included.",
        variants=variants({"aio": aio, "ta": ta, "ta_ia": ta_ia}, chained=True),
        seeds=(0, 1, 2),
        kinds=("extended", "short"),
        scores=("overall", "single_object", "colors", "two_object", "position", "color_attr", "counting"),
    )


def _of_arm(arm: Arm) -> RunConfig:
    """Return the preset's run of one arm, with prompts and samples of a seed that nothing was chosen by."""
    config = emoji_few()
    train = replace(arm.train, checkpoint_every_images=8_000, keep_every_images=None, sample_every_images=None)
    return replace(
        config,
        arms=(replace(arm, train=train),),
        prompts=PromptConfig(per_task=48, seed=21),
        generate=replace(config.generate, per_prompt=1, seed=21),
    )
