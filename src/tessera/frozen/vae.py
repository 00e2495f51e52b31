"""Image codecs: pictures to latents and back, behind one interface (paper appendix A uses Stable Diffusion's VAE).

A codec is named by a text id such as `pixel-unshuffle:4`, which is all that manifests and exports need to store:
`load_codec(codec.id)` gives an equal codec.

B: pictures; S: their side in pixels; C, h, w: a latent's channels, height, width.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tessera.config import UserError


class LatentCodec(Protocol):
    """What curation and generation need of an image codec."""

    @property
    def id(self) -> str:
        """The name under which `load_codec` finds this codec."""
        ...

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of pictures with a side of `size` pixels; UserError if that side cannot be coded."""
        ...

    def encode(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """uint8 (B, S, S, 3) -> posterior mean and standard deviation, each float32 (B, C, h, w)."""
        ...

    def decode(self, latents: ArrayLike) -> NDArray[np.uint8]:
        """Latents of any float type (B, C, h, w), an array or a CPU tensor -> uint8 (B, S, S, 3)."""
        ...


@dataclass(frozen=True)
class PixelUnshuffle:
    """Each factor x factor block of pixels becomes one position with 3 factor^2 channels: exact and invertible.

    Pixel value v is stored as v / 127.5 - 1, so latents lie in [-1, 1], and float16 still tells all 256 values apart.
    Channels are ordered (color, row in the block, column in the block), as in torch's `pixel_unshuffle`.
    There is no noise in this code: the standard deviation is zero.
    """

    factor: int = 4
    """Side of a block in pixels, 1 to 64."""

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= 64:
            raise UserError(f"latents: pixel-unshuffle needs a factor from 1 to 64, not {self.factor}")

    @property
    def id(self) -> str:
        """`pixel-unshuffle:<factor>`."""
        return f"pixel-unshuffle:{self.factor}"

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """(3 factor^2, size / factor, size / factor)."""
        if size < 1 or size % self.factor:
            raise UserError(f"latents: {self.id} needs a picture side that is a multiple of {self.factor}, not {size}")
        return 3 * self.factor**2, size // self.factor, size // self.factor

    def encode(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """uint8 (B, S, S, 3) -> (mean, std), each float32 (B, 3 factor^2, S / factor, S / factor); std is zero."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
            raise ValueError(f"images must be uint8 (B, S, S, 3), not {images.dtype} {images.shape}")
        channels, side, _ = self.latent_shape(images.shape[1])
        blocks = images.reshape(-1, side, self.factor, side, self.factor, 3)  # (B, h, f, w, f, 3)
        planes = blocks.transpose(0, 5, 2, 4, 1, 3).reshape(-1, channels, side, side)  # (B, 3 f f, h, w)
        mean = planes.astype(np.float32) / np.float32(127.5) - np.float32(1)
        return mean, np.zeros_like(mean)

    def decode(self, latents: ArrayLike) -> NDArray[np.uint8]:
        """(B, 3 factor^2, h, w) -> uint8 (B, S, S, 3); values outside [-1, 1] are clamped. Non-finite: ValueError."""
        planes = np.asarray(latents).astype(np.float32)
        channels = 3 * self.factor**2
        if planes.ndim != 4 or planes.shape[1] != channels:
            raise ValueError(f"{self.id} decodes latents of shape (B, {channels}, h, w), not {planes.shape}")
        if not np.isfinite(planes).all():
            raise ValueError("latents hold values that are not finite")
        count, _, height, width = planes.shape
        levels = np.rint((np.clip(planes, -1, 1) + np.float32(1)) * np.float32(127.5)).astype(np.uint8)
        blocks = levels.reshape(count, 3, self.factor, self.factor, height, width)
        return np.ascontiguousarray(
            blocks.transpose(0, 4, 2, 5, 3, 1).reshape(count, height * self.factor, width * self.factor, 3)
        )  # (B, S, S, 3)


CODECS = {"pixel-unshuffle": PixelUnshuffle}
"""Codec family -> constructor; the id's part after the colon is its whole-number argument."""


def load_codec(codec_id: str) -> LatentCodec:
    """The codec called `codec_id`, for example "pixel-unshuffle:4". Unknown ids: UserError listing those there are."""
    family, colon, argument = codec_id.partition(":")
    if family not in CODECS or (colon and not (argument.isascii() and argument.isdigit())):
        raise UserError(f"latents: unknown image codec {codec_id!r}; there are: pixel-unshuffle:<factor>")
    return CODECS[family](int(argument)) if colon else CODECS[family]()
