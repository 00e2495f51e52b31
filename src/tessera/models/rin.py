"""CAD-I: the recurrent interface network (Jabri et al., 2023) with text, as in CAD (Dufour et al., 2024) and the paper.

A few latent tokens carry the computation; they read from and write to the interface tokens, one per image patch.
Letters: B batch, N interface tokens (patches), W their width, Z latent tokens, D their width, L condition tokens.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessera.config import check_ranges
from tessera.devices import few_shapes
from tessera.models.layers import (
    MLP,
    ConvResidual,
    CrossAttention,
    SelfBlock,
    TimeEmbedding,
    key_bias,
    layer_norm,
    patchify,
    ragged,
    run_block,
    sincos_positions_2d,
    unpatchify,
)
from tessera.models.network import TABLE_STD, Network, NetworkConfig
from tessera.models.text_refiner import TextCache, TextRefiner
from tessera.records import DenoiserState, TextEncoding


@dataclass(frozen=True, kw_only=True)
class RINConfig(NetworkConfig):
    """The shape of a RIN; the defaults are the paper's CAD-I (L)."""

    interface_width: int = 256
    """Width of the interface tokens, and at most that of the attention between them and the latent tokens."""
    num_latent_tokens: int = 256
    """Number of latent tokens."""
    latent_width: int = 1024
    """Width of the latent tokens and of the condition; a multiple of 8 and of all head counts."""
    blocks: int = 4
    """Number of blocks (condition, read, compute, write)."""
    layers_per_block: int = 4
    """Self-attention layers on the latent tokens in each block."""
    read_write_heads: int = 16
    """Heads of every cross-attention."""
    compute_heads: int = 16
    """Heads of the self-attention on latent tokens."""
    refiner_heads: int = 16
    """Heads of the self-attention blocks that refine the text."""
    text_registers: int = 16
    """Learned tokens before the text; at least 1."""
    table_init_std: float = TABLE_STD
    """Standard deviation of the learned latent tokens' and positions' initial values, > 0. 0.02 is small compared with
    patches of unit norm: tokens are hard to tell apart at first, which only a long training overcomes."""
    sincos_start: bool = False
    """Starts the learned positions of patches at fixed sinusoids, which tell neighbors apart from the first step."""
    zero_output: bool = False
    """Starts the output at 0, as DiT's does."""
    qk_norm: bool = False
    """Normalizes queries and keys in every attention, as DiT does; published weights have none."""
    coherence: bool = False
    """Adds the published class's coherence token before the registers, to draw by its weights; training is without it,
    as in the paper."""

    def __post_init__(self) -> None:
        widths = [("latent_width", n) for n in (8, "read_write_heads", "compute_heads", "refiner_heads")]
        self.check_sizes(*widths, ("read_write_width", "read_write_heads"))
        check_ranges(self, table_init_std="(0, inf)")

    @property
    def read_write_width(self) -> int:
        """Width of the attention between interface and latent tokens: the smaller one of theirs."""
        return min(self.latent_width, self.interface_width)

    @property
    def tapped_width(self) -> int:
        """Width of the image's tokens."""
        return self.interface_width

    @property
    def tapped_blocks(self) -> int:
        """Number of blocks."""
        return self.blocks


CAD_I_L = RINConfig()
"""The paper's CAD-I: 330.2M parameters."""
CAD_I_BASE = RINConfig(num_latent_tokens=128, latent_width=768, compute_heads=12)
"""The smaller one of the published code: 188.4M parameters."""


class CrossBlock(nn.Module):
    """Pre-norm cross-attention, then MLP. Only the query stream is normalized."""

    def __init__(
        self, query_width: int, context_width: int, attention_width: int, heads: int, mlp_ratio: int, qk_norm: bool
    ):
        super().__init__()
        self.attention_norm = layer_norm(query_width)
        self.attention = CrossAttention(query_width, context_width, attention_width, heads, qk_norm=qk_norm)
        self.mlp_norm = layer_norm(query_width)
        self.mlp = MLP(query_width, mlp_ratio)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Run the block on x (B, N, query width); key, value (B, H, L, E) from `attention.keys_values`."""
        x = x + self.attention(self.attention_norm(x), key, value, bias)
        return x + self.mlp(self.mlp_norm(x))


class RINBlock(nn.Module):
    """Block of a RIN: latent tokens read the condition and the interface, compute, and write back."""

    def __init__(self, config: RINConfig):
        super().__init__()
        latent, interface, shared = config.latent_width, config.interface_width, config.read_write_width
        heads, ratio, norm = config.read_write_heads, config.mlp_ratio, config.qk_norm
        self.condition = CrossBlock(latent, latent, latent, heads, ratio, norm)
        self.read = CrossBlock(latent, interface, shared, heads, ratio, norm)
        self.compute = nn.ModuleList(
            SelfBlock(latent, config.compute_heads, ratio, qk_norm=norm) for _ in range(config.layers_per_block)
        )
        self.write = CrossBlock(interface, latent, shared, heads, ratio, norm)

    def forward(
        self, latent: Tensor, interface: Tensor, key: Tensor, value: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return new latent (B, Z, D), interface (B, N, W); condition's key, value (B, H, L, E), bias (B, 1, 1, L)."""
        latent = self.condition(latent, key, value, bias)
        latent = self.read(latent, *self.read.attention.keys_values(interface))
        for layer in self.compute:
            latent = layer(latent)
        interface = self.write(interface, *self.write.attention.keys_values(latent))
        return latent, interface


class PreviousTokens(nn.Module):
    """Self-conditioning: previous latent tokens (B, Z, D) -> addition to the initial ones; 0 before training."""

    def __init__(self, width: int, mlp_ratio: int):
        super().__init__()
        self.norm = layer_norm(width)
        self.mlp = MLP(width, mlp_ratio)
        self.out_norm = layer_norm(width)

    def forward(self, previous: Tensor) -> Tensor:
        return self.out_norm(previous + self.mlp(self.norm(previous)))


class RIN(Network):
    """The denoiser CAD-I. `forward` returns the prediction and the latent tokens, which the next step may be given."""

    TABLES = ("latent_tokens", "interface_positions", "registers", "coherence_position")
    config: RINConfig

    def __init__(self, config: RINConfig):
        super().__init__()
        self.config, latent, interface = config, config.latent_width, config.interface_width
        self.stem = ConvResidual(config.latent_channels) if config.conv_stem else nn.Identity()
        self.patch_embedding = nn.Linear(config.patch_width, interface)
        self.patch_norm = layer_norm(interface)
        self.interface_positions = nn.Parameter(torch.zeros(config.grid_side**2, interface))
        self.latent_tokens = nn.Parameter(torch.zeros(config.num_latent_tokens, latent))
        self.time = TimeEmbedding(latent // 4, latent, standardize=True)
        self.text = TextRefiner(
            config, latent, config.refiner_heads, registers=config.text_registers, qk_norm=config.qk_norm
        )
        if config.coherence:
            self.coherence = TimeEmbedding(latent // 4, latent, standardize=True)
            self.coherence_position = nn.Parameter(torch.zeros(latent))
        self.previous = PreviousTokens(latent, config.mlp_ratio)
        self.blocks = nn.ModuleList(RINBlock(config) for _ in range(config.blocks))
        self.out_norm = layer_norm(interface)
        self.out_projection = nn.Linear(interface, config.patch_width)
        self.head = ConvResidual(config.latent_channels, config.latent_channels) if config.conv_stem else None
        self.initialize()

    @property
    def front_tokens(self) -> int:
        return self.config.text_registers + self.config.coherence

    def initialize_special(self) -> None:
        with torch.no_grad():
            for table in (self.latent_tokens, self.interface_positions):
                table.mul_(self.config.table_init_std / TABLE_STD)
            if self.config.sincos_start:
                side = self.config.grid_side
                self.interface_positions.copy_(sincos_positions_2d(side, side, self.config.interface_width))
            zeros = [*self.previous.out_norm.parameters()]
            zeros += [self.out_projection.weight] if self.config.zero_output else []
            zeros += [self.head.conv_out.weight] if self.head is not None else []
            for parameter in zeros:
                parameter.zero_()

    def encode_text(self, text: TextEncoding, coherence: float | Tensor | None = None) -> TextCache:
        """Return refined text with its keys and values in every block.

        coherence: a number in [0, 1] or one per caption (B,), for the variant with that token. None = as in the
        published pipeline: 1 for captions and 0 for the unconditional branch, the text's null rows.
        """
        extra = None
        if self.config.coherence:
            if coherence is None:
                coherence = torch.ones(len(text.mask), device=text.mask.device)
                coherence[len(coherence) - text.null_rows :] = 0.0
            level = torch.as_tensor(coherence, dtype=torch.float32, device=text.mask.device).expand(len(text.mask))
            extra = (self.coherence(level) + self.coherence_position)[:, None]  # (B, 1, D)
        tokens, mask = self.text(self.pad_text(text), extra)  # (B, L, D) with L = R + T
        if few_shapes(tokens.device):  # there masks of attention need a multiple of 8
            more = -(1 + mask.shape[1]) % 8
            tokens, mask = F.pad(tokens, (0, 0, 0, more)), F.pad(mask, (0, more))
        rows = ragged(mask)
        packed = tokens if rows is None else rows.pack(tokens)
        mask = F.pad(mask, (1, 0), value=True)  # the time token comes first: (B, 1 + L)
        pairs = [block.condition.attention.keys_values(packed, rows) for block in cast(list[RINBlock], self.blocks)]
        keys, values = zip(*pairs)
        return TextCache(tokens=tokens, bias=key_bias(mask, tokens.dtype), keys=keys, values=values)

    def forward(
        self, x: Tensor, alpha_bar: Tensor, text: TextEncoding, state: DenoiserState | None = None
    ) -> tuple[Tensor, DenoiserState]:
        """Call the network once.

        x: noisy latents (B, C, H, W). alpha_bar (B,): their signal power. text: B captions; unused where `state` has a
        text cache. state: previous latent tokens (B, Z, D), None = zeros. Returns the prediction (B, C, H, W) in
        x's dtype and the state for the next step.
        """
        config = self.config
        self.check_latents(x)
        state = state or DenoiserState()
        cache = state.text_cache if state.text_cache is not None else self.encode_text(text)
        dtype = self.patch_embedding.weight.dtype

        interface = self.patch_norm(self.patch_embedding(patchify(self.stem(x.to(dtype)), config.patch_size)))
        interface = interface + self.interface_positions  # (B, N, W)
        time = self.time(alpha_bar)[:, None]  # (B, 1, D)
        # Without previous tokens, one row of zeros is enough: all rows become the same vector.
        previous = time.new_zeros(1, 1, config.latent_width) if state.latent_tokens is None else state.latent_tokens
        latent = self.latent_tokens + time + self.previous(previous.to(dtype))  # (B, Z, D)

        tapped, layers = None, zip(cast(list[RINBlock], self.blocks), cache.keys, cache.values)
        for number, (block, text_key, text_value) in enumerate(layers, 1):
            time_key, time_value = block.condition.attention.keys_values(time)  # (B, H, 1, E)
            key = torch.cat([time_key, text_key], dim=2)  # (B, H, 1 + R + T, E)
            value = torch.cat([time_value, text_value], dim=2)
            inputs = (latent, interface, key, value, cache.bias)
            latent, interface = run_block(block, *inputs, checkpointing=self.gradient_checkpointing)
            tapped = interface if number == state.tap else tapped

        patches = self.out_projection(self.out_norm(interface))  # (B, N, p p C)
        output = unpatchify(patches, config.patch_size, config.latent_size, config.latent_size)
        if self.head is not None:
            output = self.head(output, x.to(dtype))
        return output.to(x.dtype), DenoiserState(latent_tokens=latent, text_cache=cache, tapped=tapped)
