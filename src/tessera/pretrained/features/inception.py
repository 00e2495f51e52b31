"""Inception-v3 as FID means it: the network of 2015-12-05, with its own pooling, and TensorFlow 1's resize.

It is not today's Inception-v3: average pools leave the padding out of the mean, the last block has a max pool in place
of an average pool, and the classifier has 1008 outputs. Weights: `pt_inception-2015-12-05-6726825d.pth`, a state dict,
or the same names in safetensors. Images are resized as torch-fidelity does, not as pytorch-fid or clean-fid.
B: images; every layer is (B, C, H, W).
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tessera.files import sha256_file
from tessera.images import to_uint8
from tessera.pretrained.features.encoder import ImageEncoder
from tessera.pretrained.tensors import check_state, find_weights, load_tensors

SIDE = 299
FILE = "pt_inception-2015-12-05-6726825d.pth"


class _Conv(NamedTuple):
    """A convolution: channels, kernel (height, width) and stride. Those of stride 1 keep the size unless `bare`."""

    c_in: int
    c_out: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    bare: bool = False

    @property
    def padding(self) -> tuple[int, int]:
        if self.bare or self.stride == 2:
            return 0, 0
        return self.kernel[0] // 2, self.kernel[1] // 2


_STEM = {
    "Conv2d_1a_3x3": _Conv(3, 32, (3, 3), 2),
    "Conv2d_2a_3x3": _Conv(32, 32, (3, 3), bare=True),
    "Conv2d_2b_3x3": _Conv(32, 64, (3, 3)),
    "Conv2d_3b_1x1": _Conv(64, 80),
    "Conv2d_4a_3x3": _Conv(80, 192, (3, 3), bare=True),
}
_Branch = list[dict[str, _Conv]]
"""Steps of named convolutions; a step of two forks, and its outputs are concatenated."""


def _chain(name: str, *convolutions: _Conv) -> _Branch:
    """Return a branch of convolutions one after another; the only one has no number in its published name."""
    if len(convolutions) == 1:
        return [{name: convolutions[0]}]
    return [{f"{name}_{number}": convolution} for number, convolution in enumerate(convolutions, 1)]


def _double(c: int, stride: int) -> _Branch:
    return _chain("branch3x3dbl", _Conv(c, 64), _Conv(64, 96, (3, 3)), _Conv(96, 96, (3, 3), stride))


def _a(c: int, pool: int) -> list[_Branch]:
    five = _chain("branch5x5", _Conv(c, 48), _Conv(48, 64, (5, 5)))
    return [_chain("branch1x1", _Conv(c, 64)), five, _double(c, 1), _chain("branch_pool", _Conv(c, pool))]


def _c(c: int, w: int) -> list[_Branch]:
    tall, wide = (7, 1), (1, 7)
    double = [_Conv(c, w), _Conv(w, w, tall), _Conv(w, w, wide), _Conv(w, w, tall), _Conv(w, 192, wide)]
    return [
        _chain("branch1x1", _Conv(c, 192)),
        _chain("branch7x7", _Conv(c, w), _Conv(w, w, wide), _Conv(w, 192, tall)),
        _chain("branch7x7dbl", *double),
        _chain("branch_pool", _Conv(c, 192)),
    ]


def _e(c: int) -> list[_Branch]:
    fork = {"a": _Conv(384, 384, (1, 3)), "b": _Conv(384, 384, (3, 1))}
    double = _chain("branch3x3dbl", _Conv(c, 448), _Conv(448, 384, (3, 3)))
    return [
        _chain("branch1x1", _Conv(c, 320)),
        [{"branch3x3_1": _Conv(c, 384)}, {f"branch3x3_2{end}": each for end, each in fork.items()}],
        [*double, {f"branch3x3dbl_3{end}": each for end, each in fork.items()}],
        _chain("branch_pool", _Conv(c, 192)),
    ]


_BLOCKS: dict[str, list[_Branch]] = {
    "Mixed_5b": _a(192, 32),
    "Mixed_5c": _a(256, 64),
    "Mixed_5d": _a(288, 64),
    "Mixed_6a": [_chain("branch3x3", _Conv(288, 384, (3, 3), 2)), _double(288, 2)],
    "Mixed_6b": _c(768, 128),
    "Mixed_6c": _c(768, 160),
    "Mixed_6d": _c(768, 160),
    "Mixed_6e": _c(768, 192),
    "Mixed_7a": [
        _chain("branch3x3", _Conv(768, 192), _Conv(192, 320, (3, 3), 2)),
        _chain(
            "branch7x7x3",
            *(_Conv(768, 192), _Conv(192, 192, (1, 7)), _Conv(192, 192, (7, 1)), _Conv(192, 192, (3, 3), 2)),
        ),
    ],
    "Mixed_7b": _e(1280),
    "Mixed_7c": _e(2048),
}


def _convolutions() -> dict[str, _Conv]:
    """Return every convolution by its published name."""
    steps = [(block, step) for block, branches in _BLOCKS.items() for branch in branches for step in branch]
    return _STEM | {f"{block}.{name}": convolution for block, step in steps for name, convolution in step.items()}


def state_shapes() -> dict[str, tuple[int, ...]]:
    """Return name and shape of each tensor of the published file, except the counters of batches."""
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for name, (c_in, c_out, kernel, *_) in _convolutions().items():
        shapes[f"{name}.conv.weight"] = (c_out, c_in, *kernel)
        shapes |= {f"{name}.bn.{part}": (c_out,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes


class Inception(nn.Module):
    """Features (B, 2048) of images; each convolution carries its batch norm, folded in float64.

    tensors: the published state dict; UserError for any missing, unknown or misshapen name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        super().__init__()
        tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
        check_state(tensors, state_shapes(), "inception", FILE)
        self.convolutions = nn.ModuleDict()
        for name, convolution in _convolutions().items():
            self.convolutions[name.replace(".", "/")] = _folded(tensors, name, convolution)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute float32 (B, 2048) of float (B, 3, 299, 299) in -1..1, as `resize` gives them."""
        return self.layers(x)["pool3"]

    def layers(self, x: Tensor) -> dict[str, Tensor]:
        """Return the output of every layer and block by its name, and "pool3"."""
        out = {}

        def convolve(name: str, x: Tensor) -> Tensor:
            return F.relu(self.convolutions[name.replace(".", "/")](x))

        for name in _STEM:
            x = out[name] = convolve(name, x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
        for block, branches in _BLOCKS.items():
            outputs = []
            for branch in branches:
                y = x
                if "branch_pool" in branch[0] and block == "Mixed_7c":
                    y = F.max_pool2d(x, 3, stride=1, padding=1)
                elif "branch_pool" in branch[0]:
                    y = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
                for step in branch:
                    done = [convolve(f"{block}.{name}", y) for name in step]
                    y = done[0] if len(done) == 1 else torch.cat(done, 1)
                outputs.append(y)
            if "branch_pool" not in branches[-1][0]:  # the block halves the size
                outputs.append(F.max_pool2d(x, 3, 2))
            x = out[block] = torch.cat(outputs, 1)
        out["pool3"] = x.mean((2, 3))
        return out


def _folded(tensors: Mapping[str, Tensor], name: str, convolution: _Conv) -> nn.Conv2d:
    """Fold a convolution and its batch norm into one: w gain / std, bias - mean gain / std."""
    c_in, c_out, kernel, stride, _ = convolution
    weight, gain, bias, mean, variance = (
        tensors[f"{name}.{part}"].double()
        for part in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    )
    factor = gain / (variance + 1e-3).sqrt()
    folded = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=convolution.padding, device="meta")
    folded.weight = nn.Parameter((weight * factor[:, None, None, None]).float(), requires_grad=False)
    folded.bias = nn.Parameter((bias - mean * factor).float(), requires_grad=False)
    return folded


def resize(images: Tensor) -> Tensor:
    """Bring (B, 3, H, W) of values 0..255, bytes or floats, to the network's input: float32 (B, 3, 299, 299), -1..1.

    TensorFlow 1's bilinear: output pixel i lies at input i * (size / 299), corners and antialiasing not considered.
    """
    x = images.float()
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


class InceptionEncoder(ImageEncoder):
    """Inception-v3 of 2015-12-05 for FID and KID: 2048 values of the last pool."""

    resizing = "TensorFlow 1 bilinear to 299, no antialias, corners not aligned"

    def prepare(self, image: NDArray[Any]) -> Tensor:
        """Return float32 (3, 299, 299) in -1..1."""
        return resize(torch.from_numpy(to_uint8(image).copy()).permute(2, 0, 1)[None])[0]

    def embed(self, batch: Tensor) -> Tensor:
        """Compute (B, 2048)."""
        return self.network(batch)


def load_inception(name: str | Path = FILE, device: torch.device | str = "cpu") -> InceptionEncoder:
    """Load the published file of weights, its tensors in safetensors, or a folder or Hub repository with one.

    UserError if they are another network's.
    """
    path = find_weights(name, "inception", FILE)
    network = Inception(load_tensors(path, "inception"))
    return InceptionEncoder(network, "inception-v3-compat", sha256_file(path), device)
