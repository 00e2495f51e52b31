"""Presets of the paper's full-size trainings, for `tessera train`: each as aio, ta and ta_ia (paper Table 1).

All follow the one published recipe, CAD-I's (docs/differences.md lists our own choices), and were made for the latents
of `VAE` and the texts of `TEXT`. The run's folder holds the
loss curve, the loss on 2048 held-out records and grids of images. runs/imagenet.sh runs the whole paper in order.
"""

from collections.abc import Callable
from dataclasses import replace

from tessera.models.dit import DIT_I_L2
from tessera.models.rin import CAD_I_L
from tessera.pretrained.vae import SD_LATENT_SCALE
from tessera.train.config import TrainConfig
from tessera.train.optim.config import OptimConfig

BATCH = 1024
STEPS = 250_000
VAE = "stabilityai/sd-vae-ft-ema"
"""VAE that these presets were made for: 4 channels, 8 pixels a latent. Any other: `tessera train --fit`."""
TEXT = "google/flan-t5-xl"
"""Text encoder that they were made for."""

ARMS = ("aio", "ta", "ta_ia")


def cad_i_l() -> TrainConfig:
    """Train CAD-I (RIN, 330M) at 256 px: LAMB 1e-3, 5k steps of warmup, cosine to 0.206 of peak, clip 2, EMA 0.9999.

    Expected of ta_ia (paper Tables 1 and 2): FID 6.6 on ImageNet's validation set, GenEval 0.57 on extended prompts.
    651 GFLOP an image: 1.7e20 in all, about 500 hours of one H100 by its authors' code.

        torchrun --nproc-per-node gpu -m tessera.cli train cad-i-l:ta_ia --plain encoded/ta --augmented encoded/ta_ia \\
            --out runs/cad-i-l-ta_ia
    """
    return TrainConfig(
        model=CAD_I_L,
        num_images=STEPS * BATCH,
        batch_size=BATCH,
        latent_scale=(SD_LATENT_SCALE,),
        noise_schedule="linear",
        augment_min_t=0.4,
        augment_prob=0.5,
        optim=OptimConfig(
            name="lamb",
            lr=1e-3,
            weight_decay=0.01,
            warmup_images=5000 * BATCH,
            decay="cosine",
            final_lr_fraction=0.206,
            clip_norm=2.0,
        ),
        ema_decay=0.9999,
        checkpoint_every_images=2500 * BATCH,
        keep_every_images=25_000 * BATCH,
        log_every_images=100 * BATCH,
        validation_records=2048,
        sample_every_images=2500 * BATCH,
    )


def dit_i_l2() -> TrainConfig:
    """Train DiT-I L/2 (438M) at 256 px by the same recipe, since the paper gives no other.

    Expected of ta_ia (paper Tables 1 and 2): FID 8.5 on ImageNet's validation set, GenEval 0.57 on extended prompts.
    664 GFLOP an image: 1.7e20 in all, 133 hours of one H200 at 36% of its dense bf16 peak.

        torchrun --nproc-per-node gpu -m tessera.cli train dit-i-l2:ta_ia --plain encoded/ta \\
            --augmented encoded/ta_ia --out runs/dit-i-l2-ta_ia
    """
    return replace(cad_i_l(), model=DIT_I_L2)


def cad_i_l_512() -> TrainConfig:
    """Train CAD-I at 512 px, from weights of 256 px: the learned positions are interpolated.

    50k steps at a third of the rate. Our choice; later versions of the paper take this step without saying how.

        torchrun --nproc-per-node gpu -m tessera.cli train cad-i-l-512:ta_ia --init export/cad-i-l-ta_ia \\
            --plain encoded512/ta --augmented encoded512/ta_ia --out runs/cad-i-l-512-ta_ia
    """
    return _larger(replace(cad_i_l(), model=replace(CAD_I_L, latent_size=64)))


def dit_i_l2_512() -> TrainConfig:
    """Train DiT-I L/2 at 512 px, from weights of 256 px: positions are spread over its grid. As `cad_i_l_512`.

        torchrun --nproc-per-node gpu -m tessera.cli train dit-i-l2-512:ta_ia --init export/dit-i-l2-ta_ia \\
            --plain encoded512/ta --augmented encoded512/ta_ia --out runs/dit-i-l2-512-ta_ia
    """
    return _larger(replace(dit_i_l2(), model=replace(DIT_I_L2, latent_size=64, position_grid=16)))


def _larger(config: TrainConfig) -> TrainConfig:
    optim = replace(config.optim, lr=config.optim.lr / 3, warmup_images=1000 * BATCH)
    return replace(config, num_images=50_000 * BATCH, optim=optim)


def cad_i_l_tune() -> TrainConfig:
    """Tune CAD-I at 256 px on a folder of one's own, from an export (the published weights too): 4000 steps of 256.

    tessera import-published Lucasdegeorge/CAD-I --out export/published
    tessera train cad-i-l-tune:aio --init export/published --plain encoded/mine --out runs/mine
    """
    return _tuned(cad_i_l())


def dit_i_l2_tune() -> TrainConfig:
    """Tune DiT-I L/2 at 256 px on a folder of one's own, from an export. As `cad_i_l_tune`.

    tessera train dit-i-l2-tune:aio --init export/dit-i-l2-ta_ia --plain encoded/mine --out runs/mine
    """
    return _tuned(dit_i_l2())


def _tuned(config: TrainConfig) -> TrainConfig:
    return replace(
        config,
        num_images=4000 * 256,
        batch_size=256,
        optim=replace(config.optim, lr=1e-4, warmup_images=200 * 256, final_lr_fraction=0.0),
        ema_decay=0.999,
        checkpoint_every_images=500 * 256,
        keep_every_images=None,
        log_every_images=20 * 256,
        validation_records=256,
        sample_every_images=500 * 256,
    )


TRAIN_PRESETS: dict[str, Callable[[], TrainConfig]] = {
    make.__name__.replace("_", "-"): make
    for make in (cad_i_l, dit_i_l2, cad_i_l_512, dit_i_l2_512, cad_i_l_tune, dit_i_l2_tune)
}


def arms_of(config: TrainConfig) -> dict[str, TrainConfig]:
    """Return the paper's arms of one training: captions differ by the given sets, IA is on or off."""
    return {arm: config if arm.endswith("_ia") else replace(config, augment_prob=0.0) for arm in ARMS}
