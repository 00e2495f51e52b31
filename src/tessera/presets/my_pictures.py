"""The preset for a user's own folder of images."""

from dataclasses import replace

from tessera.curate.augment import AugmentConfig
from tessera.curate.collect.collect import CollectConfig
from tessera.presets.config import Arm, RunConfig
from tessera.presets.miniature import miniature


def my_pictures() -> RunConfig:
    """Train AIO+IA (with a file of captions TA+IA) on your own class folders at 32 px: a toy model in minutes.

    Real photographs need the full-size networks and a captioner; this shows the path and the rejected files; no score.

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
