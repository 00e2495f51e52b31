"""Samplers: functions of one signature that turn noise into latents with a denoiser and its schedule.

    sampler(denoise, noise, schedule, steps, guidance=1.0, *, text, null, clip_denoised, eta, guidance_interval,
            generator, callback) -> latents

    denoise             (x, alpha_bar, text, state=None) -> (eps, DenoiserState). A `Denoiser` (see `as_denoiser`) also
                        says what its network outputs, and then x0 is never taken through eps and back.
    noise               (B, C, H, W), standard normal: x at t = 1.
    schedule            t -> alpha_bar, as in `tessera.diffusion.schedule`.
    steps               N >= 1; step k goes from t = 1 - k/N to 1 - (k+1)/N.
    guidance            w: uncond + w (cond - uncond); 1 = off, then only the conditional branch is computed.
    text                TextEncoding with B rows, or None for a denoiser without text.
    null                (1, D), the encoding of ""; needed when guidance is not 1.
    clip_denoised       x0 is clamped to [-c, c] and eps recomputed from the clamped x0; None = no limit. Without it
                        an eps-network's error in the first step, where alpha_bar is near 0, is multiplied by
                        1 / alpha: on `linear` and `cosine` give one that fits the latents' scale.
    eta                 share of DDPM's noise that is added again: `ddim` takes any in [0, 1], `ddpm` is 1 by
                        definition, `dpmpp_2m` 0.
    guidance_interval   (low, high) in t: guidance acts where low <= t <= high and is 1 elsewhere; None = everywhere.
    generator           torch.Generator, or one for each image (then an image does not depend on its batch); needed
                        when noise is added.
    callback            callback(step, total, x0) after each step, step = 1..total, x0 (B, C, H, W) its estimate.

They return float32 latents (B, C, H, W). Coefficients are float64 numbers, tensors float32. User's mistakes raise
UserError.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tessera.config import UserError, lookup
from tessera.diffusion.loss import Denoiser, null_text
from tessera.diffusion.schedule import Schedule, eps_from_x0, step_grid, to_eps, to_x0
from tessera.records import DenoiserState, TextEncoding

Generators = torch.Generator | Sequence[torch.Generator]
Callback = Callable[[int, int, Tensor], None]
Sampler = Callable[..., Tensor]
"""The one signature; see the top of this module."""


class _Guided:
    """One denoiser, one batch, many steps: guidance, clamping, and the states that go from step to step.

    A guided step runs one batch of rows [cond; uncond], so each branch's latent tokens are its own rows. Where
    guidance is off only the cond rows run, and the uncond branch goes on from their latent tokens, as the published
    CAD-I does after its unguided first step. Text is encoded once for each kind of step.
    """

    def __init__(self, denoise, text, null, guidance, guidance_interval, clip_denoised):
        self.network, self.prediction = denoise, "eps"
        if isinstance(denoise, Denoiser):
            self.network, self.prediction = denoise.network, denoise.prediction
        self.guidance, self.clip = guidance, clip_denoised
        self.low, self.high = guidance_interval if guidance_interval is not None else (0.0, 1.0)
        self.text, self.both = text, None
        if guidance != 1:
            null_branch = null_text(null.to(text.embeddings), *text.mask.shape)
            self.both = TextEncoding(
                torch.cat([text.embeddings, null_branch.embeddings]),
                torch.cat([text.mask, null_branch.mask]),
                null_rows=len(text.mask),
            )
        self.latent_tokens: Tensor | None = None  # (B or 2B, N, D), of the step before
        self.text_caches: dict[bool, Any] = {}  # by whether a step is guided

    def __call__(self, x: Tensor, t: float, alpha_bar: float) -> tuple[Tensor, Tensor]:
        """(x0, eps), both (B, C, H, W), guided and clamped."""
        guided = self.both is not None and self.low <= t <= self.high
        output = self._call(torch.cat([x, x]), alpha_bar, guided) if guided else self._call(x, alpha_bar, guided)
        if guided:  # the conversions below are affine in the output, so guiding it is guiding eps, and x0
            cond, uncond = output.chunk(2)
            output = uncond + self.guidance * (cond - uncond)
        x0 = to_x0(self.prediction, output, x, alpha_bar)
        if self.clip is None:
            return x0, to_eps(self.prediction, output, x, alpha_bar)
        x0 = x0.clamp(-self.clip, self.clip)
        return x0, eps_from_x0(x0, x, alpha_bar)

    def _call(self, x: Tensor, alpha_bar: float, guided: bool) -> Tensor:
        """The network's output in float32, with the state that it left at the step before."""
        tokens, cache = self.latent_tokens, self.text_caches.get(guided)
        if tokens is not None and len(tokens) != len(x):
            tokens = torch.cat([tokens, tokens]) if guided else tokens[: len(x)]
        state = None if tokens is None and cache is None else DenoiserState(tokens, cache)
        rows = torch.full((len(x),), alpha_bar, device=x.device)
        output, state = self.network(x, rows, self.both if guided else self.text, state)
        if state is not None:
            self.latent_tokens, self.text_caches[guided] = state.latent_tokens, state.text_cache
        return output.float()


def _prepare(denoise, noise, schedule, steps, guidance, text, null, clip_denoised, guidance_interval):
    """Checks what the caller gave. Returns (x, model, times, alpha_bars): (B, C, H, W), _Guided, N + 1 floats each."""
    if not math.isfinite(guidance):
        raise UserError(f"guidance: {guidance} is not a finite number, give for example 3.0 (1 = off)")
    if clip_denoised is not None and not clip_denoised > 0:
        raise UserError(f"clip_denoised: {clip_denoised} must be above 0, or None for no limit")
    if guidance_interval is not None and not guidance_interval[0] <= guidance_interval[1]:
        raise UserError(f"guidance_interval: {guidance_interval} is (low, high) in t, with low <= high")
    if guidance != 1 and (text is None or null is None):
        raise UserError(f"guidance: {guidance} needs both `text` and `null`, the encoding of the empty prompt")
    if text is not None and len(text.mask) != len(noise):
        raise UserError(f"text: {len(text.mask)} rows for {len(noise)} images, give one row for each")
    times = step_grid(steps)
    alpha_bars = schedule(times).tolist()
    model = _Guided(denoise, text, null, guidance, guidance_interval, clip_denoised)
    return noise.float(), model, times.tolist(), alpha_bars


def _fresh_noise(x: Tensor, generator: Generators | None) -> Tensor:
    if generator is None:
        raise UserError("generator: eta above 0 draws noise at every step, give a torch.Generator")
    if isinstance(generator, torch.Generator):
        return torch.randn(x.shape, generator=generator, device=generator.device).to(x.device)
    if len(generator) != len(x):
        raise UserError(f"generator: {len(generator)} generators for {len(x)} images, give one, or one for each")
    return torch.stack([torch.randn(x.shape[1:], generator=g, device=g.device) for g in generator]).to(x.device)


@torch.no_grad()
def ddim(
    denoise: Any,
    noise: Tensor,
    schedule: Schedule,
    steps: int,
    guidance: float = 1.0,
    *,
    text: TextEncoding | None = None,
    null: Tensor | None = None,
    clip_denoised: float | None = None,
    eta: float = 0.0,
    guidance_interval: tuple[float, float] | None = None,
    generator: Generators | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """DDIM (Song et al. 2020a, Eq. 12 and 16); the paper's sampler with N = 250, eta = 0. First order.

    Arguments and result: see the top of this module.
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta: {eta} must be from 0 (no noise added) to 1 (DDPM)")
    x, model, times, alpha_bars = _prepare(
        denoise, noise, schedule, steps, guidance, text, null, clip_denoised, guidance_interval
    )
    for k, (now, after) in enumerate(pairwise(alpha_bars)):
        x0, eps = model(x, times[k], now)
        added = eta**2 * (1 - after) * (1 - now / after) / (1 - now) if now < after else 0.0
        x = math.sqrt(after) * x0 + math.sqrt(max(1 - after - added, 0.0)) * eps
        if added > 0:
            x = x + math.sqrt(added) * _fresh_noise(x, generator)
        if callback is not None:
            callback(k + 1, steps, x0)
    return x


def ddpm(
    denoise: Any,
    noise: Tensor,
    schedule: Schedule,
    steps: int,
    guidance: float = 1.0,
    *,
    text: TextEncoding | None = None,
    null: Tensor | None = None,
    clip_denoised: float | None = None,
    eta: float = 1.0,
    guidance_interval: tuple[float, float] | None = None,
    generator: Generators | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """DDPM's ancestral sampling with the posterior's variance (Ho et al. 2020, Eq. 6-7): DDIM at eta = 1, which is the
    same in exact arithmetic (Song et al. 2020a, section 4.1). Arguments and result: see the top of this module.
    """
    if eta != 1:
        raise UserError(f"eta: {eta}, but ddpm is eta = 1 by definition; for another value use the ddim sampler")
    return ddim(
        denoise,
        noise,
        schedule,
        steps,
        guidance,
        text=text,
        null=null,
        clip_denoised=clip_denoised,
        eta=1.0,
        guidance_interval=guidance_interval,
        generator=generator,
        callback=callback,
    )


@torch.no_grad()
def dpmpp_2m(
    denoise: Any,
    noise: Tensor,
    schedule: Schedule,
    steps: int,
    guidance: float = 1.0,
    *,
    text: TextEncoding | None = None,
    null: Tensor | None = None,
    clip_denoised: float | None = None,
    eta: float = 0.0,
    guidance_interval: tuple[float, float] | None = None,
    generator: Generators | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): second order, in half the log-SNR, lambda = log(alpha / sigma).

    The first step, and the one to alpha_bar = 1, where lambda is infinite, are of first order.
    Arguments and result: see the top of this module.
    """
    if eta != 0:
        raise UserError(f"eta: {eta}, but dpmpp_2m adds no noise; leave it at 0, or use the ddim sampler")
    x, model, times, alpha_bars = _prepare(
        denoise, noise, schedule, steps, guidance, text, null, clip_denoised, guidance_interval
    )
    lambdas = [(math.log(a) - math.log1p(-a)) / 2 if a < 1 else math.inf for a in alpha_bars]
    before: Tensor | None = None  # x0 of the step before
    last_h = 0.0
    for k, after in enumerate(alpha_bars[1:]):
        x0, _ = model(x, times[k], alpha_bars[k])
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


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "ddpm": ddpm, "dpmpp_2m": dpmpp_2m}


def get_sampler(name: str) -> Sampler:
    """The sampler of that name. Raises UserError, with the nearest names, for any other."""
    return lookup(name, SAMPLERS, "sampler")
