"""Packed networks compute what plain ones do, and are plain again afterwards."""

import pytest
import torch
from torch import nn

from tessera.models.packing import packed_linears
from tiny.networks import CONFIGS, make_inputs, make_network


def linears(network):
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def packs(dtype: torch.dtype) -> bool:
    """Whether this processor is one that layers of this dtype are packed on."""
    layer = nn.Linear(4, 4).to(dtype)
    with packed_linears(layer):
        return "forward" in vars(layer)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("name", CONFIGS)
def test_packed_is_plain(name, dtype, tolerance):
    """Relative to the outputs' scale; text of several lengths; in bfloat16 a rounding may tip at every layer."""
    network = make_network(CONFIGS[name]).eval().to(dtype)
    x, alpha_bar, text = make_inputs((5, 2, 7))
    with torch.inference_mode():
        plain, _ = network(x, alpha_bar, text)
        with packed_linears(network):
            assert all("forward" in vars(layer) for layer in linears(network)) == packs(dtype)
            packed, state = network(x, alpha_bar, text)
            again, _ = network(x, alpha_bar, text, state)
        assert torch.equal(network(x, alpha_bar, text)[0], plain)
    assert not any("forward" in vars(layer) for layer in linears(network))
    torch.testing.assert_close(packed, plain, rtol=0, atol=tolerance * float(plain.abs().max()))
    assert again.isfinite().all()


def test_weights_are_read_anew_and_come_back_after_an_error():
    layer, x = nn.Linear(8, 4), torch.randn(3, 8)
    with torch.no_grad():
        for _ in range(2):
            layer.weight.normal_()
            with packed_linears(layer):
                torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)
            with pytest.raises((RuntimeError, TypeError)), packed_linears(layer):
                layer("no tensor")
            assert "forward" not in vars(layer)


def test_nested_uses_end_in_any_order():
    """As two threads that draw with one network: the second finds packed layers and leaves them alone."""
    layer, x = nn.Linear(8, 4), torch.randn(3, 8)
    first, second = packed_linears(layer), packed_linears(layer)
    with torch.no_grad():
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)
        second.__exit__(None, None, None)
    assert "forward" not in vars(layer)


class Own(nn.Linear):
    """Somebody's own kind of Linear, as adapters are."""

    def forward(self, input):
        return 2 * super().forward(input)


def test_left_alone():
    """What is not a plain Linear of this device: another device or dtype, a subclass, a replaced forward, compiled."""
    x = torch.ones(2, 4)
    replaced, own = nn.Linear(4, 4), Own(4, 4)
    vars(replaced)["forward"] = lambda x: 3 * x
    with torch.no_grad():
        expected = own(x)
        with packed_linears(nn.ModuleList([replaced, own, nn.Linear(4, 4, device="meta"), nn.Linear(4, 4).double()])):
            assert torch.equal(replaced(x), 3 * x)
            assert torch.equal(own(x), expected)
        assert torch.equal(replaced(x), 3 * x)  # still theirs


def test_compiled_networks_are_left_alone():
    layer = nn.Linear(4, 4)
    within = nn.Sequential(layer)
    within.compile(backend="eager")
    for compiled in (within, torch.compile(nn.Sequential(layer), backend="eager")):
        with packed_linears(nn.ModuleList([compiled])):
            assert "forward" not in vars(layer)
