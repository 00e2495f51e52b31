"""Large linear layers in FP8 (torchao): each product's two tensors are rounded to 8 bits, each with its own scale.

Forward in E4M3, gradients in E5M2; results, and the weights themselves, stay in the network's precision.
"""

import copy
from typing import TypeVar

import torch
from torch import nn

from tessera.config import UserError
from tessera.extras import require

SMALLEST = 1024
"""Features, in and out, from which a layer is large: in smaller ones rounding takes longer than the product saves."""
MULTIPLE = 16
"""Number of which a GPU's FP8 products need multiples."""
CAPABILITY = (8, 9)
"""Compute capability from which NVIDIA's GPUs have FP8: Ada (L4, L40S, RTX 4090), Hopper, Blackwell."""

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


def check_fp8(device: torch.device) -> None:
    """Raise UserError unless `device` has FP8 and torchao is installed. A CPU emulates it, slowly."""
    fix = "give compute bf16"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < CAPABILITY:
        name = torch.cuda.get_device_name(device)
        raise UserError(f"compute: {name} has no FP8, which begins with Ada and Hopper GPUs; {fix}")
    if device.type not in ("cuda", "cpu"):
        raise UserError(f"compute: FP8 needs an NVIDIA GPU, not {device.type}; {fix}")
    require("torchao", "fp8", "compute: FP8")


def is_large(name: str, module: nn.Module) -> bool:
    """Return whether a network's module of this name is a large linear layer in one of its lists of blocks."""
    if not isinstance(module, nn.Linear) or not any(part.endswith("blocks") for part in name.split(".")):
        return False
    sides = (module.in_features, module.out_features)
    return min(sides) >= SMALLEST and not any(side % MULTIPLE for side in sides)


def use_fp8(network: nn.Module, device: torch.device) -> None:
    """Let the network's large linear layers compute in FP8, in place; parameters and their names stay. On a CPU by
    emulation. Raises UserError as `check_fp8`, and where no layer is large."""
    check_fp8(device)
    if not any(is_large(name, module) for name, module in network.named_modules()):
        raise UserError(f"compute: no layer has {SMALLEST} features, from which FP8 is faster; give compute bf16")
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training  # pyright: ignore[reportMissingImports]

    # Rows of a batch of time tokens, or of an odd pass, may be no multiple of 16: torchao pads them with zeros.
    config = Float8LinearConfig(emulate=device.type == "cpu", pad_inner_dim=True)
    convert_to_float8_training(network, config=config, module_filter_fn=lambda module, name: is_large(name, module))


def fp8_twin(network: AnyNetwork, device: torch.device) -> AnyNetwork:
    """Return a network with the same parameters, not copies of them, that computes as after `use_fp8`."""
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    twin = copy.deepcopy(network, shared)
    use_fp8(twin, device)
    return twin
