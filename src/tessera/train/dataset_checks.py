"""Checks that encoded sets fit the model and each other, and the augmented records that show no held-out image."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Subset

from tessera.config import UserError, nearest
from tessera.cutmix import near_seam
from tessera.encoded.record import EncodedRecord
from tessera.encoded.seams import Seams
from tessera.encoded.store import EncodedStore, check_roles
from tessera.models.dit import DiTConfig
from tessera.models.network import NetworkConfig
from tessera.train.algorithm1 import CaptionMix
from tessera.train.config import TrainConfig

SHARED_FACTS = ("latent_codec", "text_encoder", "null_condition", "image_size")
NETWORKS = ("latent_codec", "text_encoder")
EXAMPLES = 48
"""Images of which a run keeps captions as examples, at most."""
NULL_ROUNDING = 0.02
"""Tolerance relative to the largest number in the encoding of ""; bfloat16 rounds each layer by 0.004."""
CONTENT_FACTS = ("latent_codec_sha256", "text_encoder_sha256")
"""Hashes of the files of pretrained networks; a set made with built-in ones has none."""


def check_sets(
    plain: EncodedStore, augmented: EncodedStore | None = None, *, model: NetworkConfig, encodes_text: bool = False
) -> dict[str, Any]:
    """Raise UserError unless the sets fit the model's shapes and each other. Return the facts that a run stores.
    `encodes_text`: an encoder is available, so a set may be without text."""
    latent_shape, text_width = (model.latent_channels, model.latent_size, model.latent_size), model.text_width
    check_roles(plain, augmented)
    if augmented is not None and (plain.shapes or augmented.shapes):
        fix = "train an arm of plain images, such as ta, without --augmented"
        raise UserError(f"{(plain if plain.shapes else augmented).directory}: has buckets of aspect ratios; {fix}")
    for store in (plain,) if augmented is None else (plain, augmented):
        where = store.directory
        if store.text_encoding == "none" and not encodes_text:
            raise UserError(f"{where}: holds no text; encode it with text_encoding int8 or fp16")
        if tuple(store.latent_shape) != latent_shape:
            raise UserError(
                f"{where}: latents are {tuple(store.latent_shape)}, the model's config says {latent_shape}; encode the "
                "set for the model (--size of collect, --latents of encode), or take the set's shapes with --fit"
            )
        if store.shapes and not isinstance(model, DiTConfig):
            raise UserError(
                f"{where}: has buckets of aspect ratios, and a CAD-I learns a position for each patch of one square; "
                "train a DiT-I, or collect without --buckets"
            )
        if uneven := [shape for shape in store.shapes if shape[1] % model.patch_size or shape[2] % model.patch_size]:
            raise UserError(f"{where}: latents of {uneven[0]} are no whole patches of {model.patch_size}")
        if store.text_width != text_width:
            raise UserError(
                f"{where}: text is {store.text_width} wide, the model's config has text_width {text_width}; encode the "
                "set for the model (--text of encode), or take the set's width with --fit"
            )
        for name in SHARED_FACTS:
            if name not in store.facts:
                raise UserError(f"{where}: its manifest does not say {name}; make it with `tessera encode`")
            same = store.facts[name] == plain.facts[name]
            if name in NETWORKS:
                same = same_network(store.facts, plain.facts, name)
            elif name == "null_condition":  # maybe of another machine, or in bfloat16
                one, other = store.null_condition, plain.null_condition
                same = one.shape == other.shape and np.abs(one - other).max() <= NULL_ROUNDING * np.abs(other).max()
            if not same:
                found = "" if name == "null_condition" else f" ({store.facts[name]}, there {plain.facts[name]})"
                raise UserError(
                    f"{where}: {name} differs from that of {plain.directory}{found}; encode both sets alike"
                )
    arm = "aio" if plain.facts.get("captioner") == "aio" else "ta"
    if augmented is not None:
        arm += "_ia"
    kept = {name: plain.facts[name] for name in (*SHARED_FACTS, *CONTENT_FACTS, "buckets") if name in plain.facts}
    return {"arm": arm, "latent_shape": list(latent_shape), **kept}


def captions_seen(
    mix: CaptionMix | None, num_images: int, held_out: int, *stores: EncodedStore
) -> dict[str, Any] | None:
    """Return what the captions of a training of `num_images` are like, the fields of `weights.export.CaptionsSeen`;
    None where a set does not tell. held_out: records at the end of the first set, the plain one, that are not trained
    on."""
    mixing = mix is not None and mix.start < num_images
    mixed = [each for each, share in zip(mix.levels, mix.weights) if share] if mix is not None and mixing else []
    begins = mix is None or not mixing or mix.start > 0  # with the first level of each image
    usual, words = [], set()
    for store in stores:
        told = store.facts.get("levels", {})
        levels = [told[name] for name in mixed if name in told]
        if begins or any(told.get(name, {}).get("captions", 0) < len(store) for name in mixed):
            levels.append(store.facts.get("text", {}))
        if not all("usual_tokens" in level for level in levels):
            return None
        usual += [level["usual_tokens"] for level in levels]
        words |= set(store.facts.get("vocabulary", ()))
    shortest, longest = zip(*usual)
    plain, examples = stores[0], []
    for i in range(max(len(plain) - min(held_out or EXAMPLES, EXAMPLES), 0), len(plain)):
        texts = plain.captions(i)
        found = [texts[level] for level in mixed if level in texts]
        examples += [*([*texts.values()][:1] if begins or len(found) < len(mixed) else []), *found]
    keys = plain.keys()
    classes = {key.rpartition("/")[0] for key in keys}
    size = {"images": len(plain) - held_out, "classes": len(classes)}
    return {
        "tokens": [min(shortest), max(longest)],
        "vocabulary": sorted(words),
        "examples": list(dict.fromkeys(text for text in examples if text)),
        **size,
    }


def check_starts(config: TrainConfig) -> list[str]:
    """Return what to say of second phases that begin only after the end, and of a learning rate without a peak."""
    found = {"caption_mix_start_image": bool(config.caption_mix), "augment_start_image": config.augment_prob > 0}
    what = {"caption_mix_start_image": "caption_mix is never drawn", "augment_start_image": "no CutMix image is shown"}
    said = [
        f"{name} is {start}, and the training ends at {config.num_images} images, so {what[name]}; give a smaller one"
        for name, given in found.items()
        if given and (start := getattr(config, name)) >= config.num_images
    ]
    rise, fall = config.optim.warmup_images, config.optim.cooldown_images
    if rise + fall > config.num_images:
        parts = f"warmup_images {rise} and cooldown_images {fall} are" if fall else f"warmup_images {rise} is"
        said.append(f"optim: {parts} more than num_images {config.num_images}, so no step has the peak rate; give less")
    return said


def check_margin(margin: int, seams: Seams, size: int, cells: int) -> None:
    """Raise UserError where a masked record of `size` px has none of its `cells` x `cells` latents in the loss."""
    boxes = [tuple(box) for box in np.unique(seams.boxes[seams.min_t > 0], axis=0).tolist()]

    def covers(reach: int) -> bool:
        return any(near_seam(box, size, cells, reach).all() for box in boxes)

    if covers(margin):
        largest = next((reach for reach in range(min(margin, cells) - 1, 0, -1) if not covers(reach)), None)
        fix = f"give at most {largest}" if largest is not None else "set None"
        raise UserError(f"seam_margin: {margin} leaves CutMix images none of their {cells} x {cells} latents; {fix}")


def check_inputs(config: TrainConfig, augmented: Path | None, tau: Path | None) -> None:
    """Raise UserError where the directories given are not those that the configuration needs."""
    given = {"--augmented": augmented, "--tau": tau}
    for flag, path in given.items() if config.augment_prob == 0 else ():
        if path is not None:
            fix = f"leave out {flag}, or train an arm with augmented images, such as ta_ia"
            raise UserError(f"{path}: no augmented images are trained on here (augment_prob is 0); {fix}")
    if config.augment_prob and augmented is None:
        fix = "give one or set augment_prob to 0"
        raise UserError(f"augment_prob: {config.augment_prob} needs an augmented set with records; {fix}")
    if config.needs_seams and tau is None:
        margin, own = config.seam_margin, config.augment_min_t
        named, instead = ("augment_min_t", "a number") if isinstance(own, str) else ("seam_margin", "None")
        value = own if isinstance(own, str) else margin
        raise UserError(f"{named} is {value!r}, which needs --tau, a directory made by `tessera tau`; or set {instead}")
    if tau is not None and not config.needs_seams:
        raise UserError(
            f"{tau}: is read where augment_min_t is recipe or pattern, or seam_margin is given; leave it out"
        )


def check_normalization(store: EncodedStore, shift: Sequence[float], scale: Sequence[float]) -> list[str]:
    """Return what to say where the set's VAE asks for another normalization of latents than the config's."""
    ours = {"latent_shift": tuple(shift), "latent_scale": tuple(scale)}
    if all(np.allclose(store.facts.get(name, value), value, rtol=1e-4, atol=1e-6) for name, value in ours.items()):
        return []
    theirs = ", ".join(f"{name} {', '.join(f'{x:.4g}' for x in store.facts.get(name, ()))}" for name in ours)
    codec = store.facts.get("latent_codec")
    return [f"{store.directory}: {codec} asks for {theirs}; --fit takes that instead of the preset's"]


def check_mix(mix: CaptionMix | None, *stores: EncodedStore) -> list[str]:
    """Return what to say of the mix: for which sets it is off, and how many images have no caption of a level.

    A set of one caption an image is trained on as it is, whatever the mix. Raises UserError for a level that none of
    the other sets has.
    """
    if mix is None:
        return []
    several = [store for store in stores if len(store.levels) > 1]
    known = tuple(dict.fromkeys(level for store in several for level in store.levels))
    for level in mix.levels if several else ():
        if level not in known:
            where, near = several[0].directory, f"{nearest(level, known)} it has {', '.join(known)}"
            raise UserError(f"{where}: caption_mix: it has no captions of the level {level!r};{near}")
    said = []
    for store in stores:
        if store not in several:
            said.append(f"{store.directory}: has one caption an image, so caption_mix is off")
            continue
        counts = {level: facts["captions"] for level, facts in store.facts.get("levels", {}).items()}
        without = {level: len(store) - counts.get(level, len(store) * (level in store.levels)) for level in mix.levels}
        told = " and ".join(f"{count} have none of the level {level}" for level, count in without.items() if count)
        if told:
            fix = "there the first that they have is taken; to give them one, complete the captions and encode again"
            said.append(f"{store.directory}: of {len(store)} images {told}; {fix}")
    return said


def check_sentences(sentence_drop_prob: float, *stores: EncodedStore) -> None:
    """Raise UserError where sentences are to be left out of texts that are encoded already."""
    for store in stores if sentence_drop_prob else ():
        if store.text_encoding != "none":
            fix = "encode it with --text-encoding none, or set sentence_drop_prob to 0"
            raise UserError(f"{store.directory}: holds encoded texts, out of which no sentence can be taken; {fix}")


def check_features(needed: bool, *stores: EncodedStore) -> None:
    """Raise UserError where an objective needs features that a set does not hold, or that differ between the sets."""
    for store in stores if needed else ():
        if not store.features[0]:
            raise UserError(
                f"{store.directory}: holds no features to align with; encode it to another directory with --features, "
                "such as dinov2, or train with --objective self-aligned, which needs none"
            )
        found, first = ((*each.features, each.facts.get("features")) for each in (store, stores[0]))
        if found != first or not same_network(store.facts, stores[0].facts, "features"):
            told = ["{} x {} by {}".format(*each) for each in (found, first)]
            raise UserError(
                f"{store.directory}: features are {told[0]}, those of {stores[0].directory} {told[1]}; encode both "
                "sets with one --features"
            )


def level_numbers(mix: CaptionMix | None, store: EncodedStore) -> list[int]:
    """Return the number in the set of each level that the mix draws; 0 for the first and for one that is not there."""
    levels = mix.levels if mix is not None else ()
    return [0, *(store.levels.index(level) if level in store.levels else 0 for level in levels)]


def without_held_out(augmented: EncodedStore, plain: EncodedStore, count: int) -> Subset[EncodedRecord]:
    """Return the augmented records whose base is none of the last `count` of the plain set: those are not trained on,
    and CutMix leaves half to 15/16 of its base visible. A record does not name the partner that was pasted in."""
    held_out = set(plain.keys(len(plain) - count))

    def trained(key: str) -> bool:  # a base is a part of the key before a "+", of which its own name may hold some
        return held_out.isdisjoint(key[: plus.start()] for plus in re.finditer(r"\+", key))

    return Subset(augmented, np.flatnonzero(list(map(trained, augmented.keys()))))  # type: ignore[arg-type]


def same_network(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool | None:
    """Return whether two sets of facts mean one pretrained network, whatever its name and place.

    name: latent_codec or text_encoder. The hashes of its files decide, where both are known (a folder's id NAME@HASH
    has the first digits); otherwise equal ids. None: undecided.
    """
    ids = [re.fullmatch(r"[^/\\:]+@([0-9a-f]{12})", str(facts.get(name))) for facts in (one, other)]  # not FILE.py:NAME
    a, b = (facts.get(f"{name}_sha256") or (id_ and id_[1]) for facts, id_ in zip((one, other), ids))
    if a and b:
        return a.startswith(b) or b.startswith(a)
    return True if one.get(name) == other.get(name) else None
