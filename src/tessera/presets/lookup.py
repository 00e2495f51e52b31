"""Presets by name, built in or from a user file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tessera.config import UserError, call, choose, lookup
from tessera.encoded.store import open_encoded
from tessera.presets.config import RunConfig
from tessera.presets.emoji import emoji, emoji_few
from tessera.presets.fitted import fitted, whole_batches
from tessera.presets.imagenet import TRAIN_PRESETS, arms_of
from tessera.presets.miniature import miniature, miniature_cad, miniature_paper, miniature_smoke, my_pictures
from tessera.presets.small_sets import SMALL_PRESETS
from tessera.train.config import TrainConfig, parse_mix

RUN_PRESETS: dict[str, Callable[[], RunConfig]] = {
    make.__name__.replace("_", "-"): make
    for make in (miniature, miniature_paper, miniature_cad, miniature_smoke, emoji, emoji_few, my_pictures)
}


def load_run_preset(
    name: str,
    *,
    images: Path | None = None,
    with_captions: bool = False,
    size: int | None = None,
    network: str | None = None,
    text: str | None = None,
    num_images: int | None = None,
    styles: tuple[str, ...] = (),
    **source: Any,
) -> RunConfig:
    """Return the preset `name`, or FILE.py:FUNCTION, fitted to the user's folder `images` where it brings no images.

    with_captions: the images have a captions file. size, network, text: for such a preset, or emoji (`fitted`).
    num_images: samples that each arm of it sees. styles: of emoji, none = all. source: fields of `CollectConfig` about
    the folder (single_class, split, layout, class_names). A single class has no partners, so it trains without IA.
    Raises UserError for an unknown name, with the nearest one, and where options about images are missing or have no
    meaning.
    """
    config = call(name, RUN_PRESETS)
    if not isinstance(config, RunConfig):
        raise UserError(f"preset {name}: gives a {type(config).__name__}, wanted is a RunConfig")
    if config.emoji is None and styles:
        raise UserError(f"preset {name} has no styles; for --styles use: tessera run emoji")
    if config.collect.world is not None or config.emoji is not None:
        given = {"images": images is not None, "captions": with_captions}
        given |= {field.replace("_", "-"): value not in (None, "train") for field, value in source.items()}
        if config.emoji is None:
            given |= {"size": size, "network": network, "text": text, "num-images": num_images}
        for option in (option for option, there in given.items() if there):
            raise UserError(f"preset {name} brings its own images; for --{option} use: tessera run my-pictures")
        if config.emoji is None:
            return config
        own = replace(config.emoji, styles=styles or config.emoji.styles)
        config = replace(config, emoji=own, export=replace(config.export, credits=own.credits))
        alone = len(own.styles) == 1
        if config.judge is not None and (alone or config.judge.held_out not in own.styles):
            last = None if alone else own.styles[-1]
            config = replace(config, judge=replace(config.judge, held_out=last))
        return fitted(config, size=size, network=network, text=text, num_images=num_images)
    if images is None:
        raise UserError(f"preset {name} needs your images: add --images FOLDER, with a folder for each class in it")
    collect = replace(config.collect, source=images.resolve().name or "images", **source)
    arms = []
    for arm in config.arms:
        if with_captions:
            arm = replace(arm, name=arm.name.replace("aio", "ta"), captioner="import")
        if source.get("single_class") is not None:
            train = replace(arm.train, augment_prob=0.0)
            arm = replace(arm, name=arm.name.removesuffix("_ia"), augmented=False, train=train)
        arms.append(arm)
    config = replace(config, collect=collect, arms=tuple(arms))
    return fitted(config, size=size, network=network, text=text, num_images=num_images)


def load_train_preset(
    name: str,
    *,
    num_images: int | None = None,
    seed: int | None = None,
    cooldown_images: int | None = None,
    caption_mix: str | None = None,
    caption_mix_start_image: int | None = None,
    validation_records: int | None = None,
    stop_after_no_gain: int | None = None,
    compute: str | None = None,
    objective: str | None = None,
    align_until_image: int | None = None,
    adamw8bit: bool = False,
    fit: Path | None = None,
) -> TrainConfig:
    """Return the training of one arm: PRESET:ARM, or FILE.py:FUNCTION; with another budget, seed, cooldown, mix of
    captions, as in "long=0.7,short=0.3", number of held-out records, early end, precision, objective or end of its
    alignment, where given. The budget is rounded up to whole batches.

    adamw8bit: for AdamW, means in 8 bits. fit: an encoded set, whose shapes and normalization replace the preset's.
    """
    preset, colon, arm_name = name.partition(":")
    if preset.endswith(".py"):
        config = call(name, {}, "train preset")
        if not isinstance(config, TrainConfig):
            raise UserError(f"preset {name}: gives a {type(config).__name__}, wanted is a TrainConfig")
    else:
        preset = preset.replace("_", "-")
        made = lookup(preset, RUN_PRESETS | TRAIN_PRESETS | SMALL_PRESETS)()
        arms = arms_of(made) if isinstance(made, TrainConfig) else {arm.name: arm.train for arm in made.arms}
        if not colon:
            raise UserError(f"preset {name}: say which arm, for example {preset}:{next(iter(arms))}")
        config = choose(arm_name, arms, f"arm of {preset}")
    changes: dict[str, Any] = {"num_images": num_images and whole_batches(num_images, config.batch_size), "seed": seed}
    changes |= {"validation_records": validation_records, "stop_after_no_gain": stop_after_no_gain}
    changes |= {"compute": compute, "objective": objective, "align_until_image": align_until_image}
    if caption_mix is not None:
        changes |= {"caption_mix": parse_mix(caption_mix), "caption_mix_start_image": caption_mix_start_image or 0}
    elif caption_mix_start_image is not None:
        changes["caption_mix_start_image"] = caption_mix_start_image
    optim = config.optim
    if adamw8bit and optim.name not in ("adamw", "adamw8bit"):
        raise UserError(f"preset {name}: its optimizer is {optim.name}, not AdamW; leave out --adamw8bit")
    if adamw8bit:
        optim = replace(optim, name="adamw8bit")
    if cooldown_images is not None:
        optim = replace(optim, cooldown_images=cooldown_images)
    changes["optim"] = optim
    if fit is not None:
        store = open_encoded(fit)
        channels, side, _ = store.latent_shape
        shapes = {"latent_channels": channels, "latent_size": side, "text_width": store.text_width}
        changes["model"] = replace(config.model, **shapes)
        for name in ("latent_shift", "latent_scale"):
            changes[name] = tuple(store.facts.get(name, (float(name == "latent_scale"),)))
    return replace(config, **{field: value for field, value in changes.items() if value is not None})
