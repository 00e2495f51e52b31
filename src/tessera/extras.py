"""Optional dependencies and the command that installs them."""

import importlib
import logging
from typing import Any

from tessera.config import UserError

DISTRIBUTION = "tessera-t2i"
"""The package's name where it is installed from."""
_WARNING = ("torchao", "torch.utils._pytree", "diffusers.quantizers")
"""Loggers that warn of kernels and classes of torchao, unused here, when transformers or diffusers imports it."""


def require(library: str, extra: str, wanted_by: str) -> Any:
    """Import and return an optional library; UserError "{wanted_by} needs ..." if it is not installed."""
    for name in _WARNING:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return importlib.import_module(library)
    except ImportError:
        raise missing(extra, wanted_by) from None


def missing(extra: str, wanted_by: str) -> UserError:
    """Return the error for a use of the package that needs the libraries of an extra."""
    return UserError(f"{wanted_by} needs more libraries; run: {install_command(extra)}")


def install_command(extra: str) -> str:
    """Return the command that installs the requirements of an extra.

    It names those packages, which pip finds wherever tessera itself came from (a clone, a wheel, a package index).
    """
    import importlib.metadata

    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # a folder on the path alone
        lines = []
    parts = [line.replace("'", '"').partition(";") for line in lines]
    names = [f'"{name.strip()}"' for name, _, marker in parts if marker.strip() == f'extra == "{extra}"']
    return "pip install " + (" ".join(names) or f'"{DISTRIBUTION}[{extra}]"')
