"""The base class of both networks and the part of their configuration that they share: sizes, initial values."""

from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from tessera.config import UserError, check_ranges
from tessera.devices import few_shapes
from tessera.models.layers import key_count
from tessera.records import TextEncoding

TABLE_STD = 0.02
"""Standard deviation of the initial values of learned tables."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The part of a network's shape that DiT and RIN share."""

    latent_channels: int = 4
    """Channels of the image latents."""
    latent_size: int = 32
    """Height and width of the image latents; a multiple of patch_size."""
    patch_size: int = 2
    """Side of a token's square of latents."""
    mlp_ratio: int = 4
    """Hidden width of every MLP over its width."""
    text_width: int = 2048
    """Width of the text encoder's tokens."""
    refiner_depth: int = 2
    """Self-attention blocks that refine the text."""
    text_positions: bool = False
    """Adds fixed positions to the text, for encoders whose tokens carry none."""
    text_window: int = 1
    """Tokens of the text, itself in the middle, that the projection of one sees, odd; more than 1 is for encoders
    whose tokens carry no context, such as `words:64`."""
    conv_stem: bool = False
    """Adds residual 3 x 3 convolutions before the patches and after them; the latter see the noisy latents too, to
    remove a little noise locally (for small networks; the miniature's DiT-I draws better without them)."""

    @property
    def grid_side(self) -> int:
        """Patches along a side of the image."""
        return self.latent_size // self.patch_size

    @property
    def patch_width(self) -> int:
        """Numbers in a patch."""
        return self.patch_size**2 * self.latent_channels

    def check_sizes(self, *multiples: tuple[str, str | int]) -> None:
        """Check that integers are at least 1 (refiner_depth: 0), and fields multiples of a number or another field.
        Raises UserError that names the field."""
        sizes = {field.name: "[1, inf)" for field in fields(self) if field.type in (int, int | None)}
        check_ranges(self, **sizes | {"refiner_depth": "[0, inf)"})
        if self.text_window % 2 == 0:
            raise UserError(f"text_window is {self.text_window}; give an odd number, the token itself in the middle")
        for name, divisor in (("latent_size", "patch_size"), *multiples):
            if getattr(self, name) % (divisor if isinstance(divisor, int) else getattr(self, divisor)):
                raise UserError(f"{name} is {getattr(self, name)}; give a multiple of {divisor}")


class Network(nn.Module):
    """Base class of DiT and RIN."""

    TABLES: tuple[str, ...] = ()
    """Names of the parameters that are learned tables, not matrices of a product: no weight decay, no Muon."""

    config: Any
    gradient_checkpointing = False
    """True: only the inputs of blocks are kept for the backward pass, which runs the blocks again."""

    def enable_gradient_checkpointing(self) -> None:
        """Turn gradient checkpointing on for all blocks, those of the text refiner too."""
        self.gradient_checkpointing = self.text.gradient_checkpointing = True  # type: ignore

    @property
    def front_tokens(self) -> int:
        """Number of tokens before the text in the refiner."""
        return 0

    def pad_text(self, text: TextEncoding) -> TextEncoding:
        """Return the text padded to a `key_count` with the tokens before it; on a CPU, and within a compiled program,
        which is for any length, as it is."""
        if not few_shapes(text.mask.device) or torch.compiler.is_compiling():
            return text
        front = self.front_tokens
        return text.pad_to(key_count(front + text.mask.shape[1]) - front)

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def reset_buffers(self) -> None:
        """Compute the fixed tables; needed after a network built on the meta device was given its parameters."""

    def initialize(self) -> None:
        """Set every parameter to its initial value:

        | parameters                                  | initial value                                           |
        |---------------------------------------------|---------------------------------------------------------|
        | matrices of Linear (fused ones as a whole)  | Xavier uniform (DiT, RIN)                               |
        | convolutions                                | Xavier uniform                                          |
        | all biases                                  | 0                                                       |
        | norms                                       | gain 1, offset 0                                        |
        | LayerScale                                  | set by its block: `layer_scale_init`                    |
        | learned tables                              | normal, std TABLE_STD, truncated at two std             |
        | the rest                                    | `initialize_special` of the network                     |
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(cast(Tensor, module.bias))
        for name, parameter in self.named_parameters():
            if name.split(".")[-1] in self.TABLES:
                nn.init.trunc_normal_(parameter, std=TABLE_STD, a=-2 * TABLE_STD, b=2 * TABLE_STD)
        self.initialize_special()

    def initialize_special(self) -> None:
        """Set the initial values that differ from `initialize`'s table."""

    ANY_SIZE = False
    """True: takes latents of any height and width that are multiples of the patch."""

    def check_latents(self, x: Tensor) -> tuple[int, int]:
        """Return height and width of x. ValueError unless x is (B, C, H, W) as the config says."""
        config = self.config
        channels, size = config.latent_channels, config.latent_size
        height, width = x.shape[-2:]
        sized = height == width == size
        if self.ANY_SIZE and not sized:
            sized = height % config.patch_size == width % config.patch_size == 0
        if x.ndim != 4 or x.shape[1] != channels or not sized:
            raise ValueError(f"x is {tuple(x.shape)}; this network takes latents (B, {channels}, {size}, {size})")
        return height, width
