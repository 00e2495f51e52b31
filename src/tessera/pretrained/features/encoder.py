"""Networks that turn images into features for the scores of Table 1: their base class and what they share.

An encoder prepares each image by itself (its own size, its own filter), so that one decoded image feeds them all.
B: images; S: the encoder's side in pixels; D: width of the features.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tessera.config import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ImageEncoder:
    """A frozen network on its device. Classes of it say `resizing`, `prepare` and `embed`.

    id: its name in protocols. sha256: the hash of its weights.
    """

    resizing: str
    """The way in which `prepare` brings an image to the network's size, in words."""
    scale = 100.0
    """The score of an image and its caption over the cosine of their features."""

    def __init__(self, network: Any, name: str, sha256: str, device: torch.device | str):
        self.id, self.sha256 = name, sha256
        self.network, self.device = network.to(device).eval().requires_grad_(False), torch.device(device)

    def prepare(self, image: NDArray[Any]) -> Tensor:
        """Bring (H, W, 3), bytes or floats 0..1, to the network's input (3, S, S)."""
        raise NotImplementedError

    def embed(self, batch: Tensor) -> Any:
        """Compute (B, D) of prepared images on the device: a tensor, or transformers' output with one."""
        raise NotImplementedError

    def patches(self, batch: Tensor) -> Tensor:
        """Compute (B, D, h, w), the features of the patches of prepared images. UserError for a network that has
        none."""
        raise UserError(
            f"features: {self.id} gives none of patches; use dinov2, clip_vision, convnextv2, mae or siglip2"
        )

    @torch.inference_mode()
    def features(self, batch: Tensor) -> NDArray[np.float32]:
        """Turn prepared images (B, 3, S, S) into float32 (B, D)."""
        return to_tensor(self.embed(batch.to(self.device))).float().cpu().numpy()


class CaptionFeatures(NamedTuple):
    """Embedded captions."""

    features: NDArray[np.float32]
    """(N, D)."""
    truncated: int
    """Captions longer than the encoder takes."""


def square_of(tokens: Tensor) -> Tensor:
    """Return tokens (B, N, D) of a square of patches, after any others in front of them, as (B, D, h, w)."""
    side = math.isqrt(tokens.shape[1])
    return tokens[:, tokens.shape[1] - side**2 :].transpose(1, 2).unflatten(2, (side, side))


def to_tensor(output: Any) -> Tensor:
    """Return the features of a tensor, or of the output that transformers' get_*_features give."""
    return output if isinstance(output, Tensor) else output.pooler_output


def middle_square(image: Image.Image, side: int, as_torchvision: bool = False) -> Image.Image:
    """Bring the short side to `side`, bicubic, and cut the middle square out.

    as_torchvision: an odd margin is halved to the even number, as torchvision's CenterCrop does, not downwards.
    """
    width, height = image.size
    short = min(width, height)
    scaled = (side * width // short, side * height // short)
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = ((round(m / 2) if as_torchvision else m // 2) for m in (scaled[0] - side, scaled[1] - side))
    return image.crop((left, top, left + side, top + side))


def square_first(image: Image.Image, side: int) -> Image.Image:
    """Cut the middle square out and bring it to `side`, bicubic."""
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    return image.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.BICUBIC)


def normalized(image: Image.Image, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """Return float32 (3, H, W): values 0..1 less the channel's mean, over its deviation."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
