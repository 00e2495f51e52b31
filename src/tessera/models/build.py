"""From a config to its network, and its blocks to compiled ones."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from tessera.models.dit import DiT, DiTConfig
from tessera.models.rin import RIN, RINConfig


def build_network(config: DiTConfig | RINConfig) -> DiT | RIN:
    """The network of a config, with its starting values (drawn from torch's global generator)."""
    return DiT(config) if isinstance(config, DiTConfig) else RIN(config)


def compile_blocks(network: DiT | RIN) -> None:
    """Compiles each block's forward by `torch.compile`, in place: names of parameters and results stay as they are.

    Blocks of one shape share one compiled program, which is made at the first call, in about a minute; text of another
    length makes a second one, for all lengths.
    """
    for block in cast(nn.ModuleList, network.blocks):
        block.compile(fullgraph=True)


def resize_positions(table: Tensor, patches: int) -> Tensor:
    """A learned table of positions (N, W) of a square grid, interpolated (bicubic) to `patches` of another: (patches,
    W). What training at another resolution starts from."""
    side, wanted = round(len(table) ** 0.5), round(patches**0.5)
    assert (side**2, wanted**2) == (len(table), patches), (len(table), patches)
    if side == wanted:
        return table
    grid = table.float().T.reshape(1, -1, side, side)  # (1, W, side, side)
    # Antialiased means Keys' kernel with a = -0.5, which alone leaves a linear table linear.
    grid = F.interpolate(grid, (wanted, wanted), mode="bicubic", align_corners=False, antialias=True)
    return grid.flatten(2)[0].T.to(table.dtype).contiguous()  # (patches, W)
