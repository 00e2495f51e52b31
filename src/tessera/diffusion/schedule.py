"""Noise schedules, t -> alpha_bar, and the conversions between noise, clean latents and v.

Legend: t in [0, 1], 0 = clean, 1 = noise; alpha_bar in (0, 1] is the signal's power (the paper's gamma(t));
alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar). Shapes: x, x0, eps, v (B, C, H, W); alpha_bar (B,), or one
Python float for the whole batch, which keeps float64 coefficients with float32 tensors.

Noising is x_t = alpha x0 + sigma eps (paper, section 2, below Eq. 1). The one thing that follows from it:
alpha^2 + sigma^2 = 1, so (x_t, v) is a rotation of (x0, eps), with v = alpha eps - sigma x0 (Salimans & Ho 2022,
appendix D).
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from tessera.config import choose, lookup

FLOOR = 1e-9
"""The smallest alpha_bar of any schedule, and the smallest power that a conversion divides by."""

PREDICTIONS = ("eps", "x0", "v", "velocity")
"""Outputs for which a network may be trained: the noise (the paper's choice), the clean latents, v, or rectified flow's
velocity eps - x0."""

Schedule = Callable[[Tensor], Tensor]


def _as_times(t: Tensor | float) -> Tensor:
    return t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)


def linear(t: Tensor | float) -> Tensor:
    """Return alpha_bar = 1 - t, never below 1e-9: the schedule of CAD-I. Any shape; same shape and dtype out."""
    return (1 - _as_times(t)).clamp(FLOOR, 1)


def cosine(t: Tensor | float) -> Tensor:
    """Return the squared cosine with offset 0.008 (Nichol & Dhariwal 2021, Eq. 17), never below 1e-9."""
    t, offset = _as_times(t), 0.008
    power, clean = (((u + offset) * (math.pi / 2 / (1 + offset))).cos().square() for u in (t, torch.zeros_like(t)))
    return (power / clean).clamp(FLOOR, 1)


def sigmoid(t: Tensor | float) -> Tensor:
    """Return the logistic from -3 to 3, rescaled from 1 to 0 (Chen 2023, section 2.2, temperature 1), at least 1e-9."""
    start, end = -3.0, 3.0
    at_start, at_end = 1 / (1 + math.exp(-start)), 1 / (1 + math.exp(-end))
    value = (_as_times(t) * (end - start) + start).sigmoid()
    return ((at_end - value) / (at_end - at_start)).clamp(FLOOR, 1)


def scaled_linear(t: Tensor | float) -> Tensor:
    """Return Stable Diffusion's alpha_bar: 1000 steps, sqrt(beta) linear from sqrt(0.00085) to sqrt(0.012).

    Continuous in t: step i (0..999) of the discrete schedule is at t = (i + 1) / 1000, and t = 0 is clean;
    between them log(alpha_bar) is interpolated linearly. Ends at alpha_bar(1) = 0.0047, not at 0.
    """
    return _from_betas(t, 0.00085, 0.012, power=2)


def ddpm_linear(t: Tensor | float) -> Tensor:
    """Return DDPM's alpha_bar: 1000 steps, beta linear from 1e-4 to 0.02 (Ho et al. 2020); continuous likewise."""
    return _from_betas(t, 1e-4, 0.02, power=1)


def flow(t: Tensor | float) -> Tensor:
    """Return alpha_bar of rectified flow's path (1 - t) x0 + t eps (Liu et al. 2023), never below 1e-9. x_t, of unit
    power, is that path divided by sqrt((1 - t)^2 + t^2); the path is x_t / (alpha + sigma)."""
    t = _as_times(t)
    signal, noise = (1 - t).square(), t.square()
    return (signal / (signal + noise)).clamp(FLOOR, 1)


SCHEDULES: dict[str, Schedule] = {f.__name__: f for f in (linear, cosine, sigmoid, scaled_linear, ddpm_linear, flow)}


def get_schedule(name: str) -> Schedule:
    """Return the schedule of that name. Raises UserError, with the nearest names, for any other."""
    return lookup(name, SCHEDULES, "noise schedule")


def same_noise(t: float, schedule: str, other: str) -> float:
    """Return the t of the schedule `other` that has the signal-to-noise ratio of `schedule` at t in [0, 1], to 1e-9: it
    carries the paper's tau over. The nearer end where `other` never has that ratio. UserError for an unknown name."""
    wanted, of_other, low, high = float(get_schedule(schedule)(_as_times(t))), get_schedule(other), 0.0, 1.0
    for _ in range(40):  # all schedules fall
        middle = (low + high) / 2
        low, high = (middle, high) if float(of_other(_as_times(middle))) > wanted else (low, middle)
    return (low + high) / 2


@cache
def _log_alpha_bars(first: float, last: float, power: int) -> Tensor:
    """Return log(alpha_bar) at t = 0, 1/1000, ..., 1 in float64 (1001,); beta^(1 / power) is linear in t."""
    betas = torch.linspace(first ** (1 / power), last ** (1 / power), 1000, dtype=torch.float64) ** power
    return torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-betas).cumsum(0)])


def _from_betas(t: Tensor | float, first: float, last: float, power: int) -> Tensor:
    t = _as_times(t)
    table = _log_alpha_bars(first, last, power).to(t.device, t.dtype)
    position = t * (len(table) - 1)
    left = position.floor().clamp(0, len(table) - 2)
    index = left.long()
    return table[index].lerp(table[index + 1], (position - left).clamp(0, 1)).exp()


def _alpha_sigma(alpha_bar: Tensor | float, like: Tensor, floor: float = 0.0):
    """Return (alpha, sigma), shaped to multiply `like`; with a floor under both powers where they are divided by."""
    if isinstance(alpha_bar, Tensor):
        power = alpha_bar.reshape(-1, *[1] * (like.ndim - 1))  # (B, 1, 1, 1)
        return power.clamp_min(floor).sqrt(), (1 - power).clamp_min(floor).sqrt()
    return math.sqrt(max(alpha_bar, floor)), math.sqrt(max(1 - alpha_bar, floor))


def add_noise(x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """Return x_t = alpha x0 + sigma noise (paper, section 2)."""
    alpha, sigma = _alpha_sigma(alpha_bar, x0)
    return alpha * x0 + sigma * noise


def target(prediction: str, x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """Return what a network that outputs `prediction` should give: noise, x0, v = alpha noise - sigma x0 (Salimans & Ho
    2022), or the velocity noise - x0 (Liu et al. 2023)."""
    if prediction == "v":
        alpha, sigma = _alpha_sigma(alpha_bar, x0)
        return alpha * noise - sigma * x0
    return {"eps": noise, "x0": x0}[prediction] if prediction != "velocity" else noise - x0


def check_prediction(prediction: str) -> None:
    """Raise UserError unless `prediction` is one of PREDICTIONS."""
    choose(prediction, dict.fromkeys(PREDICTIONS), "prediction")


def to_x0(prediction: str, output: Tensor, x: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """Return clean latents from a network's output of the kind `prediction`. Multiplies any error of eps by sigma /
    alpha: 3e4 at alpha_bar 1e-9. v and velocity are well conditioned at every alpha_bar."""
    alpha, sigma = _alpha_sigma(alpha_bar, x)
    if prediction == "velocity":
        return (x - sigma * output) / (alpha + sigma)
    if prediction == "eps":
        return (x - sigma * output) / _alpha_sigma(alpha_bar, x, FLOOR)[0]
    return output if prediction == "x0" else alpha * x - sigma * output


def to_eps(prediction: str, output: Tensor, x: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """Return noise from a network's output of the kind `prediction`. Multiplies any error of x0 by alpha / sigma; at
    alpha_bar 1, where no noise is left, by 3e4."""
    alpha, sigma = _alpha_sigma(alpha_bar, x)
    if prediction == "velocity":
        return (x + alpha * output) / (alpha + sigma)
    if prediction == "x0":
        return (x - alpha * output) / _alpha_sigma(alpha_bar, x, FLOOR)[1]
    return output if prediction == "eps" else sigma * x + alpha * output
