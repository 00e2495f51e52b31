"""Optional dependencies and the command that installs them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


DISTRIBUTION = "tessera-t2i"
"""What the package is called where it is installed from."""


def install_command(extra: str) -> str:
    """The command that brings what an extra of the package asks for.

    It names those packages, which pip finds wherever tessera itself came from (a clone, a wheel, a package index).
    """
    import importlib.metadata

    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # a folder on the path alone
        lines = []
    parts = [line.partition(";") for line in lines]
    markers = (f"extra == '{extra}'", f'extra == "{extra}"')
    names = [name.strip() for name, _, marker in parts if marker.strip() in markers]
    return "pip install " + (" ".join(f'"{name}"' for name in names) or f'"{DISTRIBUTION}[{extra}]"')
