"""A toy denoiser, texts for it and one call for every sampler."""

import torch
from torch import Tensor

from tessera.diffusion import schedule as sch
from tessera.diffusion.guidance import Guided
from tessera.diffusion.sampler import SAMPLERS
from tessera.records import DenoiserState, TextEncoding

NOISE = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
NULL = torch.zeros(1, 5)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def texts(rows=3, length=4) -> TextEncoding:
    mask = torch.arange(length) < torch.arange(1, rows + 1)[:, None]
    return TextEncoding(torch.randn(rows, length, 5, generator=rng(7)) * mask[..., None], mask)


def column(alpha_bar: Tensor) -> Tensor:
    return alpha_bar[:, None, None, None]


def toy(x: Tensor, alpha_bar: Tensor, text=None, state=None):
    """Some smooth network: no ideal denoiser, nothing linear."""
    a = column(alpha_bar.to(x))
    out = torch.tanh(1.3 * x + 0.4 * a) * (1.1 - 0.5 * a) + 0.1 * x.roll(1, -1)
    if text is not None:
        pooled = (text.embeddings * text.mask[..., None]).sum((1, 2)) / text.mask.sum(1)
        out = out * (1 + 0.2 * column(pooled.tanh()))
    return out, DenoiserState()


def sample(name, denoise, noise=NOISE, schedule=sch.linear, steps=10, eta=None, generator=None, **guidance) -> Tensor:
    """Latents (B, C, H, W) by the sampler of that name; guidance: text, null, scale, interval, clip."""
    options = {} if eta is None else {"eta": eta}
    if name == "ddpm" and generator is None:
        generator = rng()
    return SAMPLERS[name](Guided(denoise, **guidance), noise, schedule, steps, generator=generator, **options)
