"""Files of weights: where they are, and their tensors by name, of safetensors or of a .pth that holds no code."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tessera.config import UserError
from tessera.files import sha256_file
from tessera.repository import fetch_repository

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".pth", ".pt")
_HASHED = re.compile(r"-([0-9a-f]{8})$")  # torch.hub's and mmdetection's way to name files


def find_weights(name: str | Path, field: str, published: str) -> Path:
    """The file of weights called `name`: a file, or the one that a folder or a repository of the Hub holds.

    published: the file's own name, which goes first where there are several. A name that ends in eight digits of a
    SHA-256, as published ones do, must say the truth. `field` begins every UserError.
    """
    path = Path(name)
    if not path.is_file():
        path = _within(str(name), field, published)
    promised = _HASHED.search(path.stem)
    if promised and not (digest := sha256_file(path)).startswith(promised[1]):
        raise UserError(
            f"{field}: {path}: its SHA-256 begins with {digest[:8]}, not with {promised[1]} as its name says; "
            "fetch it again, or give a file of other weights another name"
        )
    return path


def _within(name: str, field: str, published: str) -> Path:
    """The file of a folder, or of a repository, of which no more is fetched than needed."""
    folder = Path(name)
    if not folder.is_dir():
        if folder.suffix in SUFFIXES:
            raise UserError(f"{field}: {name}: there is no such file of weights (published as {published})")
        try:
            folder = fetch_repository(name, [published])
            if not (folder / published).is_file():
                folder = fetch_repository(name, [f"*{suffix}" for suffix in SUFFIXES])
        except UserError as error:
            raise UserError(f"{field}: {error}") from error
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    found = [path for path in found if path.name == published] or found
    if len(found) != 1:
        names = f" ({', '.join(path.name for path in found[:3])})" if found else ""
        raise UserError(f"{field}: {name} holds {len(found)} files of weights{names}; give the path of one file")
    return found[0]


def load_tensors(path: Path, field: str) -> "Mapping[str, Tensor]":
    """The state dict of a file, also one under "state_dict"; nothing in it is run. `field` begins every UserError."""
    import torch

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{field}: {path}: there is no such file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each way of being damaged has an exception of its own there
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if reason.startswith("Weights only load failed"):  # goes on with how to run what is in there: no advice of ours
            reason = "it is another kind of file, damaged, or holds more than tensors; download it again"
        raise UserError(f"{field}: {path}: cannot be read as a file of tensors ({reason})") from error
    state = data.get("state_dict", data) if isinstance(data, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{field}: {path}: holds no state dict of tensors")
    return state
