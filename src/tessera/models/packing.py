"""Weight matrices in the CPU's own layout for products, while a network's weights do not change."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn


@contextmanager
def packed_linears(network: nn.Module) -> Iterator[None]:
    """Let the network's Linear layers on a CPU multiply by copies of their matrices in oneDNN's layout, in the context.

    Otherwise bfloat16 matrices are converted to that layout at every call, and float32 products are MKL's, which use
    half of an AMD processor's vector width: packed, a float32 step takes half the time there. The copies take the
    memory of the weights once more until the end. Results differ by rounding only, and carry no gradient.

    Unchanged are layers on another device or in another dtype, layers with a `forward` of their own (accelerate's
    offloading), compiled networks (their compiler chooses the products), and processors without that layout.
    """
    modules = list(network.modules())
    packed = [] if any(map(_compiled, modules)) else [module for module in modules if _packable(module)]
    for layer in packed:
        matrix = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        vars(layer)["forward"] = partial(_product, matrix, layer.bias)  # hides the class's until the end
    try:
        yield
    finally:
        for layer in packed:
            vars(layer).pop("forward", None)


def _compiled(module: nn.Module) -> bool:
    """Return whether the module was compiled by `module.compile()` or `torch.compile(module)`."""
    return module._compiled_call_impl is not None or "_orig_mod" in module._modules


def _packable(module: nn.Module) -> TypeGuard[nn.Linear]:
    if type(module) is not nn.Linear or "forward" in vars(module) or not torch.backends.mkldnn.is_available():
        return False
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float32: torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"),
    }
    return module.weight.device.type == "cpu" and supported.get(module.weight.dtype, False)


def _product(matrix: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, matrix, bias, "none", [], "")
