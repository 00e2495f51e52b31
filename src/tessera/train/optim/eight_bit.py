"""AdamW whose two means of each large tensor take a byte a number (Dettmers et al. 2022), by torchao."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from tessera.extras import require
from tessera.models.build import compiler_fault

TRANSIENT = 14
"""Numbers of four bytes, for each of the largest tensor's, that a step needs for itself where it is not compiled."""


def adamw_8bit(groups: list[dict[str, Any]], betas: tuple[float, float], device: torch.device) -> Optimizer:
    """Return torchao's AdamW over parameter groups, its state all zero. Means of fewer than 4,096 numbers, or of no
    multiple of 256, stay in fp32. Raises UserError without torchao.

    Its step is compiled for each shape, as torchao means it, on GPUs that can be compiled for, and elsewhere is not.
    """
    require("torchao", "fp8", "optim.name: adamw8bit")
    from torchao.optim import AdamW8bit  # pyright: ignore[reportMissingImports]

    optimizer = AdamW8bit(groups, lr=0.0, betas=betas)
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        mean, square = (optimizer._new_buffer(parameter, signed) for signed in (True, False))
        optimizer.state[parameter] = {"step": torch.tensor(0.0), "exp_avg": mean, "exp_avg_sq": square}
    if device.type != "cuda" or compiler_fault(device, torch.float32) is not None:
        optimizer.step = torch.compiler.set_stance("force_eager")(optimizer.step)
    return optimizer


def dense(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a parameter's state, of each mean in 8 bits the tensors that it is made of (the same memory): its codes,
    the scale of each 256, and the numbers that the codes stand for."""
    found: dict[str, Any] = {}
    for field, value in state.items():
        parts = value.__tensor_flatten__()[0] if is_traceable_wrapper_subclass(value) else ()
        own: dict[str, Tensor] = {f"{field}.{part}": getattr(value, part) for part in parts}
        found |= own or {field: value}
    return found
