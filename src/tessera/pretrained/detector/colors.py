"""The colors of found objects by CLIP ViT-L/14, as GenEval asks for them (Ghosh et al. 2023, section 3.2)."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tessera.pretrained.features.clip import find_clip, load_parts
from tessera.pretrained.features.encoder import CLIP_MEAN, CLIP_STD, middle_square, normalized, to_tensor

TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
GRAY = (0x99, 0x99, 0x99)
"""The color around an object, outside its mask: #999."""


class ClipColors:
    """A namer of the colors of objects, one of `colors`; model, tokenizer: transformers' CLIPModel and its own."""

    def __init__(self, model: Any, tokenizer: Any, colors: Sequence[str], device: torch.device | str = "cpu"):
        self.model, self.tokenizer = model, tokenizer
        self.colors = tuple(colors)
        self.size: int = model.config.vision_config.image_size
        self.device = torch.device(device)
        self._classifier = functools.cache(self._make_classifier)

    @torch.inference_mode()
    def name(
        self,
        image: NDArray[np.uint8],
        objects: Sequence[tuple[tuple[int, int, int, int], NDArray[np.bool_]]],
        class_name: str,
    ) -> list[str]:
        """Return the color of each of `objects`, (box, mask) of one class in `image`, uint8 (H, W, 3)."""
        if not objects:
            return []
        crops = [middle_square(cut_out(image, box, mask), self.size, as_torchvision=True) for box, mask in objects]
        pixels = torch.stack([normalized(crop, CLIP_MEAN, CLIP_STD) for crop in crops]).to(self.device)
        features = _unit(self.model.get_image_features(pixel_values=pixels))  # (objects, d)
        best = (features @ self._classifier(class_name).T).argmax(1)
        return [self.colors[i] for i in best.tolist()]

    def _make_classifier(self, class_name: str) -> Tensor:
        """Return (colors, d): the mean direction of each color's three sentences."""
        texts = [template.format(color=color, name=class_name) for color in self.colors for template in TEMPLATES]
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
        features = _unit(self.model.get_text_features(**tokens))
        return _unit(features.view(len(self.colors), len(TEMPLATES), -1).mean(1))


def cut_out(image: NDArray[np.uint8], box: tuple[int, int, int, int], mask: NDArray[np.bool_]) -> Image.Image:
    """Return the part of `image` (H, W, 3) inside `box`, #999 outside `mask` (H, W)."""
    left, top, right, bottom = box
    inside = mask[top:bottom, left:right, None]
    return Image.fromarray(np.where(inside, image[top:bottom, left:right], np.array(GRAY, np.uint8)))


def load_colors(model: str, colors: Sequence[str], device: torch.device | str = "cpu") -> ClipColors:
    """Load CLIP of a folder or of the Hub (safetensors); UserError if it cannot be loaded."""
    return ClipColors(*load_parts(find_clip(model), device), colors, device)


def _unit(output: Any) -> Tensor:
    features = to_tensor(output)
    return features / features.norm(dim=-1, keepdim=True)
