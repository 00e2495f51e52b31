"""Presets of the miniature world, and the one for a user's own folder of images, which trains at the same size."""

from dataclasses import replace

from tessera.curate.augment import AugmentConfig
from tessera.curate.collect.collect import CollectConfig
from tessera.evaluate.miniature.evaluate import EvaluateConfig
from tessera.generate.folder import GenerateConfig
from tessera.miniature import WorldConfig
from tessera.models.dit import DiTConfig
from tessera.models.rin import RINConfig
from tessera.presets.config import Arm, RunConfig
from tessera.prompts.miniature import PromptConfig
from tessera.train.config import TrainConfig
from tessera.train.export import ExportConfig
from tessera.train.optim.config import OptimConfig

SMALL_DIT = DiTConfig(
    latent_channels=48,
    latent_size=8,
    patch_size=1,
    width=96,
    depth=4,
    heads=3,
    text_width=64,
    text_positions=True,
    text_window=7,
    layer_scale_init=0.5,
)
"""DiT-I for 32-px images as 48 x 8 x 8 latents: 64 image tokens, about a million parameters."""

CONV_DIT = replace(SMALL_DIT, conv_stem=True)
"""The same with convolutions at both ends, by which `miniature-paper` and most studies were measured."""

SMALL_RIN = RINConfig(
    latent_channels=48,
    latent_size=8,
    patch_size=1,
    interface_width=96,
    num_latent_tokens=32,
    latent_width=96,
    blocks=2,
    layers_per_block=2,
    read_write_heads=4,
    compute_heads=4,
    text_width=64,
    refiner_heads=4,
    text_registers=4,
    text_positions=True,
    text_window=7,
    conv_stem=True,
    table_init_std=1.0,
    sincos_start=True,
    zero_output=True,
    qk_norm=True,
)
"""CAD-I at the same size."""

MINIATURE_WORLD = WorldConfig(
    num_images=1000,
    shapes=("circle", "square", "triangle", "cross", "moon"),
    colors=("red", "green", "blue", "yellow", "purple"),
    textures=("plain", "striped"),
    sizes=("medium", "large"),
    backgrounds=("sky", "sand", "night", "snow"),
)


def in_fifths(train: TrainConfig) -> TrainConfig:
    """Keep the checkpoint after each fifth of the training, for the report to draw from; grids of images as often."""
    each = max(1, train.num_images // 5)
    grids = each if train.sample_every_images else None
    return replace(train, checkpoint_every_images=each, keep_every_images=each, sample_every_images=grids)


def miniature() -> RunConfig:
    """Compare TA with TA+IA on the miniature world, chosen so that the paper's point shows in minutes on two cores.

    Trains two DiT-I of a million parameters, one core each; expected: single objects >= 0.95 in both, two objects with
    their shapes >= 0.85 in TA+IA and 0 in TA. It departs from the paper where that is cheaper: the network
    predicts x0, and Muon updates its matrices at a constant rate that falls at the end. tau is 0.15: there the noise is
    1.8 times the latents, which are scaled by 0.2; at the paper's 0.4 it is 0.8 times. p is 0.85, as two objects take
    more images to learn than one. From 49,440 images on half of the captions are short ones, and all kinds of samples
    count alike in the loss. `miniature-paper` follows the paper.

        tessera run miniature --out out/miniature
    """
    ta = TrainConfig(
        model=SMALL_DIT,
        num_images=80_000,
        batch_size=32,
        noise_schedule="cosine",
        prediction="x0",
        augment_prob=0.0,
        augment_min_t=0.15,
        caption_drop_prob=0.05,
        caption_mix={"long": 0.5, "short": 0.5},
        caption_mix_start_image=49_440,
        objective="balanced",
        latent_scale=(0.2,),
        optim=OptimConfig(
            name="muon",
            lr=1.5e-3,
            muon_lr=0.01,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            warmup_images=1000,
            decay="constant",
            cooldown_images=10_912,
            clip_norm=1.0,
        ),
        ema_decay=0.99,
        log_every_images=960,
        threads=1,
    )
    ta_ia = replace(ta, augment_prob=0.85)
    return RunConfig(
        collect=CollectConfig(size=32, world=MINIATURE_WORLD),
        augment=AugmentConfig(pattern="half", half_view="centre"),
        arms=(
            Arm(name="ta", captioner="scene", augmented=False, train=in_fifths(ta)),
            Arm(name="ta_ia", captioner="scene", augmented=True, train=in_fifths(ta_ia)),
        ),
        export=ExportConfig(guidance_scale=2.0, sampling_steps=14, clip_denoised=0.2),
        generate=GenerateConfig(per_prompt=2, seed=7, batch_size=40, threads=1),
        prompts=PromptConfig(per_task=20, seed=7),
        evaluate=EvaluateConfig(threads=1),
    )


def miniature_paper() -> RunConfig:
    """Follow the paper in miniature: eps-prediction, the linear schedule, LAMB, IA (all four patterns) from the start.

    Learns several times slower than `miniature`, so each arm sees 400,000 images, 35 minutes of a core at 190 images/s.
    Its learning rate is not the published one: 5e-3 for batches of 32, where 1e-3 is for 1,024, and 0 at the end.

        tessera run miniature-paper --out out/miniature-paper
    """
    base = miniature()
    ta = replace(
        base.arms[0].train,
        model=CONV_DIT,
        num_images=400_000,
        augment_min_t=0.4,
        noise_schedule="linear",
        prediction="eps",
        caption_mix={},
        caption_mix_start_image=0,
        objective="paper",
        optim=OptimConfig(name="lamb", lr=5e-3, warmup_images=5_000),
        ema_decay=0.999,
        log_every_images=8_000,
    )
    ta = in_fifths(ta)
    return replace(
        base,
        augment=AugmentConfig(pattern="all"),
        arms=(
            Arm(name="aio", captioner="aio", augmented=False, train=ta),
            Arm(name="ta", captioner="scene", augmented=False, train=ta),
            Arm(name="ta_ia", captioner="scene", augmented=True, train=replace(ta, augment_prob=0.5)),
        ),
    )


def miniature_cad() -> RunConfig:
    """Run `miniature` with the paper's other network, CAD-I (a RIN), on the same data and prompts.

    A RIN learns slower than a DiT at this size: an arm sees 88,000 images, for 80,000 were too few for single objects
    in TA+IA. This one starts as a DiT does: an output of 0, positions that differ, normalized queries and keys,
    convolutions at both ends. Expected: single objects >= 0.9 in both arms, both colors of two-object prompts >= 0.95
    in TA+IA and <= 0.05 in TA.

        tessera run miniature-cad --out out/miniature-cad
    """
    base = miniature()
    optim = replace(base.arms[0].train.optim, cooldown_images=12_000)
    longer = {"model": SMALL_RIN, "num_images": 88_000, "caption_mix_start_image": 54_400, "optim": optim}
    arms = (replace(arm, train=in_fifths(replace(arm.train, **longer))) for arm in base.arms)
    return replace(base, arms=tuple(arms))


def miniature_smoke() -> RunConfig:
    """Run every stage of `miniature` at toy size, in under a minute on two cores: it shows that it runs, no scores.

    tessera run miniature-smoke --out out/miniature-smoke
    """
    base = miniature()
    small = replace(SMALL_DIT, width=32, depth=1, heads=2, refiner_depth=1)
    optim = replace(base.arms[0].train.optim, warmup_images=160, cooldown_images=160)
    toy = {"model": small, "num_images": 960, "log_every_images": 320, "caption_mix_start_image": 640, "optim": optim}
    trains = [in_fifths(replace(arm.train, **toy, augment_start_image=320 * arm.augmented)) for arm in base.arms]
    return replace(
        base,
        collect=CollectConfig(size=32, world=replace(MINIATURE_WORLD, num_images=240)),
        arms=tuple(replace(arm, train=train) for arm, train in zip(base.arms, trains)),
        export=replace(base.export, sampling_steps=4),
        generate=replace(base.generate, per_prompt=1),
        prompts=PromptConfig(per_task=2, seed=7),
        evaluate=EvaluateConfig(judge_renders=40, threads=1),
    )


def my_pictures() -> RunConfig:
    """Train AIO+IA (with a file of captions TA+IA) on your own class folders at 32 px: a toy model in minutes.

    A tenth of the images, at most 64, is held out: their captions are the prompts of the report. Real photographs need
    the full-size networks and a captioner; this shows the path and the rejected files; no score.

        tessera run my-pictures --images photos/ --out out/my-pictures
    """
    base = miniature()
    train = base.arms[1].train
    optim = replace(train.optim, cooldown_images=4_000)
    train = replace(train, num_images=14_400, augment_prob=0.25, optim=optim)
    train = in_fifths(replace(train, caption_mix={}, caption_mix_start_image=0, sample_every_images=train.num_images))
    return replace(
        base,
        collect=CollectConfig(source="my-pictures", size=32),
        augment=AugmentConfig(pattern="all"),
        arms=(Arm(name="aio_ia", captioner="aio", augmented=True, train=train),),
        generate=replace(base.generate, per_prompt=4),
        prompts=None,
        evaluate=None,
        held_out_share=0.1,
    )
