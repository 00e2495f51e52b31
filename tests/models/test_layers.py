"""Layers against formulas written out another way."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.models import layers
from tessera.models.layers import (
    CrossAttention,
    QKNorm,
    SelfAttention,
    SelfBlock,
    TimeEmbedding,
    attention,
    key_bias,
    patchify,
    sincos_positions_2d,
    sinusoid,
    unpatchify,
)


def test_sinusoid_is_the_formula():
    values = [0.0, 0.3, 17.0, 1000.0]
    found = sinusoid(torch.tensor(values), 8)
    for row, value in zip(found.tolist(), values):
        angles = [value * (1 / 10000) ** (2 * i / 8) for i in range(4)]
        expected = [math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles]
        assert row == pytest.approx(expected, abs=2e-4)  # float32 of an angle of 1000


def test_positions_of_a_grid_are_the_formula():
    height, width, channels = 3, 5, 16
    found = sincos_positions_2d(height, width, channels)
    assert found.shape == (15, 16)
    for row in range(height):
        for column in range(width):
            expected = []
            for place in (row, column):
                angles = [place / 10000 ** (i / 4) for i in range(4)]
                expected += [math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles]
            assert found[row * width + column].tolist() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_patches_come_back(batch, channels, patch, grid):
    size = patch * grid
    images = torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(grid))
    patches = patchify(images, patch)
    assert patches.shape == (batch, grid * grid, patch * patch * channels)
    assert torch.equal(unpatchify(patches, patch, size, size), images)


def test_patches_are_row_major_with_channels_fastest():
    images = torch.arange(2 * 4 * 4).view(1, 2, 4, 4)
    patch = patchify(images, 2)[0, 1].tolist()  # first row, second column
    assert patch == [images[0, c, y, x].item() for y in (0, 1) for x in (2, 3) for c in (0, 1)]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_the_formula(grad, masked, dtype):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 8, generator=generator).to(dtype) for n in (5, 7, 7))
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = not masked
    scores = torch.einsum("bhne,bhle->bhnl", query.double(), key.double()) / math.sqrt(8)
    weights = scores.masked_fill(~mask[:, None, None], -math.inf).softmax(dim=-1)
    expected = torch.einsum("bhnl,bhle->bnhe", weights, value.double()).reshape(2, 5, 24)
    with torch.set_grad_enabled(grad):
        found = attention(query, key, value, key_bias(mask, dtype) if masked else None)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


def test_gradients_avoid_the_fused_kernel_on_the_cpu(monkeypatch):
    def fused(*args, **kwargs):
        raise AssertionError("fused attention was called")

    monkeypatch.setattr(layers.F, "scaled_dot_product_attention", fused)
    query = torch.randn(1, 2, 3, 4, requires_grad=True)
    attention(query, query, query).sum().backward()
    with torch.no_grad(), pytest.raises(AssertionError, match="fused"):
        attention(query, query, query)


def test_hidden_keys_have_no_weight_and_a_row_without_keys_is_finite():
    value = torch.tensor([[[[1.0], [1e6]]]])
    zeros = torch.zeros(1, 1, 2, 1)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            visible = attention(zeros, zeros, value, key_bias(torch.tensor([[True, False]]), torch.float32))
            assert visible.flatten().tolist() == [1.0, 1.0]
            nothing = attention(zeros, zeros, value, key_bias(torch.tensor([[False, False]]), torch.float32))
            assert nothing.isfinite().all()


def test_qk_norm_makes_the_scale_of_queries_and_keys_irrelevant():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    attend, cross = SelfAttention(16, 4, qk_norm=True), CrossAttention(16, 16, 16, 4, qk_norm=True)
    before = attend(x), cross(x, *cross.keys_values(x))
    with torch.no_grad():
        attend.qkv.weight[:32] *= 7
        attend.qkv.bias[:32] *= 7
        for linear, rows in ((cross.query, 16), (cross.key_value, 16)):
            linear.weight[:rows] *= 7
            linear.bias[:rows] *= 7
    torch.testing.assert_close(attend(x), before[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(cross(x, *cross.keys_values(x)), before[1], atol=1e-4, rtol=1e-3)


def test_without_qk_norm_there_is_none():
    assert not any(isinstance(module, QKNorm) for module in SelfBlock(16, 4, 2).modules())


def test_layer_scale_multiplies_both_branches():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    block = SelfBlock(16, 4, 2, layer_scale_init=0.1)
    with torch.no_grad():
        block.attention_scale.fill_(0)
        block.mlp_scale.fill_(0)
        assert torch.equal(block(x), x)
        block.mlp_scale.copy_(torch.arange(16.0))
        expected = x + torch.arange(16.0) * block.mlp(block.mlp_norm(x))
        torch.testing.assert_close(block(x), expected)


def test_time_embedding_standardizes_when_asked():
    embed = TimeEmbedding(8, 8, standardize=True)
    waves = []
    embed.hidden.register_forward_pre_hook(lambda module, inputs: waves.append(inputs[0]))
    embed(torch.tensor([0.1, 0.9]))
    torch.testing.assert_close(waves[0].mean(dim=-1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(waves[0].std(dim=-1), torch.ones(2))


def test_key_counts_are_few_and_none_is_bad_for_a_kernel():
    counts = [layers.key_count(least) for least in range(1, 513)]
    assert all(least <= count < least + 64 for least, count in enumerate(counts, 1))
    assert all(count % 8 == 0 and count % 128 != 64 for count in counts)
    assert [layers.key_count(count) for count in counts] == counts
    assert sorted(set(counts))[:8] == [16, 32, 48, 96, 128, 160, 224, 256]
