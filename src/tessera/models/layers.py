"""Layers of both networks: attention, feed-forward blocks, patches, positions, the noise level's embedding.

Letters in shape comments: B batch, N and L tokens, D width, H attention heads, E width of a head (D = H E).
"""

from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NORM_EPS = 1e-6
FREQUENCY_BASE = 10_000.0
TIME_SCALING = 1000.0
"""Factor of alpha_bar, in [0, 1], before its sinusoid."""


def sinusoid(values: Tensor, channels: int) -> Tensor:
    """Return sinusoids (..., channels) of scalars (...,) in float32: frequencies 10000^(-2i/channels), [cos | sin]."""
    assert channels % 2 == 0, channels
    exponents = torch.arange(0, channels, 2, dtype=torch.float32, device=values.device) / channels
    angles = values.float().unsqueeze(-1) * FREQUENCY_BASE**-exponents  # (..., channels / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)  # (..., channels)


def sincos_positions(length: int, width: int, device: torch.device | str | None = None, step: float = 1.0) -> Tensor:
    """Return fixed 1-D positions 0, step, 2 step, ... (length, width) float32, [cos | sin] over the width."""
    return sinusoid(step * torch.arange(length, dtype=torch.float32, device=device), width)


def sincos_positions_2d(
    height: int, width: int, channels: int, device: torch.device | str | None = None, step: float = 1.0
) -> Tensor:
    """Return fixed positions of a grid, row-major, `step` between neighbors: (height * width, channels) float32. The
    first half of the channels holds the row's sinusoid, the second half the column's; channels: a multiple of 4."""
    rows = sincos_positions(height, channels // 2, device, step)
    columns = sincos_positions(width, channels // 2, device, step)
    grid = [rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)]
    return torch.cat(grid, dim=-1).flatten(0, 1)  # (height * width, channels)


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Return patches (B, (H / p) (W / p), p p C) of images (B, C, H, W), row-major; (row, column, channel) within."""
    patches = images.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))  # (B, C, H / p, p, W / p, p)
    return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch_size: int, height: int, width: int) -> Tensor:
    """Invert `patchify`: (B, (height / p) (width / p), p p C) -> (B, C, height, width)."""
    p = patch_size
    grid = patches.view(len(patches), height // p, width // p, p, p, -1)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, height, width)


def key_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a key mask (B, L), True = visible, as numbers (B, 1, 1, L) to add to attention scores.

    Hidden keys get half the lowest finite number: their weight is exactly 0 next to any visible key, and a row without
    a visible key stays finite, unlike with -inf.
    """
    hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return hidden.masked_fill_(~mask, torch.finfo(dtype).min / 2)[:, None, None]  # (B, 1, 1, L)


def key_count(least: int) -> int:
    """Return the smallest number of masked keys, at least `least`, that a GPU should be given.

    From a short list (16, 32, 48, 96, 128, 160, 224, ...), because kernels are planned or compiled anew for each number
    that occurs. All are multiples of 8, which masks of the memory-efficient kernel need, and none is 64 mod 128, where
    cuDNN's backward pass may give NaN with a mask (torch 2.11 to 2.13, pytorch#196678).
    """
    step = 16 if least <= 48 else 32
    count = -(-least // step) * step
    return count + step if count % 128 == 64 else count


RAGGED_ROWS = 128
"""Packed tokens are filled up to a multiple of this number, so that few sizes of tensors occur: their memory is reused
from batch to batch."""


class Ragged:
    """The visible tokens of a padded batch (B, L), one after another: what works on each token alone can skip the
    padding. M of them, filled up with copies of the first, which get no gradient."""

    def __init__(self, mask: Tensor):
        """Take the mask (B, L), True = visible."""
        self.shape, self.places = mask.shape, mask.flatten().nonzero().squeeze(1)
        extra = -len(self.places) % RAGGED_ROWS
        self.filled = torch.cat([self.places, self.places[:1].expand(extra)])  # (M,)

    def pack(self, x: Tensor) -> Tensor:
        """Return the visible tokens (M, D) of x (B, L, D)."""
        return cast(Tensor, _Pack.apply(x.flatten(0, 1), self))

    def pad(self, x: Tensor) -> Tensor:
        """Return visible tokens (M, D) in their places, with zeros at the padding: (B, L, D)."""
        rows, length = self.shape
        padded = x.new_zeros(rows * length, x.shape[1])
        return padded.index_copy(0, self.places, x[: len(self.places)]).view(rows, length, -1)


class _Pack(torch.autograd.Function):
    """Rows of a matrix. Each gets one gradient, so that nothing has to be added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Ragged) -> Tensor:
        ctx.rows, ctx.count = rows, len(x)
        return x.index_select(0, rows.filled)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        places = ctx.rows.places
        return grad.new_zeros(ctx.count, grad.shape[1]).index_copy_(0, places, grad[: len(places)]), None


def ragged(mask: Tensor) -> Ragged | None:
    """Return the visible tokens of `mask` (B, L) on a CPU, where they are enough fewer; None elsewhere: the count of
    tokens would make a GPU wait, and break a compiled program."""
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    rows = Ragged(mask)
    return rows if len(rows.filled) < mask.numel() else None


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return softmax(query key^T / sqrt(E) + bias) value (B, N, H E).

    query (B, H, N, E), key and value (B, H, L, E), bias (B, 1, 1, L). For gradients on a CPU the products are written
    out: the fused kernel's backward is slower there (in bfloat16 five times), and the score matrix is small.
    """
    if query.device.type == "cpu" and torch.is_grad_enabled():
        mixed = _plain_attention(query, key, value, bias)
    else:
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return mixed.transpose(1, 2).flatten(2)  # (B, N, H E)


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Return attention by written-out products, (B, H, N, E); scale and bias are part of that of queries and keys."""
    shape, scale, beta = query.shape[:2], query.shape[3] ** -0.5, 0 if bias is None else 1
    query, key, value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)  # (B H, N or L, E)
    start = query.new_zeros(1, 1, 1) if bias is None else bias.expand(-1, shape[1], -1, -1).flatten(0, 1)  # (B H, 1, L)
    scores = torch.baddbmm(start, query, key.transpose(1, 2), beta=beta, alpha=scale)  # (B H, N, L)
    return torch.bmm(scores.softmax(dim=-1), value).unflatten(0, shape)


class QKNorm(nn.LayerNorm):
    """QK-norm (Henry et al., 2020): queries and keys are normalized over each head's channels, with a learned gain.

    The statistic is LayerNorm's without an offset (as in ViT-22B), the one form with a fused kernel on every device.
    """

    def __init__(self, head_width: int):
        super().__init__(head_width, eps=NORM_EPS, bias=False)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values; biases everywhere."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool = False):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.query_norm = QKNorm(width // heads) if qk_norm else nn.Identity()
        self.key_norm = QKNorm(width // heads) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, bias: Tensor | None = None, rows: Ragged | None = None) -> Tensor:
        """Attend within x (B, N, D); bias (B, 1, 1, N) over keys or None -> (B, N, D). rows: x and the result are
        their packed tokens (M, D)."""
        qkv = self.qkv(x) if rows is None else rows.pad(self.qkv(x))  # (B, N, 3 D)
        query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, E)
        mixed = attention(self.query_norm(query), self.key_norm(key), value, bias)
        return self.out(mixed if rows is None else rows.pack(mixed))


class CrossAttention(nn.Module):
    """Multi-head cross-attention. Keys and values are computed separately, to cache those of a fixed context."""

    def __init__(
        self, query_width: int, context_width: int, attention_width: int, heads: int, *, qk_norm: bool = False
    ):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(query_width, attention_width)
        self.key_value = nn.Linear(context_width, 2 * attention_width)
        self.out = nn.Linear(attention_width, query_width)
        self.query_norm = QKNorm(attention_width // heads) if qk_norm else nn.Identity()
        self.key_norm = QKNorm(attention_width // heads) if qk_norm else nn.Identity()

    def keys_values(self, context: Tensor, rows: Ragged | None = None) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, H, L, E) of the context (B, L, context width), or of its tokens packed by `rows`
        (M, context width)."""
        kv = self.key_value(context) if rows is None else rows.pad(self.key_value(context))
        key, value = kv.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, L, E)
        return self.key_norm(key), value

    def single_output(self, value: Tensor) -> Tensor:
        """Return the output (B, 1, query width) for every query of a context of one token, value (B, H, 1, E). A
        softmax over one key is 1, so queries and keys do not matter."""
        return self.out(value.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend from x (B, N, query width) to `keys_values`; bias (B, 1, 1, L) or None -> (B, N, query width)."""
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, N, E)
        return self.out(attention(self.query_norm(query), key, value, bias))


class MLP(nn.Module):
    """Linear, exact GELU, Linear: (..., D) -> (..., D)."""

    def __init__(self, width: int, ratio: int):
        super().__init__()
        self.up = nn.Linear(width, ratio * width)
        self.down = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class ConvResidual(nn.Module):
    """Residual convolutions x + Conv(GELU(Conv(x, seen))), 3 x 3; x and `seen`, a second input, are (B, C, H, W)."""

    def __init__(self, channels: int, seen: int = 0):
        super().__init__()
        hidden = max(32, channels)
        self.conv_in = nn.Conv2d(channels + seen, hidden, 3, padding=1)
        self.conv_out = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        return x + self.conv_out(F.gelu(self.conv_in(x if seen is None else torch.cat([x, seen], 1))))


layer_norm = partial(nn.LayerNorm, eps=NORM_EPS)  # of every pre-norm block: affine


class SelfBlock(nn.Module):
    """Pre-norm self-attention and MLP, with LayerScale (Touvron et al., 2021) on both if an initial value is given."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: int, *, qk_norm: bool = False, layer_scale_init: float | None = None
    ):
        super().__init__()
        self.attention_norm = layer_norm(width)
        self.attention = SelfAttention(width, heads, qk_norm=qk_norm)
        self.mlp_norm = layer_norm(width)
        self.mlp = MLP(width, mlp_ratio)
        self.layer_scaled = layer_scale_init is not None
        if layer_scale_init is not None:
            self.attention_scale = nn.Parameter(torch.full((width,), layer_scale_init))
            self.mlp_scale = nn.Parameter(torch.full((width,), layer_scale_init))

    def forward(self, x: Tensor, bias: Tensor | None = None, rows: Ragged | None = None) -> Tensor:
        """Run the block on x (B, N, D); bias (B, 1, 1, N) over keys or None -> (B, N, D). rows: see the attention."""
        mixed = self.attention(self.attention_norm(x), bias, rows)
        x = torch.addcmul(x, mixed, self.attention_scale) if self.layer_scaled else x + mixed
        mixed = self.mlp(self.mlp_norm(x))
        return torch.addcmul(x, mixed, self.mlp_scale) if self.layer_scaled else x + mixed


def run_block(block: nn.Module, *inputs: Any, checkpointing: bool) -> Any:
    """Return `block(*inputs)`; with checkpointing, keep only the inputs for the backward pass."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)  # nothing random in it
    return block(*inputs)


class TimeEmbedding(nn.Module):
    """Embedding of a scalar in [0, 1] (B,) -> (B, width): sinusoid, Linear, SiLU, Linear.

    standardize: the sinusoid is scaled to zero mean and unit (unbiased) variance over its channels, as CAD-I does.
    """

    def __init__(self, channels: int, width: int, *, standardize: bool = False):
        super().__init__()
        self.channels, self.standardize = channels, standardize
        self.hidden = nn.Linear(channels, width)
        self.out = nn.Linear(width, width)

    def forward(self, value: Tensor) -> Tensor:
        waves = sinusoid(TIME_SCALING * value.float(), self.channels)  # (B, channels)
        if self.standardize:
            spread, mean = torch.std_mean(waves, dim=-1, keepdim=True)
            waves = (waves - mean) / spread
        return self.out(F.silu(self.hidden(waves.to(self.hidden.weight.dtype))))
