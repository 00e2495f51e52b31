"""DiT-I against the same network written out plainly, one caption at a time."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tessera.models.build import build_network
from tessera.models.dit import DiT, DiTConfig
from tessera.models.layers import CrossAttention, QKNorm, SelfAttention, sincos_positions_2d
from tiny.networks import DIT_TINY, make_inputs, make_network
from tiny.training_sets import DIT


def norm(x, weight=None, bias=None):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    return x * (1 if weight is None else weight) + (0 if bias is None else bias)


def attend(module, queries, context):
    """One sample: queries (N, D), context (L, D); all heads in a loop."""
    if isinstance(module, SelfAttention):
        q, k, v = module.qkv(queries).chunk(3, dim=-1)
    else:
        q, (k, v) = module.query(queries), module.key_value(context).chunk(2, dim=-1)
    size = q.shape[-1] // module.heads
    heads = []
    for i in range(module.heads):
        part = slice(i * size, (i + 1) * size)
        query = norm(q[:, part], module.query_norm.weight)
        key = norm(k[:, part], module.key_norm.weight)
        heads.append((query @ key.T / math.sqrt(size)).softmax(-1) @ v[:, part])
    return module.out(torch.cat(heads, dim=-1))


def mlp(module, x):
    return module.down(F.gelu(module.up(x)))


def plain_dit(network, x, alpha_bar, caption):
    """x (C, H, W), caption (L, text width), without any of the shortcuts."""
    config = network.config
    text = network.text.projection(caption)
    for block in network.text.blocks:
        normed = norm(text, block.attention_norm.weight, block.attention_norm.bias)
        text = text + block.attention_scale * attend(block.attention, normed, None)
        text = text + block.mlp_scale * mlp(block.mlp, norm(text, block.mlp_norm.weight, block.mlp_norm.bias))

    angles = 1000 * alpha_bar * 10000 ** (-torch.arange(128) / 128)
    time = network.time.out(F.silu(network.time.hidden(torch.cat([angles.cos(), angles.sin()]))))
    shared = network.time_modulation(F.silu(time)).view(6, -1)

    p = config.patch_size
    rows, columns = x.shape[1] // p, x.shape[2] // p
    tokens = []
    for row in range(rows):
        for column in range(columns):
            patch = x[:, row * p : (row + 1) * p, column * p : (column + 1) * p]
            tokens.append(network.patch_embedding(patch.permute(1, 2, 0).flatten()))
    h = torch.stack(tokens) + sincos_positions_2d(rows, columns, config.width)
    for block, table in zip(network.blocks, network.modulation_tables):
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = table + shared
        h = h + gate * block.attention_scale * attend(block.attention, norm(h) * scale + shift, None)
        h = h + block.cross_scale * attend(block.cross_attention, h, text)
        h = h + mlp_gate * block.mlp_scale * mlp(block.mlp, norm(h) * mlp_scale + mlp_shift)
    shift, scale = network.out_table + time
    patches = network.out_projection(norm(h) * (1 + scale) + shift)

    output = torch.empty_like(x)
    for i, patch in enumerate(patches):
        row, column = divmod(i, columns)
        output[:, row * p : (row + 1) * p, column * p : (column + 1) * p] = patch.view(p, p, -1).permute(2, 0, 1)
    return output


@torch.no_grad()
def test_forward_is_the_plain_formula():
    network = make_network(DIT_TINY)
    x, alpha_bar, text = make_inputs()
    output = network(x, alpha_bar, text)[0]
    for i, length in enumerate(text.mask.sum(dim=1).tolist()):
        expected = plain_dit(network, x[i], alpha_bar[i], text.embeddings[i, :length])
        torch.testing.assert_close(output[i], expected, atol=5e-5, rtol=5e-5)


def test_every_attention_has_qk_norm_and_every_branch_layer_scale():
    with torch.device("meta"):
        network = DiT(DiTConfig())
    attentions = [module for module in network.modules() if isinstance(module, SelfAttention | CrossAttention)]
    assert len(attentions) == 24 * 2 + 2
    assert all(isinstance(module.query_norm, QKNorm) and isinstance(module.key_norm, QKNorm) for module in attentions)
    scales = [name for name, _ in network.named_parameters() if name.endswith("_scale")]
    assert len(scales) == 24 * 3 + 2 * 2


def test_layer_scales_start_as_configured_and_gates_at_one():
    network = DiT(DiTConfig(width=32, depth=2, heads=2, text_width=8, layer_scale_init=0.25))
    scales = [parameter for name, parameter in network.named_parameters() if name.endswith("_scale")]
    assert len(scales) == 2 * 3 + 2 * 2
    assert all((scale == 0.25).all() for scale in scales)
    modulation = network.modulation(torch.randn(3, 32)).squeeze(3)  # (depth, 6, B, D)
    expected = torch.tensor([0, 1, 0.25, 0, 1, 0.25])
    assert torch.equal(modulation, expected[None, :, None, None].expand(2, 6, 3, 32))


def test_conv_stem_is_residual_and_only_where_asked():
    config = DiTConfig(latent_channels=5, latent_size=8, width=32, depth=1, heads=2, text_width=8, conv_stem=True)
    network = DiT(config)
    x = torch.randn(2, 5, 8, 8)
    with torch.no_grad():
        assert (network.stem(x) - x).abs().max() > 0.01
        network.stem.conv_out.weight.zero_()
        assert torch.equal(network.stem(x), x)
        assert torch.equal(network.head(x, x), x)  # starts as nothing
        network.head.conv_out.weight.normal_()
        seen = torch.randn_like(x)
        assert (network.head(x, seen) - network.head(x, x)).abs().max() > 0.01  # looks at the noisy latents
    assert isinstance(DiT(DIT_TINY).stem, torch.nn.Identity)
    assert DiT(DIT_TINY).head is None


@pytest.mark.parametrize("length", [1, 31, 32, 33])
def test_bfloat16_keys_are_padded_without_effect(length):
    network = make_network(DIT_TINY).to(torch.bfloat16)
    x, alpha_bar, text = make_inputs(lengths=(length,))
    cache = network.encode_text(text)
    assert cache.keys[0].shape[2] % 32 == 0
    assert (cache.bias[0, 0, 0] == 0).sum() == length
    expected = make_network(DIT_TINY)(x, alpha_bar, text)[0]
    assert (network(x, alpha_bar, text)[0] - expected).norm() < 0.1 * expected.norm()


def test_computed_positions_spread_over_the_smaller_grid():
    small = build_network(DIT)
    large = build_network(replace(DIT, latent_size=8, position_grid=2))
    positions = large.positions.reshape(4, 4, -1)
    assert torch.equal(positions[::2, ::2].reshape(4, -1), small.positions)
    assert torch.equal(large.positions, sincos_positions_2d(4, 4, DIT.width, step=0.5))
    assert not torch.equal(build_network(replace(DIT, latent_size=8)).positions, large.positions)


def test_buckets_have_the_positions_of_a_larger_square():
    """Row r, column c of any height and width is where it is in a square of the same spacing."""
    network, larger = (DiT(replace(DIT, latent_size=size)) for size in (4, 12))
    for height, width in ((2, 12), (12, 4), (6, 2)):
        rows, columns = height // 2, width // 2
        expected = larger.positions.view(6, 6, -1)[:rows, :columns].flatten(0, 1)
        assert torch.equal(network.positions_of(height, width), expected)
    assert torch.equal(network.positions_of(4, 4), network.positions)
    moved = network.to(torch.bfloat16)
    moved.reset_buffers()
    assert moved.positions_of(2, 12).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(2, 12), (8, 4), (6, 2)])
@torch.no_grad()
def test_latents_of_any_height_and_width_go_through_the_plain_formula(shape):
    network = make_network(DIT_TINY)
    _, alpha_bar, text = make_inputs()
    x = torch.randn(len(alpha_bar), DIT_TINY.latent_channels, *shape, generator=torch.Generator().manual_seed(0))
    output, _ = network(x, alpha_bar, text)
    for i in range(len(x)):
        caption = text.embeddings[i][text.mask[i]]
        assert torch.allclose(output[i], plain_dit(network, x[i], alpha_bar[i], caption), atol=1e-4)
    with pytest.raises(ValueError, match="this network takes latents"):
        network(torch.cat([x, x[:, :, :1]], dim=2), alpha_bar, text)
