"""A record of the encoded store, and its numbers: text as int8 in groups of 64 along the width, an fp16 scale each."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

TextEncodingKind = Literal["int8", "fp16", "none"]
GROUP = 64  # numbers that share one scale
_SHORT = (r"Mr", r"Mrs", r"Ms", r"Dr", r"St", r"Mt", r"Prof", r"vs", r"e\.g", r"i\.e", r"[A-Z]\.[A-Z]")
SENTENCE_ENDS = re.compile(r"(?<=[.!?])" + "".join(rf"(?<!\b{each}\.)" for each in _SHORT) + r"\s+|(?<=[。！？])")
"""Places at which a caption is split into its sentences: not after "St." and the like."""
LONG = "long"
"""The level of the captions of a set with one caption an image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedRecord:
    """Record of one image as training reads it, with one of its captions. L tokens of width D."""

    key: str
    """Unique in its set: "class/stem"; of an augmented image its base's, then "+" and more."""
    class_name: str
    caption: str
    text_codes: np.ndarray | None
    """(L, D) int8, or fp16 when `text_scale` is None; None when text is not stored."""
    text_scale: np.ndarray | None
    """(L, ceil(D / 64)) fp16."""
    latent_mean: np.ndarray
    """(C, H, W) fp16, before any normalization."""
    latent_std: np.ndarray
    """(C, H, W) fp16, >= 0."""
    features: np.ndarray | None = None
    """(tokens, width) int8: of the image's patches, row by row, by a vision network; None when none are stored, or they
    were not asked for."""
    features_scale: np.ndarray | None = None
    """(tokens, ceil(width / 64)) fp16."""
    more: tuple["EncodedText | None", ...] = ()
    """To write a set of several captions an image: those of its other levels, None for a level that it does not have;
    an empty `caption` means so of the first level. Empty in what is read."""

    @property
    def text(self) -> np.ndarray | None:
        """(L, D) float32."""
        if self.text_codes is None:
            return None
        if self.text_scale is None:
            return self.text_codes.astype(np.float32)
        return dequantize(self.text_codes, self.text_scale)


class EncodedText(NamedTuple):
    """A further caption of a record; fields as there."""

    caption: str
    text_codes: np.ndarray | None
    text_scale: np.ndarray | None


def quantize(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 codes (L, D) of floats (L, D), and fp16 scales (L, ceil(D / 64)).

    An error is at most 0.57 of its scale. Where all 64 are below 0.001, fp16 has too few scales: there an error is at
    most 4e-6.
    """
    text = np.asarray(text, dtype=np.float32)
    length, width = text.shape
    padded = np.pad(text, ((0, 0), (0, -width % GROUP)))
    grouped = padded.reshape(length, -(-width // GROUP), GROUP)
    peak = np.abs(grouped).max(axis=2)  # (L, groups)
    if not (peak <= 127 * float(np.finfo(np.float16).max)).all():
        raise ValueError("text embeddings must be finite and below 8e6")
    scale = (peak / 127).astype(np.float16)
    divisor = np.where(scale > 0, scale, 1).astype(np.float32)[..., None]
    codes = np.clip(np.rint(grouped / divisor), -127, 127).astype(np.int8)
    return codes.reshape(padded.shape)[:, :width].copy(), scale


def dequantize(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return float32 (L, D) of int8 codes (L, D) and fp16 scales (L, ceil(D / 64))."""
    length, width = codes.shape
    if width % GROUP == 0:
        grouped = codes.reshape(length, width // GROUP, GROUP) * scale.astype(np.float32)[..., None]
        return grouped.reshape(length, width)
    return codes * np.repeat(scale.astype(np.float32), GROUP, axis=1)[:, :width]


def pack_floats(array: np.ndarray) -> dict[str, Any]:
    """Return a float array as JSON: {"shape", "base64" of its little-endian float32}; for a manifest's facts."""
    data = np.ascontiguousarray(array, dtype="<f4")
    return {"shape": list(data.shape), "base64": base64.b64encode(data.tobytes()).decode()}


def unpack_floats(data: Mapping[str, Any]) -> np.ndarray:
    """Return the array of `pack_floats`, float32."""
    flat = np.frombuffer(base64.b64decode(data["base64"], validate=True), dtype="<f4")
    return flat.reshape(data["shape"]).astype(np.float32)
