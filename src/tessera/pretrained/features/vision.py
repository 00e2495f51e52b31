"""Networks of transformers that Frechet distances and MIND are taken of, next to Inception: those of FDr6.

The features are those that FD-loss (Yang et al. 2026, arXiv 2604.28190) takes, and so is the resizing, but for sizes:
each network sees the side of its config.json, where that code feeds CLIP and DINOv2 256, SigLIP2 224.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tessera.hub import find_model
from tessera.images import to_uint8
from tessera.pretrained.features.encoder import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageEncoder,
    normalized,
    square_of,
)
from tessera.pretrained.load import load_network

CONVNEXTV2 = "facebook/convnextv2-base-22k-224"
MAE = "facebook/vit-mae-large"
SIGLIP2 = "google/siglip2-so400m-patch16-256"


class Vision(NamedTuple):
    """A class of transformers as a network of features."""

    cls: str
    model_type: str
    """As its config.json has it."""
    mean: Sequence[float]
    deviation: Sequence[float]
    pooled: Callable[[Any, Tensor], Tensor]
    """Called as pooled(network, images (B, 3, S, S)): the features (B, D)."""
    options: Mapping[str, Any] = MappingProxyType({})
    """Options of from_pretrained."""


def _states_without_mask(network: Any, images: Tensor) -> Tensor:
    patches = (images.shape[-1] // network.config.patch_size) ** 2
    noise = torch.arange(patches, device=images.device).expand(len(images), -1)  # all patches, in order
    return network(pixel_values=images, noise=noise).last_hidden_state


_HALF = (0.5, 0.5, 0.5)
KINDS = {
    "convnextv2": Vision(
        "transformers.ConvNextV2Model",
        "convnextv2",
        IMAGENET_MEAN,
        IMAGENET_STD,
        lambda network, images: network(pixel_values=images).last_hidden_state.mean((2, 3)),  # before its norm
    ),
    "mae": Vision(
        "transformers.ViTMAEModel",
        "vit_mae",
        IMAGENET_MEAN,
        IMAGENET_STD,
        lambda network, images: _states_without_mask(network, images)[:, 0],
        {"mask_ratio": 0.0},
    ),
    "siglip2": Vision(
        "transformers.SiglipVisionModel",
        "siglip",
        _HALF,
        _HALF,
        lambda network, images: network(pixel_values=images).pooler_output,  # by its attention
    ),
    "clip_vision": Vision(
        "transformers.CLIPVisionModel",
        "clip",
        CLIP_MEAN,
        CLIP_STD,
        lambda network, images: network(pixel_values=images).pooler_output,  # the class token, not projected
    ),
}
"""Name -> how its features are taken."""


class VisionEncoder(ImageEncoder):
    """A network of KINDS; images are squashed to its side."""

    def __init__(self, kind: Vision, network: Any, name: str, sha256: str, device: torch.device | str = "cpu"):
        super().__init__(network, name, sha256, device)
        self.kind, self.side = kind, int(network.config.image_size)
        self.resizing = f"Pillow bicubic to {self.side} x {self.side}"

    def prepare(self, image: NDArray[Any]) -> Tensor:
        """Return float32 (3, S, S), normalized by the kind's mean and deviation."""
        resized = Image.fromarray(to_uint8(image)).resize((self.side, self.side), Image.Resampling.BICUBIC)
        return normalized(resized, self.kind.mean, self.kind.deviation)

    def embed(self, batch: Tensor) -> Tensor:
        """Compute (B, D)."""
        return self.kind.pooled(self.network, batch)

    def patches(self, batch: Tensor) -> Tensor:
        """Compute (B, D, h, w): the last states, but for those of MAE's and CLIP's class token."""
        if self.kind.model_type == "vit_mae":
            return square_of(_states_without_mask(self.network, batch))
        states = self.network(pixel_values=batch).last_hidden_state
        return states if states.ndim == 4 else square_of(states)


def load_vision(name: str, device: torch.device | str = "cpu", *, kind: str) -> VisionEncoder:
    """Load a network of KINDS from a folder or the Hub; UserError if it is of another class."""
    cls, model_type, *_, options = found = KINDS[kind]
    model = find_model(name, ["*.safetensors"], kind)
    model.config(kind, "model_type", model_type, f"a {cls.partition('.')[2]}")
    return VisionEncoder(found, load_network(cls, model, kind, **options), model.id, model.sha256, device)
