"""Compiled blocks do what the eager ones do."""

import functools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._dynamo import config as dynamo
from torch._dynamo.exc import SkipFrame

from tessera.models import build
from tessera.models.build import compile_blocks, compiler_fault
from tiny.networks import CONFIGS, DIT_TINY, RIN_TINY, make_inputs, make_network


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
    compile = functools.partialmethod(nn.Module.compile, backend=backend, fullgraph=True)
    monkeypatch.setattr(nn.Module, "compile", compile)
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


@pytest.fixture
def programs(monkeypatch):
    """The compiled programs that are made from here on, as a list that grows; nothing is kept from other tests."""
    made = []

    def backend(graph, _inputs):
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend=backend))
    torch.compiler.reset()
    yield made
    torch.compiler.reset()


SHAPES = [replace(DIT_TINY, width=16 * i, depth=1) for i in range(1, 4)]
SHAPES += [replace(RIN_TINY, latent_width=16 * i, blocks=1) for i in range(1, 4)]


def train_all(shapes):
    """A forward and a backward pass of a compiled network of each shape, compared with an eager one."""
    for shape in shapes:
        x, alpha_bar, text = make_inputs()
        network = make_network(shape)
        expected, _ = network(x, alpha_bar, text)
        compile_blocks(network)
        output, _ = network(x, alpha_bar, text)
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)
        output.sum().backward()
        assert all(parameter.grad is not None for parameter in network.blocks.parameters())


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo's own
def test_more_networks_than_torch_keeps_programs_are_compiled_in_one_process(programs):
    """Several runs of a notebook, each of another shape: torch's limit, of 8 where here it is 2, ended one of them."""
    with dynamo.patch(recompile_limit=2):
        train_all(SHAPES)
    assert len(programs) == len(SHAPES)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_beyond_the_limit_networks_run_uncompiled(programs, monkeypatch):
    monkeypatch.setattr(build, "PROGRAMS", 2)
    with dynamo.patch(recompile_limit=2):
        train_all(SHAPES[:3])
    assert len(programs) == 2


def test_pictures_of_any_number_and_text_are_drawn_by_one_compiled_network(programs):
    """Each kind of call needs its program: one row or several, one token or several, guided or not."""
    network = make_network(replace(DIT_TINY, depth=1)).eval()
    with dynamo.patch(recompile_limit=2), torch.inference_mode():
        compile_blocks(network)
        for lengths in ((5, 2, 7), (4,), (1, 1)):
            for null_rows in (0, len(lengths)):
                x, alpha_bar, text = make_inputs(lengths + (1,) * null_rows)
                text = replace(text, null_rows=null_rows)
                for _ in range(2):
                    output, _ = network(x, alpha_bar, text)
                assert output.isfinite().all()
    assert len(programs) > 2


def fault(monkeypatch, backend):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch.compiler.reset()
    return compiler_fault(torch.device("cpu"), torch.bfloat16)


def test_a_compiler_that_cannot_is_found_out(monkeypatch):
    def lacking(_graph, _inputs):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    def too_old(_graph, _inputs):  # what torch's own does for bfloat16 on a GPU without it
        raise SkipFrame("BF16 is not supported")

    with monkeypatch.context() as patch:
        assert fault(patch, "eager") is None
    with monkeypatch.context() as patch:
        assert "Failed to find C compiler." in (fault(patch, lacking) or "")
    with monkeypatch.context() as patch:
        found = fault(patch, too_old)
        assert found is not None
        assert "\n" not in found
