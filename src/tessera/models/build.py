"""Networks built from their configs, and compiled blocks."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessera.models.dit import DiT, DiTConfig
from tessera.models.rin import RIN, RINConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Precisions in which a network can compute, by their names in configs."""
PROGRAMS = 64
"""Largest number of compiled programs of one kind of block in a process: networks of other shapes, calls with gradients
or without, for one row or several, with null rows or none each need their own. torch's default is 8."""


def build_network(config: DiTConfig | RINConfig) -> DiT | RIN:
    """Build the network of a config, with its initial values (drawn from torch's global generator)."""
    return DiT(config) if isinstance(config, DiTConfig) else RIN(config)


def compile_blocks(network: DiT | RIN, programs: int = PROGRAMS) -> None:
    """Compile each block's forward by `torch.compile`, in place: names of parameters and results do not change.

    Blocks of one shape share one compiled program, made at the first call in about a minute; text of another length
    makes a second one, for all lengths. Calls beyond `programs` programs run uncompiled, and torch warns.
    """
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, programs)
    for block in cast(nn.ModuleList, network.blocks):
        block.compile()  # with fullgraph=True, a call beyond the limit would end the run


def compiler_fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return in one line why nothing can be compiled for `device` in `dtype` on this machine; None = it can.

    Tries it on a one-line function, in seconds. Compilation needs Triton, which torch does not have on Windows, a C
    compiler, which is missing in small containers, and a GPU with the dtype: bfloat16 needs NVIDIA's Ampere or later.
    """
    try:
        torch.compile(lambda x: F.gelu(x) * x, fullgraph=True)(torch.ones(8, device=device, dtype=dtype))
    except Exception as error:  # of the compiler, Triton or the operating system: there is no common type
        lines = [line for line in str(error).splitlines() if line.strip() and not line.endswith("raised:")]
        return next(iter(lines), type(error).__name__)
    return None


def resize_positions(table: Tensor, patches: int) -> Tensor:
    """Interpolate (bicubic) a learned table of positions (N, W) of a square grid to `patches` of another: (patches, W).
    Training at another resolution starts from it."""
    side, wanted = round(len(table) ** 0.5), round(patches**0.5)
    assert (side**2, wanted**2) == (len(table), patches), (len(table), patches)
    if side == wanted:
        return table
    grid = table.float().T.reshape(1, -1, side, side)  # (1, W, side, side)
    # Antialiased means Keys' kernel with a = -0.5, which alone leaves a linear table linear.
    grid = F.interpolate(grid, (wanted, wanted), mode="bicubic", align_corners=False, antialias=True)
    return grid.flatten(2)[0].T.to(table.dtype).contiguous()  # (patches, W)
