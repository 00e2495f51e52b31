"""What holds for both networks, in every variant."""

import copy

import pytest
import torch

from tessera.config import UserError, from_dict, to_dict
from tessera.models.build import build_network
from tessera.models.dit import DIT_I_B2, DIT_I_L2, DIT_I_S2, DIT_I_XL2, DiT, DiTConfig
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
    """Both ways attention is computed (with and without gradients), and whatever stands in the padding."""
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
        assert build_network(DIT_TINY)(x, alpha_bar, text)[0].abs().max() == 0
        network = build_network(RIN_TINY)
        previous = DenoiserState(latent_tokens=torch.randn(3, 6, 32))
        close(network(x, alpha_bar, text, previous)[0], network(x, alpha_bar, text)[0])


def test_tables_are_named(network):
    names = {name.split(".")[-1] for name in network.table_names}
    expected = {"modulation_tables", "out_table"}
    if isinstance(network, RIN):
        expected = {"latent_tokens", "interface_positions", "registers"}
        expected |= {"coherence_position"} if network.config.coherence else set()
    assert names == expected


@pytest.mark.parametrize("name", CONFIGS)
def test_meta_network_becomes_the_same_one(name):
    network = make_network(CONFIGS[name])
    with torch.device("meta"):
        empty = build_network(CONFIGS[name])
    empty.load_state_dict(network.state_dict(), assign=True)
    empty.reset_buffers()
    x, alpha_bar, text = make_inputs()
    with torch.no_grad():
        assert torch.equal(empty(x, alpha_bar, text)[0], network(x, alpha_bar, text)[0])


@pytest.mark.parametrize("name", CONFIGS)
def test_config_survives_json(name):
    config = CONFIGS[name]
    assert from_dict(type(config), to_dict(config)) == config


@pytest.mark.parametrize("shape", [(3, 3, 8, 4), (3, 4, 8, 8), (3, 3, 16, 16)])
def test_wrong_latents_are_named(network, shape):
    _, alpha_bar, text = make_inputs()
    with pytest.raises(ValueError, match=r"\(B, 3, 8, 8\)"):
        network(torch.zeros(shape), alpha_bar, text)


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (DiTConfig, {"width": 10, "heads": 5}),
        (DiTConfig, {"width": 64, "heads": 5}),
        (DiTConfig, {"latent_size": 31}),
        (DiTConfig, {"depth": 0}),
        (DiTConfig, {"layer_scale_init": 0.0}),
        (DiTConfig, {"refiner_depth": -1}),
        (RINConfig, {"latent_size": 31}),
        (RINConfig, {"latent_width": 1020}),
        (RINConfig, {"compute_heads": 3}),
        (RINConfig, {"interface_width": 250}),
        (RINConfig, {"text_registers": 0}),
        (RINConfig, {"table_init_std": 0.0}),
    ],
)
def test_impossible_configs_name_the_field(config, change):
    field = "|".join([*change, "latent_width"])
    with pytest.raises(UserError, match=rf"^({field}) must be") as error:
        config(**change)
    assert "\n" not in str(error.value)


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
        close(output, expected)
        assert isinstance(network, RIN) or len(state.text_cache.null_outputs) == network.config.depth
        rows = torch.tensor([2, 0])
        part = DenoiserState(text_cache=state.text_cache.select(rows))
        close(network(x[rows], alpha_bar[rows], known.select(rows), part)[0], expected[rows])


def test_null_rows_do_without_queries_in_dit():
    network = make_network(DIT_TINY)
    x, alpha_bar, text = make_inputs(lengths=(5, 1, 1))
    seen = []
    network.blocks[0].cross_attention.query.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    network(x, alpha_bar, text)
    network(x, alpha_bar, TextEncoding(text.embeddings, text.mask, null_rows=2))
    assert seen == [3, 1]
