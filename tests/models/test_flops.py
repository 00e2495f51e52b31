"""FLOPs by formula: the reference's figures, and torch's own count of a real pass."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tessera.diffusion.loss import diffusion_loss
from tessera.models.build import build_network
from tessera.models.dit import DIT_I_L2, DiTConfig
from tessera.models.flops import forward_flops, step_flops
from tessera.models.rin import CAD_I_L, RINConfig
from tessera.records import Batch, TextEncoding


@pytest.mark.parametrize(
    ("config", "forward", "step"),
    [
        (CAD_I_L, {128: 166, 190: 170, 256: 176}, {128: 636, 190: 651, 256: 667}),
        (DIT_I_L2, {128: 210, 190: 221, 256: 234}, {128: 630, 190: 664, 256: 701}),
    ],
)
def test_the_published_sizes(config, forward, step):
    for tokens, expected in forward.items():
        assert forward_flops(config, tokens) / 1e9 == pytest.approx(expected, abs=0.7)
    for tokens, expected in step.items():
        assert step_flops(config, tokens, 0.9) / 1e9 == pytest.approx(expected, abs=1)


def test_the_paper_s_training_is_1_7e20():
    assert 250_000 * 1024 * step_flops(DIT_I_L2, 190) == pytest.approx(1.70e20, rel=0.01)


SMALL = {
    "dit": DiTConfig(latent_size=8, width=64, depth=3, heads=2, text_width=48, refiner_depth=2),
    "dit-conv": DiTConfig(latent_size=8, width=64, depth=1, heads=2, text_width=48, conv_stem=True, text_window=5),
    "rin": RINConfig(
        latent_size=8,
        interface_width=32,
        num_latent_tokens=12,
        latent_width=64,
        blocks=2,
        layers_per_block=2,
        read_write_heads=4,
        compute_heads=4,
        text_width=48,
        refiner_heads=4,
        text_registers=3,
    ),
}
SMALL["rin-conv"] = replace(SMALL["rin"], conv_stem=True, text_window=3, qk_norm=True)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("length", [5, 40])
def test_against_torch_s_count_of_a_forward_pass(name, length):
    network = build_network(SMALL[name])
    text = TextEncoding(torch.randn(2, length, 48), torch.ones(2, length, dtype=torch.bool))
    previous = torch.randn(2, 12, 64) if name.startswith("rin") else None
    with FlopCounterMode(display=False) as counter:
        from tessera.records import DenoiserState

        network(torch.randn(2, 4, 8, 8), torch.rand(2), text, DenoiserState(latent_tokens=previous))
    assert 2 * forward_flops(SMALL[name], length) == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_against_torch_s_count_of_a_step():
    """The first layers need no gradient of their inputs, so the count is a little below three forward passes."""
    config = replace(SMALL["rin"], blocks=6)
    network = build_network(config)
    rows, length = 4, 30
    batch = Batch(
        latents=torch.randn(rows, 4, 8, 8),
        text=TextEncoding(torch.randn(rows, length, 48), torch.ones(rows, length, dtype=torch.bool)),
        t=torch.rand(rows),
        alpha_bar=torch.rand(rows),
        noise=torch.randn(rows, 4, 8, 8),
        dropped=torch.zeros(rows, dtype=torch.bool),
        numbers=torch.arange(rows),
    )
    keep = torch.tensor([True, False, True, True])
    # The pass without gradient goes through the fused attention, which is not counted on a CPU: written out here.
    import tessera.models.layers as layers

    original, layers.attention = layers.attention, lambda q, k, v, b=None: _written_out(layers, q, k, v, b)
    try:
        with FlopCounterMode(display=False) as counter:
            loss, _ = diffusion_loss(network, batch, torch.zeros(1, 48), self_condition_keep=keep)
            loss.backward()
    finally:
        layers.attention = original
    expected = rows * step_flops(config, length, 0.75)
    assert 0.96 * expected < counter.get_total_flops() <= expected * 1.001


def _written_out(layers, query, key, value, bias):
    return layers._plain_attention(query, key, value, bias).transpose(1, 2).flatten(2)
