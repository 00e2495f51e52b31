"""Text in both networks: projection, registers, refining self-attention, and its cache for the next sampling steps.

The noise level does not enter here, so refined text and its keys and values are the same at every sampling step.
Letters: B batch, T text tokens, R registers, L = tokens that cross-attention sees, D width, H heads, E width of a head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessera.models.layers import SelfBlock, key_bias, ragged, run_block, sincos_positions
from tessera.models.network import NetworkConfig
from tessera.records import TextEncoding


@dataclass(frozen=True, kw_only=True)
class TextCache:
    """Results of a network that depend on text alone, passed from step to step in `DenoiserState.text_cache`."""

    tokens: Tensor
    """Refined tokens (B, L, D): registers, if any, then text."""
    bias: Tensor
    """Added to the scores of every cross-attention to text, (B, 1, 1, L or, in RIN, 1 + L): very low at padding."""
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    """Per cross-attention layer, like `keys`: (B, H, L, E)."""
    null_outputs: tuple[Tensor, ...] = ()
    """Per cross-attention layer: its output for every query of the last n rows, (n, 1, D), where they see a single
    token; () = computed like the others."""

    def select(self, rows: Tensor) -> "TextCache":
        """Return the cache of some rows of the batch, (n,) indices or (B,) bool, without `null_outputs`."""
        return TextCache(
            tokens=self.tokens[rows],
            bias=self.bias[rows],
            keys=tuple(key[rows] for key in self.keys),
            values=tuple(value[rows] for value in self.values),
        )


class TextRefiner(nn.Module):
    """A refiner: text embeddings (B, T, text width) -> tokens (B, R + T, D) and the mask of visible ones (B, R + T)."""

    def __init__(
        self,
        config: NetworkConfig,
        width: int,
        heads: int,
        *,
        registers: int = 0,
        qk_norm: bool = False,
        layer_scale_init: float = 0.1,
    ):
        super().__init__()
        self.window, self.gradient_checkpointing = config.text_window, False
        self.projection = nn.Linear(self.window * config.text_width, width)
        self.registers = nn.Parameter(torch.zeros(registers, width)) if registers else None
        self.blocks = nn.ModuleList(
            SelfBlock(width, heads, config.mlp_ratio, qk_norm=qk_norm, layer_scale_init=layer_scale_init)
            for _ in range(config.refiner_depth)
        )
        self.positions = config.text_positions
        self._table = torch.zeros(0, width)  # grows to the longest text seen; no buffer: the same for any state

    def _positions(self, tokens: Tensor) -> Tensor:
        """Return positions (T, D) for tokens (B, T, D), in their dtype and on their device."""
        length, table = tokens.shape[1], self._table
        if len(table) < length or table.device != tokens.device or table.dtype != tokens.dtype:
            self._table = sincos_positions(max(length, 64), table.shape[1], tokens.device).to(tokens.dtype)
        return self._table[:length]

    def forward(self, text: TextEncoding, extra: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Refine text. extra (B, n, D): further tokens before the registers, always visible."""
        mask, words = text.mask, text.embeddings.to(self.projection.weight.dtype)  # (B, T, text width)
        if self.window > 1:
            words = F.pad(words * mask.unsqueeze(-1), (0, 0, self.window // 2, self.window // 2))
            words = words.unfold(1, self.window, 1).flatten(2)  # (B, T, text width * window)
        tokens = self.projection(words)  # (B, T, D)
        if self.positions:
            tokens = tokens + self._positions(tokens)
        front = [] if extra is None else [extra]
        if self.registers is not None:
            front.append(self.registers.expand(len(tokens), -1, -1))
        if front:
            tokens = torch.cat([*front, tokens], dim=1)  # (B, n + R + T, D)
            mask = F.pad(mask, (tokens.shape[1] - mask.shape[1], 0), value=True)  # (B, n + R + T)
        bias, rows = key_bias(mask, tokens.dtype), ragged(mask)
        if rows is not None:
            tokens = rows.pack(tokens)  # (M, D)
        for block in self.blocks:
            tokens = run_block(block, tokens, bias, rows, checkpointing=self.gradient_checkpointing)
        return tokens if rows is None else rows.pad(tokens), mask
