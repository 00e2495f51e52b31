"""Image codecs: images to latents and back, behind one interface (paper appendix A uses Stable Diffusion's VAE).

A codec is named by a text id such as `pixel-unshuffle:4` or `stabilityai/sd-vae-ft-ema`, which is all that manifests
and exports need to store: `load_codec(codec.id)` gives an equal codec. `CODECS` is the table of the package's own.

B: images; S: their side in pixels; C, h, w: a latent's channels, height, width.
"""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tessera.config import UserError
from tessera.pretrained.load import Pretrained
from tessera.pretrained.named import Kind, OwnPart, Part

if TYPE_CHECKING:
    import torch

VAE_FILES = ("diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model.safetensors.index.json")
BATCH_PIXELS = 32 * 256 * 256
"""Pixels that go through a VAE at a time: 32 images of 256 px."""


class LatentCodec(Part, Protocol):
    """An image codec, as curation and generation use it.

    A user's own class (`--latents my_parts.py:MyCodec`) has `latent_shape`, `encode`, `decode` and maybe `to`.
    """

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """Return (C, h, w) for images with a side of `size` pixels; UserError if that side cannot be coded."""
        ...

    def encode(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode uint8 (B, S, S, 3); return the posterior's mean and standard deviation, each float32 (B, C, h, w)."""
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
        """Encode uint8 (B, S, S, 3); return (mean, std), float32 (B, 3 factor^2, S / factor, S / factor); std is 0."""
        _check_images(images)
        channels, side, _ = self.latent_shape(images.shape[1])
        blocks = images.reshape(-1, side, self.factor, side, self.factor, 3)  # (B, h, f, w, f, 3)
        planes = blocks.transpose(0, 5, 2, 4, 1, 3).reshape(-1, channels, side, side)  # (B, 3 f f, h, w)
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
    """A pretrained VAE of diffusers' class AutoencoderKL, such as Stable Diffusion's. Frozen.

    Latents are the VAE's own, without the factor 0.18215 of Stable Diffusion: training normalizes them.
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
        config = self.folder.config("latents", "_class_name", "AutoencoderKL", "an AutoencoderKL of diffusers")
        try:
            self._channels = int(config["latent_channels"])
            self.factor = 2 ** (len(config["block_out_channels"]) - 1)
            """Pixels per latent position, along each side."""
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"latents: the config.json of {self.id} is not an AutoencoderKL's ({error})") from error
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
        shape = (len(images), *self.latent_shape(images.shape[1]))
        mean, std = np.empty(shape, np.float32), np.empty(shape, np.float32)
        with torch.inference_mode():
            for part in self._parts(len(images), images.shape[1]):
                pixels = torch.from_numpy(np.ascontiguousarray(images[part])).to(self.device)
                pixels = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1  # (b, 3, S, S)
                posterior = self.network.encode(pixels.to(self.dtype)).latent_dist
                mean[part] = posterior.mean.float().cpu().numpy()
                std[part] = torch.exp(0.5 * posterior.logvar.float()).cpu().numpy()
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
                pixels = self.network.decode(codes).sample.float()  # (b, 3, S, S)
                levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
                images[part] = levels.permute(0, 2, 3, 1).cpu().numpy()
        return images

    def _parts(self, count: int, side: int) -> list[slice]:
        step = max(self._batch_pixels // side**2, 1)
        return [slice(start, start + step) for start in range(0, count, step)]


class OwnCodec(OwnPart):
    """A codec of a user's own file; results are checked against `LatentCodec`."""

    def __init__(self, spec: str, device: "str | torch.device | None" = None) -> None:
        super().__init__(spec, "image codec", ("latent_shape", "encode", "decode"), device)

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        with self.blaming():
            channels, height, width = self.part.latent_shape(size)
        return int(channels), int(height), int(width)

    def encode(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with self.blaming():
            mean, std = (np.asarray(part, np.float32) for part in self.part.encode(images))
            shape = (len(images), *map(int, self.part.latent_shape(images.shape[1])))
            if mean.shape != shape or std.shape != shape:
                raise UserError(f"encode() must return (mean, std) of shape {shape}, not {mean.shape}, {std.shape}")
        return mean, std

    def decode(self, latents: ArrayLike) -> NDArray[np.uint8]:
        with self.blaming():
            images = np.asarray(self.part.decode(latents))
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
                raise UserError(f"decode() must return uint8 (B, S, S, 3), not {images.dtype} {images.shape}")
        return images


def _latent_side(size: int, codec: PixelUnshuffle | Autoencoder) -> int:
    if size < 1 or size % codec.factor:
        raise UserError(f"latents: {codec.id} needs an image side that is a multiple of {codec.factor}, not {size}")
    return size // codec.factor


def _check_images(images: NDArray[np.uint8]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise ValueError(f"images must be uint8 (B, S, S, 3), not {images.dtype} {images.shape}")


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
    known="pixel-unshuffle:<factor>, a Hugging Face repository such as stabilityai/sd-vae-ft-ema, the folder of an"
    " AutoencoderKL",
)
"""Families, by the first part of an id, and the other ways to name a codec; one entry adds a family."""
load_codec = CODECS.load
