"""The text refiner alone."""

import pytest
import torch

from tessera.models import layers
from tessera.models.layers import sincos_positions
from tessera.models.network import NetworkConfig
from tessera.models.text_refiner import TextRefiner
from tiny.networks import make_text


def refiner(**changes) -> TextRefiner:
    torch.manual_seed(0)
    shape = {"text_positions": changes.pop("positions", False), "text_window": changes.pop("window", 1)}
    config = NetworkConfig(text_width=12, refiner_depth=2, **shape)
    return TextRefiner(config, 16, 4, **changes)


def test_without_positions_word_order_does_not_matter():
    text = make_text(lengths=(6,))
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = type(text)(text.embeddings[:, order], text.mask)
    plain, placed = refiner(), refiner(positions=True)
    torch.testing.assert_close(plain(shuffled)[0], plain(text)[0][:, order])
    assert (placed(shuffled)[0] - placed(text)[0][:, order]).abs().max() > 0.1


def test_positions_are_added_to_projected_text_at_any_length():
    text = make_text(lengths=(70, 70))
    network = refiner(positions=True)
    network.blocks = torch.nn.ModuleList()
    for part in (make_text(lengths=(4,)), text):  # the table grows
        found = network(part)[0] - network.projection(part.embeddings)
        expected = sincos_positions(part.mask.shape[1], 16).expand_as(found)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_window_shows_each_token_its_neighbors_and_nothing_beyond_the_text():
    """Row by row against a sum over neighbors; padding and the text's ends count as zeros."""
    text = make_text(lengths=(6, 3))
    network = refiner(window=5)
    network.blocks = torch.nn.ModuleList()
    found = network(text)[0]
    weights = network.projection.weight.view(16, 12, 5)
    for row, length in enumerate((6, 3)):
        for place in range(length):
            near = range(max(0, place - 2), min(length, place + 3))
            expected = sum(weights[..., i - place + 2] @ text.embeddings[row, i] for i in near)
            torch.testing.assert_close(found[row, place], expected + network.projection.bias)


def test_registers_come_first_and_are_visible():
    text = make_text(lengths=(1, 4))
    tokens, mask = refiner(registers=3)(text)
    assert tokens.shape == (2, 7, 16)
    assert mask.tolist() == [[True] * 4 + [False] * 3, [True] * 7]


def test_position_table_follows_the_dtype():
    network = refiner(positions=True)
    text = make_text()
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        assert network.to(dtype)(text)[0].dtype == dtype


@pytest.mark.parametrize("heads", [1, 4])
def test_packed_tokens_compute_what_padded_ones_do(monkeypatch, heads):
    """On a CPU the blocks see the visible tokens alone, filled up to a multiple of a few rows; gradients too."""
    text = make_text(lengths=(6, 1, 4))
    network = TextRefiner(NetworkConfig(text_width=12, refiner_depth=2), 16, heads, registers=2, qk_norm=True)
    widths = []
    network.blocks[0].mlp.register_forward_pre_hook(lambda module, inputs: widths.append(inputs[0].shape))

    def run() -> list[torch.Tensor]:
        tokens, mask = network(text)
        network.zero_grad()
        tokens[mask].square().sum().backward()
        return [tokens[mask].detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]

    monkeypatch.setattr(layers, "RAGGED_ROWS", 4)
    packed = run()
    monkeypatch.setattr(layers, "RAGGED_ROWS", 64)  # more than there are: padded
    padded = run()
    assert widths == [(20, 16), (3, 8, 16)]
    assert len(packed) == len(padded) > 20
    for found, expected in zip(packed, padded):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
