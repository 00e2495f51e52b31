"""DiT-I (paper appendix A): a diffusion transformer (Peebles & Xie, 2023) with cross-attention to text (PixArt-alpha).

Particular to DiT-I: two self-attention blocks refine the text first, QK-norm in every self- and cross-attention,
LayerScale on every residual branch. The paper does not say how the noise level enters; the parameter count leaves
PixArt's adaLN-single, one modulation for all blocks plus a learned table in each.
Letters: B batch, N patches, D width, L text tokens, H heads, E width of a head.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessera.config import check_ranges
from tessera.models.layers import (
    MLP,
    NORM_EPS,
    ConvResidual,
    CrossAttention,
    SelfAttention,
    TimeEmbedding,
    key_bias,
    patchify,
    ragged,
    run_block,
    sincos_positions_2d,
    unpatchify,
)
from tessera.models.network import Network, NetworkConfig
from tessera.models.text_refiner import TextCache, TextRefiner
from tessera.records import DenoiserState, TextEncoding

TIME_CHANNELS = 256
"""Channels of the noise level's sinusoid."""
MODULATIONS = 6
"""Shift, scale and gate of the self-attention, then of the MLP."""
CPU_BFLOAT16_KEYS = 32
"""Number of keys whose multiples halve the time of a CPU's bfloat16 products over keys."""


@dataclass(frozen=True, kw_only=True)
class DiTConfig(NetworkConfig):
    """The shape of a DiT-I; the defaults are the paper's DiT-I L/2."""

    position_grid: int | None = None
    """Side, in tokens, of the grid over which positions are spread, >= 1; None = the image's own. With that of a
    smaller image, weights trained there fit a larger one."""
    width: int = 1024
    """Width of all tokens; a multiple of 4 and of heads."""
    depth: int = 24
    """Number of blocks."""
    heads: int = 16
    """Attention heads, in the refiner too."""
    layer_scale_init: float = 0.1
    """Initial value of every LayerScale, > 0."""

    @property
    def tapped_width(self) -> int:
        """Width of the image's tokens."""
        return self.width

    @property
    def tapped_blocks(self) -> int:
        """Number of blocks."""
        return self.depth

    def __post_init__(self) -> None:
        self.check_sizes(("width", 4), ("width", "heads"))
        check_ranges(self, layer_scale_init="(0, inf)")


DIT_I_XS2 = DiTConfig(width=384, depth=12, heads=6, mlp_ratio=2, refiner_depth=0)
"""23.3M parameters: DIT_I_S2 with MLPs of half the width and without the refiner of the text."""
DIT_I_S2 = DiTConfig(width=384, depth=12, heads=6)
"""33.9M parameters."""
DIT_I_B2 = DiTConfig(width=768, depth=12, heads=12)
"""133.6M parameters."""
DIT_I_L2 = DiTConfig()
"""The paper's DiT-I: 438.3M parameters."""
DIT_I_XL2 = DiTConfig(width=1152, depth=28, heads=16)
"""639.3M parameters."""


class DiTBlock(nn.Module):
    """Modulated self-attention, cross-attention to text, modulated MLP.

    The queries to text come from the residual stream directly: QK-norm does what a norm there would do (PixArt-alpha
    has none). The LayerScale of the modulated branches is part of their gates, see `DiT.modulation`.
    """

    def __init__(self, config: DiTConfig):
        super().__init__()
        width, heads = config.width, config.heads
        self.norm_shape = (width,)
        self.attention = SelfAttention(width, heads, qk_norm=True)
        self.cross_attention = CrossAttention(width, width, width, heads, qk_norm=True)
        self.mlp = MLP(width, config.mlp_ratio)
        self.attention_scale = nn.Parameter(torch.full((width,), config.layer_scale_init))
        self.cross_scale = nn.Parameter(torch.full((width,), config.layer_scale_init))
        self.mlp_scale = nn.Parameter(torch.full((width,), config.layer_scale_init))

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor,
        null_output: Tensor | None = None,
    ) -> Tensor:
        """Run the block: x (B, N, D), modulation (6, B, 1, D), text's key and value (B, H, L, E), bias (B, 1, 1, L).

        null_output (n, 1, D): the cross-attention's output for the last n rows, which it then skips. Returns (B, N, D).
        """
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.unbind(0)  # (B, 1, D) each
        mixed = self.attention(torch.addcmul(shift, F.layer_norm(x, self.norm_shape, eps=NORM_EPS), scale))
        x = torch.addcmul(x, mixed, gate)
        if null_output is None:
            mixed = self.cross_attention(x, key, value, bias)
        else:
            rows = len(x) - len(null_output)
            mixed = self.cross_attention(x[:rows], key[:rows], value[:rows], bias[:rows])
            mixed = torch.cat([mixed, null_output.expand(-1, x.shape[1], -1)])  # (B, N, D)
        x = torch.addcmul(x, mixed, self.cross_scale)
        mixed = self.mlp(torch.addcmul(mlp_shift, F.layer_norm(x, self.norm_shape, eps=NORM_EPS), mlp_scale))
        return torch.addcmul(x, mixed, mlp_gate)


class DiT(Network):
    """The denoiser DiT-I."""

    ANY_SIZE = True
    TABLES = ("modulation_tables", "out_table")
    config: DiTConfig
    positions: Tensor
    _positions_of: dict[tuple[int, int], Tensor]

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config, width = config, config.width
        self.stem = ConvResidual(config.latent_channels) if config.conv_stem else nn.Identity()
        self.patch_embedding = nn.Linear(config.patch_width, width)
        self.register_buffer("positions", torch.empty(0), persistent=False)
        self.time = TimeEmbedding(TIME_CHANNELS, width)
        self.time_modulation = nn.Linear(width, MODULATIONS * width)
        self.modulation_tables = nn.Parameter(torch.zeros(config.depth, MODULATIONS, width))
        self.text = TextRefiner(config, width, config.heads, qk_norm=True, layer_scale_init=config.layer_scale_init)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.out_table = nn.Parameter(torch.zeros(2, width))
        self.out_projection = nn.Linear(width, config.patch_width)
        self.head = ConvResidual(config.latent_channels, config.latent_channels) if config.conv_stem else None
        self.reset_buffers()
        self.initialize()

    def reset_buffers(self) -> None:
        side, weight = self.config.grid_side, self.patch_embedding.weight
        step = (self.config.position_grid or side) / side
        positions = sincos_positions_2d(side, side, self.config.width, weight.device, step=step)
        self.positions = positions.to(weight.dtype)  # (N, D)
        self._positions_of = {}

    def positions_of(self, height: int, width: int) -> Tensor:
        """Return the positions (N, D) of latents of another size than the config's, for buckets of aspect ratios: as
        far apart as there, from 0 on."""
        config, known = self.config, self._positions_of.get((height, width))
        if known is None or known.device != self.positions.device or known.dtype != self.positions.dtype:
            step, patch = (config.position_grid or config.grid_side) / config.grid_side, config.patch_size
            known = sincos_positions_2d(height // patch, width // patch, config.width, self.positions.device, step=step)
            known = self._positions_of[height, width] = known.to(self.positions.dtype)
        return known

    def initialize_special(self) -> None:
        """Start modulation as the identity at any noise level, with gates of 1: LayerScale alone keeps branches small.
        adaLN-zero's gates of 0 in addition would slow a small model down. The output starts at 0 (DiT)."""
        nn.init.zeros_(self.time_modulation.weight)
        nn.init.zeros_(self.modulation_tables)
        with torch.no_grad():
            self.modulation_tables[:, [1, 2, 4, 5]] = 1.0  # scales and gates
        nn.init.zeros_(self.out_table)
        nn.init.zeros_(self.out_projection.weight)
        if self.head is not None:
            nn.init.zeros_(self.head.conv_out.weight)

    def encode_text(self, text: TextEncoding) -> TextCache:
        """Return refined text with its keys and values in every block, and the null rows' outputs."""
        tokens, mask = self.text(self.pad_text(text))  # (B, L, D)
        if tokens.device.type == "cpu" and tokens.dtype == torch.bfloat16:
            extra = -mask.shape[1] % CPU_BFLOAT16_KEYS
            tokens, mask = F.pad(tokens, (0, 0, 0, extra)), F.pad(mask, (0, extra))
        rows = ragged(mask)
        packed = tokens if rows is None else rows.pack(tokens)
        attentions = [block.cross_attention for block in cast(list[DiTBlock], self.blocks)]
        keys, values = zip(*[layer.keys_values(packed, rows) for layer in attentions])
        null_outputs = ()
        if text.null_rows:
            null_outputs = tuple(
                layer.single_output(value[-text.null_rows :, :, :1]) for layer, value in zip(attentions, values)
            )
        bias = key_bias(mask, tokens.dtype)
        return TextCache(tokens=tokens, bias=bias, keys=keys, values=values, null_outputs=null_outputs)

    def modulation(self, time: Tensor) -> Tensor:
        """Return shift, scale, gate of attention and MLP of every block (depth, 6, B, 1, D), from the time (B, D). Each
        branch's LayerScale is multiplied into its gate, which saves a pass over the tokens."""
        shared = self.time_modulation(F.silu(time)).unflatten(-1, (MODULATIONS, -1)).transpose(0, 1)  # (6, B, D)
        tables = self.modulation_tables[: len(self.blocks)]  # a network cut off behind a block has more
        modulation = tables[:, :, None] + shared  # (depth, 6, B, D)
        one = torch.ones_like(self.out_table[0])
        scales = [
            torch.stack([one, one, block.attention_scale, one, one, block.mlp_scale])
            for block in cast(list[DiTBlock], self.blocks)
        ]
        return (modulation * torch.stack(scales)[:, :, None]).unsqueeze(3)  # (depth, 6, B, 1, D)

    def forward(
        self, x: Tensor, alpha_bar: Tensor, text: TextEncoding, state: DenoiserState | None = None
    ) -> tuple[Tensor, DenoiserState]:
        """Call the network once.

        x: noisy latents (B, C, H, W); sides may differ from the config's (`positions_of`). alpha_bar (B,): their
        signal power. text: B captions; unused where `state` has a text cache. Returns the prediction (B, C, H, W) in
        x's dtype and the state for the next step.
        """
        config = self.config
        height, wide = self.check_latents(x)
        square = height == wide == config.latent_size
        cache = state.text_cache if state is not None and state.text_cache is not None else self.encode_text(text)
        dtype = self.patch_embedding.weight.dtype

        positions = self.positions if square else self.positions_of(height, wide)
        tokens = self.patch_embedding(patchify(self.stem(x.to(dtype)), config.patch_size)) + positions  # (B, N, D)
        time = self.time(alpha_bar)  # (B, D)
        modulation = self.modulation(time)  # (depth, 6, B, 1, D)
        null_outputs = cache.null_outputs or (None,) * config.depth
        layers = zip(self.blocks, modulation.unbind(0), cache.keys, cache.values, null_outputs)
        tap, tapped = 0 if state is None else state.tap, None
        for number, (block, layer, key, value, null_output) in enumerate(layers, 1):
            inputs = (tokens, layer, key, value, cache.bias, null_output)
            tokens = run_block(block, *inputs, checkpointing=self.gradient_checkpointing)
            tapped = tokens if number == tap else tapped

        shift, scale = (self.out_table[:, None] + time).unsqueeze(2).unbind(0)  # (B, 1, D) each
        tokens = torch.addcmul(shift, F.layer_norm(tokens, (config.width,), eps=NORM_EPS), 1 + scale)
        patches = self.out_projection(tokens)  # (B, N, p p C)
        output = unpatchify(patches, config.patch_size, height, wide)  # (B, C, H, W)
        if self.head is not None:
            output = self.head(output, x.to(dtype))
        return output.to(x.dtype), DenoiserState(text_cache=cache, tapped=tapped)
