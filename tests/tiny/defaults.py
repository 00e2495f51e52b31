"""A program that has chosen defaults of its own for torch's tensors."""

import contextlib
from collections.abc import Iterator

import torch

CHOICES = (torch.float64, torch.bfloat16, torch.device("meta"))
"""Types, and a device: one that is there on every machine, and takes part in no sum with tensors of another."""


@contextlib.contextmanager
def torch_defaults(choice: torch.dtype | torch.device) -> Iterator[None]:
    """One of CHOICES as the default, inside the context."""
    if isinstance(choice, torch.device):
        torch.set_default_device(choice)
    else:
        torch.set_default_dtype(choice)
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
