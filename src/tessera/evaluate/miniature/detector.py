"""A small detector: finds objects with class, color, score and box in an image. Trained on rendered images only.

A convolutional network at 32 px: every cell of a 16 x 16 grid says which class of object it lies in the middle of, if
any, and which color, where the center is and how wide the object is. Neighboring cells of one object are then merged.
`scripts/train_detector.py` makes the weights of the miniature's shapes, which ship in `tessera/assets`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from tessera.evaluate.geneval.verdict import MAX_DETECTIONS, Detection
from tessera.evaluate.miniature.color_objects import shrink
from tessera.evaluate.miniature.shipped import detector_weights
from tessera.miniature import COLORS, SHAPES

GRID = 16
"""Cells of the output along each side."""
MIN_SCORE = 0.05
"""Detections below this are not reported; the judge's own thresholds are higher."""


class Detector(nn.Module):
    """Images (B, 3, 32, 32) in [-1, 1] -> (class logits (B, C + 1, 16, 16), color logits (B, K, 16, 16), geometry).

    The last class is "no object". Geometry (B, 3, 16, 16): the object's center minus the cell's center, in cells (x,
    y), and the logarithm of its diameter over half the frame. classes, colors: the names of C classes and K colors.
    """

    def __init__(self, classes: Sequence[str] = SHAPES, colors: Sequence[str] = tuple(COLORS), width: int = 16):
        super().__init__()
        self.classes, self.colors = tuple(classes), tuple(colors)
        w = width
        self.stem = nn.Conv2d(3, w, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(w)
        self.down16 = _unit(w, 2 * w, stride=2)  # 16 x 16
        self.fine = _unit(2 * w, 3 * w)
        self.down8 = _unit(3 * w, 4 * w, stride=2)  # 8 x 8
        self.coarse = nn.ModuleList(_unit(4 * w, 4 * w) for _ in range(3))
        self.up = nn.Conv2d(4 * w, 3 * w, 1)
        self.joined = _unit(3 * w, 3 * w)
        self.head = nn.Conv2d(3 * w, len(classes) + 1 + len(colors) + 3, 1)

    def features(self, images: Tensor) -> Tensor:
        """Compute the last common layer (B, 3 width, 16, 16)."""
        x = F.relu(self.stem_norm(self.stem(images)))  # (B, w, 32, 32)
        fine = self.fine(self.down16(x))  # (B, 3w, 16, 16)
        x = self.down8(fine)  # (B, 4w, 8, 8)
        for layer in self.coarse:
            x = x + layer(x)
        return self.joined(fine + F.interpolate(self.up(x), scale_factor=2, mode="nearest"))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.head(self.features(images)).split([len(self.classes) + 1, len(self.colors), 3], dim=1)


def _unit(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def load_detector() -> Detector:
    """Return the shipped network, in eval mode on the CPU."""
    return with_weights(Detector(), load(detector_weights()))


def with_weights(network: Detector, weights: Mapping[str, Tensor]) -> Detector:
    """Return the network with the weights of a file, in eval mode."""
    network.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    return network.eval()


def to_input(images: np.ndarray) -> Tensor:
    """Return uint8 (B, S, S, 3) -> float (B, 3, 32, 32) in [-1, 1]: what the network sees."""
    return torch.from_numpy(shrink(images)).permute(0, 3, 1, 2).float() / 127.5 - 1  # (B, 3, 32, 32)


def detect(images: np.ndarray, network: Detector | None = None, batch_size: int = 64) -> list[list[Detection]]:
    """Return the objects in each image of uint8 (B, S, S, 3), best score first; `network`: None loads the shipped one.

    At most 16 an image; boxes in the image's own pixels, the square of the object's diameter around its center.
    """
    network = network or load_detector()
    found: list[list[Detection]] = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            chunk = images[start : start + batch_size]
            names = {"classes": network.classes, "colors": network.colors}
            found += decode(*network(to_input(chunk)), size=chunk.shape[1], **names)
    return found


def decode(
    shape: Tensor,
    color: Tensor,
    geometry: Tensor,
    size: int,
    classes: Sequence[str] = SHAPES,
    colors: Sequence[str] = tuple(COLORS),
) -> list[list[Detection]]:
    """Return the network's output as detections in pixels of an image of side `size`.

    The cell most sure of a class becomes a detection and silences every cell whose center lies inside the same object
    (nearer than 0.35 of the larger diameter), again and again.
    """
    batch = shape.shape[0]
    best = shape.softmax(1)[:, : len(classes)].flatten(2)  # (B, C, N)
    score, label = best.max(1)  # (B, N): one place holds one object
    hue = color.flatten(2).argmax(1)  # (B, N)
    axis = torch.arange(GRID) + 0.5
    x = (axis[None, None, :] + geometry[:, 0]).flatten(1) / GRID  # (B, N), fractions of the frame
    y = (axis[None, :, None] + geometry[:, 1]).flatten(1) / GRID
    diameter = (geometry[:, 2].exp() / 2).flatten(1)
    rows = torch.arange(batch)
    left = score.clone()
    found: list[list[Detection]] = [[] for _ in range(batch)]
    for _ in range(MAX_DETECTIONS):
        top, cell = left.max(1)
        if not bool((top >= MIN_SCORE).any()):
            break
        cx, cy, d = x[rows, cell], y[rows, cell], diameter[rows, cell]
        for row in torch.nonzero(top >= MIN_SCORE).flatten().tolist():
            middle_x, middle_y, half = float(cx[row]) * size, float(cy[row]) * size, float(d[row]) * size / 2
            box = (middle_x - half, middle_y - half, middle_x + half, middle_y + half)
            name, its_color = classes[int(label[row, cell[row]])], colors[int(hue[row, cell[row]])]
            found[row].append(Detection(name, float(top[row]), box, its_color))
        near = torch.hypot(x - cx[:, None], y - cy[:, None]) < 0.35 * torch.maximum(diameter, d[:, None])
        near[rows, cell] = True
        left = left.masked_fill(near, 0.0)
    return found
