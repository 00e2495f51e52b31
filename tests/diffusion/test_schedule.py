"""Schedules against diffusers' tables and closed forms; conversions as round trips."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.config import UserError
from tessera.diffusion import schedule as sch

TIMES = torch.linspace(0, 1, 2001, dtype=torch.float64)
NAMES = list(sch.SCHEDULES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_schedule_falls_from_one_and_stays_positive(name, dtype):
    alpha_bar = sch.get_schedule(name)(TIMES.to(dtype))
    assert alpha_bar.dtype == dtype
    assert alpha_bar.shape == TIMES.shape
    assert alpha_bar[0] == 1
    assert (alpha_bar.diff() < 0).all()
    assert alpha_bar.min() >= sch.FLOOR * (1 - 1e-6)
    assert (1 - alpha_bar >= 0).all()


def test_linear_is_one_minus_t_with_a_floor():
    assert sch.linear(torch.tensor([0.0, 0.25, 1.0])).tolist() == pytest.approx([1, 0.75, 1e-9], rel=1e-6)
    assert sch.linear(0.4).item() == 0.6
    assert sch.linear(1).item() == 1e-9


def test_cosine_and_sigmoid_closed_forms():
    for t in (0.1, 0.5, 0.9):
        f = [math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (t, 0.0)]
        assert sch.cosine(t).item() == pytest.approx(f[0] / f[1], rel=1e-12)
    assert sch.sigmoid(0.5).item() == pytest.approx(0.5, rel=1e-12)
    assert sch.sigmoid(0.2).item() == pytest.approx(1 - sch.sigmoid(0.8).item(), rel=1e-12)
    low, middle, high = (1 / (1 + math.exp(-u)) for u in (-3, 6 * 0.3 - 3, 3))
    assert sch.sigmoid(0.3).item() == pytest.approx((high - middle) / (high - low), rel=1e-12)
    assert sch.sigmoid(1.0).item() == 1e-9


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("scaled_linear", {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        ("ddpm_linear", {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
        ("cosine", {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_integer_steps_are_those_of_diffusers(name, settings):
    diffusers = pytest.importorskip("diffusers")
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    ours = sch.SCHEDULES[name](t)
    for scheduler in (diffusers.DDIMScheduler, diffusers.DDPMScheduler):
        theirs = scheduler(num_train_timesteps=1000, **settings).alphas_cumprod.double()
        last = 999 if name == "cosine" else 1000  # theirs limits the very last beta to 0.999
        torch.testing.assert_close(ours[:last], theirs[:last], rtol=2e-4 if name == "cosine" else 2e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["scaled_linear", "ddpm_linear"])
def test_between_integer_steps_the_logarithm_is_linear(name):
    alpha_bar = sch.SCHEDULES[name](torch.tensor([0.5, 0.50025, 0.501], dtype=torch.float64)).log()
    assert alpha_bar[1].item() == pytest.approx(0.75 * alpha_bar[0].item() + 0.25 * alpha_bar[2].item(), rel=1e-9)


def test_tau_400_of_1000_on_each_schedule():
    values = [sch.SCHEDULES[name](0.4).item() for name in ("linear", "scaled_linear", "ddpm_linear")]
    assert values == pytest.approx([0.60, 0.426, 0.195], abs=5e-4)


def test_unknown_names_are_user_errors():
    with pytest.raises(UserError, match="linear"):
        sch.get_schedule("linaer")
    with pytest.raises(UserError, match="eps"):
        sch.check_prediction("epsilon")


@given(
    st.lists(st.floats(1e-6, 1 - 1e-6), min_size=3, max_size=3),
    st.sampled_from(sch.PREDICTIONS),
    st.integers(0, 2**31),
)
def test_conversions_are_round_trips_in_float64(alpha_bars, prediction, seed):
    alpha_bar = torch.tensor(alpha_bars, dtype=torch.float64)
    x0, eps = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = sch.add_noise(x0, eps, alpha_bar)
    output = sch.target(prediction, x0, eps, alpha_bar)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(sch.to_x0(prediction, output, x, alpha_bar), x0, **close)
    torch.testing.assert_close(sch.to_eps(prediction, output, x, alpha_bar), eps, **close)


def test_a_float_alpha_bar_is_that_of_every_sample():
    x0, eps = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    x = sch.add_noise(x0, eps, torch.full((3,), 0.3))
    torch.testing.assert_close(sch.add_noise(x0, eps, 0.3), x)
    torch.testing.assert_close(sch.to_x0("eps", eps, x, 0.3), x0)
    assert sch.to_eps("x0", x0, x, 0.3).dtype == torch.float32


def test_targets_are_the_papers():
    x0, eps, alpha_bar = torch.tensor([2.0]), torch.tensor([-1.0]), 0.64
    wanted = {"eps": -1.0, "x0": 2.0, "v": 0.8 * -1 - 0.6 * 2, "velocity": -1.0 - 2.0}
    assert {p: sch.target(p, x0, eps, alpha_bar).item() for p in sch.PREDICTIONS} == pytest.approx(wanted)


def test_flow_is_the_straight_path_scaled_to_unit_power():
    x0, eps = torch.randn(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (0.01, 0.3, 0.5, 0.9):
        alpha_bar = float(sch.flow(t))
        shrink = alpha_bar**0.5 + (1 - alpha_bar) ** 0.5
        torch.testing.assert_close(sch.add_noise(x0, eps, alpha_bar) / shrink, (1 - t) * x0 + t * eps)


@pytest.mark.parametrize("schedule", sch.SCHEDULES)
@pytest.mark.parametrize("other", sch.SCHEDULES)
def test_tau_is_carried_over_at_equal_signal_to_noise(schedule, other):
    for t in (0.1, 0.4, 0.7):
        there = sch.same_noise(t, schedule, other)
        assert float(sch.SCHEDULES[other](there)) == pytest.approx(float(sch.SCHEDULES[schedule](t)), abs=1e-8)


def test_the_paper_s_tau_on_other_schedules():
    """Of `linear`, alpha_bar = 1 - t, by hand: sigma / alpha = sqrt(2 / 3) = t / (1 - t) of a flow."""
    ratio = math.sqrt(2 / 3)
    assert sch.same_noise(0.4, "linear", "flow") == pytest.approx(ratio / (1 + ratio), abs=1e-9)
    assert sch.same_noise(1.0, "linear", "scaled_linear") == pytest.approx(1.0, abs=1e-9)


def test_conversions_stay_finite_at_both_ends():
    x = torch.ones(2, 1, 1, 1)
    for alpha_bar in (torch.tensor([1.0, 1e-9]), 1.0, 1e-9, 0.0):
        for prediction in sch.PREDICTIONS:
            assert sch.to_x0(prediction, 0.5 * x, x, alpha_bar).isfinite().all()
            assert sch.to_eps(prediction, 0.5 * x, x, alpha_bar).isfinite().all()
