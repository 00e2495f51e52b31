"""Arguments of a call of the diffusers pipeline: checked, and made into what sampling takes.

Every function raises UserError that names the argument.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tessera.config import UserError
from tessera.generate.pipeline import Pipeline


def texts(name: str, given: Any) -> list[str]:
    """Return one or several texts as a list. Raises UserError for anything else."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple):
        raise UserError(f"{name}: give a string or a list of strings, not {type(given).__name__}")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"{name}: number {number} of the list is {type(text).__name__}, not a string")
    if not texts:
        raise UserError(f"{name}: the list is empty, give at least one string")
    return list(texts)


def check_whole(name: str, value: Any) -> None:
    """Check that a number is whole and at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name}: {value!r} is not a whole number of at least 1")


def check_size(drawer: Pipeline, patch_size: int, height: int | None, width: int | None) -> None:
    """Check that both are the side that the network was trained on, or None."""
    side = drawer.info.image_size
    step = side // drawer.latent_shape[1] * patch_size
    for name, value in (("height", height), ("width", width)):
        if value is None or value == side:
            continue
        wrong = not isinstance(value, int) or value < 1 or value % step
        reason = f"is not a multiple of {step}" if wrong else "is another size than it was trained on"
        raise UserError(f"{name}: {value} {reason}; this model draws {side} x {side} pixels, leave {name} out")


def start_noise(
    drawer: Pipeline, count: int, generator: Any, latents: Tensor | None
) -> tuple[Tensor, torch.Generator | list[torch.Generator]]:
    """Return start noise (B, C, h, w), `latents` or drawn, and the generator of the noise that a sampler adds."""
    from diffusers.utils.torch_utils import randn_tensor

    if generator is None:  # from torch's own generator, as elsewhere in diffusers
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    several = isinstance(generator, list | tuple)
    every = list(generator) if several else [generator]
    if several and len(every) != count:
        raise UserError(f"generator: {len(every)} generators for {count} images, give one, or one for each")
    if not all(isinstance(one, torch.Generator) for one in every):
        raise UserError(f"generator: {type(every[0]).__name__} is not a torch.Generator, nor a list of them")
    drawn = every if several else every[0]
    shape = (count, *drawer.latent_shape)
    if latents is None:
        return randn_tensor(shape, generator=drawn, device=drawer.device, dtype=torch.float32), drawn
    if not isinstance(latents, Tensor) or latents.shape != shape:
        found = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise UserError(f"latents: {found}, but the start noise of these images is a tensor {shape}")
    return latents, drawn


def warn_of_cuts(drawer: Pipeline, texts: Sequence[str]) -> None:
    """Warn once for each text that the encoder cuts."""
    for text, tokens in drawer.cut_prompts(texts).items():
        start = f"{text[:40]}..." if len(text) > 40 else text
        limit = drawer.text_encoder.max_tokens
        message = f"prompt cut: {start!r} has {tokens} tokens, the text encoder reads the first {limit}"
        warnings.warn(message, stacklevel=4)  # the line that calls the pipeline, behind torch's no_grad
