"""The RIN against the published network class (tests/golden: tiny, random weights, float32)."""

from dataclasses import replace

import pytest
import torch

from tessera.models.layers import sincos_positions_2d
from tessera.models.rin import RIN, RINConfig
from tessera.records import DenoiserState, TextEncoding
from tessera.weights.published import convert_published, load_published_state, published_config
from tiny.networks import CONFIGS, make_inputs, make_network


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.fixture
def published(golden):
    """The golden network, its text and all tensors."""
    tensors, config = golden
    network = RIN(published_config(config))
    prefix = "state_dict/"
    load_published_state(network, {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    text = TextEncoding(tensors["inputs/text_tokens_embeddings"], tensors["inputs/text_tokens_mask"])
    return network, text, tensors


@pytest.mark.parametrize("grad", [False, True])
def test_outputs_without_and_with_previous_tokens(published, grad):
    network, text, tensors = published
    with torch.set_grad_enabled(grad):
        y, gamma = tensors["inputs/y"], tensors["inputs/gamma"]
        eps, state = network(y, gamma, text)
        close(eps, tensors["outputs/eps_zero_prev"])
        close(state.latent_tokens, tensors["outputs/latents_zero_prev"])
        zeros = torch.zeros_like(tensors["inputs/previous_latents"])
        close(network(y, gamma, text, DenoiserState(latent_tokens=zeros))[0], tensors["outputs/eps_zero_prev"])
        previous = DenoiserState(latent_tokens=tensors["inputs/previous_latents"])
        eps, state = network(y, gamma, text, previous)
        close(eps, tensors["outputs/eps_prev"])
        close(state.latent_tokens, tensors["outputs/latents_prev"])


@torch.no_grad()
def test_inner_values(published):
    network, text, tensors = published
    blocks = []
    for block in network.blocks:
        block.register_forward_hook(lambda module, inputs, outputs: blocks.append(outputs))
    gamma = tensors["inputs/gamma"]
    previous = DenoiserState(latent_tokens=tensors["inputs/previous_latents"])
    _, state = network(tensors["inputs/y"], gamma, text, previous)
    for i, (latent, interface) in enumerate(blocks):
        close(latent, tensors[f"outputs/block_latents/{i}"])
        close(interface, tensors[f"outputs/block_data/{i}"])
    assert len(blocks) == 2
    time = network.time(gamma)
    close(time, tensors["outputs/time_embedding"])
    visible, tokens = tensors["outputs/cond_mask"], torch.cat([time[:, None], state.text_cache.tokens], dim=1)
    assert torch.equal(state.text_cache.bias[:, 0, 0] == 0, visible)
    close(tokens[visible], tensors["outputs/cond_tokens"][visible])


def test_gradients_of_the_self_conditioned_loss(published):
    network, text, tensors = published
    dropped, uncond = tensors["loss/drop_mask"], tensors["loss/uncond"]
    embeddings = text.embeddings.clone()
    embeddings[dropped] = 0
    embeddings[dropped, :1] = uncond
    mask = text.mask.clone()
    mask[dropped] = torch.arange(mask.shape[1]) == 0
    text = TextEncoding(embeddings, mask)

    alpha_bar = 1 - tensors["loss/t"]
    x = alpha_bar.sqrt()[:, None, None, None] * tensors["loss/x_0"]
    x = x + (1 - alpha_bar).sqrt()[:, None, None, None] * tensors["loss/noise"]
    with torch.no_grad():
        _, first = network(x, alpha_bar, text)
    kept = first.latent_tokens * tensors["loss/selfcond_keep"]
    eps, _ = network(x, alpha_bar, text, DenoiserState(latent_tokens=kept))
    loss = (eps - tensors["loss/noise"]).square().mean()
    close(loss, tensors["loss/loss_mean"], 1e-6)

    loss.backward()
    prefix = "loss/grads/"
    expected = convert_published({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    assert len(expected) > 150
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    for name, gradient in expected.items():
        error = (gradients[name] - gradient).norm()
        # 1e-6: some queries' gradients are nearly 0, what is left of sums that cancel in float32
        assert error < 1e-4 * gradient.norm() + 1e-6, (name, error, gradient.norm())


@torch.no_grad()
def test_trajectory_with_guidance(published):
    """Six steps of DDIM on alpha_bar = 1 - t, x0 clamped at 1.2, guidance 1 + 2.

    The published sampler leaves guidance out of the first step; both branches then start from the conditional one's
    tokens.
    """
    network, text, tensors = published
    null = TextEncoding(tensors["sampler/uncond/text_tokens_embeddings"], tensors["sampler/uncond/text_tokens_mask"])
    caches = network.encode_text(text), network.encode_text(null)
    x, tokens = tensors["sampler/x_N"], [None, None]
    for k in range(6):
        now, after = max(k / 6, 1e-9), (k + 1) / 6
        alpha_bar = torch.full((len(x),), now)
        branches = []
        for cache, previous in zip(caches, tokens):
            eps, state = network(x, alpha_bar, text, DenoiserState(latent_tokens=previous, text_cache=cache))
            branches.append((eps, state.latent_tokens))
        if k == 0:
            branches[1] = branches[0]
        tokens = [latent_tokens for _, latent_tokens in branches]
        eps = 3 * branches[0][0] - 2 * branches[1][0]
        x0 = ((x - (1 - now) ** 0.5 * eps) / now**0.5).clamp(-1.2, 1.2)
        eps = (x - now**0.5 * x0) / (1 - now) ** 0.5
        x = after**0.5 * x0 + (1 - after) ** 0.5 * eps
    close(x, tensors["sampler/result"], 5e-5)


@torch.no_grad()
def test_the_tables_start_as_wide_as_configured():
    config = RINConfig(latent_size=16, num_latent_tokens=64, latent_width=64, interface_width=64, blocks=1)
    stds = {}
    for std in (0.02, 1.0):
        network = RIN(replace(config, table_init_std=std))
        stds[std] = [table.std().item() for table in (network.latent_tokens, network.interface_positions)]
        assert network.text.registers.std().item() == pytest.approx(0.0176, rel=0.1)
    assert stds[0.02] == pytest.approx([0.0176] * 2, rel=0.1)  # what truncation at two std leaves
    assert stds[1.0] == pytest.approx([0.88] * 2, rel=0.1)


def test_coherence_token_has_an_effect_and_is_cached():
    network = make_network(CONFIGS["rin-coherence"])
    x, alpha_bar, text = make_inputs()
    sure = network(x, alpha_bar, text)[0]
    ask = {level: network.encode_text(text, level) for level in (0.0, 1.0)}
    mixed = network.encode_text(text, torch.tensor([1.0, 0.0, 1.0]))
    close(network(x, alpha_bar, text, DenoiserState(text_cache=ask[1.0]))[0], sure)
    unsure = network(x, alpha_bar, text, DenoiserState(text_cache=ask[0.0]))[0]
    assert (unsure - sure).abs().max() > 1e-3
    both = network(x, alpha_bar, text, DenoiserState(text_cache=mixed))[0]
    close(both[[0, 2]], sure[[0, 2]])
    close(both[1], unsure[1])


def test_a_start_for_learning_changes_initial_values_alone():
    """Published weights load into a network that started otherwise; positions start at the sinusoids of their grid."""
    torch.manual_seed(0)
    plain = RIN(CONFIGS["rin"])
    torch.manual_seed(0)
    other = RIN(replace(CONFIGS["rin"], sincos_start=True, zero_output=True))
    torch.testing.assert_close(other.interface_positions.detach(), sincos_positions_2d(4, 4, 16))
    assert other.out_projection.weight.abs().max() == 0
    assert plain.state_dict().keys() == other.state_dict().keys()
    changed = {name for name, value in other.state_dict().items() if not value.equal(plain.state_dict()[name])}
    assert changed == {"interface_positions", "out_projection.weight"}
    other.load_state_dict(plain.state_dict())
    x, alpha_bar, text = make_inputs()
    assert other(x, alpha_bar, text)[0].equal(plain(x, alpha_bar, text)[0])
