"""Guidance against two calls by hand, and the states that go from step to step."""

import math

import pytest
import torch

from tessera.config import UserError
from tessera.diffusion import schedule as sch
from tessera.diffusion.guidance import Guided
from tessera.diffusion.loss import Denoiser
from tessera.diffusion.sampler import SAMPLERS, ddim
from tessera.records import DenoiserState, TextEncoding
from tiny.denoisers import NOISE, NULL, column, sample, texts, toy

NAMES = list(SAMPLERS)


def test_clamping_limits_every_x0():
    seen = []
    guided = Guided(toy, clip=0.7)
    result = ddim(guided, 5 * NOISE, sch.linear, 5, callback=lambda *a: seen.append(a[2].abs().max().item()))
    assert max(seen) == pytest.approx(0.7)
    assert result.abs().max().item() <= 0.7 + 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_guidance_1_computes_the_conditional_branch_only(name):
    rows = []

    def network(x, alpha_bar, text, state=None):
        rows.append((len(x), text.mask.shape))
        return toy(x, alpha_bar, text)

    off = sample(name, network, scale=1.0, text=texts(), null=NULL, steps=4)
    assert rows == [(3, (3, 4))] * (7 if name == "heun" else 4)
    assert torch.equal(off, sample(name, network, text=texts(), steps=4))
    almost = sample(name, network, scale=1 + 1e-6, text=texts(), null=NULL, steps=4)
    torch.testing.assert_close(almost, off, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prediction", sch.PREDICTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_guidance_is_uncond_plus_w_times_the_difference(name, prediction):
    text, w = texts(), 3.0
    nulls = TextEncoding(NULL.expand(3, 1, 5), torch.ones(3, 1, dtype=torch.bool))
    denoise = Denoiser(toy, prediction)

    def by_hand(x, alpha_bar, _, state=None):
        cond, uncond = denoise(x, alpha_bar, text)[0], denoise(x, alpha_bar, nulls)[0]
        return uncond + w * (cond - uncond), DenoiserState()

    options = {"schedule": sch.scaled_linear, "steps": 6, "clip": 2.0}
    ours = sample(name, denoise, scale=w, text=text, null=NULL, **options)
    torch.testing.assert_close(ours, sample(name, by_hand, **options), rtol=1e-3, atol=1e-4)


class Recurrent:
    """Latent tokens that count the row's calls and carry its branch's text; text cached under its first rows."""

    def __init__(self, tokens: bool):
        self.tokens = tokens
        self.encodings: list[int] = []
        self.rows: list[int] = []

    def __call__(self, x, alpha_bar, text, state=None):
        state = state or DenoiserState()
        if state.text_cache is None:
            self.encodings.append(len(x))
        cache = text.embeddings.sum((1, 2)) if state.text_cache is None else state.text_cache
        self.rows.append(len(x))
        assert len(cache) == len(x)
        if not self.tokens:
            return toy(x, alpha_bar, text)[0], DenoiserState(text_cache=cache)
        tokens = torch.zeros(len(x), 1, 2) if state.latent_tokens is None else state.latent_tokens
        tokens = torch.stack([tokens[:, 0, 0] + 1, 0.5 * tokens[:, 0, 1] + cache], 1)[:, None]
        out = toy(x, alpha_bar, text)[0] + 0.1 * column(tokens[:, 0, 1].tanh()) * column(tokens[:, 0, 0])
        return out, DenoiserState(tokens, cache)


def test_latent_tokens_go_from_step_to_step_in_both_branches_apart():
    network, text, w = Recurrent(tokens=True), texts(), 2.5
    ours = ddim(Guided(network, text, NULL, w), NOISE, sch.scaled_linear, 5)
    assert network.encodings == [6]
    assert network.rows == [6] * 5

    nulls = TextEncoding(NULL.expand(3, 1, 5), torch.ones(3, 1, dtype=torch.bool))
    single, states = Recurrent(tokens=True), {}

    def by_hand(x, alpha_bar, _, state=None):
        cond, states["cond"] = single(x, alpha_bar, text, states.get("cond"))
        uncond, states["uncond"] = single(x, alpha_bar, nulls, states.get("uncond"))
        return uncond + w * (cond - uncond), DenoiserState()

    torch.testing.assert_close(ours, ddim(Guided(by_hand), NOISE, sch.scaled_linear, 5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [False, True])
def test_guidance_interval(tokens):
    network, text, w = Recurrent(tokens), texts(), 4.0
    result = ddim(Guided(network, text, NULL, w, (0.25, 0.625)), NOISE, sch.scaled_linear, 8)
    guided = [False, False, False, True, True, True, True, False]  # t = 1, 0.875, ..., 0.125
    assert network.rows == [6 if on else 3 for on in guided]
    assert network.encodings == [3, 6]

    nulls = TextEncoding(NULL.expand(3, 1, 5), torch.ones(3, 1, dtype=torch.bool))
    single, steps = Recurrent(tokens), iter(guided)
    states = {}

    def by_hand(x, alpha_bar, _, state=None):
        previous = states.get("cond")
        cond, states["cond"] = single(x, alpha_bar, text, previous)
        if not next(steps):
            states["uncond"] = DenoiserState(states["cond"].latent_tokens)
            return cond, DenoiserState()
        uncond, states["uncond"] = single(x, alpha_bar, nulls, states["uncond"])
        return uncond + w * (cond - uncond), DenoiserState()

    torch.testing.assert_close(result, ddim(Guided(by_hand), NOISE, sch.scaled_linear, 8), rtol=1e-4, atol=1e-5)
    never = ddim(Guided(Recurrent(tokens), text, NULL, w, (0.9, 0.95)), NOISE, sch.scaled_linear, 8)
    assert torch.equal(never, ddim(Guided(Recurrent(tokens), text), NOISE, sch.scaled_linear, 8))


@pytest.mark.parametrize("interval", [(0.1, 0.8), (0.0, 0.3), (0.7, 1.0)])
def test_the_ends_of_an_interval_are_inside_whatever_is_rounded(interval):
    network, (low, high) = Recurrent(tokens=False), interval
    ddim(Guided(network, texts(), NULL, 2.0, interval), NOISE, sch.scaled_linear, 250)
    inside = [round(250 * low) <= left <= round(250 * high) for left in range(250, 0, -1)]
    assert network.rows == [6 if on else 3 for on in inside]


def test_the_null_branch_is_marked_as_such():
    """So that networks can spare its work; a step without guidance has no null rows."""
    seen = set()

    def network(x, alpha_bar, text, state=None):
        seen.add((len(x), text.null_rows))
        assert text.null_rows == 0 or (text.mask[-text.null_rows :].sum(1) == 1).all()
        return toy(x, alpha_bar, text, state)

    sample("ddim", network, scale=3.0, text=texts(), null=NULL, interval=(0.0, 0.5))
    assert seen == {(3, 0), (6, 3)}


def test_a_second_drawing_starts_afresh():
    guided = Guided(Recurrent(tokens=True), texts(), NULL, 2.0)
    first = ddim(guided, NOISE, sch.linear, 4)
    assert torch.equal(ddim(guided, NOISE, sch.linear, 4), first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": math.nan}, "guidance scale"),
        ({"scale": math.inf}, "guidance scale"),
        ({"scale": 2.0}, "guidance scale"),
        ({"scale": 2.0, "text": texts()}, "null"),
        ({"text": texts(2)}, "text: 2 rows for 3 images"),
        ({"clip": 0.0}, "clip"),
        ({"interval": (0.5, 0.1)}, r"guidance interval: \(0.5, 0.1\) is not \(low, high\) in t"),
        ({"interval": (200, 800)}, "guidance interval"),
        ({"interval": (0.0, math.nan)}, "guidance interval"),
        ({"interval": (0.1,)}, "guidance interval"),
        ({"interval": ("0.1", "0.8")}, "guidance interval"),
        ({"interval": 0.5}, "guidance interval: 0.5 is not"),
    ],
)
def test_mistakes_are_user_errors_that_name_the_argument(options, message):
    with pytest.raises(UserError, match=message):
        sample("ddim", toy, **options)
