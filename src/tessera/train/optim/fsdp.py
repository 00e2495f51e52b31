"""Weights, optimizer and EMA split over the ranks with FSDP2, for networks that do not fit on one device.

Every rank still computes with the whole network, gathered in the compute type for the forward and the backward pass and
freed after it. The fp32 weights, their gradients, the optimizer's state and the EMA are stored in parts: rank r has the
r-th chunk of each tensor's first dimension. Checkpoints are written and read likewise: nothing is gathered.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from tessera.devices import world_size
from tessera.models.layers import MLP, SelfBlock


def _gather_for_text(network: nn.Module) -> None:
    """Let `encode_text` be called outside of `forward`, as self-conditioning does: then weights are gathered for it."""
    plain = network.encode_text
    register_fsdp_forward_method(network, "encode_text")
    gathering = network.encode_text
    inside: list[bool] = []
    network.register_forward_pre_hook(lambda *_: inside.append(True))
    network.register_forward_hook(lambda *_: inside.clear(), always_call=True)
    network.encode_text = lambda *args: plain(*args) if inside else gathering(*args)  # type: ignore


class Shards:
    """Layout of a network that is split over the ranks in place."""

    def __init__(self, network: nn.Module, compute: torch.dtype) -> None:
        """Split `network`, in fp32 on its device. Layers that are called as modules are gathered one by one, the rest
        at once."""
        # FSDP's own default is the machine's GPUs, even for a network on the CPU.
        mesh = init_device_mesh(next(network.parameters()).device.type, (world_size(),))
        # alpha_bar must stay in fp32: only the weights are cast.
        policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
        blocks = [m for m in network.modules() if isinstance(m, SelfBlock)]
        inside = {part for block in blocks for part in block.modules()}
        for module in [*blocks, *(m for m in network.modules() if isinstance(m, MLP) and m not in inside)]:
            fully_shard(module, mesh=mesh, mp_policy=policy)
        # Freed after every pass: EMA weights are put in place of the weights between passes.
        fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        for buffer in network.buffers():  # fixed tables, which the policy does not cast
            buffer.data = buffer.data.to(compute)
        _gather_for_text(network)
        self.layout = {name: cast(DTensor, parameter.data) for name, parameter in network.named_parameters()}

    def split(self, name: str, part: Tensor) -> DTensor:
        """Return this rank's part of a tensor like the parameter `name` as a DTensor on the same memory."""
        like = self.layout[name]
        return DTensor.from_local(
            part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
