"""The colours of found objects by CLIP ViT-L/14, as GenEval asks for them (Ghosh et al. 2023, section 3.2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tessera.pretrained.features.clip import find_clip, load_parts

DEFAULT = "openai/clip-vit-large-patch14"
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
GRAY = (0x99, 0x99, 0x99)
"""What surrounds an object outside its mask: #999."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipColors:
    """Names the colour of objects, one of `colors`.

    model, tokenizer: transformers' CLIPModel and its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any, colors: Sequence[str], device: torch.device | str = "cpu"):
        self.model = model.to(device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.colors = tuple(colors)
        self.size: int = model.config.vision_config.image_size
        self.device = torch.device(device)
        self._classifiers: dict[str, Tensor] = {}

    @torch.inference_mode()
    def name(
        self,
        image: NDArray[np.uint8],
        objects: Sequence[tuple[tuple[int, int, int, int], NDArray[np.bool_]]],
        class_name: str,
    ) -> list[str]:
        """The colour of each of `objects`, (box, mask) of one class in `image`, uint8 (H, W, 3)."""
        if not objects:
            return []
        crops = torch.stack([self._pixels(cut_out(image, box, mask)) for box, mask in objects]).to(self.device)
        features = _unit(_pooled(self.model.get_image_features(pixel_values=crops)))  # (objects, d)
        best = (features @ self._classifier(class_name).T).argmax(1)
        return [self.colors[i] for i in best.tolist()]

    def _classifier(self, class_name: str) -> Tensor:
        """(colours, d): the mean direction of each colour's three sentences."""
        if class_name not in self._classifiers:
            texts = [template.format(color=color, name=class_name) for color in self.colors for template in TEMPLATES]
            tokens = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
            features = _unit(_pooled(self.model.get_text_features(**tokens)))
            self._classifiers[class_name] = _unit(features.view(len(self.colors), len(TEMPLATES), -1).mean(1))
        return self._classifiers[class_name]

    def _pixels(self, picture: Image.Image) -> Tensor:
        """(3, S, S): the short side bicubic to S, the middle cut out, standardised."""
        width, height = picture.size
        short = min(width, height)
        scaled = (max(self.size, int(self.size * width / short)), max(self.size, int(self.size * height / short)))
        picture = picture.resize(scaled, Image.Resampling.BICUBIC)
        left, top = round((scaled[0] - self.size) / 2), round((scaled[1] - self.size) / 2)
        pixels = np.asarray(picture.crop((left, top, left + self.size, top + self.size)), dtype=np.float32) / 255
        return torch.from_numpy((pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)).permute(2, 0, 1)


def cut_out(image: NDArray[np.uint8], box: tuple[int, int, int, int], mask: NDArray[np.bool_]) -> Image.Image:
    """The part of `image` (H, W, 3) inside `box`, #999 where `mask` (H, W) is not."""
    left, top, right, bottom = box
    inside = mask[top:bottom, left:right, None]
    return Image.fromarray(np.where(inside, image[top:bottom, left:right], np.array(GRAY, np.uint8)))


def load_colors(model: str, colors: Sequence[str], device: torch.device | str = "cpu") -> ClipColors:
    """CLIP of a folder or of the Hub (safetensors); UserError if it cannot be loaded."""
    return ClipColors(*load_parts(find_clip(model)), colors, device)


def _pooled(output: Any) -> Tensor:
    """The embedding that transformers' get_*_features give, as a tensor or within an output."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _unit(features: Tensor) -> Tensor:
    return features / features.norm(dim=-1, keepdim=True)
