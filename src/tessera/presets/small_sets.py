"""Presets for 2,000 to 100,000 own images at 256 px on one consumer GPU, for `tessera train`: three small DiT-I.

Nothing of this was trained here yet. The number of samples follows MiniDog (a network of 22M on 26,000 photographs,
5.1M samples). Made for the latents of `presets.imagenet.VAE` and the texts of its `TEXT`; any other by --fit. Memory
and hours are estimates of `tessera plan` for texts of 180 tokens, at 36% of a card's dense bf16 peak.
"""

from collections.abc import Callable

from tessera.models.dit import DIT_I_B2, DIT_I_S2, DIT_I_XS2, DiTConfig
from tessera.pretrained.vae import SD_LATENT_SCALE
from tessera.train.config import TrainConfig
from tessera.train.optim.config import OptimConfig

BATCH = 256


def dit_i_xs() -> TrainConfig:
    """Train a DiT-I of 23M, of the depth and width of MiniDog's, on 2,000 to 20,000 images: as `dit_i_s` otherwise.

    Estimated: 5.9 GB with --device-batch-size 64; 3.0 hours on a 12 GB card of 50 TFLOP/s, 0.9 on a 24 GB one of 165.
    With MiniLM's texts (`tessera encode --text minilm`, then --fit) it has 22.6M parameters. What may shorten it:
    `--objective feature-aligned` for the first half, after `tessera encode --features dinov2` (docs/method.md).

        tessera train dit-i-xs:ta_ia --plain encoded/plain --augmented encoded/mixed --out runs/smallest
    """
    return _small(DIT_I_XS2, steps=20_000)


def dit_i_s() -> TrainConfig:
    """Train DiT-I S/2 (34M) on 2,000 to 20,000 images: 20,000 steps of 256, AdamW 2e-4, EMA 0.9995.

    Estimated: 7.3 GB with --device-batch-size 64; 4.2 hours on a 12 GB card of 50 TFLOP/s, 1.3 on a 24 GB one of 165.
    The rate is constant and cooled down over the last fifth; `--stop-after-no-gain 512000` ends a run that overfits.

        tessera train dit-i-s:ta_ia --plain encoded/plain --augmented encoded/mixed --out runs/small
    """
    return _small(DIT_I_S2, steps=20_000)


def dit_i_b() -> TrainConfig:
    """Train DiT-I B/2 (134M) on 20,000 to 100,000 images: 40,000 steps of 256, AdamW 2e-4, EMA 0.9995.

    Estimated: 9.5 GB with --device-batch-size 32; 31 hours on a 12 GB card of 50 TFLOP/s, 9.5 on a 24 GB one of 165.
    As `dit_i_s` otherwise.

        tessera train dit-i-b:ta_ia --plain encoded/plain --augmented encoded/mixed --out runs/medium
    """
    return _small(DIT_I_B2, steps=40_000)


SMALL_PRESETS: dict[str, Callable[[], TrainConfig]] = {"dit-i-xs": dit_i_xs, "dit-i-s": dit_i_s, "dit-i-b": dit_i_b}


def _small(model: DiTConfig, *, steps: int) -> TrainConfig:
    return TrainConfig(
        model=model,
        num_images=steps * BATCH,
        batch_size=BATCH,
        latent_scale=(SD_LATENT_SCALE,),
        optim=OptimConfig(
            name="adamw",
            lr=2e-4,
            warmup_images=1000 * BATCH,
            decay="constant",
            cooldown_images=steps // 5 * BATCH,
            clip_norm=1.0,
        ),
        ema_decay=0.9995,
        checkpoint_every_images=500 * BATCH,
        log_every_images=20 * BATCH,
        validation_records=128,
        sample_every_images=1000 * BATCH,
    )
