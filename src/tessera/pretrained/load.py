"""Loading of pretrained networks: files of weights, their tensors, and checks of what a library has loaded."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.config import UserError
from tessera.files import sha256_file
from tessera.hub import fetch_repository

if TYPE_CHECKING:
    import torch
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
from tessera.hub import ModelFolder


def check_float(dtype: "torch.dtype | None", field: str, of: str) -> "torch.dtype":
    """float32 for None; UserError for anything but float32 and bfloat16 (float16 overflows in these networks)."""
    import torch

    if dtype not in (None, torch.float32, torch.bfloat16):
        raise UserError(f"{field}: {of} computes in float32 or bfloat16, not {str(dtype).removeprefix('torch.')}")
    return dtype or torch.float32


@contextlib.contextmanager
def without_bars(logging: Any) -> Iterator[None]:
    """Hides from_pretrained's bars. `logging`: the library's module."""
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Hides from_pretrained's bars and reports: what matters in them is checked. `logging`: the library's module."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_bars(logging):
            yield
    finally:
        logging.set_verbosity(level)


def pipeline_without_bars() -> contextlib.AbstractContextManager[Any]:
    """`without_bars` of both libraries that a diffusers pipeline is loaded by."""
    import diffusers.utils.logging
    import transformers.utils.logging

    stack = contextlib.ExitStack()
    for logging in (diffusers.utils.logging, transformers.utils.logging):
        stack.enter_context(without_bars(logging))
    return stack


def check_loaded(info: dict[str, Any], model: ModelFolder, field: str) -> None:
    """UserError where from_pretrained filled weights with random numbers; `info` is its output_loading_info."""
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise UserError(f"{field}: {model.id} has not the weights of its config.json: {', '.join(missing[:3])}, ...")


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
