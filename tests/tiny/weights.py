"""A tiny RIN, and a check that an error is one line."""

import pytest

from tessera.models.rin import RINConfig

TINY_RIN = RINConfig(
    latent_size=4,
    interface_width=8,
    num_latent_tokens=3,
    latent_width=16,
    blocks=1,
    layers_per_block=1,
    read_write_heads=2,
    compute_heads=2,
    text_width=6,
    refiner_heads=2,
    text_registers=2,
)


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)
