"""The training loss of the paper's Eq. 1-2 and the denoiser that a trained network becomes.

Where the batch is drawn, Algorithm 1 (Eq. 3-4) assigns images to t. A batch already holds its alpha_bar, noise and
dropped captions, so the loss draws nothing and changes nothing: same batch, same loss.

Shapes: latents, noise, x (B, C, H, W); alpha_bar, dropped (B,); text embeddings (B, L, D), mask (B, L).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tessera.config import UserError
from tessera.devices import few_shapes
from tessera.diffusion.schedule import add_noise, check_prediction, target, to_eps
from tessera.records import Batch, DenoiserState, TextEncoding

X0_WEIGHT_LIMIT = 3.0
"""The largest weight of x0-prediction's loss, reached where 1 - alpha_bar falls below 1 / 3: without it, a batch's few
almost clean samples, whose weight would grow without bound, would dominate the others."""


@dataclass(frozen=True)
class Denoiser:
    """denoise(x, alpha_bar, text, state=None) -> (eps, DenoiserState), around a network that outputs `prediction`.

    Calling it converts to eps in float32. Where alpha_bar is near 0 that conversion and the way back to x0 lose
    digits, so the samplers take `network` and `prediction` from here and convert the raw output themselves.
    Raises UserError for a prediction other than those of `PREDICTIONS`.
    """

    network: Callable[..., tuple[Tensor, DenoiserState]]
    """network(x, alpha_bar, text, state=None) -> (output, DenoiserState); a DiT, a RIN or any function like them."""
    prediction: str

    def __post_init__(self) -> None:
        check_prediction(self.prediction)

    def __call__(
        self, x: Tensor, alpha_bar: Tensor, text: TextEncoding | None, state: DenoiserState | None = None
    ) -> tuple[Tensor, DenoiserState]:
        output, state = self.network(x, alpha_bar, text, state)
        return to_eps(self.prediction, output.float(), x.float(), alpha_bar.float()), state


def null_text(null_condition: Tensor, rows: int, length: int) -> TextEncoding:
    """Return the null condition (1, D) as `rows` rows padded to `length` tokens; the mask is True on that token."""
    embeddings = null_condition.new_zeros(rows, length, null_condition.shape[-1])  # (rows, L, D)
    embeddings[:, 0] = null_condition
    mask = torch.zeros(rows, length, dtype=torch.bool, device=null_condition.device)  # (rows, L)
    mask[:, 0] = True
    return TextEncoding(embeddings, mask)


def drop_captions(text: TextEncoding, dropped: Tensor, null_condition: Tensor) -> TextEncoding:
    """Return a new encoding in which the rows marked in `dropped` (B,) hold the null condition (1, D) only."""
    null = null_text(null_condition.to(text.embeddings), *text.mask.shape)
    return TextEncoding(
        torch.where(dropped[:, None, None], null.embeddings, text.embeddings),
        torch.where(dropped[:, None], null.mask, text.mask),
    )


def diffusion_loss(
    network: Any,
    batch: Batch,
    null_condition: Tensor,
    *,
    prediction: str = "eps",
    weights: Tensor | None = None,
    self_condition_keep: Tensor | None = None,
    first_network: Any = None,
) -> tuple[Tensor, Tensor]:
    """Return a network's mean squared error on a batch (paper Eq. 1-2): loss, and per-sample loss (B,), detached.

    `prediction` is what the network outputs. "eps": || eps - eps_theta ||^2, the paper's. "v": the same on v. "x0":
    on x0 with weight 1 / (1 - alpha_bar), which is the loss on v written in x0, since v_theta - v =
    -(x0_theta - x0) / sigma; the weight is limited to X0_WEIGHT_LIMIT. Means over channels and positions (those of
    `batch.loss_mask`), then over samples, so a batch's loss is its micro-batches' losses weighted by their sizes.

    `weights` (B,): factors of the samples' losses in the mean; the per-sample losses that are returned are without.

    `null_condition` (1, D): the encoding of "", which replaces the captions marked in `batch.dropped`.

    `self_condition_keep` (B,) bool turns on RIN's self-conditioning (Jabri et al. 2023, latent self-conditioning): a
    first forward without gradient gives the latent tokens that the second one starts from on the marked samples; the
    others start from zeros. Text is refined once for both. On a CPU only the marked samples take part in the first
    forward; on a GPU all do, because each other number of rows costs it new plans and programs. Keep this mask on the
    CPU. `first_network` makes the first forward; None = the network itself. Raises UserError for a network that has no
    latent tokens.
    """
    check_prediction(prediction)
    latents, noise, alpha_bar = batch.latents.float(), batch.noise.float(), batch.alpha_bar.float()
    x = add_noise(latents, noise, alpha_bar)  # (B, C, H, W)
    text = drop_captions(batch.text, batch.dropped, null_condition)
    keep = self_condition_keep
    state = None if keep is None else _self_condition(network, x, alpha_bar, text, keep, first_network or network)
    output, _ = network(x, alpha_bar, text, state)
    wanted = target(prediction, latents, noise, alpha_bar)
    squares = (output.float() - wanted).square()
    if batch.loss_mask is None:
        per_sample = squares.flatten(1).mean(1)  # (B,)
    else:
        per_sample = (squares.mean(1, keepdim=True) * batch.loss_mask).flatten(1).sum(1)
        per_sample = per_sample / batch.loss_mask.flatten(1).sum(1).clamp_min(1)
    if prediction == "x0":
        per_sample = per_sample / (1 - alpha_bar).clamp_min(1 / X0_WEIGHT_LIMIT)
    return (per_sample if weights is None else per_sample * weights).mean(), per_sample.detach()


def _self_condition(
    network: Any, x: Tensor, alpha_bar: Tensor, text: TextEncoding, keep: Tensor, first_network: Any
) -> DenoiserState:
    """Return the second forward's state: latent tokens of the first one, zeros where not kept, and refined text."""
    cache = network.encode_text(text)
    if few_shapes(x.device):
        with torch.no_grad():
            _, first = first_network(x, alpha_bar, text, DenoiserState(text_cache=cache))
        # Without waiting on CUDA alone: Apple's GPUs may still read it when its memory is in use again.
        kept = keep.to(x.device, non_blocking=x.is_cuda)[:, None, None]  # (B, 1, 1)
        return DenoiserState(latent_tokens=torch.where(kept, _tokens_of(first), 0.0), text_cache=cache)
    rows = keep.nonzero().squeeze(1)  # (kept,)
    none = len(rows) == 0
    if none:  # computed all the same, on one sample: where weights are split over ranks, all have to gather them
        rows = torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        first = DenoiserState(text_cache=cache.select(rows))
        _, first = first_network(x[rows], alpha_bar[rows], text.select(rows), first)
    if none:
        return DenoiserState(text_cache=cache)
    found = _tokens_of(first)
    tokens = found.new_zeros(len(x), *found.shape[1:])  # (B, N, D)
    return DenoiserState(latent_tokens=tokens.index_copy(0, rows, found), text_cache=cache)


def _tokens_of(state: DenoiserState) -> Tensor:
    if state.latent_tokens is None:
        raise UserError("self_condition_prob: this network has no latent tokens to pass on; set it to 0")
    return state.latent_tokens
