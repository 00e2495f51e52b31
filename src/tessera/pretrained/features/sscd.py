"""SSCD (Pizzi et al. 2022, arXiv 2202.10261): descriptors for the detection of copies, for `evaluate copies`.

Weights: one of the authors' files `sscd_*.torchvision.pt` of ResNet-50, a state dict, or the same names in safetensors.
Their `.torchscript.pt` files hold the same weights and a program, which is not run; `.classy.pt` have other names.
B: images.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tessera.files import sha256_file
from tessera.images import to_uint8
from tessera.pretrained.features.encoder import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder, normalized
from tessera.pretrained.tensors import check_state, find_weights, load_tensors

FILE = "sscd_disc_mixup.torchvision.pt"
"""The one that its authors recommend."""
PREFIX = "backbone."
SIDE, POWER = 320, 3.0
"""Side in pixels, and the power of the generalized mean."""


class _Bottleneck(nn.Module):
    """A block of ResNet-50, with torchvision's names."""

    def __init__(self, c_in: int, width: int, stride: int):
        super().__init__()
        out = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(c_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = None
        if stride > 1 or c_in != out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


def _layer(c_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (_Bottleneck(4 * width, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(_Bottleneck(c_in, width, stride), *rest)


class Sscd(nn.Module):
    """ResNet-50, the generalized mean over space, a linear layer and the unit length."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.layer1, self.layer2 = _layer(64, 64, 3, 1), _layer(256, 128, 4, 2)
        self.layer3, self.layer4 = _layer(512, 256, 6, 2), _layer(1024, 512, 3, 2)
        self.fc = nn.Linear(2048, 512)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, 512), of length 1, of (B, 3, H, W)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = x.clamp_min(1e-6).pow(POWER).mean((2, 3)).pow(1 / POWER)
        return F.normalize(self.fc(x))


class SscdEncoder(ImageEncoder):
    """SSCD of a ResNet-50; images are squashed to 320 x 320, as its authors recommend for batches."""

    def __init__(self, network: Sscd, name: str, sha256: str, device: torch.device | str = "cpu", side: int = SIDE):
        super().__init__(network, name, sha256, device)
        self.side, self.resizing = side, f"Pillow bilinear to {side} x {side}"

    def prepare(self, image: NDArray[Any]) -> Tensor:
        """Return float32 (3, 320, 320), normalized by ImageNet's mean and deviation."""
        resized = Image.fromarray(to_uint8(image)).resize((self.side, self.side), Image.Resampling.BILINEAR)
        return normalized(resized, IMAGENET_MEAN, IMAGENET_STD)

    def embed(self, batch: Tensor) -> Tensor:
        """Compute (B, 512)."""
        return self.network(batch)


def load_sscd(name: str | Path = FILE, device: torch.device | str = "cpu", side: int = SIDE) -> SscdEncoder:
    """Load a file of weights, or a folder or Hub repository with one; UserError if they are another network's."""
    path = find_weights(name, "sscd", FILE)
    tensors = {key.removeprefix(PREFIX): tensor for key, tensor in load_tensors(path, "sscd").items()}
    with torch.device("meta"):
        network = Sscd()
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    check_state(tensors, shapes, f"sscd: {path}", f"SSCD's ResNet-50 ({FILE})")
    network.load_state_dict(tensors, assign=True)
    return SscdEncoder(network.float(), path.name.partition(".")[0], sha256_file(path), device, side)
