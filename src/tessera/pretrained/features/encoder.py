"""Networks that turn pictures (and captions) into features, behind one interface, for the scores of Table 1.

An encoder prepares each picture by itself (its own size, its own filter), so that one decoded picture feeds them all.
B: pictures; S: the encoder's side in pixels; D: width of the features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tessera.files import sha256_file
from tessera.images import to_uint8

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class PictureEncoder(Protocol):
    """What `evaluate quality` needs of a network."""

    @property
    def id(self) -> str:
        """Its name in protocols."""
        ...

    @property
    def sha256(self) -> str:
        """Of its weights."""
        ...

    @property
    def network(self) -> torch.nn.Module:
        """What `features` computes with."""
        ...

    @property
    def resizing(self) -> str:
        """How `prepare` brings a picture to the network's size, in words."""
        ...

    def prepare(self, picture: NDArray[Any]) -> Tensor:
        """(H, W, 3), bytes or floats 0..1, to the network's input (3, S, S)."""
        ...

    def features(self, batch: Tensor) -> NDArray[np.float32]:
        """Prepared pictures (B, 3, S, S) to float32 (B, D)."""
        ...


class InceptionEncoder:
    """Inception-v3 of 2015-12-05 for FID and KID: 2048 values of the last pool."""

    resizing = "TensorFlow 1 bilinear to 299, no antialias, corners not aligned"

    def __init__(self, network: Any, sha256: str, device: torch.device | str = "cpu"):
        self.id, self.sha256 = "inception-v3-compat", sha256
        self.network, self.device = network.to(device), torch.device(device)

    def prepare(self, picture: NDArray[Any]) -> Tensor:
        """float32 (3, 299, 299) in -1..1."""
        from tessera.pretrained.features.inception import resize

        return resize(torch.from_numpy(to_uint8(picture).copy()).permute(2, 0, 1)[None])[0]

    @torch.inference_mode()
    def features(self, batch: Tensor) -> NDArray[np.float32]:
        """float32 (B, 2048)."""
        return self.network(batch.to(self.device)).float().cpu().numpy()


def load_inception(name: str | Path, device: torch.device | str = "cpu") -> InceptionEncoder:
    """Of the published file of weights or its tensors in safetensors, or of a folder or Hub repository with one."""
    from tessera.pretrained.features.inception import load_inception as load

    network, file = load(name)
    return InceptionEncoder(network, sha256_file(file), device)


def middle_square(picture: Image.Image, side: int) -> Image.Image:
    """The short side bicubic to `side`, the middle square of it."""
    width, height = picture.size
    short = min(width, height)
    scaled = (side * width // short, side * height // short)
    if scaled != picture.size:
        picture = picture.resize(scaled, Image.Resampling.BICUBIC)
    left, top = (scaled[0] - side) // 2, (scaled[1] - side) // 2
    return picture.crop((left, top, left + side, top + side))


def square_first(picture: Image.Image, side: int) -> Image.Image:
    """The middle square, bicubic to `side`."""
    width, height = picture.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    square = picture.crop((left, top, left + short, top + short))
    return square.resize((side, side), Image.Resampling.BICUBIC)


def standardised(picture: Image.Image, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)
    return (pixels - column(mean)) / column(deviation)


def column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values)[:, None, None]
