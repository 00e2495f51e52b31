"""The names of drawings, by their outlines: oriented gradients (Dalal and Triggs, 2005) of what lies in a box, compared
with those of each drawing that was learned by a linear discriminant analysis (Hariharan et al., 2012), in closed form.

What differs between scenes of one drawing, such as place, size, light and ground, counts little in the comparison, and
what differs between drawings counts much, so what was learned of some artists holds for others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_SIDE, _WIDE, _BINS = 24, 1.2, 8  # pixels of a crop, its width over the drawing's, orientations of edges
_SHRINK = 0.3  # part of the mean variance that is added to each feature's
_KERNEL = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0])) / 81
_FILLED = 0.06  # weight of what differs from the ground, next to that of the edges


@dataclass(frozen=True)
class Namer:
    """Templates of drawings, by which others are named."""

    weights: Tensor
    """(T, D): of the features of `features`."""
    biases: Tensor
    """(T,), with the logarithm of how often the name is expected."""
    labels: Tensor
    """(T,): the number of each one's name."""
    offsets: Tensor
    """(D + 1, 3): by which features, and 1, give how far off a box is (`moved`)."""

    def refined(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Return boxes (B, 3) in images (B, 3, H, W) that hold their drawings better."""
        return moved(boxes, -(_with_one(features(crop(images, boxes))) @ self.offsets))

    def shares(self, crops: Tensor, known: int) -> Tensor:
        """Return how likely crops (B, 3, S, S) are of each of the first `known` names, (B, known); the rest is that of
        all other names. A mirrored drawing is the same."""
        logits = torch.stack([features(x) @ self.weights.T + self.biases for x in (crops, crops.flip(3))])  # (2, B, T)
        likely = logits.amax(0).softmax(1)
        return torch.zeros(len(crops), known + 1).index_add_(1, self.labels.clamp(max=known), likely)[:, :known]


def crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Return the squares around drawings: (B, 3, S, S) of images (B, 3, H, W). boxes: (B, 3), x and y of the center and
    the diameter as fractions of the frame."""
    place = torch.zeros(len(images), 2, 3)
    place[:, 0, 0] = place[:, 1, 1] = boxes[:, 2] * _WIDE
    place[:, :, 2] = boxes[:, :2] * 2 - 1
    grid = F.affine_grid(place, [len(images), 3, _SIDE, _SIDE], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def moved(boxes: Tensor, off: Tensor) -> Tensor:
    """Return boxes (B, 3) moved by `off` (B, 3): x and y in diameters, and the logarithm of how much wider."""
    return torch.cat([boxes[:, :2] + off[:, :2] * boxes[:, 2:], boxes[:, 2:] * off[:, 2:].exp()], 1)


def fit_offsets(found: Tensor, off: Tensor) -> Tensor:
    """Return `Namer.offsets` by ridge regression: of features (N, D) of boxes that are `off` (N, 3)."""
    x = _with_one(found)
    square = x.T @ x / len(x)
    return torch.linalg.solve(square + 1e-4 * square.trace() / len(square) * torch.eye(len(square)), x.T @ off / len(x))


def _with_one(found: Tensor) -> Tensor:
    return torch.cat([found, torch.ones(len(found), 1)], 1)


def features(crops: Tensor) -> Tensor:
    """Return the features (B, D) of crops (B, 3, S, S) in any range: shares of edges of 8 orientations in 8 x 8 cells,
    and how far each of 12 x 12 cells is from the color of the border."""
    wide = F.pad(crops, (1, 1, 1, 1), mode="replicate")
    across, down = wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2], wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]
    strength, channel = (across.square() + down.square()).max(1, keepdim=True)
    across, down = across.gather(1, channel), down.gather(1, channel)
    angle = torch.atan2(down, across) / np.pi * _BINS % _BINS
    bins = torch.arange(_BINS).view(1, _BINS, 1, 1)
    part = (1 - ((angle - bins + _BINS / 2) % _BINS - _BINS / 2).abs()).clamp(min=0) * strength.sqrt()
    edges = F.conv2d(part, _KERNEL.expand(_BINS, 1, 5, 5), stride=3, padding=1, groups=_BINS)
    edges = edges.clamp(min=0).sqrt().flatten(1)
    edges = edges / (edges.norm(dim=1, keepdim=True) + 1e-3)
    border = torch.cat([crops[:, :, 0], crops[:, :, -1], crops[..., 0], crops[..., -1]], 2).median(2).values
    far = (crops - border[:, :, None, None]).abs().amax(1, keepdim=True)
    far = far / (far.amax((1, 2, 3), keepdim=True) + 0.1)
    return torch.cat([edges, F.avg_pool2d(far, 2).flatten(1) * _FILLED], 1)


def fit_namer(found: Tensor, labels: Tensor, drawings: Tensor, prior: Sequence[float], offsets: Tensor) -> Namer:
    """Return a namer of features (N, D). labels: (N,), the number of the name of each; drawings: (N,), the number of
    what is one template, a view of a drawing by one artist; prior: how often each name is expected; offsets: of
    `fit_offsets`."""
    number, template = torch.unique(drawings, return_inverse=True)
    count = torch.bincount(template).float()
    means = torch.zeros(len(number), found.shape[1]).index_add_(0, template, found) / count[:, None]
    apart = found - means[template]
    spread = apart.T @ apart / len(found)
    spread += _SHRINK * spread.trace() / len(spread) * torch.eye(len(spread))
    name = torch.zeros(len(number), dtype=torch.long).scatter_(0, template, labels)
    weights = torch.linalg.solve(spread, means.T).T
    expected = torch.tensor(prior).log()[name] - torch.bincount(name)[name].log()
    return Namer(weights, expected - (weights * means).sum(1) / 2, name, offsets)
