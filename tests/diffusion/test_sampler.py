"""Samplers against exact solutions of ideal denoisers and against diffusers' schedulers."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tessera.config import UserError
from tessera.diffusion import schedule as sch
from tessera.diffusion.guidance import Guided
from tessera.diffusion.loss import Denoiser
from tessera.diffusion.sampler import SAMPLERS, ddim, ddpm, dpmpp_2m, get_sampler, grid
from tessera.records import DenoiserState
from tiny.denoisers import NOISE, NULL, column, rng, sample, texts, toy

POINT = torch.linspace(-1.5, 1.5, 32).reshape(2, 4, 4)
NAMES = list(SAMPLERS)


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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("schedule", list(sch.SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_data_that_is_one_point_is_found_exactly(name, schedule, steps):
    def network(x, alpha_bar, text, state=None):
        return POINT.expand_as(x), DenoiserState()

    result = sample(name, Denoiser(network, "x0"), schedule=sch.SCHEDULES[schedule], steps=steps)
    torch.testing.assert_close(result, POINT.expand_as(NOISE), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("schedule", list(sch.SCHEDULES))
def test_unit_gaussian_data_is_its_own_noise(name, schedule):
    """For N(0, 1) the ideal eps is sigma x, every x_t has unit variance and the flow stands still as N grows."""
    result = sample(name, gaussian(0, 1), schedule=sch.SCHEDULES[schedule], steps=200)
    torch.testing.assert_close(result, NOISE * result.std() / NOISE.std(), rtol=1e-3, atol=1e-4)
    tolerance = 0.1 if schedule == "scaled_linear" or schedule == "ddpm_linear" else 0.03
    assert result.std().item() == pytest.approx(NOISE.std().item(), rel=tolerance)


@pytest.mark.parametrize(
    ("name", "schedule", "order"),
    [
        ("ddim", sch.linear, 1),
        ("ddim", sch.scaled_linear, 1),
        ("ddim", even, 1),
        ("dpmpp_2m", even, 2),
        ("heun", sch.flow, 2),
    ],
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


OF_DDIM = [prediction for prediction in sch.PREDICTIONS if prediction != "velocity"]


@pytest.mark.parametrize("schedule", DISCRETE)
@pytest.mark.parametrize("steps", [1, 10, 50])
@pytest.mark.parametrize("clip", [None, 0.8])
@pytest.mark.parametrize("prediction", OF_DDIM)
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
    denoise = Denoiser(toy, prediction)
    for eta in (0.0, 0.7):
        expected = reference(scheduler, toy, steps, eta=eta, use_clipped_model_output=True, generator=rng(5))
        guided = Guided(denoise, clip=clip)
        ours = ddim(guided, NOISE, sch.SCHEDULES[schedule], steps, eta=eta, generator=rng(5))
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
    ours = ddpm(Guided(toy, clip=clip), NOISE, sch.SCHEDULES[schedule], steps, generator=rng(5))
    torch.testing.assert_close(ours, expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_euler_on_a_flow_is_diffusers_flow_match_euler(steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1 - k / steps for k in range(steps)])
    x = NOISE
    for t in scheduler.timesteps:
        alpha_bar = sch.flow(t.double() / 1000)
        power = alpha_bar.sqrt() + (1 - alpha_bar).sqrt()
        velocity = toy((power * x).float(), alpha_bar.float().expand(len(x)))[0]
        x = scheduler.step(velocity, t, x).prev_sample
    ours = sample("euler", Denoiser(toy, "velocity"), schedule=sch.flow, steps=steps)
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-4)


def test_euler_is_ddim():
    for schedule in (sch.flow, sch.cosine):
        assert torch.equal(*(sample(name, toy, schedule=schedule, steps=9) for name in ("euler", "ddim")))


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
    ours = dpmpp_2m(Guided(toy), NOISE, sch.scaled_linear, steps)
    torch.testing.assert_close(ours, expected, rtol=2e-3, atol=5e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("schedule", [*sch.SCHEDULES.values(), even, lambda t: sch.linear(t).clamp(0.2, 0.9)])
@pytest.mark.parametrize("prediction", sch.PREDICTIONS)
def test_every_sampler_is_finite_on_every_schedule(name, schedule, prediction):
    for steps in (1, 3, 40):
        result = sample(name, Denoiser(toy, prediction), schedule=schedule, steps=steps, clip=3.0)
        assert result.isfinite().all()
        assert sample(name, Denoiser(toy, prediction), schedule=schedule, steps=steps).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_predictions_of_one_network_agree(name):
    """The same function, written as x0, v and eps, samples the same latents."""

    def as_x0(x, alpha_bar, text, state=None):
        return toy(x, alpha_bar)[0].clamp(-1, 1), DenoiserState()

    def as_v(x, alpha_bar, text, state=None):
        x0 = as_x0(x, alpha_bar, text)[0]
        return sch.target("v", x0, sch.to_eps("x0", x0, x, alpha_bar), alpha_bar), DenoiserState()

    results = [
        sample(name, denoise, schedule=sch.scaled_linear, steps=12)
        for denoise in (Denoiser(as_x0, "x0"), Denoiser(as_v, "v"), lambda *a: Denoiser(as_x0, "x0")(*a))
    ]
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(results[2], results[0], rtol=1e-3, atol=1e-4)


def test_x0_predictions_keep_their_digits_where_alpha_bar_is_nearly_zero():
    seen = []
    network = Denoiser(lambda x, *_: (POINT.expand_as(x), DenoiserState()), "x0")
    ddim(Guided(network), NOISE, sch.linear, 3, callback=lambda step, total, x0: seen.append((step, total, x0)))
    assert [(step, total) for step, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert all(torch.equal(x0, POINT.expand_as(NOISE)) for _, _, x0 in seen)


@pytest.mark.parametrize("name", NAMES)
def test_the_denoiser_is_called_at_t_1_minus_k_over_n(name):
    seen = []

    def network(x, alpha_bar, text, state=None):
        seen.append(alpha_bar)
        return toy(x, alpha_bar)

    sample(name, network, steps=4)
    calls = [1e-9, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75] if name == "heun" else [1e-9, 0.25, 0.5, 0.75]
    expected = torch.tensor(calls)[:, None].expand(-1, 3)
    torch.testing.assert_close(torch.stack(seen), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_n_is_n_batches_of_one(name):
    text = texts()

    def run(rows):
        generators = [rng(10 + row) for row in range(3)][rows]
        options = {"generator": generators} if name == "ddpm" else {}
        return sample(name, toy, NOISE[rows], scale=2.0, text=text.select(rows), null=NULL, steps=6, **options)

    ones = torch.cat([run(slice(row, row + 1)) for row in range(3)])
    torch.testing.assert_close(run(slice(0, 3)), ones, rtol=1e-5, atol=1e-6)


def test_generators_decide_the_noise():
    first, again, other = (ddpm(Guided(toy), NOISE, sch.linear, 5, generator=rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(ddpm(Guided(toy), NOISE, sch.linear, 5, generator=rng(1)), first)
    assert torch.equal(ddim(Guided(toy), NOISE, sch.linear, 5, eta=1.0, generator=rng(1)), first)
    state = torch.get_rng_state()
    ddim(Guided(toy), NOISE, sch.linear, 5, eta=0.5, generator=rng(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_not_changed_and_no_gradient_is_kept():
    noise, weight = NOISE.clone(), torch.ones(1, requires_grad=True)
    guided = Guided(lambda x, a, *_: (toy(x, a)[0] * weight, None))
    result = ddim(guided, noise.bfloat16(), sch.linear, 3)
    assert result.dtype == torch.float32
    assert not result.requires_grad
    dpmpp_2m(Guided(toy), noise, sch.linear, 3)
    assert torch.equal(noise, NOISE)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"eta": 2.0}, "eta"),
        ({"eta": 0.5}, "generator"),
        ({"eta": 0.5, "generator": [rng(), rng()]}, "generator"),
    ],
)
def test_mistakes_are_user_errors_that_name_the_argument(options, field):
    with pytest.raises(UserError, match=field):
        sample("ddim", toy, **options)


def test_sampler_names():
    assert get_sampler("ddim") is ddim
    with pytest.raises(UserError, match="dpmpp_2m"):
        get_sampler("dpmpp-2m")


def test_the_grid_of_times():
    times, alpha_bars = grid(sch.linear, 4)
    assert times == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert alpha_bars[1:] == [0.25, 0.5, 0.75, 1.0]
    with pytest.raises(UserError, match="steps"):
        grid(sch.linear, 0)
