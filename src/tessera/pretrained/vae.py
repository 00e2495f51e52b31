"""Image codecs: images to latents and back, behind one interface (paper appendix A uses Stable Diffusion's VAE).

A codec is named by a text id such as `pixel-unshuffle:4` or `stabilityai/sd-vae-ft-ema`, which is all that manifests
and exports need to store: `load_codec(codec.id)` gives an equal codec. `CODECS` is the table of the package's own.

B: images; S: their side in pixels; C, h, w: a latent's channels, height, width.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tessera.config import UserError
from tessera.pretrained.load import Pretrained
from tessera.pretrained.named import Kind, OwnPart, Part

if TYPE_CHECKING:
    import torch

VAES = {
    "AutoencoderKL": ("latent_channels", "block_out_channels"),
    "AutoencoderKLQwenImage": ("z_dim", "dim_mult"),
    "AutoencoderDC": ("latent_channels", "encoder_block_out_channels"),
    "AutoencoderTiny": ("latent_channels", "encoder_block_out_channels"),
}
"""Class of diffusers -> the fields of its config.json with the channels of a latent, and with an entry for each of its
resolutions."""
VAE_FILES = ("diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model.safetensors.index.json")
Normalization = tuple[tuple[float, ...], tuple[float, ...]]
AS_IT_IS: Normalization = ((0.0,), (1.0,))
SD_LATENT_SCALE = 0.18215
"""`scaling_factor` of an AutoencoderKL whose config.json has none, such as sd-vae-ft-ema's: diffusers' default."""
BATCH_PIXELS = 32 * 256 * 256
"""Pixels that go through a VAE at a time: 32 images of 256 px."""


class LatentCodec(Part, Protocol):
    """An image codec, as curation and generation use it. Its `normalization` says (shift, scale), with which
    (latents - shift) * scale has a standard deviation of about 1; None = `encode` measures them.

    A user's own class (`--latents my_parts.py:MyCodec`) has `latent_shape`, `encode`, `decode` and maybe `to`.
    """

    @property
    def normalization(self) -> Normalization | None:
        """(shift, scale), one number or one for each channel."""
        ...

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """Return (C, h, w) for square images of `size` pixels; UserError if that side cannot be coded."""
        ...

    def encode(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode uint8 (B, H, W, 3); return the posterior's mean and standard deviation, each float32 (B, C, h, w).

        A codec of your own gets squares, unless the set has several aspect ratios.
        """
        ...

    def decode(self, latents: ArrayLike) -> NDArray[np.uint8]:
        """Decode latents of any float type (B, C, h, w), an array or a CPU tensor, to uint8 (B, S, S, 3)."""
        ...


@dataclass(frozen=True)
class PixelUnshuffle:
    """A codec without a network: factor x factor pixels become one position with 3 factor^2 channels, invertibly.

    Pixel value v is stored as v / 127.5 - 1, so latents lie in [-1, 1], and float16 still tells all 256 values apart.
    Channels are ordered (color, row in the block, column in the block), as in torch's `pixel_unshuffle`.
    There is no noise in this code: the standard deviation is zero.
    """

    factor: int = 4
    """Side of a block in pixels, 1 to 64."""
    sha256 = None
    normalization = AS_IT_IS

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= 64:
            raise UserError(f"latents: pixel-unshuffle needs a factor from 1 to 64, not {self.factor}")

    @property
    def id(self) -> str:
        """`pixel-unshuffle:<factor>`."""
        return f"pixel-unshuffle:{self.factor}"

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        side = _latent_side(size, self)
        return 3 * self.factor**2, side, side

    def to(self, device: "torch.device | str") -> None:
        pass

    def encode(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode uint8 (B, H, W, 3); return (mean, std), float32 (B, 3 factor^2, H / factor, W / factor); std is 0."""
        _check_images(images)
        channels, high, wide = shape_of_latents(self, *images.shape[2:0:-1])
        blocks = images.reshape(-1, high, self.factor, wide, self.factor, 3)  # (B, h, f, w, f, 3)
        planes = blocks.transpose(0, 5, 2, 4, 1, 3).reshape(-1, channels, high, wide)  # (B, 3 f f, h, w)
        mean = planes.astype(np.float32) / np.float32(127.5) - np.float32(1)
        return mean, np.zeros_like(mean)

    def decode(self, latents: ArrayLike) -> NDArray[np.uint8]:
        """Decode (B, 3 factor^2, h, w) to uint8 (B, S, S, 3); values outside [-1, 1] are clamped."""
        planes = _check_latents(latents, 3 * self.factor**2, self.id)
        count, _, height, width = planes.shape
        levels = np.rint((np.clip(planes, -1, 1) + np.float32(1)) * np.float32(127.5)).astype(np.uint8)
        blocks = levels.reshape(count, 3, self.factor, self.factor, height, width)
        pixels = blocks.transpose(0, 4, 2, 5, 3, 1).reshape(count, height * self.factor, width * self.factor, 3)
        return np.ascontiguousarray(pixels)  # (B, S, S, 3)


class Autoencoder(Pretrained):
    """A pretrained VAE of one of diffusers' classes `VAES`, such as Stable Diffusion's. Frozen.

    Latents are the VAE's own, without the factor 0.18215 of Stable Diffusion: training normalizes them. AutoencoderDC
    and AutoencoderTiny have no posterior; their standard deviation is 0.
    Images of a batch do not see each other; kernels may round differently for another number of them.

    name: a repository, a folder, or the id of one (`tessera.hub`). device: where it computes, None = the best
    there is. dtype: in what, torch.float32 (None) or torch.bfloat16; the posterior's last step is in float32 always.
    load: read the weights now, not when the first image comes. batch_pixels: of images that go through it at a time.
    """

    def __init__(
        self,
        name: str,
        device: "str | torch.device | None" = None,
        dtype: "torch.dtype | None" = None,
        load: bool = True,
        batch_pixels: int = BATCH_PIXELS,
    ) -> None:
        super().__init__("diffusers.AutoencoderKL", name, VAE_FILES, "latents", "a VAE", device, dtype)
        self._batch_pixels = batch_pixels
        config = self.folder.config("latents", "_class_name", VAES, f"a VAE of diffusers: {', '.join(VAES)}")
        kind = config["_class_name"]
        self._cls, (channels, sizes) = f"diffusers.{kind}", VAES[kind]
        try:
            self._channels = int(config[channels])
            self.factor = 2 ** (len(config[sizes]) - 1)
            """Pixels per latent position, along each side."""
            self.normalization = _normalization(config, SD_LATENT_SCALE if kind == "AutoencoderKL" else None)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise UserError(f"latents: the config.json of {self.id} is not an {kind}'s ({error})") from error
        if load:
            _ = self.network

    @functools.cached_property
    def network(self) -> Any:
        """The network on its device; on CUDA in the layout that convolutions are fastest in."""
        import torch

        network = super().network
        return network.to(memory_format=torch.channels_last) if self.device.type == "cuda" else network

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        side = _latent_side(size, self)
        return self._channels, side, side

    def encode(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        import torch

        _check_images(images)
        shape = (len(images), *shape_of_latents(self, *images.shape[2:0:-1]))
        mean, std = np.empty(shape, np.float32), np.empty(shape, np.float32)
        with torch.inference_mode():
            for part in self._parts(len(images), max(images.shape[1:3])):
                pixels = torch.from_numpy(np.ascontiguousarray(images[part])).to(self.device)
                pixels = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1  # (b, 3, S, S)
                posterior, logvar = self._posterior(pixels.to(self.dtype))
                mean[part] = posterior.float().cpu().numpy()
                std[part] = 0 if logvar is None else torch.exp(0.5 * logvar.float()).cpu().numpy()
        return mean, std

    def decode(self, latents: ArrayLike) -> NDArray[np.uint8]:
        """Decode (B, C, h, w) to uint8 (B, S, S, 3), colors clamped to their range. Non-finite: ValueError."""
        import torch

        planes = _check_latents(latents, self._channels, self.id)
        count, _, height, width = planes.shape
        images = np.empty((count, height * self.factor, width * self.factor, 3), np.uint8)
        with torch.inference_mode():
            for part in self._parts(count, max(images.shape[1:3])):
                codes = torch.from_numpy(planes[part]).to(self.device, self.dtype)
                codes = codes[:, :, None] if self._is_video else codes
                pixels = self.network.decode(codes).sample.float()  # (b, 3, S, S), or (b, 3, 1, S, S)
                pixels = pixels[:, :, 0] if self._is_video else pixels
                levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
                images[part] = levels.permute(0, 2, 3, 1).cpu().numpy()
        return images

    @property
    def _is_video(self) -> bool:
        """True: the network takes images as videos of one frame, (b, 3, 1, S, S)."""
        return self._cls.endswith("QwenImage")

    def _posterior(self, pixels: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor | None]":
        """Return the mean and log variance (b, C, h, w) of latents; None = they have no variance."""
        coded = self.network.encode(pixels[:, :, None] if self._is_video else pixels)
        if "latent_dist" not in coded:  # AutoencoderDC says latent, AutoencoderTiny latents
            return coded[0], None
        found = coded.latent_dist
        return (found.mean[:, :, 0], found.logvar[:, :, 0]) if self._is_video else (found.mean, found.logvar)

    def _parts(self, count: int, side: int) -> list[slice]:
        step = max(self._batch_pixels // side**2, 1)
        return [slice(start, start + step) for start in range(0, count, step)]


def _normalization(config: Mapping[str, Any], usual: float | None) -> Normalization | None:
    """Return what a VAE's config.json says of its latents, whose scale is `usual` where it names none; None = nothing
    is known."""
    if config.get("latents_mean") is not None:
        means, stds = config["latents_mean"], config["latents_std"]
        return tuple(float(mean) for mean in means), tuple(1 / float(std) for std in stds)
    if (scale := config.get("scaling_factor", usual)) is None:
        return None
    return (float(config.get("shift_factor") or 0),), (float(scale),)


class OwnCodec(OwnPart):
    """A codec of a user's own file; results are checked against `LatentCodec`."""

    normalization = None

    def __init__(self, spec: str, device: "str | torch.device | None" = None) -> None:
        super().__init__(spec, "image codec", ("latent_shape", "encode", "decode"), device)

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        with self.blaming():
            channels, height, width = self.part.latent_shape(size)
        return int(channels), int(height), int(width)

    def encode(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with self.blaming():
            mean, std = (np.asarray(part, np.float32) for part in self.part.encode(images))
            shape = (len(images), *shape_of_latents(self, *images.shape[2:0:-1]))
            if mean.shape != shape or std.shape != shape:
                raise UserError(f"encode() must return (mean, std) of shape {shape}, not {mean.shape}, {std.shape}")
        return mean, std

    def decode(self, latents: ArrayLike) -> NDArray[np.uint8]:
        with self.blaming():
            images = np.asarray(self.part.decode(latents))
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
                raise UserError(f"decode() must return uint8 (B, S, S, 3), not {images.dtype} {images.shape}")
        return images


def shape_of_latents(codec: LatentCodec, width: int, height: int) -> tuple[int, int, int]:
    """Return (C, h, w) for images of `width` x `height` pixels; UserError if a side cannot be coded."""
    channels, rows, _ = codec.latent_shape(height)
    return channels, rows, codec.latent_shape(width)[2]


def _latent_side(size: int, codec: PixelUnshuffle | Autoencoder) -> int:
    if size < 1 or size % codec.factor:
        raise UserError(f"latents: {codec.id} needs an image side that is a multiple of {codec.factor}, not {size}")
    return size // codec.factor


def _check_images(images: NDArray[np.uint8]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must be uint8 (B, H, W, 3), not {images.dtype} {images.shape}")


def _check_latents(latents: ArrayLike, channels: int, codec_id: str) -> NDArray[np.float32]:
    """Return latents as float32 (B, channels, h, w); ValueError for another shape, or values that are not finite."""
    planes = np.asarray(latents).astype(np.float32)
    if planes.ndim != 4 or planes.shape[1] != channels:
        raise ValueError(f"{codec_id} decodes latents of shape (B, {channels}, h, w), not {planes.shape}")
    if not np.isfinite(planes).all():
        raise ValueError("latents hold values that are not finite")
    return planes


CODECS = Kind[LatentCodec](
    "latents",
    "image codec",
    {"pixel-unshuffle": PixelUnshuffle},
    Autoencoder,
    OwnCodec,
    known="pixel-unshuffle:<factor>, a Hugging Face repository such as stabilityai/sd-vae-ft-ema, the folder of a"
    " VAE of diffusers",
)
"""Families, by the first part of an id, and the other ways to name a codec; one entry adds a family."""
load_codec = CODECS.load
