"""Checks that encoded sets fit the model and each other, and the augmented records that show no held-out image."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.encoded.record import EncodedRecord
from tessera.encoded.store import EncodedStore

SHARED_FACTS = ("latent_codec", "text_encoder", "null_condition", "image_size")
NETWORKS = ("latent_codec", "text_encoder")
NULL_ROUNDING = 0.02
"""Tolerance relative to the largest number in the encoding of ""; bfloat16 rounds each layer by 0.004."""
CONTENT_FACTS = ("latent_codec_sha256", "text_encoder_sha256")
"""Hashes of the files of pretrained networks; a set made with built-in ones has none."""


def check_sets(
    plain: EncodedStore,
    augmented: EncodedStore | None,
    *,
    latent_shape: tuple[int, int, int],
    text_width: int,
    encodes_text: bool = False,
) -> dict[str, Any]:
    """Raise UserError unless the sets fit the model's shapes and each other. Return the facts that a run stores.

    `encodes_text`: an encoder is available, so a set may be without text.
    """
    for store in (plain,) if augmented is None else (plain, augmented):
        where = store.directory
        if len(store) == 0:
            raise UserError(f"{where}: the set is empty; encode at least one image")
        if store.text_encoding == "none" and not encodes_text:
            raise UserError(f"{where}: holds no text; encode it with text_encoding int8 or fp16")
        if tuple(store.latent_shape) != latent_shape:
            raise UserError(f"{where}: latents are {tuple(store.latent_shape)}, the model's config says {latent_shape}")
        if store.text_width != text_width:
            raise UserError(f"{where}: text is {store.text_width} wide, the model's config has text_width {text_width}")
        for name in SHARED_FACTS:
            if name not in store.facts:
                raise UserError(f"{where}: its manifest does not say {name}; make it with `tessera encode`")
            same = store.facts[name] == plain.facts[name]
            if name in NETWORKS:
                same = same_network(store.facts, plain.facts, name)
            elif name == "null_condition":
                same = _same_but_for_rounding(store.null_condition, plain.null_condition)
            if not same:
                found = "" if name == "null_condition" else f" ({store.facts[name]}, there {plain.facts[name]})"
                raise UserError(
                    f"{where}: {name} differs from that of {plain.directory}{found}; encode both sets alike"
                )
    arm = "aio" if plain.facts.get("captioner") == "aio" else "ta"
    if augmented is not None:
        arm += "_ia"
    kept = {name: plain.facts[name] for name in (*SHARED_FACTS, *CONTENT_FACTS) if name in plain.facts}
    return {"arm": arm, "latent_shape": list(latent_shape), **kept}


@dataclass(frozen=True, eq=False)
class Subset:
    """A part of a store's records."""

    store: EncodedStore
    places: np.ndarray
    """Record numbers in the store (n,)."""

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> EncodedRecord:
        return self.store[int(self.places[index])]


def without_held_out(augmented: EncodedStore, plain: EncodedStore, count: int) -> Subset:
    """Return the augmented records whose base is none of the last `count` of the plain set: those are not trained on,
    and CutMix leaves half to 15/16 of its base visible. A record does not name the partner that was pasted in."""
    held_out = set(plain.keys(len(plain) - count))
    places = [place for place, key in enumerate(augmented.keys()) if not _possible_bases(key) & held_out]
    return Subset(augmented, np.array(places, dtype=np.int64))


def _possible_bases(key: str) -> set[str]:
    """Return every part of the key before a "+": an image's own name may hold one."""
    parts = key.split("+")
    return {"+".join(parts[:n]) for n in range(1, len(parts))}


def same_network(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool | None:
    """Return whether two sets of facts mean one pretrained network, whatever its name and place.

    name: latent_codec or text_encoder. The hashes of its files decide, where both are known (a folder's id NAME@HASH
    has the first digits); otherwise equal ids. None: undecided.
    """
    hashes = [facts.get(f"{name}_sha256") or _hash_in(str(facts.get(name))) for facts in (one, other)]
    if all(hashes):
        return str(hashes[0]).startswith(str(hashes[1])) or str(hashes[1]).startswith(str(hashes[0]))
    return True if one.get(name) == other.get(name) else None


def _same_but_for_rounding(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether one network may have computed both encodings, on different machines or in bfloat16 and in fp32."""
    return one.shape == other.shape and float(np.abs(one - other).max()) <= NULL_ROUNDING * float(np.abs(other).max())


def _hash_in(model: str) -> str | None:
    """Return the first digits of the content hash at the end of a folder's id (`tessera.hub`)."""
    match = re.fullmatch(r"[^/\\:]+@([0-9a-f]{12})", model)  # a user's file has a colon
    return match[1] if match else None
