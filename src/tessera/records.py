"""The records that pass between modules: immutable, with shapes, units and ranges at the fields.

B images or captions, L text tokens, D text width, C x H x W latents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tessera.config import UserError, check_ranges

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """Object of a rendered image."""

    shape: str
    """The class, e.g. "circle"."""
    color: str
    texture: str
    size: str
    """In words, e.g. "small"; `diameter` is the number."""
    center: tuple[float, float]
    """x (rightwards), y (downwards) as fractions of the frame, 0..1."""
    diameter: float
    """Fraction of the frame, above 0, at most 1."""

    def __post_init__(self):
        check_ranges(self, diameter="(0, 1]", center="[0, 1]")
        if len(self.center) != 2:
            raise UserError(f"center is {self.center}; give two numbers, x and y")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Ground truth of an image. Rendering it twice gives the same pixels."""

    objects: tuple[SceneObject, ...]
    backgrounds: tuple[str, ...]
    """One for the whole frame, or one behind each object (a CutMix image)."""
    seed: int
    """Address of the render's random details (texture phase, background noise), >= 0."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CutOuts:
    """Drawings cut out of their grounds, from which scenes are composed whose content is known."""

    pixels: NDArray[np.uint8]
    """(N, S, S, 4), RGBA; each fills its square in one direction."""
    names: tuple[str, ...]
    """The name of each."""
    colors: tuple[str | None, ...]
    """The color that covers at least half of each; None = there is none."""
    styles: tuple[str, ...]
    """The artist of each."""
    own_hue: tuple[bool, ...]
    """False for those whose hues were turned."""


@dataclass(frozen=True)
class Placement:
    """Window into which CutMix pastes the partner's image (paper section 3, Table 1's CM rows)."""

    pattern: str
    """"half", "quarter", "ninth", "sixteenth", "crop" or the name of a user's own."""
    box: tuple[int, int, int, int]
    """left, top, right, bottom in pixels; right and bottom exclusive."""
    size: int
    """Side of the square image in pixels."""

    def __post_init__(self):
        left, top, right, bottom = self.box
        if not (0 <= left < right <= self.size and 0 <= top < bottom <= self.size):
            raise UserError(f"box {self.box} of the placement is empty or leaves an image of {self.size} pixels")

    @property
    def spans_frame(self) -> bool:
        """True for a box as wide or as high as the frame: it shows a part of the partner, others the whole of it."""
        left, top, right, bottom = self.box
        return self.size in (right - left, bottom - top)


@dataclass(frozen=True, eq=False)
class TextEncoding:
    """Encoded captions, padded to one length."""

    embeddings: Tensor
    """(B, L, D) floating point; padding is zero."""
    mask: Tensor
    """(B, L) bool, True = real token."""
    null_rows: int = 0
    """The last rows known to hold the null condition, whose first token alone is real: guidance's second branch."""

    @classmethod
    def stack(cls, items: Sequence[np.ndarray | Tensor]) -> TextEncoding:
        """Pad B arrays (L_i, D) with zeros to the longest: embeddings (B, L, D) in the first one's dtype."""
        import torch

        tensors = [torch.as_tensor(item) for item in items]
        lengths = torch.tensor([len(tensor) for tensor in tensors], device=tensors[0].device)
        embeddings = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)  # (B, L, D)
        mask = torch.arange(embeddings.shape[1], device=lengths.device) < lengths[:, None]  # (B, L)
        return cls(embeddings, mask)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TextEncoding:
        """Return the same on `device`, embeddings in `dtype`; None leaves them where and as they are."""
        embeddings = self.embeddings.to(device=device, dtype=dtype)
        return TextEncoding(embeddings, self.mask.to(device=device), self.null_rows)

    def pad_to(self, length: int) -> TextEncoding:
        """Return the same with `length` >= L tokens; the added ones are zero and masked."""
        import torch.nn.functional as F

        extra = length - self.mask.shape[1]
        if extra < 0:
            raise ValueError(f"a text encoding of {self.mask.shape[1]} tokens cannot be padded to {length}")
        return TextEncoding(F.pad(self.embeddings, (0, 0, 0, extra)), F.pad(self.mask, (0, extra)), self.null_rows)

    def select(self, rows: Any) -> TextEncoding:
        """Return the captions `rows`: a slice, integer or bool tensor over B; which of them are null is forgotten."""
        return TextEncoding(self.embeddings[rows], self.mask[rows])


@dataclass(frozen=True, eq=False)
class DenoiserState:
    """Values that a denoiser hands to its next call on the same samples; None at the first step."""

    latent_tokens: Tensor | None = None
    """RIN's latent tokens (B, latent tokens, width) of the previous step."""
    text_cache: Any = None
    """The network's own form of the refined text, the same at every step."""
    tap: int = 0
    """Number of the block, from 1, whose tokens the call returns in its state too; 0 = none's."""
    tapped: Tensor | None = None
    """The image's tokens after that block (B, N, width)."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of one loss."""

    latents: Tensor
    """(B, C, H, W) clean latents."""
    text: TextEncoding
    t: Tensor
    """(B,) time, 0 = clean, 1 = noise."""
    alpha_bar: Tensor
    """(B,) signal power at t."""
    noise: Tensor
    """(B, C, H, W) standard normal."""
    dropped: Tensor
    """(B,) bool, True = the caption is replaced by the null condition."""
    numbers: Tensor
    """(B,) int64 global sample numbers."""
    loss_mask: Tensor | None = None
    """(B, 1, H, W) float, the weight of each latent in its sample's loss, 1 or 0; None = 1 everywhere."""
    cleaner_alpha_bar: Tensor | None = None
    """(B,) signal power of a second view of the images, with less of the same noise; None = nothing is aligned."""
    features: Tensor | None = None
    """(B, tokens, width) of the images' patches, by a vision network; None where they are not needed."""

    def to(self, device: torch.device | str) -> Batch:
        """Return the same on `device`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved: dict[str, Any] = {name: None if value is None else value.to(device) for name, value in values.items()}
        return Batch(**moved)
