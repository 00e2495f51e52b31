"""Inception-v3 as FID means it: the network of 2015-12-05, with its own pooling, and TensorFlow 1's resize.

It is not today's Inception-v3: average pools leave the padding out of the mean, the last block has a max pool in place
of an average pool, and the classifier has 1008 outputs. Weights: `pt_inception-2015-12-05-6726825d.pth`, a state dict,
or the same names in safetensors. B: pictures; every layer is (B, C, H, W).
"""

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessera.config import UserError
from tessera.pretrained.load import find_weights, load_tensors

WIDTH = 2048
SIDE = 299
FILE = "pt_inception-2015-12-05-6726825d.pth"
_EPS = 1e-3

# name: (in, out, kernel height, kernel width, stride, padding height, padding width)
_STEM = {
    "Conv2d_1a_3x3": (3, 32, 3, 3, 2, 0, 0),
    "Conv2d_2a_3x3": (32, 32, 3, 3, 1, 0, 0),
    "Conv2d_2b_3x3": (32, 64, 3, 3, 1, 1, 1),
    "Conv2d_3b_1x1": (64, 80, 1, 1, 1, 0, 0),
    "Conv2d_4a_3x3": (80, 192, 3, 3, 1, 0, 0),
}
_Convolutions = dict[str, tuple[int, int, int, int, int, int, int]]


def _a(c: int, pool: int) -> _Convolutions:
    return {
        "branch1x1": (c, 64, 1, 1, 1, 0, 0),
        "branch5x5_1": (c, 48, 1, 1, 1, 0, 0),
        "branch5x5_2": (48, 64, 5, 5, 1, 2, 2),
        "branch3x3dbl_1": (c, 64, 1, 1, 1, 0, 0),
        "branch3x3dbl_2": (64, 96, 3, 3, 1, 1, 1),
        "branch3x3dbl_3": (96, 96, 3, 3, 1, 1, 1),
        "branch_pool": (c, pool, 1, 1, 1, 0, 0),
    }


def _b(c: int) -> _Convolutions:
    return {
        "branch3x3": (c, 384, 3, 3, 2, 0, 0),
        "branch3x3dbl_1": (c, 64, 1, 1, 1, 0, 0),
        "branch3x3dbl_2": (64, 96, 3, 3, 1, 1, 1),
        "branch3x3dbl_3": (96, 96, 3, 3, 2, 0, 0),
    }


def _c(c: int, w: int) -> _Convolutions:
    return {
        "branch1x1": (c, 192, 1, 1, 1, 0, 0),
        "branch7x7_1": (c, w, 1, 1, 1, 0, 0),
        "branch7x7_2": (w, w, 1, 7, 1, 0, 3),
        "branch7x7_3": (w, 192, 7, 1, 1, 3, 0),
        "branch7x7dbl_1": (c, w, 1, 1, 1, 0, 0),
        "branch7x7dbl_2": (w, w, 7, 1, 1, 3, 0),
        "branch7x7dbl_3": (w, w, 1, 7, 1, 0, 3),
        "branch7x7dbl_4": (w, w, 7, 1, 1, 3, 0),
        "branch7x7dbl_5": (w, 192, 1, 7, 1, 0, 3),
        "branch_pool": (c, 192, 1, 1, 1, 0, 0),
    }


def _d(c: int) -> _Convolutions:
    return {
        "branch3x3_1": (c, 192, 1, 1, 1, 0, 0),
        "branch3x3_2": (192, 320, 3, 3, 2, 0, 0),
        "branch7x7x3_1": (c, 192, 1, 1, 1, 0, 0),
        "branch7x7x3_2": (192, 192, 1, 7, 1, 0, 3),
        "branch7x7x3_3": (192, 192, 7, 1, 1, 3, 0),
        "branch7x7x3_4": (192, 192, 3, 3, 2, 0, 0),
    }


def _e(c: int) -> _Convolutions:
    return {
        "branch1x1": (c, 320, 1, 1, 1, 0, 0),
        "branch3x3_1": (c, 384, 1, 1, 1, 0, 0),
        "branch3x3_2a": (384, 384, 1, 3, 1, 0, 1),
        "branch3x3_2b": (384, 384, 3, 1, 1, 1, 0),
        "branch3x3dbl_1": (c, 448, 1, 1, 1, 0, 0),
        "branch3x3dbl_2": (448, 384, 3, 3, 1, 1, 1),
        "branch3x3dbl_3a": (384, 384, 1, 3, 1, 0, 1),
        "branch3x3dbl_3b": (384, 384, 3, 1, 1, 1, 0),
        "branch_pool": (c, 192, 1, 1, 1, 0, 0),
    }


_BLOCKS: dict[str, tuple[str, _Convolutions]] = {
    "Mixed_5b": ("a", _a(192, 32)),
    "Mixed_5c": ("a", _a(256, 64)),
    "Mixed_5d": ("a", _a(288, 64)),
    "Mixed_6a": ("b", _b(288)),
    "Mixed_6b": ("c", _c(768, 128)),
    "Mixed_6c": ("c", _c(768, 160)),
    "Mixed_6d": ("c", _c(768, 160)),
    "Mixed_6e": ("c", _c(768, 192)),
    "Mixed_7a": ("d", _d(768)),
    "Mixed_7b": ("e", _e(1280)),
    "Mixed_7c": ("e", _e(2048)),
}


def state_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of the published file, the counters of batches aside."""
    convolutions = dict(_STEM)
    for block, (_, parts) in _BLOCKS.items():
        convolutions |= {f"{block}.{name}": shape for name, shape in parts.items()}
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for name, (c_in, c_out, height, width, *_) in convolutions.items():
        shapes[f"{name}.conv.weight"] = (c_out, c_in, height, width)
        shapes |= {f"{name}.bn.{part}": (c_out,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes


class Inception(nn.Module):
    """Features (B, 2048) of pictures; each convolution carries its batch norm, folded in float64.

    tensors: the published state dict; UserError, naming the first of them, for any missing, unknown or misshapen name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        super().__init__()
        tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
        expected = state_shapes()
        wrong = [f"no {name}" for name in expected if name not in tensors]
        wrong += [f"unknown {name}" for name in tensors if name not in expected]
        wrong += [
            f"{name} of shape {tuple(tensors[name].shape)}, not {shape}"
            for name, shape in expected.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ]
        if wrong:
            raise UserError(f"inception: not the state dict of {FILE}: {wrong[0]} ({len(wrong)} faults)")
        self.convolutions = nn.ModuleDict()
        parts = dict(_STEM)
        for block, (_, branches) in _BLOCKS.items():
            parts |= {f"{block}.{name}": shape for name, shape in branches.items()}
        for name, shape in parts.items():
            self.convolutions[name.replace(".", "/")] = _folded(tensors, name, shape)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (B, 3, 299, 299) in -1..1, of `resize`. Returns float32 (B, 2048)."""
        return self.layers(x)["pool3"]

    def layers(self, x: Tensor) -> dict[str, Tensor]:
        """The output of every layer and block by its name, and "pool3"."""
        out = {}
        for name in _STEM:
            x = out[name] = self._convolve(name, x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
        for name, (kind, _) in _BLOCKS.items():
            x = out[name] = self._block(name, kind, x)
        out["pool3"] = x.mean((2, 3))
        return out

    def _convolve(self, name: str, x: Tensor) -> Tensor:
        return F.relu(self.convolutions[name.replace(".", "/")](x))

    def _block(self, name: str, kind: str, x: Tensor) -> Tensor:
        """The branches of one block, concatenated."""

        def chain(stem: str, *numbers: object) -> Tensor:
            y = x
            for number in numbers:
                y = self._convolve(f"{name}.{stem}_{number}", y)
            return y

        def fork(stem: str, y: Tensor, number: int) -> list[Tensor]:
            return [self._convolve(f"{name}.{stem}_{number}{side}", y) for side in "ab"]

        one = partial(self._convolve, x=x)
        if kind == "b":
            return torch.cat([one(f"{name}.branch3x3"), chain("branch3x3dbl", 1, 2, 3), F.max_pool2d(x, 3, 2)], 1)
        if kind == "d":
            return torch.cat([chain("branch3x3", 1, 2), chain("branch7x7x3", 1, 2, 3, 4), F.max_pool2d(x, 3, 2)], 1)
        if name == "Mixed_7c":
            pooled = F.max_pool2d(x, 3, stride=1, padding=1)
        else:
            pooled = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        pooled = self._convolve(f"{name}.branch_pool", pooled)
        if kind == "a":
            middle = [chain("branch5x5", 1, 2), chain("branch3x3dbl", 1, 2, 3)]
        elif kind == "c":
            middle = [chain("branch7x7", 1, 2, 3), chain("branch7x7dbl", 1, 2, 3, 4, 5)]
        else:
            middle = fork("branch3x3", chain("branch3x3", 1), 2)
            middle += fork("branch3x3dbl", chain("branch3x3dbl", 1, 2), 3)
        return torch.cat([one(f"{name}.branch1x1"), *middle, pooled], 1)


def _folded(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> nn.Conv2d:
    """conv then batch norm as one convolution: w gain / std, bias - mean gain / std."""
    c_in, c_out, height, width, stride, pad_height, pad_width = shape
    weight, gain, bias, mean, variance = (
        tensors[f"{name}.{part}"].double()
        for part in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    )
    factor = gain / (variance + _EPS).sqrt()
    convolution = nn.Conv2d(c_in, c_out, (height, width), stride=stride, padding=(pad_height, pad_width), device="meta")
    convolution.weight = nn.Parameter((weight * factor[:, None, None, None]).float(), requires_grad=False)
    convolution.bias = nn.Parameter((bias - mean * factor).float(), requires_grad=False)
    return convolution


def resize(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) of values 0..255, bytes or floats, to what the network takes: float32 (B, 3, 299, 299), -1..1.

    TensorFlow 1's bilinear: output pixel i lies at input i * (size / 299), corners and antialiasing not considered.
    """
    x = pictures.float()
    for axis in (2, 3):
        low, high, weight = _taps(x.shape[axis])
        near, far = (x.index_select(axis, index.to(x.device)) for index in (low, high))
        shape = [1] * 4
        shape[axis] = SIDE
        x = near + (far - near) * weight.to(x.device).view(shape)
    return (x - 128) / 128


@cache
def _taps(size: int) -> tuple[Tensor, Tensor, Tensor]:
    position = torch.arange(SIDE, dtype=torch.float32) * (size / SIDE)
    low = position.floor().long()
    return low, (low + 1).clamp(max=size - 1), position - low


def load_inception(name: str | Path) -> tuple[Inception, Path]:
    """The network of `name` (`find_weights`), and its file of weights; UserError if they are another network's."""
    path = find_weights(name, "inception", FILE)
    return Inception(load_tensors(path, "inception")), path
