"""Floating-point operations of both networks by formula: products of matrices alone, 2 for each multiply-add.

N image tokens or interface tokens, L text tokens, D width. Norms, softmax and activations are left out, as is usual.
"""

from tessera.models.dit import TIME_CHANNELS, DiTConfig
from tessera.models.rin import RINConfig


def forward_flops(config: DiTConfig | RINConfig, text_tokens: float) -> float:
    """Return the FLOPs of one forward pass of one image with `text_tokens` real tokens of text."""
    if isinstance(config, DiTConfig):
        return _dit(config, text_tokens)
    return _rin_text(config, text_tokens) + _rin_image(config, text_tokens)


def step_flops(config: DiTConfig | RINConfig, text_tokens: float, self_condition_prob: float = 0.0) -> float:
    """Return one image's FLOPs in a training step: the backward pass costs two forward ones. A RIN's first pass for
    self-conditioning, without gradient and without the text part, is made for `self_condition_prob` of the images."""
    flops = 3 * forward_flops(config, text_tokens)
    if isinstance(config, RINConfig):
        flops += self_condition_prob * _rin_image(config, text_tokens)
    return flops


def _self_block(tokens: float, width: int, ratio: int) -> float:
    """Return the FLOPs of self-attention (qkv and out, scores and mix) and MLP on (tokens, width)."""
    return (8 + 4 * ratio) * tokens * width**2 + 4 * tokens**2 * width


def _cross_block(queries: float, keys: float, width: int, context: int, shared: int, ratio: int) -> float:
    """Return the FLOPs of cross-attention (queries, width) to (keys, context) in `shared` channels, and of the MLP."""
    attention = 4 * queries * width * shared + 4 * keys * context * shared + 4 * queries * keys * shared
    return attention + 4 * ratio * queries * width**2


def _text(c: DiTConfig | RINConfig, width: int, tokens: float, registers: int) -> float:
    projection = 2 * tokens * c.text_window * c.text_width * width
    return projection + c.refiner_depth * _self_block(tokens + registers, width, c.mlp_ratio)


def _ends(c: DiTConfig | RINConfig, width: int) -> float:
    """Return the FLOPs from latents to tokens of `width` and back."""
    ends = 4 * c.grid_side**2 * c.patch_width * width
    if c.conv_stem:  # 3 x 3: channels -> hidden -> channels in the stem, twice the channels -> hidden -> channels after
        ends += 2 * 9 * c.latent_size**2 * 5 * c.latent_channels * max(32, c.latent_channels)
    return ends


def _dit(c: DiTConfig, text: float) -> float:
    tokens, width = c.grid_side**2, c.width
    cross = 4 * tokens * width**2 + 4 * text * width**2 + 4 * tokens * text * width
    time = 2 * (TIME_CHANNELS * width + width**2 + 6 * width**2)
    blocks = c.depth * (_self_block(tokens, width, c.mlp_ratio) + cross)
    return blocks + _text(c, width, text, 0) + _ends(c, width) + time


def _rin_text(c: RINConfig, text: float) -> float:
    seen = text + c.text_registers
    keys_values = c.blocks * 4 * seen * c.latent_width**2
    return keys_values + _text(c, c.latent_width, text, c.text_registers)


def _rin_image(c: RINConfig, text: float) -> float:
    latent, interface, width, shared = c.latent_width, c.interface_width, c.latent_width, c.read_write_width
    patches, tokens, ratio = c.grid_side**2, c.num_latent_tokens, c.mlp_ratio
    seen = text + c.text_registers + 1
    condition = _cross_block(tokens, seen, latent, latent, latent, ratio) - 4 * (seen - 1) * latent**2
    read = _cross_block(tokens, patches, latent, interface, shared, ratio)
    compute = c.layers_per_block * _self_block(tokens, width, ratio)
    write = _cross_block(patches, tokens, interface, latent, shared, ratio)
    time = 2 * (latent // 4 * latent + latent**2)
    previous = 4 * ratio * tokens * latent**2
    return c.blocks * (condition + read + compute + write) + _ends(c, interface) + time + previous
