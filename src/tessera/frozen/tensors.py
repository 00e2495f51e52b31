"""Files of weights: tensors by name, from safetensors or from a .pth that holds nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tessera.config import UserError

if TYPE_CHECKING:
    from torch import Tensor


def load_tensors(path: Path, field: str) -> "Mapping[str, Tensor]":
    """The state dict of a file; nothing in it is run. `field` begins the UserError for a missing or damaged one."""
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
        raise UserError(f"{field}: {path}: cannot be read as a file of tensors ({reason})") from error
    if not isinstance(data, Mapping) or not all(isinstance(value, torch.Tensor) for value in data.values()):
        raise UserError(f"{field}: {path}: holds no state dict of tensors")
    return data
