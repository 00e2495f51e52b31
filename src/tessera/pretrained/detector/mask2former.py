"""The object detector of GenEval: Mask2Former with mmdetection's resizing and post-processing, restated on tensors.

N: queries; (H, W): the image; (h, w): the resized image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tessera.config import UserError
from tessera.hub import CONFIG_FILE, ModelFolder
from tessera.pretrained.detector.mmdetection import PUBLISHED, load_mmdetection
from tessera.pretrained.load import load_network
from tessera.pretrained.tensors import find_weights

SHORT_SIDE, LONG_SIDE = 800, 1333
"""Images are resized, keeping their ratio, until one side is this."""
MULTIPLE = 32
"""Then padded below and at the right to a multiple of this."""
PADDING = 128.0
"""Level of the padding, which is standardized with the image: mmdetection 2, which GenEval checks out."""
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
MAX_OBJECTS = 100
"""The best pairs of query and class of an image."""
_WEIGHTS = "model.safetensors"  # as transformers calls them
_CHUNK = 16  # masks enlarged at once


@dataclass(frozen=True)
class FoundObject:
    """An object found in an image."""

    class_index: int
    """Place in COCO's 80 classes."""
    score: float
    """Probability of the class times the mean sureness inside the mask, 0..1."""
    box: tuple[int, int, int, int]
    """left, top, right, bottom in pixels; right and bottom exclusive: the mask's last pixel + 1."""
    mask: NDArray[np.bool_]
    """(H, W)."""


class ObjectDetector:
    """Mask2Former as mmdetection runs it; model: transformers' Mask2FormerForUniversalSegmentation."""

    def __init__(self, model: Any, device: torch.device | str = "cpu"):
        self.model, self.device = model.to(device).eval(), torch.device(device)

    @torch.inference_mode()
    def detect(self, images: Sequence[NDArray[np.uint8]], min_score: float) -> list[list[FoundObject]]:
        """Find the objects of each image, uint8 (H, W, 3) of one size, with a score above `min_score`; best first."""
        resized = torch.stack([resize(image) for image in images])  # (B, 3, h, w)
        pixels = normalize(pad(resized)).to(self.device)
        out = self.model(pixel_values=pixels)
        sizes = {"padded": pixels.shape[2:], "resized": resized.shape[2:], "original": images[0].shape[:2]}
        return [
            postprocess(classes.float(), masks.float(), **sizes, min_score=min_score)
            for classes, masks in zip(out.class_queries_logits, out.masks_queries_logits)
        ]


def detector_weights(name: str | Path) -> Path:
    """Find the file of the detector's weights: mmdetection's checkpoint, or the model.safetensors of a folder.

    name: either of them, or a repository of the Hub that holds one. UserError if there is none.
    """
    return find_weights(name, "detector", PUBLISHED)


def load_detector(name: str | Path, device: torch.device | str = "cpu") -> ObjectDetector:
    """Load the detector of mmdetection's checkpoint, or of what transformers saved: see `detector_weights`.

    Of transformers' it is config.json and model.safetensors of a Mask2FormerForUniversalSegmentation with 80 classes.
    """
    weights = detector_weights(name)
    path = weights.parent
    if weights.name != _WEIGHTS or not (path / CONFIG_FILE).is_file():
        return ObjectDetector(load_mmdetection(weights), device)
    folder = ModelFolder(path, str(path), (CONFIG_FILE, _WEIGHTS))
    config = folder.config("detector", "model_type", "mask2former", "a Mask2Former of 80 classes")
    classes = len(config.get("id2label") or range(config.get("num_labels", 2)))  # 2 is transformers' default
    if classes != 80:
        raise UserError(f"detector: {path} holds a Mask2Former of {classes} classes, not of 80")
    name = "transformers.Mask2FormerForUniversalSegmentation"
    model = load_network(name, folder, "detector", may_be_missing=r".*\.swin\.layernorm\..*", may_be_unused="")
    return ObjectDetector(model, device)


def resized_size(height: int, width: int) -> tuple[int, int]:
    """Return (h, w): the short side 800 unless the long one would exceed 1333; halves are rounded up."""
    scale = min(LONG_SIDE / max(height, width), SHORT_SIDE / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: NDArray[np.uint8]) -> Tensor:
    """Resize uint8 (H, W, 3) to float32 (3, h, w), whole levels 0..255: bilinear by pixel centers, no antialias."""
    pixels = torch.tensor(image).permute(2, 0, 1)[None].float()  # (1, 3, H, W)
    size = resized_size(image.shape[0], image.shape[1])
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=False)[0].round()


def normalize(pixels: Tensor) -> Tensor:
    """Normalize the channels of (..., 3, h, w), levels 0..255."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def pad(pixels: Tensor) -> Tensor:
    """Append gray below and at the right, to multiples of 32; levels 0..255."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % MULTIPLE, 0, -height % MULTIPLE), value=PADDING)


def postprocess(
    classes: Tensor,
    masks: Tensor,
    *,
    padded: Sequence[int],
    resized: Sequence[int],
    original: Sequence[int],
    min_score: float,
) -> list[FoundObject]:
    """Find the objects of one image from its class logits (N, 81) and mask logits (N, h', w'); best first.

    The 100 best pairs of query and class; masks enlarged to the padded input, cut to the resized image, brought to
    the original's size, and above 0. A pair whose class alone is not sure enough is left out.
    """
    probabilities = classes.softmax(-1)[:, :-1]  # (N, 80); the last class is "none"
    scores, places = probabilities.flatten().topk(min(MAX_OBJECTS, probabilities.numel()))
    places = places[scores > min_score]
    scores = scores[scores > min_score]
    queries, labels = places // probabilities.shape[1], places % probabilities.shape[1]
    found = []
    for start in range(0, len(places), _CHUNK):
        part = slice(start, start + _CHUNK)
        logits = _enlarge(masks[queries[part]], padded)[:, :, : resized[0], : resized[1]]
        logits = _enlarge(logits[:, 0], original)[:, 0]  # (n, H, W)
        inside = logits > 0
        area = inside.sum((1, 2))
        sure = (logits.sigmoid() * inside).sum((1, 2)) / (area + 1e-6)
        for score, label, mask in zip((scores[part] * sure).tolist(), labels[part].tolist(), inside.cpu().numpy()):
            if score > min_score:
                found.append(FoundObject(label, score, box_of(mask), mask))
    return sorted(found, key=lambda item: -item.score)


def _enlarge(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (n, h, w) to (n, 1, *size)."""
    return F.interpolate(masks[:, None], size=tuple(size), mode="bilinear", align_corners=False)


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom around a mask (H, W), the last two exclusive; zeros for an empty one."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
