"""Compiled blocks do what the eager ones do."""

import functools

import pytest
import torch
from small_networks import CONFIGS, make_inputs, make_network
from torch import nn

from tessera.models.build import compile_blocks


def outputs(network):
    """For captions of several lengths, with and without a known null row."""
    found = []
    for lengths in ((5, 2, 7), (3, 1, 9), (4, 4, 12)):
        x, alpha_bar, text = make_inputs(lengths)
        output, state = network(x, alpha_bar, text)
        again, _ = network(x, 0.5 * alpha_bar, text, state)
        found += [output, again]
    return found


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["dit", "rin"])
def test_compiled_is_eager(name, backend, monkeypatch):
    """ "eager" traces the blocks without a compiler: the graph is whole, and guards hold for other lengths."""
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend=backend))
    network = make_network(CONFIGS[name]).eval()
    names = list(network.state_dict())
    with torch.inference_mode():
        eager = outputs(network)
        compile_blocks(network)
        compiled = outputs(network)
    assert list(network.state_dict()) == names
    for ours, theirs in zip(compiled, eager):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


def test_every_block_is_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **_: compiled.append(module))
    for config in CONFIGS.values():
        network = make_network(config)
        compile_blocks(network)
        assert compiled == list(network.blocks)
        compiled.clear()
