"""Memory of a training step, without a device that has it.

Activations are counted in a forward pass on `meta`, without numbers: what autograd saves for the backward pass, each
storage once, so there is no formula to keep in step with the networks. Left out: kernels' workspaces, an allocator's
gaps, and what a compiler saves or adds.
"""

import torch
from torch import Tensor

from tessera.models.build import build_network
from tessera.models.dit import DiTConfig
from tessera.models.rin import RINConfig
from tessera.records import TextEncoding

STATE_BYTES = {"adamw": 22, "adamw8bit": 16, "lamb": 22, "muon": 18}
"""Optimizer -> bytes for each parameter in bf16: the network 2, and in fp32 gradient, masters, EMA and moments 4 each,
of Muon one moment, of AdamW with 8-bit states 1 each. The gradients of one pass, 2, come as activations go."""


def activation_bytes(
    config: DiTConfig | RINConfig, samples: int, text_tokens: int, dtype: torch.dtype = torch.bfloat16
) -> int:
    """Return the bytes that a forward pass of `samples` images with `text_tokens` tokens each saves for the backward
    pass in `dtype`, without the parameters: those in fp32, of which bf16 takes half."""
    device = torch.device("meta")
    with device:
        network = build_network(config)
        x = torch.empty(samples, config.latent_channels, config.latent_size, config.latent_size)
        mask = torch.ones(samples, text_tokens, dtype=torch.bool)
        text = TextEncoding(torch.empty(samples, text_tokens, config.text_width), mask)
        alpha_bar = torch.empty(samples)
    known = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage()._cdata) not in known:
            saved[storage] = tensor  # held, so that no later storage gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output, _ = network(x, alpha_bar, text)
    assert output.grad_fn is not None
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) * dtype.itemsize // 4


def state_bytes(config: DiTConfig | RINConfig, optimizer: str = "adamw") -> int:
    """Return the bytes of what a training in bf16 on one device keeps between steps, and of its gradients."""
    with torch.device("meta"):
        return STATE_BYTES[optimizer] * build_network(config).parameter_count
