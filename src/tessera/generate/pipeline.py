"""From prompts to images: the network, text encoder and latent codec of one export, put together.

B = images of a batch, S = image side in pixels, (C, H, W) = shape of one image's latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tessera.config import UserError
from tessera.devices import pick_device, usual_defaults
from tessera.diffusion.guidance import Guided
from tessera.diffusion.loss import Denoiser
from tessera.diffusion.sampler import Sampler, get_sampler
from tessera.diffusion.schedule import get_schedule
from tessera.models.build import compile_blocks
from tessera.models.packing import packed_linears
from tessera.models.rin import RIN
from tessera.pretrained.text_encoders import load_text_encoder, split_words
from tessera.pretrained.vae import load_codec, shape_of_latents
from tessera.randomness import address, philox
from tessera.records import DenoiserState, TextEncoding
from tessera.weights.export import ExportInfo, load_export

if TYPE_CHECKING:
    from tessera.diffusion.sampler import Callback, Generators

SAMPLES_PER_PROMPT = 2**20
"""Addresses of each prompt: image k of prompt i draws its noise at i * SAMPLES_PER_PROMPT + k."""
FAR = 1.5
"""A prompt is far from the captions where it is shorter or longer than theirs by more than this factor."""


def sample_noise(shape: Sequence[int], addresses: Sequence[tuple[int, int]], seed: int) -> Tensor:
    """Draw the start noise (B, C, H, W), float32, of the images at `addresses` = (prompt index, k).

    An image's noise is a function of (seed, its address). Raises UserError when an index is negative or k is not below
    SAMPLES_PER_PROMPT.
    """
    rows = []
    for prompt, k in addresses:
        if prompt < 0 or not 0 <= k < SAMPLES_PER_PROMPT:
            raise UserError(f"address ({prompt}, {k}): give a prompt index >= 0 and 0 <= k < {SAMPLES_PER_PROMPT}")
        rows.append(philox(seed, "sample", prompt * SAMPLES_PER_PROMPT + k).standard_normal(tuple(shape)))
    return torch.from_numpy(np.stack(rows).astype(np.float32))  # (B, C, H, W)


def step_generators(addresses: Sequence[tuple[int, int]], seed: int) -> list[torch.Generator]:
    """Return one CPU generator per image for the noise that a sampler adds at its steps, seeded by (seed, address)."""
    return [torch.Generator().manual_seed(address(seed, "sample/steps", prompt, k)) for prompt, k in addresses]


class _Negative(torch.nn.Module):
    """The network with a text of its own in each row of guidance's second branch, instead of the null condition.

    To a network with a coherence token the branch stays what it is without such a text: of coherence 0.
    """

    def __init__(self, network: torch.nn.Module, negative: TextEncoding):
        super().__init__()
        self.network, self.negative = network, negative

    def forward(self, x, alpha_bar, text, state=None):
        rows = len(self.negative.mask)
        if len(x) == 2 * rows and (state is None or state.text_cache is None):  # [cond; uncond], not yet encoded
            length = max(text.mask.shape[1], self.negative.mask.shape[1])
            parts = text.pad_to(length).select(slice(rows)), self.negative.pad_to(length)
            embeddings, mask = [part.embeddings for part in parts], [part.mask for part in parts]
            text = TextEncoding(torch.cat(embeddings), torch.cat(mask))  # (2B, L, D), (2B, L)
            if isinstance(self.network, RIN) and self.network.config.coherence:
                coherence = torch.cat([torch.ones(rows), torch.zeros(rows)])  # (2B,)
                cache = self.network.encode_text(text, coherence)
                state = DenoiserState(None if state is None else state.latent_tokens, cache)
        return self.network(x, alpha_bar, text, state)


class Pipeline:
    """A trained model with everything it needs to draw.

    An image is a function of its text, its address and the sampling options. Rows of a batch do not see each other,
    but matrix kernels may round differently for another number of rows or of padded tokens: images of the same address
    from differently composed batches agree to about one level of 255, from equally composed ones bit by bit.
    """

    @usual_defaults
    def __init__(self, network: torch.nn.Module, info: ExportInfo, *, device: torch.device | str = "cpu"):
        self.network = network.eval()
        self.info = info
        self.device = torch.device(device)
        self.offload = False
        """Text encoder and codec go back to the CPU after each use."""
        self.text_encoder = load_text_encoder(info.text_encoder, self.device)
        self.codec = load_codec(info.latent_codec, self.device)
        self.latent_shape: tuple[int, ...] = tuple(self.codec.latent_shape(info.image_size))  # (C, H, W)

    @classmethod
    @usual_defaults
    def load(
        cls, export_dir: str | Path, device: Any = None, dtype: torch.dtype | None = None, *, compile: bool = False
    ) -> Pipeline:
        """Load an export onto `device`, its weights in `dtype`; None = the best device, float32.

        compile: compiles the network's blocks (`tessera.models.build.compile_blocks`). Without it, on a CPU, sampling
        packs the network's matrices (`tessera.models.packing`), which on AMD's is faster than compiling.
        """
        chosen = pick_device(device)
        network, info = load_export(Path(export_dir), chosen, dtype or torch.float32)
        if compile:
            compile_blocks(network)
        return cls(network, info, device=chosen)

    @usual_defaults
    def encode(self, prompts: Sequence[str]) -> TextEncoding:
        """Encode one row per prompt; a prompt that occurs several times is encoded once."""
        distinct = list(dict.fromkeys(prompts))
        self.text_encoder.to(self.device)
        encoded = dict(zip(distinct, self.text_encoder.encode(distinct)))
        if self.offload:
            self.text_encoder.to("cpu")
        return TextEncoding.stack([encoded[prompt] for prompt in prompts]).to(self.device, torch.float32)  # (B, L, D)

    def cut_prompts(self, prompts: Sequence[str]) -> dict[str, int]:
        """Return prompt -> its number of tokens, of the prompts that the text encoder cuts."""
        distinct = list(dict.fromkeys(prompts))
        lengths = self.text_encoder.count_tokens(distinct)
        return {text: length for text, length in zip(distinct, lengths) if length > self.text_encoder.max_tokens}

    def unlike_captions(self, prompts: Sequence[str]) -> str:
        """Return a note on the prompts that are unlike the captions of the training, or "": words that none of
        them has, where the text encoder knows no others, and lengths far from theirs."""
        seen = self.info.captions
        if seen is None:
            return ""
        distinct, notes, (low, high) = list(dict.fromkeys(prompts)), [], seen.tokens
        known = set(seen.vocabulary)
        words = dict.fromkeys(word for text in distinct if known for word in split_words(text))
        unknown = [repr(word) for word in words if word not in known]
        if unknown:
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            notes.append(f"words of no training caption mean nothing to this model: {', '.join(unknown[:5])}{more}")
        lengths = self.text_encoder.count_tokens(distinct)
        far = {"short": sum(n < low / FAR for n in lengths), "long": sum(n > high * FAR for n in lengths)}
        for word, count in far.items():
            if count:
                which = f"{count} of {len(distinct)} prompts are" if len(distinct) > 1 else "the prompt is"
                notes.append(f"{which} {word} for a model that learned from captions of {low} to {high} tokens")
        return "; ".join(notes)

    @usual_defaults
    @torch.inference_mode()
    def sample(
        self,
        text: TextEncoding,
        noise: Tensor,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        sampler: str | Sampler = "ddim",
        generator: Generators | None = None,
        callback: Callback | None = None,
        negative: TextEncoding | None = None,
    ) -> Tensor:
        """Draw normalized latents (B, C, H, W), float32, for the texts from start noise (B, C, H, W).

        steps, guidance_scale: None = the export's own. guidance_interval: (low, high) in t, guidance acts there alone;
        None = the export's own, which is everywhere unless it was chosen. sampler: see `get_sampler`. generator: for a
        sampler that adds noise. negative: B texts in place of the null condition in guidance.
        Raises UserError for an unknown sampler, steps < 1 or a guidance that is not a finite number.
        """
        info, sampler = self.info, get_sampler(sampler) if isinstance(sampler, str) else sampler
        steps = info.sampling_steps if steps is None else steps
        scale = info.guidance_scale if guidance_scale is None else guidance_scale
        interval = info.guidance_interval if guidance_interval is None else guidance_interval
        null = torch.as_tensor(info.null_condition).to(self.device, torch.float32)
        network = self.network if negative is None or scale == 1 else _Negative(self.network, negative)
        denoiser = Denoiser(network, info.prediction)
        guided = Guided(denoiser, text, null, scale, interval, info.clip_denoised)
        noise, schedule = noise.to(self.device, torch.float32), get_schedule(info.noise_schedule)
        with packed_linears(self.network):
            return sampler(guided, noise, schedule, steps, generator=generator, callback=callback)

    @usual_defaults
    def decode(self, latents: Tensor) -> np.ndarray:
        """Decode normalized latents (B, C, H, W) to uint8 (B, S, S, 3). Raises UserError when some are not finite."""
        if not latents.isfinite().all():
            raise UserError("the model drew values that are not finite: export a checkpoint from before it diverged")
        per_channel = (self.info.latent_scale, self.info.latent_shift)
        scale, shift = (torch.tensor(values)[:, None, None] for values in per_channel)
        self.codec.to(self.device)
        images = self.codec.decode(latents.cpu().float() / scale + shift)  # (B, S, S, 3)
        if self.offload:
            self.codec.to("cpu")
        return images

    def shape_at(self, size: str | None) -> tuple[int, ...]:
        """Return the shape of one image's latents at a size that the network was trained at; None = its usual size,
        the square wherever it saw squares. Raises UserError for another size."""
        if size is None and not self.info.sizes:
            return self.latent_shape
        size = self.info.usual_size if size is None else size
        self.info.check_size(size)
        return shape_of_latents(self.codec, *map(int, size.split("x")))

    def images(
        self,
        prompts: Sequence[str],
        addresses: Sequence[tuple[int, int]],
        *,
        seed: int = 0,
        size: str | None = None,
        negative: str = "",
        **options: Any,
    ) -> np.ndarray:
        """Draw uint8 (B, H, W, 3): one image per prompt of the batch, its noise drawn at (seed, its address).

        size: see `shape_at`. negative: a text in place of the null condition in guidance; "" = none.
        options: steps, guidance_scale, guidance_interval, sampler and callback of `sample`.
        """
        if not prompts or len(prompts) != len(addresses):
            raise UserError(f"{len(prompts)} prompts and {len(addresses)} addresses: give one address for each image")
        noise, generators = sample_noise(self.shape_at(size), addresses, seed), step_generators(addresses, seed)
        options |= {"negative": self.encode([negative] * len(prompts)) if negative else None}
        return self.decode(self.sample(self.encode(prompts), noise, generator=generators, **options))
