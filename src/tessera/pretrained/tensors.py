"""Files of weights without a library's loader: found, read, renamed and checked tensor by tensor."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tessera.config import UserError
from tessera.files import sha256_file
from tessera.hub import CONFIG_FILE, fetch_repository

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".pth", ".pt")
_HASHED = re.compile(r"-([0-9a-f]{8})$")  # torch.hub's and mmdetection's way to name files


def find_weights(name: str | Path, field: str, published: str) -> Path:
    """Find the file of weights called `name`: a file, or the one that a folder or a repository of the Hub holds.

    published: the file's own name, preferred where there are several. A name that ends in eight digits of a SHA-256,
    as published ones do, is checked. `field` begins every UserError.
    """
    path = Path(name)
    if not path.is_file():
        folder = path
        if not folder.is_dir():
            if folder.suffix in SUFFIXES:
                raise UserError(f"{field}: {name}: there is no such file of weights (published as {published})")
            folder = fetch_repository(str(name), [published], field)  # no more than is needed
            if not (folder / published).is_file():
                folder = fetch_repository(str(name), [CONFIG_FILE, *(f"*{suffix}" for suffix in SUFFIXES)], field)
        found = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
        found = [file for file in found if file.name == published] or found
        if len(found) != 1:
            names = f" ({', '.join(file.name for file in found[:3])})" if found else ""
            raise UserError(f"{field}: {name} holds {len(found)} files of weights{names}; give the path of one file")
        path = found[0]
    promised = _HASHED.search(path.stem)
    if promised and not (digest := sha256_file(path)).startswith(promised[1]):
        raise UserError(
            f"{field}: {path}: its SHA-256 begins with {digest[:8]}, not with {promised[1]} as its name says; "
            "fetch it again, or give a file of other weights another name"
        )
    return path


def load_tensors(path: Path, field: str) -> "Mapping[str, Tensor]":
    """Load the state dict of a file, also one under "state_dict"; nothing in it is run. `field` begins UserErrors."""
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
        reason = first_line(error)
        if reason.startswith("Weights only load failed"):  # torch's advice is to run what the file holds
            reason = "it is another kind of file, damaged, or holds more than tensors; download it again"
        raise UserError(f"{field}: {path}: cannot be read as a file of tensors ({reason})") from error
    state = data.get("state_dict", data) if isinstance(data, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{field}: {path}: holds no state dict of tensors")
    return state


def check_state(
    tensors: "Mapping[str, Tensor]", shapes: Mapping[str, tuple[int, ...] | None], where: object, what: str
) -> None:
    """Check that names and shapes are exactly those of `shapes` (None = any shape); UserError that names the others.

    where, what: begin the message: "{where}: these are not the weights of {what}: ...".
    """
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if shape is not None and name in tensors and tuple(tensors[name].shape) != shape
    ]
    found = {"missing": shapes.keys() - tensors.keys(), "unexpected": tensors.keys() - shapes.keys()}
    found["of another shape"] = set(wrong)
    if problems := [f"{kind} {some_of(names)}" for kind, names in found.items() if names]:
        raise UserError(f"{where}: these are not the weights of {what}: {'; '.join(problems)}")


def some_of(names: Iterable[str]) -> str:
    """List at most four of the names, sorted, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 4} more" if len(ordered) > 4 else ""
    return ", ".join(ordered[:4]) + more


def renamed(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    """Replace the beginning of `name` by the first rule (pattern, replacement) that matches it; None if none does."""
    for pattern, replacement in rules:
        if match := re.match(pattern, name):
            return match.expand(replacement) + name[match.end() :]
    return None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class's name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
