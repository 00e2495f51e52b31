"""Small networks with every parameter away from its starting value (many start at 0, which would hide mistakes)."""

from dataclasses import replace

import torch

from tessera.models.build import build_network
from tessera.models.dit import DiT, DiTConfig
from tessera.models.rin import RIN, RINConfig
from tessera.records import TextEncoding

DIT_TINY = DiTConfig(
    latent_channels=3, latent_size=8, patch_size=2, width=32, depth=2, heads=4, text_width=12, layer_scale_init=0.5
)
RIN_TINY = RINConfig(
    latent_channels=3,
    latent_size=8,
    patch_size=2,
    interface_width=16,
    num_latent_tokens=6,
    latent_width=32,
    blocks=2,
    layers_per_block=1,
    read_write_heads=4,
    compute_heads=2,
    text_width=12,
    refiner_heads=4,
    text_registers=2,
)
CONFIGS = {
    "dit": DIT_TINY,
    "dit-conv": replace(DIT_TINY, conv_stem=True, text_positions=True, text_window=3),
    "rin": RIN_TINY,
    "rin-conv": replace(
        RIN_TINY, conv_stem=True, text_window=3, sincos_start=True, zero_output=True, qk_norm=True, text_positions=True
    ),
    "rin-coherence": replace(RIN_TINY, coherence=True, text_positions=True),
}


def make_network(config: DiTConfig | RINConfig, seed: int = 0) -> DiT | RIN:
    """A network with normal noise added to every parameter; the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def make_text(lengths=(5, 2, 7), seed: int = 1) -> TextEncoding:
    generator = torch.Generator().manual_seed(seed)
    return TextEncoding.stack([torch.randn(length, 12, generator=generator) for length in lengths])


def make_inputs(lengths=(5, 2, 7), seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, TextEncoding]:
    """Noisy latents (B, 3, 8, 8), alpha_bar (B,) and captions of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), 3, 8, 8, generator=generator)
    return x, torch.rand(len(lengths), generator=generator), make_text(lengths, seed)
