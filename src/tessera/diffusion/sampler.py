"""Samplers: functions of one signature, `Sampler`, that turn noise into latents. `SAMPLERS` names them.

Coefficients are float64 numbers, tensors float32. Importing this module does not import torch, so that a program knows
the names at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from tessera.config import UserError, blaming, load_part

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tessera.diffusion.guidance import Guided
    from tessera.diffusion.schedule import Schedule

    Generators = torch.Generator | Sequence[torch.Generator]
    Callback = Callable[[int, int, Tensor], None]


class Sampler(Protocol):
    """A function that turns noise into latents; a user's own is `--sampler FILE.py:NAME`.

    denoise     denoise(x, t, alpha_bar) -> (x0, eps): all (B, C, H, W) but the numbers t and alpha_bar; text and
                guidance are in it.
    noise       (B, C, H, W), standard normal: x at t = 1.
    schedule    t -> alpha_bar, as in `tessera.diffusion.schedule`.
    steps       N >= 1; step k goes from t = 1 - k/N to 1 - (k+1)/N, see `grid`.
    generator   torch.Generator, or one for each image (then an image does not depend on its batch), for a sampler that
                adds noise, see `fresh_noise`.
    callback    callback(step, total, x0) after each step, step = 1..total, x0 (B, C, H, W) its estimate.

    Returns float32 latents (B, C, H, W). Raises UserError for wrong arguments.
    """

    def __call__(
        self, denoise: Guided, noise: Tensor, schedule: Schedule, steps: int, *, generator=None, callback=None
    ) -> Tensor: ...


def grid(schedule: Schedule, steps: int) -> tuple[list[float], list[float]]:
    """Return the N + 1 times t_k = 1 - k / N of a sampler with N steps, and the schedule's alpha_bar at each."""
    import torch

    if steps < 1:
        raise UserError(f"steps: {steps} is too few, a sampler needs at least 1")
    times = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    return times.tolist(), schedule(times).tolist()


def fresh_noise(x: Tensor, generator: Generators | None) -> Tensor:
    """Return standard normal noise in the form of x (B, C, H, W), each image's from its own generator if it has one."""
    import torch

    if generator is None:
        raise UserError("generator: this sampler draws noise at every step, give a torch.Generator")
    if isinstance(generator, torch.Generator):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=generator.device).to(x.device)
    if len(generator) != len(x):
        raise UserError(f"generator: {len(generator)} generators for {len(x)} images, give one, or one for each")
    drawn = [torch.randn(x.shape[1:], generator=g, dtype=x.dtype, device=g.device) for g in generator]
    return torch.stack(drawn).to(x.device)


def ddim(
    denoise: Guided, noise: Tensor, schedule: Schedule, steps: int, *, eta=0.0, generator=None, callback=None
) -> Tensor:
    """Sample by DDIM (Song et al. 2020a, Eq. 12 and 16), of first order; the paper's sampler with N = 250, eta = 0.
    eta: share of DDPM's noise that is added again, in [0, 1]; above 0 it needs a generator."""
    if not 0 <= eta <= 1:
        raise UserError(f"eta: {eta} must be from 0 (no noise added) to 1 (DDPM)")
    x = noise.float()
    times, alpha_bars = grid(schedule, steps)
    for k, (now, after) in enumerate(pairwise(alpha_bars)):
        x0, eps = denoise(x, times[k], now)
        added = eta**2 * (1 - after) * (1 - now / after) / (1 - now) if now < after else 0.0
        x = math.sqrt(after) * x0 + math.sqrt(max(1 - after - added, 0.0)) * eps
        if added > 0:
            x = x + math.sqrt(added) * fresh_noise(x, generator)
        if callback is not None:
            callback(k + 1, steps, x0)
    return x


def ddpm(denoise: Guided, noise: Tensor, schedule: Schedule, steps: int, *, generator=None, callback=None) -> Tensor:
    """Sample by DDPM's ancestral steps with the posterior's variance (Ho et al. 2020, Eq. 6-7). They are DDIM at eta =
    1, which is the same in exact arithmetic (Song et al. 2020a, section 4.1)."""
    return ddim(denoise, noise, schedule, steps, eta=1.0, generator=generator, callback=callback)


def euler(denoise: Guided, noise: Tensor, schedule: Schedule, steps: int, *, generator=None, callback=None) -> Tensor:
    """Sample by Euler's steps along a flow's velocity eps - x0 (Liu et al. 2023). On any schedule they are DDIM's: both
    take x0 and eps for constant during a step."""
    return ddim(denoise, noise, schedule, steps, generator=generator, callback=callback)


def heun(denoise: Guided, noise: Tensor, schedule: Schedule, steps: int, *, generator=None, callback=None) -> Tensor:
    """Sample by Heun's steps along a flow's velocity (Karras et al. 2022, algorithm 1, in a flow's coordinates), of
    second order; the network is called twice in each step but the last.

    Path: x / (alpha + sigma) = (1 - s) x0 + s eps with s = sigma / (alpha + sigma), which is t on `flow`.
    """
    x = noise.float()
    times, alpha_bars = grid(schedule, steps)
    scales = [math.sqrt(a) + math.sqrt(1 - a) for a in alpha_bars]
    places = [math.sqrt(1 - a) / scale for a, scale in zip(alpha_bars, scales)]
    for k, (now, after) in enumerate(pairwise(places)):
        x0, eps = denoise(x, times[k], alpha_bars[k])
        path, velocity = x / scales[k], eps - x0
        x = scales[k + 1] * (path + (after - now) * velocity)
        if after > 0 and after < now:
            x0, eps = denoise(x, times[k + 1], alpha_bars[k + 1])
            x = scales[k + 1] * (path + (after - now) * (velocity + eps - x0) / 2)
        if callback is not None:
            callback(k + 1, steps, x0)
    return x


def dpmpp_2m(
    denoise: Guided, noise: Tensor, schedule: Schedule, steps: int, *, generator=None, callback=None
) -> Tensor:
    """Sample by DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2), of second order in half the log-SNR.

    lambda = log(alpha / sigma). The first step, and the one to alpha_bar = 1, where lambda is infinite, are of first
    order. No noise is added.
    """
    x = noise.float()
    times, alpha_bars = grid(schedule, steps)
    lambdas = [(math.log(a) - math.log1p(-a)) / 2 if a < 1 else math.inf for a in alpha_bars]
    before: Tensor | None = None  # x0 of the step before
    last_h = 0.0
    for k, after in enumerate(alpha_bars[1:]):
        x0, _ = denoise(x, times[k], alpha_bars[k])
        h = lambdas[k + 1] - lambdas[k]
        if h > 0:  # where a schedule rests, x does
            slope = x0
            if before is not None and last_h > 0 and math.isfinite(h):
                slope = x0 + (h / (2 * last_h)) * (x0 - before)
            shrink = math.sqrt((1 - after) / (1 - alpha_bars[k]))
            x = shrink * x + math.sqrt(after) * -math.expm1(-h) * slope
        before, last_h = x0, h
        if callback is not None:
            callback(k + 1, steps, x0)
    return x


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "ddpm": ddpm, "dpmpp_2m": dpmpp_2m, "euler": euler, "heun": heun}


def get_sampler(spec: str) -> Sampler:
    """Return the sampler of that name, or NAME of a user's file for "my_parts.py:NAME".

    Raises UserError for an unknown name or a file without that function; the user's sampler raises it for all that goes
    wrong in it, and for latents of another shape than the noise's.
    """
    sampler = load_part(spec, SAMPLERS, "sampler")
    if spec in SAMPLERS:
        return sampler

    @functools.wraps(sampler)
    def checked(denoise, noise, schedule, steps, *, generator=None, callback=None):
        with blaming(spec, "sampler"):
            latents = sampler(denoise, noise, schedule, steps, generator=generator, callback=callback)
        if getattr(latents, "shape", None) != noise.shape:
            found = tuple(getattr(latents, "shape", ())) or type(latents).__name__
            raise UserError(f"sampler {spec}: returned {found}, not latents of the noise's shape {tuple(noise.shape)}")
        return latents.float()

    return checked
