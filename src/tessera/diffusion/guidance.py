"""Classifier-free guidance: a denoiser and the texts of one batch as the one function that samplers call."""

import math
from typing import Any

import torch
from torch import Tensor

from tessera.config import UserError
from tessera.diffusion.loss import Denoiser, null_text
from tessera.diffusion.schedule import to_eps, to_x0
from tessera.records import DenoiserState, TextEncoding

_ROUNDED = 1e-9  # of t: 1 - 225 / 250 is below 0.1


class Guided:
    """A denoiser that already guides: `guided(x, t, alpha_bar) -> (x0, eps)` for the batch of `text`.

    denoise    (x, alpha_bar, text, state=None) -> (eps, DenoiserState). A `Denoiser` also says what its network
               outputs, and then x0 is never taken through eps and back.
    text       TextEncoding with B rows, or None for a denoiser without text.
    null       (1, D), the encoding of ""; needed when scale is not 1.
    scale      w: uncond + w (cond - uncond); 1 = off, then only the conditional branch is computed.
    interval   (low, high) in t: guidance acts where low <= t <= high and is off elsewhere; None = everywhere.
    clip       x0 is clamped to [-c, c] and eps recomputed from the clamped x0; None = no limit. Without it an
               eps-network's error in the first step, where alpha_bar is near 0, is multiplied by 1 / alpha: on `linear`
               and `cosine` give one that fits the latents' scale.

    A guided step runs one batch of rows [cond; uncond], so each branch's latent tokens are its own rows. Where guidance
    is off only the cond rows run, and the uncond branch continues from their latent tokens, as the published CAD-I does
    after its unguided first step. What the network hands from step to step stays here; a call at t = 1 starts afresh.
    Raises UserError for arguments out of their range.
    """

    def __init__(
        self,
        denoise: Any,
        text: TextEncoding | None = None,
        null: Tensor | None = None,
        scale: float = 1.0,
        interval: tuple[float, float] | None = None,
        clip: float | None = None,
    ):
        if not math.isfinite(scale):
            raise UserError(f"guidance scale: {scale} is not a finite number, give for example 3.0 (1 = off)")
        low, high = _ends(interval)
        if clip is not None and not clip > 0:
            raise UserError(f"clip: {clip} must be above 0, or None for no limit")
        self.network, self.prediction = denoise, "eps"
        if isinstance(denoise, Denoiser):
            self.network, self.prediction = denoise.network, denoise.prediction
        self.scale, self.clip = scale, clip
        self.low, self.high = low, high
        self.text, self.both = text, None
        if scale != 1:
            if text is None or null is None:
                raise UserError(f"guidance scale: {scale} needs both `text` and `null`, the encoding of the empty text")
            null_branch = null_text(null.to(text.embeddings), *text.mask.shape)
            self.both = TextEncoding(
                torch.cat([text.embeddings, null_branch.embeddings]),
                torch.cat([text.mask, null_branch.mask]),
                null_rows=len(text.mask),
            )
        self.latent_tokens: Tensor | None = None  # (B or 2B, N, D), of the step before
        self.text_caches: dict[bool, Any] = {}  # by whether a step is guided

    @torch.no_grad()
    def __call__(self, x: Tensor, t: float, alpha_bar: float) -> tuple[Tensor, Tensor]:
        """Return (x0, eps), both (B, C, H, W) float32, of the noisy latents x (B, C, H, W) at t."""
        if self.text is not None and len(self.text.mask) != len(x):
            raise UserError(f"text: {len(self.text.mask)} rows for {len(x)} images, give one row for each")
        if t == 1:
            self.latent_tokens, self.text_caches = None, {}
        guided = self.both is not None and acts_at(t, self.low, self.high)
        output = self._call(torch.cat([x, x]) if guided else x, alpha_bar, guided)
        if guided:  # the conversions below are affine in the output, so guiding it is guiding eps, and x0
            cond, uncond = output.chunk(2)
            output = uncond + self.scale * (cond - uncond)
        x0 = to_x0(self.prediction, output, x, alpha_bar)
        if self.clip is None:
            return x0, to_eps(self.prediction, output, x, alpha_bar)
        x0 = x0.clamp(-self.clip, self.clip)
        return x0, to_eps("x0", x0, x, alpha_bar)

    def _call(self, x: Tensor, alpha_bar: float, guided: bool) -> Tensor:
        """Return the network's output in float32, with the state that it left at the step before."""
        tokens, cache = self.latent_tokens, self.text_caches.get(guided)
        if tokens is not None and len(tokens) != len(x):
            tokens = torch.cat([tokens, tokens]) if guided else tokens[: len(x)]
        state = None if tokens is None and cache is None else DenoiserState(tokens, cache)
        rows = torch.full((len(x),), alpha_bar, dtype=torch.float32, device=x.device)
        output, state = self.network(x, rows, self.both if guided else self.text, state)
        if state is not None:
            self.latent_tokens, self.text_caches[guided] = state.latent_tokens, state.text_cache
        return output.float()


def acts_at(t: float, low: float, high: float) -> bool:
    """Return whether guidance of the interval (low, high) acts at t."""
    return low - _ROUNDED <= t <= high + _ROUNDED


def _ends(interval: Any) -> tuple[float, float]:
    """Return (low, high) of an interval in t; None = (0, 1). UserError for anything else."""
    if interval is None:
        return 0.0, 1.0
    pair = isinstance(interval, tuple | list) and len(interval) == 2
    if not pair or not all(isinstance(t, int | float) for t in interval) or not 0 <= interval[0] <= interval[1] <= 1:
        raise UserError(f"guidance interval: {interval!r} is not (low, high) in t, with 0 <= low <= high <= 1")
    return interval[0], interval[1]
