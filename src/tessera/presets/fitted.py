"""A run preset with another size of images, network, text encoder or budget: the flags of `tessera run`."""

from dataclasses import replace

from tessera.config import UserError
from tessera.models.dit import DIT_I_XS2
from tessera.presets.config import RunConfig
from tessera.presets.miniature import SMALL_DIT, SMALL_RIN, in_fifths
from tessera.pretrained.text_encoders import load_text_encoder
from tessera.pretrained.vae import load_codec
from tessera.train.config import TrainConfig

_XS = {name: getattr(DIT_I_XS2, name) for name in ("width", "depth", "heads", "mlp_ratio", "refiner_depth")}
NETWORKS = {"dit": SMALL_DIT, "cad": SMALL_RIN, "dit-xs": replace(SMALL_DIT, **_XS)}
"""The paper's two networks at the size of the miniature; and the blocks of the preset `dit-i-xs`, for a GPU."""
FEWEST_PATCHES, MOST_PATCHES = 8, 16  # along a side


def fitted(
    config: RunConfig,
    *,
    size: int | None = None,
    network: str | None = None,
    text: str | None = None,
    num_images: int | None = None,
) -> RunConfig:
    """Return `config` with what is given; patches, widths and phases of the training follow.

    size: of the images in pixels. network: a name in `NETWORKS`. text: a text encoder. num_images: samples that each
    arm sees, rounded up to whole batches. Raises UserError for a size that the codec or the patches do not divide.
    """
    if size is not None:
        config = replace(config, collect=replace(config.collect, size=size))
    if text is not None:
        config = replace(config, encode=replace(config.encode, text=text))
    arms = []
    for arm in config.arms:
        model = arm.train.model
        if network is not None:
            model = replace(NETWORKS[network], text_width=model.text_width)
        if size is not None:
            channels, side, _ = load_codec(config.encode.latents, load=False).latent_shape(size)
            model = replace(model, latent_channels=channels, latent_size=side, patch_size=_patch(size, side))
        if text is not None:
            model = replace(model, text_width=load_text_encoder(text, load=False).width)
        train = replace(arm.train, model=model)
        arms.append(replace(arm, train=train if num_images is None else budgeted(train, num_images)))
    return replace(config, arms=tuple(arms))


def budgeted(train: TrainConfig, num_images: int) -> TrainConfig:
    """Return the training with `num_images` in whole batches; phases, cooldown and checkpoints keep their shares of it,
    and the warm-up its length, so that a run that is past it can get another budget."""
    whole = whole_batches(num_images, train.batch_size)
    made = scaled(train, whole / train.num_images)
    optim = replace(made.optim, warmup_images=min(train.optim.warmup_images, num_images // 4))
    return in_fifths(replace(made, num_images=whole, optim=optim))


def scaled(train: TrainConfig, factor: float) -> TrainConfig:
    """Return the training with `factor` > 0 times the images, in whole steps; its phases, its warm-up and its cool-down
    move along."""

    def whole(images: int) -> int:
        return max(round(images * factor / train.batch_size), 1 if images else 0) * train.batch_size

    optim = replace(
        train.optim,
        warmup_images=whole(train.optim.warmup_images),
        cooldown_images=whole(train.optim.cooldown_images),
    )
    return replace(
        train,
        num_images=whole(train.num_images),
        augment_start_image=whole(train.augment_start_image),
        caption_mix_start_image=whole(train.caption_mix_start_image),
        align_until_image=whole(train.align_until_image or 0) or None,
        optim=optim,
    )


def whole_batches(num_images: int, batch_size: int) -> int:
    """Return `num_images`, rounded up to whole batches."""
    return -(-num_images // batch_size) * batch_size


def _patch(size: int, side: int) -> int:
    """Return the smallest patch that cuts latents of `side` into at most 16 x 16 patches; UserError if that leaves
    less than 8 x 8."""
    patch = next(p for p in range(1, side + 1) if side % p == 0 and side // p <= MOST_PATCHES)
    if patch > 1 and side // patch < FEWEST_PATCHES:
        raise UserError(
            f"size is {size}: latents of {side} x {side} cannot be cut into {FEWEST_PATCHES} to {MOST_PATCHES} patches"
            " a side; give 64, 96, 128 or another multiple of 32"
        )
    return patch
