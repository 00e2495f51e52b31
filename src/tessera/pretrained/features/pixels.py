"""Features without a network: small images compared by their pixels, as toys of 32 px can be."""

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from tessera.images import to_uint8
from tessera.pretrained.features.encoder import ImageEncoder, square_first

SIDE = 16
FAINT = 0.5
"""Length of an image's contrast, of 16 x 16 pixels with a deviation of 0.018, below which it is like a flat one."""


class Pixels(ImageEncoder):
    """The pixels of an image at 16 x 16 as its features (769,), of length 1: blind to detail, brightness and contrast.

    Contrast is divided out since a faint or blurred image lies near the mean of all images, and so nearer to each than
    they do to one another, which makes no copy of it. The last feature tells faint images from the others.
    """

    resizing = f"the middle square by Pillow bicubic to {SIDE} x {SIDE}, less each channel's mean, over the contrast"

    def __init__(self) -> None:
        super().__init__(nn.Identity(), f"pixels:{SIDE}", hashlib.sha256(self.resizing.encode()).hexdigest(), "cpu")

    def prepare(self, image: NDArray[Any]) -> Tensor:
        """Return float32 (3, 16, 16), values 0..1."""
        small = square_first(Image.fromarray(to_uint8(image)), SIDE)
        return torch.from_numpy(np.array(small, dtype=np.float32) / 255).permute(2, 0, 1)

    def embed(self, batch: Tensor) -> Tensor:
        """Return (B, 769) of (B, 3, 16, 16)."""
        contrast = (batch - batch.mean((2, 3), keepdim=True)).flatten(1)
        return normalize(torch.cat([contrast, contrast.new_full((len(batch), 1), FAINT)], 1))
