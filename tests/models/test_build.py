"""Both networks, in every variant, eager and compiled: sizes, shapes, padding, caches, initial values, configs."""

import copy
import functools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._dynamo import config as dynamo
from torch._dynamo.exc import SkipFrame

from tessera.models.build import build_network, compile_blocks, compile_whole, compiler_fault, resize_positions
from tessera.models.dit import DIT_I_B2, DIT_I_L2, DIT_I_S2, DIT_I_XL2, DiT
from tessera.models.rin import CAD_I_BASE, CAD_I_L, RIN, RINConfig
from tessera.records import DenoiserState, TextEncoding
from tiny.networks import CONFIGS, DIT_TINY, RIN_TINY, make_inputs, make_network, make_text


def close(a, b, tolerance=2e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("config", "count"), [(CAD_I_L, 330_235_152), (CAD_I_BASE, 188_372_752)])
def test_published_rins_have_their_exact_parameter_count(config, count):
    with torch.device("meta"):
        assert RIN(config).parameter_count == count


@pytest.mark.parametrize(
    ("config", "millions"), [(DIT_I_S2, 33.9), (DIT_I_B2, 133.6), (DIT_I_L2, 438.3), (DIT_I_XL2, 639.3)]
)
def test_dits_have_the_expected_size(config, millions):
    with torch.device("meta"):
        assert DiT(config).parameter_count == pytest.approx(millions * 1e6, rel=0.01)


def test_coherence_token_costs_what_the_published_variant_does():
    with torch.device("meta"):
        counts = [RIN(RINConfig(coherence=coherence)).parameter_count for coherence in (False, True)]
    assert counts[1] - counts[0] == 1_313_792


def test_output_has_the_shape_and_dtype_of_the_latents(network):
    x, alpha_bar, text = make_inputs()
    output, state = network(x, alpha_bar, text)
    assert output.shape == x.shape
    assert output.dtype == torch.float32
    assert state.text_cache is not None
    assert (state.latent_tokens is None) == isinstance(network, DiT)


def test_output_depends_on_every_input(network):
    x, alpha_bar, text = make_inputs()
    with torch.no_grad():
        output = network(x, alpha_bar, text)[0]
        for other in (
            network(x + 0.1, alpha_bar, text)[0],
            network(x, 1 - alpha_bar, text)[0],
            network(x, alpha_bar, make_text(seed=9))[0],
        ):
            assert (output - other).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_every_parameter_gets_a_gradient(network):
    x, alpha_bar, text = make_inputs()
    previous = None if isinstance(network, DiT) else torch.randn(3, 6, 32, generator=torch.Generator().manual_seed(3))
    output, _ = network(x, alpha_bar, text, DenoiserState(latent_tokens=previous))
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("padding", [0.0, 1e3])
def test_padding_changes_nothing(network, grad, padding):
    """Both ways attention is computed (with and without gradients), and any padding."""
    x, alpha_bar, text = make_inputs()
    longer = text.pad_to(11)
    longer = TextEncoding(longer.embeddings.masked_fill(~longer.mask[..., None], padding), longer.mask)
    with torch.set_grad_enabled(grad):
        close(network(x, alpha_bar, longer)[0], network(x, alpha_bar, text)[0])


@pytest.mark.parametrize("grad", [False, True])
def test_batch_is_its_samples_one_by_one(network, grad):
    x, alpha_bar, text = make_inputs()
    with torch.set_grad_enabled(grad):
        output, state = network(x, alpha_bar, text)
        again = network(x, alpha_bar, text, state)[0]
        for i, length in enumerate(text.mask.sum(dim=1).tolist()):
            alone = TextEncoding(text.embeddings[i : i + 1, :length], text.mask[i : i + 1, :length])
            first, first_state = network(x[i : i + 1], alpha_bar[i : i + 1], alone)
            close(output[i : i + 1], first)
            close(again[i : i + 1], network(x[i : i + 1], alpha_bar[i : i + 1], alone, first_state)[0])


def test_with_and_without_gradients_is_the_same(network):
    x, alpha_bar, text = make_inputs()
    with torch.no_grad():
        fused = network(x, alpha_bar, text)[0]
    close(fused, network(x, alpha_bar, text)[0])


def test_cached_text_gives_the_same_output_and_gradients(network):
    x, alpha_bar, text = make_inputs()
    twin = copy.deepcopy(network)
    naive = network(x, alpha_bar, text)[0]
    cache = twin.encode_text(text)
    nothing = TextEncoding(torch.full_like(text.embeddings, torch.nan), text.mask)  # must not be looked at
    cached, state = twin(x, alpha_bar, nothing, DenoiserState(text_cache=cache))
    assert torch.equal(naive, cached)
    assert state.text_cache is cache
    naive.square().sum().backward()
    cached.square().sum().backward()
    for (name, one), two in zip(network.named_parameters(), twin.parameters()):
        assert torch.equal(one.grad, two.grad), name


def test_cache_of_some_rows(network):
    x, alpha_bar, text = make_inputs()
    rows = torch.tensor([True, False, True])
    with torch.no_grad():
        output, state = network(x, alpha_bar, text)
        for selection in (rows, rows.nonzero()[:, 0]):
            part = DenoiserState(text_cache=state.text_cache.select(selection))
            close(network(x[rows], alpha_bar[rows], text.select(rows), part)[0], output[rows])


def test_bfloat16_on_the_cpu_is_close(network):
    x, alpha_bar, text = make_inputs()
    low = copy.deepcopy(network).to(torch.bfloat16)
    expected = network(x, alpha_bar, text)[0]
    output = low(x, alpha_bar, text)[0]
    output.square().mean().backward()
    assert output.dtype == torch.float32
    assert (output - expected).norm() < 0.1 * expected.norm()
    assert all(parameter.grad.dtype == torch.bfloat16 for parameter in low.parameters() if parameter.grad is not None)


def test_initial_dit_predicts_zero_and_initial_rin_ignores_previous_tokens():
    x, alpha_bar, text = make_inputs()
    with torch.no_grad():
        for zero in (DIT_TINY, replace(RIN_TINY, zero_output=True)):
            assert build_network(zero)(x, alpha_bar, text)[0].abs().max() == 0
        network = build_network(RIN_TINY)
        previous = DenoiserState(latent_tokens=torch.randn(3, 6, 32))
        close(network(x, alpha_bar, text, previous)[0], network(x, alpha_bar, text)[0])


@pytest.mark.parametrize("grad", [False, True])
def test_known_null_rows_change_nothing_but_the_coherence_token(network, grad):
    """DiT replaces their cross-attention by a constant; RIN gives them coherence 0, as the published pipeline does."""
    x, alpha_bar, text = make_inputs(lengths=(5, 1, 1))
    known = TextEncoding(text.embeddings, text.mask, null_rows=2)
    with torch.set_grad_enabled(grad):
        if network.config == CONFIGS["rin-coherence"]:
            coherence = torch.tensor([1.0, 0.0, 0.0])
            expected = network(x, alpha_bar, text, DenoiserState(text_cache=network.encode_text(text, coherence)))[0]
            assert (expected - network(x, alpha_bar, text)[0])[1:].abs().max() > 1e-3
        else:
            expected = network(x, alpha_bar, text)[0]
        output, state = network(x, alpha_bar, known.pad_to(9))
        close(output, expected, 1e-4)
        assert isinstance(network, RIN) or len(state.text_cache.null_outputs) == network.config.depth
        rows = torch.tensor([2, 0])
        part = DenoiserState(text_cache=state.text_cache.select(rows))
        close(network(x[rows], alpha_bar[rows], known.select(rows), part)[0], expected[rows], 1e-4)


def test_null_rows_do_without_queries_in_dit():
    network = make_network(DIT_TINY)
    x, alpha_bar, text = make_inputs(lengths=(5, 1, 1))
    seen = []
    network.blocks[0].cross_attention.query.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    network(x, alpha_bar, text)
    network(x, alpha_bar, TextEncoding(text.embeddings, text.mask, null_rows=2))
    assert seen == [3, 1]


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
@pytest.mark.parametrize("compile_it", [compile_blocks, pytest.param(compile_whole, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["dit", "rin"])
def test_compiled_is_eager(name, compile_it, backend, monkeypatch):
    """ "eager" traces without a compiler: graphs do not break, and guards hold for other lengths."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend, fullgraph=True))
    network = make_network(CONFIGS[name]).eval()
    names = list(network.state_dict())
    with torch.inference_mode():
        eager = outputs(network)
        compile_it(network)
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


def train_all(shapes, **options):
    """A forward and a backward pass of a compiled network of each shape, compared with an eager one."""
    for shape in shapes:
        x, alpha_bar, text = make_inputs()
        network = make_network(shape)
        expected, _ = network(x, alpha_bar, text)
        compile_blocks(network, **options)
        output, _ = network(x, alpha_bar, text)
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)
        output.sum().backward()
        assert all(parameter.grad is not None for parameter in network.blocks.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo's own
def test_more_networks_than_torch_keeps_programs_are_compiled_in_one_process(programs):
    """Several runs of a notebook, each of another shape: torch's limit, of 8 where here it is 2, ended one of them."""
    with dynamo.patch(recompile_limit=2):
        train_all(SHAPES)
    assert len(programs) == len(SHAPES)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_beyond_the_limit_networks_run_uncompiled(programs):
    with dynamo.patch(recompile_limit=2):
        train_all(SHAPES[:3], programs=2)
    assert len(programs) == 2


@pytest.mark.slow
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


def test_positions_are_interpolated():
    """A table that is linear in row and column stays so inside; corners of the image keep their meaning."""
    side, twice = 8, 16
    grid = torch.arange(side, dtype=torch.float32)
    table = torch.stack([grid[:, None].expand(side, side), grid.expand(side, side)], -1).reshape(-1, 2)
    larger = resize_positions(table, twice**2).reshape(twice, twice, 2)
    expected = (torch.arange(twice) + 0.5) / 2 - 0.5
    assert torch.allclose(larger[4:-4, 4:-4, 0], expected[4:-4, None].expand(-1, 8), atol=1e-4)
    assert torch.allclose(larger[4:-4, 4:-4, 1], expected[4:-4].expand(8, -1), atol=1e-4)
    assert torch.equal(resize_positions(table, side**2), table)
