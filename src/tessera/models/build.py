"""From a config to its network, and its blocks to compiled ones."""

from typing import cast

from torch import nn

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
