"""Samplers against exact solutions of ideal denoisers and against diffusers' schedulers."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tessera.config import UserError
from tessera.diffusion import schedule as sch
from tessera.diffusion.loss import PREDICTIONS, as_denoiser
from tessera.diffusion.sampler import SAMPLERS, ddim, ddpm, dpmpp_2m, get_sampler
from tessera.records import DenoiserState, TextEncoding

NOISE = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
POINT = torch.linspace(-1.5, 1.5, 32).reshape(2, 4, 4)
NULL = torch.zeros(1, 5)
NAMES = list(SAMPLERS)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(name, denoise, noise=NOISE, schedule=sch.linear, steps=10, guidance=1.0, **options):
    if name == "ddpm":
        options.setdefault("generator", rng())
    return SAMPLERS[name](denoise, noise, schedule, steps, guidance, **options)


def texts(rows=3, length=4) -> TextEncoding:
    mask = torch.arange(length) < torch.arange(1, rows + 1)[:, None]
    return TextEncoding(torch.randn(rows, length, 5, generator=rng(7)) * mask[..., None], mask)


def column(alpha_bar: Tensor) -> Tensor:
    return alpha_bar[:, None, None, None]


def gaussian(mean: float, deviation: float):
    """The ideal eps of data N(mean, deviation^2)."""

    def denoise(x, alpha_bar, text, state=None):
        a = column(alpha_bar)
        eps = (1 - a).sqrt() * (x - a.sqrt() * mean) / (a * deviation**2 + 1 - a)
        return eps, DenoiserState()

    return denoise


def gaussian_solution(noise: Tensor, mean: float, deviation: float, schedule) -> Tensor:
    """The probability-flow ODE keeps (x - alpha mean) / sqrt(alpha^2 deviation^2 + sigma^2)."""
    (first, last) = (schedule(torch.tensor(t, dtype=torch.float64)).item() for t in (1.0, 0.0))
    spread = [math.sqrt(a * deviation**2 + 1 - a) for a in (first, last)]
    return math.sqrt(last) * mean + spread[1] * (noise.double() - math.sqrt(first) * mean) / spread[0]


def even(t) -> Tensor:
    """A schedule whose log-SNR is linear in t, from 6 to -6: no infinite step at either end."""
    return torch.sigmoid(6 - 12 * torch.as_tensor(t, dtype=torch.float64))


def toy(x: Tensor, alpha_bar: Tensor, text=None, state=None):
    """Some smooth network: no ideal denoiser, nothing linear."""
    a = column(alpha_bar.to(x))
    out = torch.tanh(1.3 * x + 0.4 * a) * (1.1 - 0.5 * a) + 0.1 * x.roll(1, -1)
    if text is not None:
        pooled = (text.embeddings * text.mask[..., None]).sum((1, 2)) / text.mask.sum(1)
        out = out * (1 + 0.2 * column(pooled.tanh()))
    return out, DenoiserState()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("schedule", list(sch.SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_data_that_is_one_point_is_found_exactly(name, schedule, steps):
    def network(x, alpha_bar, text, state=None):
        return POINT.expand_as(x), DenoiserState()

    result = sample(name, as_denoiser(network, "x0"), schedule=sch.SCHEDULES[schedule], steps=steps)
    torch.testing.assert_close(result, POINT.expand_as(NOISE), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("schedule", list(sch.SCHEDULES))
def test_unit_gaussian_data_is_its_own_noise(name, schedule):
    """For N(0, 1) the ideal eps is sigma x, every x_t has unit variance and the flow stands still as N grows."""
    result = sample(name, gaussian(0, 1), schedule=sch.SCHEDULES[schedule], steps=200)
    torch.testing.assert_close(result, NOISE * result.std() / NOISE.std(), rtol=1e-3, atol=1e-4)
    tolerance = 0.1 if schedule == "scaled_linear" or schedule == "ddpm_linear" else 0.03
    assert result.std().item() == pytest.approx(NOISE.std().item(), rel=tolerance)


@pytest.mark.parametrize(
    ("name", "schedule", "order"),
    [("ddim", sch.linear, 1), ("ddim", sch.scaled_linear, 1), ("ddim", even, 1), ("dpmpp_2m", even, 2)],
)
def test_the_error_falls_at_the_sampler_s_order(name, schedule, order):
    exact = gaussian_solution(NOISE, 0.5, 0.6, schedule)
    errors = [
        (sample(name, gaussian(0.5, 0.6), schedule=schedule, steps=n).double() - exact).abs().max().item()
        for n in (32, 64, 128)
    ]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes == pytest.approx([order, order], abs=0.2)


def test_dpmpp_2m_is_more_accurate_than_ddim_on_real_schedules():
    for schedule in (sch.linear, sch.cosine, sch.scaled_linear):
        exact = gaussian_solution(NOISE, 0.5, 0.6, schedule)
        errors = {
            name: (sample(name, gaussian(0.5, 0.6), schedule=schedule, steps=20).double() - exact).abs().max()
            for name in ("ddim", "dpmpp_2m")
        }
        assert errors["dpmpp_2m"] < errors["ddim"]


def test_ancestral_samples_have_the_data_s_moments():
    noise = torch.randn(4, 4, 32, 32, generator=rng(1))
    for name, options in (("ddpm", {}), ("ddim", {"eta": 0.5, "generator": rng(3)})):
        result = sample(name, gaussian(0.5, 0.6), noise, steps=500, **options)
        assert result.mean().item() == pytest.approx(0.5, abs=0.02)
        assert result.std().item() == pytest.approx(0.6, rel=0.03)


DISCRETE = {
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "ddpm_linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
}


def reference(scheduler, output, steps, **options):
    """A diffusers loop; alpha_bar for the network comes from the scheduler's own table."""
    scheduler.set_timesteps(steps)
    x = NOISE * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        alpha_bar = scheduler.alphas_cumprod[t].expand(len(x))
        x = scheduler.step(output(x, alpha_bar)[0], t, x, **options).prev_sample
    return x


def their_kind(prediction):
    return {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}[prediction]


@pytest.mark.parametrize("schedule", DISCRETE)
@pytest.mark.parametrize("steps", [1, 10, 50])
@pytest.mark.parametrize("clip", [None, 0.8])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_is_diffusers_ddim(schedule, steps, clip, prediction):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        timestep_spacing="trailing",
        prediction_type=their_kind(prediction),
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
        set_alpha_to_one=True,
        **DISCRETE[schedule],
    )
    denoise = as_denoiser(toy, prediction)
    for eta in (0.0, 0.7):
        expected = reference(scheduler, toy, steps, eta=eta, use_clipped_model_output=True, generator=rng(5))
        ours = ddim(denoise, NOISE, sch.SCHEDULES[schedule], steps, clip_denoised=clip, eta=eta, generator=rng(5))
        torch.testing.assert_close(ours, expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("schedule", DISCRETE)
@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("clip", [None, 0.8])
def test_ddpm_is_diffusers_ddpm(schedule, steps, clip):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(
        timestep_spacing="trailing",
        variance_type="fixed_small",
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
        **DISCRETE[schedule],
    )
    expected = reference(scheduler, toy, steps, generator=rng(5))
    ours = ddpm(toy, NOISE, sch.SCHEDULES[schedule], steps, clip_denoised=clip, generator=rng(5))
    torch.testing.assert_close(ours, expected, rtol=2e-3, atol=2e-4)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # theirs, with NumPy 2
@pytest.mark.parametrize("steps", [10, 50])
def test_dpmpp_2m_is_diffusers_dpm_solver(steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        timestep_spacing="trailing",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        **DISCRETE["scaled_linear"],
    )
    expected = reference(scheduler, toy, steps)
    ours = dpmpp_2m(toy, NOISE, sch.scaled_linear, steps)
    torch.testing.assert_close(ours, expected, rtol=2e-3, atol=5e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("schedule", [*sch.SCHEDULES.values(), even, lambda t: sch.linear(t).clamp(0.2, 0.9)])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_sampler_is_finite_on_every_schedule(name, schedule, prediction):
    for steps in (1, 3, 40):
        result = sample(name, as_denoiser(toy, prediction), schedule=schedule, steps=steps, clip_denoised=3.0)
        assert result.isfinite().all()
        assert sample(name, as_denoiser(toy, prediction), schedule=schedule, steps=steps).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_predictions_of_one_network_agree(name):
    """The same function, written as x0, v and eps, samples the same latents."""

    def as_x0(x, alpha_bar, text, state=None):
        return toy(x, alpha_bar)[0].clamp(-1, 1), DenoiserState()

    def as_v(x, alpha_bar, text, state=None):
        return sch.v_from_x0(as_x0(x, alpha_bar, text)[0], x, alpha_bar), DenoiserState()

    results = [
        sample(name, denoise, schedule=sch.scaled_linear, steps=12)
        for denoise in (as_denoiser(as_x0, "x0"), as_denoiser(as_v, "v"), lambda *a: as_denoiser(as_x0, "x0")(*a))
    ]
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(results[2], results[0], rtol=1e-3, atol=1e-4)


def test_x0_predictions_keep_their_digits_where_alpha_bar_is_nearly_zero():
    seen = []
    network = as_denoiser(lambda x, *_: (POINT.expand_as(x), DenoiserState()), "x0")
    ddim(network, NOISE, sch.linear, 3, callback=lambda step, total, x0: seen.append((step, total, x0)))
    assert [(step, total) for step, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert all(torch.equal(x0, POINT.expand_as(NOISE)) for _, _, x0 in seen)


@pytest.mark.parametrize("name", NAMES)
def test_the_denoiser_is_called_at_t_1_minus_k_over_n(name):
    seen = []

    def network(x, alpha_bar, text, state=None):
        seen.append(alpha_bar)
        return toy(x, alpha_bar)

    sample(name, network, steps=4)
    expected = torch.tensor([1e-9, 0.25, 0.5, 0.75])[:, None].expand(4, 3)
    torch.testing.assert_close(torch.stack(seen), expected, rtol=1e-6, atol=0)


def test_clamping_limits_every_x0():
    seen = []
    ddim(toy, 5 * NOISE, sch.linear, 5, clip_denoised=0.7, callback=lambda *a: seen.append(a[2].abs().max().item()))
    assert max(seen) == pytest.approx(0.7)
    assert ddim(toy, 5 * NOISE, sch.linear, 5, clip_denoised=0.7).abs().max().item() <= 0.7 + 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_guidance_1_computes_the_conditional_branch_only(name):
    rows = []

    def network(x, alpha_bar, text, state=None):
        rows.append((len(x), text.mask.shape))
        return toy(x, alpha_bar, text)

    off = sample(name, network, guidance=1.0, text=texts(), null=NULL, steps=4)
    assert rows == [(3, (3, 4))] * 4
    assert torch.equal(off, sample(name, network, text=texts(), steps=4))
    almost = sample(name, network, guidance=1 + 1e-6, text=texts(), null=NULL, steps=4)
    torch.testing.assert_close(almost, off, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_guidance_is_uncond_plus_w_times_the_difference(name, prediction):
    text, w = texts(), 3.0
    nulls = TextEncoding(NULL.expand(3, 1, 5), torch.ones(3, 1, dtype=torch.bool))
    denoise = as_denoiser(toy, prediction)

    def by_hand(x, alpha_bar, _, state=None):
        cond, uncond = denoise(x, alpha_bar, text)[0], denoise(x, alpha_bar, nulls)[0]
        return uncond + w * (cond - uncond), DenoiserState()

    options = {"schedule": sch.scaled_linear, "steps": 6, "clip_denoised": 2.0}
    ours = sample(name, denoise, guidance=w, text=text, null=NULL, **options)
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
    ours = ddim(network, NOISE, sch.scaled_linear, 5, w, text=text, null=NULL)
    assert network.encodings == [6]
    assert network.rows == [6] * 5

    nulls = TextEncoding(NULL.expand(3, 1, 5), torch.ones(3, 1, dtype=torch.bool))
    single, states = Recurrent(tokens=True), {}

    def by_hand(x, alpha_bar, _, state=None):
        cond, states["cond"] = single(x, alpha_bar, text, states.get("cond"))
        uncond, states["uncond"] = single(x, alpha_bar, nulls, states.get("uncond"))
        return uncond + w * (cond - uncond), DenoiserState()

    torch.testing.assert_close(ours, ddim(by_hand, NOISE, sch.scaled_linear, 5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [False, True])
def test_guidance_interval(tokens):
    network, text, w = Recurrent(tokens), texts(), 4.0
    options = {"text": text, "null": NULL, "guidance_interval": (0.25, 0.625)}
    result = ddim(network, NOISE, sch.scaled_linear, 8, w, **options)
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

    torch.testing.assert_close(result, ddim(by_hand, NOISE, sch.scaled_linear, 8), rtol=1e-4, atol=1e-5)
    never = ddim(Recurrent(tokens), NOISE, sch.scaled_linear, 8, w, **options | {"guidance_interval": (0.9, 0.95)})
    assert torch.equal(never, ddim(Recurrent(tokens), NOISE, sch.scaled_linear, 8, text=text))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_n_is_n_batches_of_one(name):
    text = texts()

    def run(rows):
        generators = [rng(10 + row) for row in range(3)][rows]
        options = {"generator": generators} if name == "ddpm" else {}
        return sample(name, toy, NOISE[rows], guidance=2.0, text=text.select(rows), null=NULL, steps=6, **options)

    ones = torch.cat([run(slice(row, row + 1)) for row in range(3)])
    torch.testing.assert_close(run(slice(0, 3)), ones, rtol=1e-5, atol=1e-6)


def test_generators_decide_the_noise():
    first, again, other = (ddpm(toy, NOISE, sch.linear, 5, generator=rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(ddpm(toy, NOISE, sch.linear, 5, generator=rng(1)), first)
    assert torch.equal(ddim(toy, NOISE, sch.linear, 5, eta=1.0, generator=rng(1)), first)
    state = torch.get_rng_state()
    ddim(toy, NOISE, sch.linear, 5, eta=0.5, generator=rng(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_not_changed_and_no_gradient_is_kept():
    noise, weight = NOISE.clone(), torch.ones(1, requires_grad=True)
    result = ddim(lambda x, a, *_: (toy(x, a)[0] * weight, None), noise.bfloat16(), sch.linear, 3)
    assert result.dtype == torch.float32
    assert not result.requires_grad
    dpmpp_2m(toy, noise, sch.linear, 3)
    assert torch.equal(noise, NOISE)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"guidance": math.nan}, "guidance"),
        ({"guidance": math.inf}, "guidance"),
        ({"guidance": 2.0}, "guidance"),
        ({"guidance": 2.0, "text": texts()}, "null"),
        ({"text": texts(2)}, "text"),
        ({"clip_denoised": 0.0}, "clip_denoised"),
        ({"guidance_interval": (0.5, 0.1)}, "guidance_interval"),
        ({"eta": 2.0}, "eta"),
        ({"eta": 0.5, "name": "ddpm"}, "eta"),
        ({"eta": 0.5, "name": "dpmpp_2m"}, "eta"),
        ({"eta": 0.5}, "generator"),
        ({"eta": 0.5, "generator": [rng(), rng()]}, "generator"),
    ],
)
def test_mistakes_are_user_errors_that_name_the_argument(options, field):
    with pytest.raises(UserError, match=field):
        sample(options.pop("name", "ddim"), toy, **options)


def test_sampler_names():
    assert get_sampler("ddim") is ddim
    with pytest.raises(UserError, match="dpmpp_2m"):
        get_sampler("dpmpp-2m")


def test_the_null_branch_is_marked_as_such():
    """So that networks can spare its work; a step without guidance has no null rows."""
    seen = set()

    def network(x, alpha_bar, text, state=None):
        seen.add((len(x), text.null_rows))
        assert text.null_rows == 0 or (text.mask[-text.null_rows :].sum(1) == 1).all()
        return toy(x, alpha_bar, text, state)

    sample("ddim", network, guidance=3.0, text=texts(), null=NULL, guidance_interval=(0.0, 0.5))
    assert seen == {(3, 0), (6, 3)}
