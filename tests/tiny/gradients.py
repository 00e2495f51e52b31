"""Tensors by address, and networks with gradients that were not computed."""

import torch

from tessera.models.build import build_network
from tessera.randomness import philox
from tiny.training_sets import DIT


def tensor(*shape, seed=0, scale=1.0) -> torch.Tensor:
    """Return standard normal numbers times `scale`."""
    return torch.from_numpy(philox(seed, "test/optim", sum(shape)).standard_normal(shape) * scale).float()


def network_of(config=DIT):
    """Build the network of `config`, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return build_network(config)


def set_gradients(network, step, scale=1.0) -> None:
    """Give every parameter a gradient by the address of `step`."""
    for i, p in enumerate(network.parameters()):
        p.grad = tensor(*p.shape, seed=1000 * step + i, scale=scale).to(p.dtype)
