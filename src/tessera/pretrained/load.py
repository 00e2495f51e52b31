"""Loading of pretrained networks: the one way to load one, its tokenizer, and bare files of weights."""

import contextlib
import functools
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.config import UserError
from tessera.devices import pick_device
from tessera.extras import require
from tessera.files import sha256_file
from tessera.hub import CONFIG_FILE, ModelFolder, fetch_repository, find_model

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SUFFIXES = (".safetensors", ".pth", ".pt")
_HASHED = re.compile(r"-([0-9a-f]{8})$")  # torch.hub's and mmdetection's way to name files


class Pretrained:
    """A frozen network of transformers or diffusers in a folder, whose weights are read when they are first needed.

    cls, field: of `load_network`. name, patterns: of `find_model`. device: None = the best there is. dtype, of: of
    `check_float`.
    """

    def __init__(
        self,
        cls: str,
        name: str,
        patterns: Sequence[str],
        field: str,
        of: str,
        device: "str | torch.device | None",
        dtype: "torch.dtype | None",
    ) -> None:
        require(cls.partition(".")[0], "hub", f"{field}: {name}")
        self._cls, self._field = cls, field
        self.dtype = check_float(dtype, field, of)
        self.device = pick_device(device)
        self.folder = find_model(name, patterns, field)
        self.id = self.folder.id

    @functools.cached_property
    def network(self) -> Any:
        """The network on its device."""
        return load_network(self._cls, self.folder, self._field, dtype=self.dtype, device=self.device)

    @property
    def sha256(self) -> str:
        """The hash of the model's files."""
        return self.folder.sha256

    def to(self, device: "torch.device | str") -> None:
        """Move the network to a device."""
        import torch

        self.device = torch.device(device)
        self.network.to(self.device)


def load_network(
    cls: str,
    model: ModelFolder,
    field: str,
    *,
    dtype: "torch.dtype | None" = None,
    device: "torch.device | str" = "cpu",
    may_be_missing: str = "",
    may_be_unused: str = ".*",
    advice: str = "",
    **options: Any,
) -> Any:
    """Load a network by a class of transformers or diffusers, strictly: on `device`, in evaluation mode, frozen.

    cls: such as "transformers.CLIPModel". field: the beginning of every UserError. dtype: None = float32.
    may_be_missing, may_be_unused: patterns of full names: parameters that the files may be without, and tensors of the
    files that the class may have no use for. advice: the end of the error where loading fails. options: of
    from_pretrained.

    Raises UserError: the library is not installed, files are damaged, parameters are missing or of another shape.
    """
    import torch

    library, _, name = cls.partition(".")
    found = getattr(require(library, "hub", f"{field}: {model.id}"), name)
    if library == "transformers":
        options |= {"dtype": dtype or torch.float32, "ignore_mismatched_sizes": True}  # they are named below
    else:
        options["torch_dtype"] = dtype or torch.float32
    with _loading(model, field, advice), quiet(library):
        network, info = found.from_pretrained(
            str(model.path), use_safetensors=True, local_files_only=True, output_loading_info=True, **options
        )
    lost = [key for key in sorted(info["missing_keys"]) if not re.fullmatch(may_be_missing, key)]
    lost += sorted(str(key) for key in info["mismatched_keys"])
    if lost:
        raise UserError(
            f"{field}: {model.id} is missing weights required by its config.json: {', '.join(lost[:3])}, ..."
        )
    unused = [key for key in sorted(info["unexpected_keys"]) if not re.fullmatch(may_be_unused, key)]
    if unused:
        raise UserError(f"{field}: {model.id} has weights that a {name} does not have: {', '.join(unused[:3])}, ...")
    return network.to(device).eval().requires_grad_(False)


def load_tokenizer(model: ModelFolder, field: str) -> Any:
    """Load the tokenizer of a model of transformers; UserError if it has none that can be loaded."""
    transformers = require("transformers", "hub", f"{field}: {model.id}")
    with _loading(model, field, "; copy its tokenizer there"):
        return transformers.AutoTokenizer.from_pretrained(
            str(model.path), local_files_only=True, trust_remote_code=False
        )


@contextlib.contextmanager
def _loading(model: ModelFolder, field: str, advice: str) -> Iterator[None]:
    """Turn what from_pretrained raises for faulty files into a UserError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise UserError(f"{field}: {model.id} cannot be loaded: {first_line(error)}{advice}") from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class's name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check_float(dtype: "torch.dtype | None", field: str, of: str) -> "torch.dtype":
    """Return float32 for None; UserError for anything but float32 and bfloat16 (float16 overflows here)."""
    import torch

    if dtype not in (None, torch.float32, torch.bfloat16):
        raise UserError(f"{field}: {of} computes in float32 or bfloat16, not {str(dtype).removeprefix('torch.')}")
    return dtype or torch.float32


@contextlib.contextmanager
def without_bars(*libraries: str) -> Iterator[None]:
    """Hide the progress bars of from_pretrained in "transformers" or "diffusers"."""
    modules = [importlib.import_module(f"{library}.utils.logging") for library in libraries]
    shown = [module for module in modules if module.is_progress_bar_enabled()]
    for module in shown:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in shown:
            module.enable_progress_bar()


@contextlib.contextmanager
def quiet(library: str) -> Iterator[None]:
    """Hide from_pretrained's bars and reports; `load_network` checks what matters in them."""
    logging = importlib.import_module(f"{library}.utils.logging")
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_bars(library):
            yield
    finally:
        logging.set_verbosity(level)


def find_weights(name: str | Path, field: str, published: str) -> Path:
    """Find the file of weights called `name`: a file, or the one that a folder or a repository of the Hub holds.

    published: the file's own name, preferred where there are several. A name that ends in eight digits of a SHA-256,
    as published ones do, is checked. `field` begins every UserError.
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
    """Find the file in a folder, or in a repository, of which no more is fetched than needed."""
    folder = Path(name)
    if not folder.is_dir():
        if folder.suffix in SUFFIXES:
            raise UserError(f"{field}: {name}: there is no such file of weights (published as {published})")
        folder = fetch_repository(name, [published], field)
        if not (folder / published).is_file():
            folder = fetch_repository(name, [CONFIG_FILE, *(f"*{suffix}" for suffix in SUFFIXES)], field)
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    found = [path for path in found if path.name == published] or found
    if len(found) != 1:
        names = f" ({', '.join(path.name for path in found[:3])})" if found else ""
        raise UserError(f"{field}: {name} holds {len(found)} files of weights{names}; give the path of one file")
    return found[0]


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
    problems = []
    if missing := shapes.keys() - tensors.keys():
        problems.append(f"missing {some_of(missing)}")
    if extra := tensors.keys() - shapes.keys():
        problems.append(f"unexpected {some_of(extra)}")
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if shape is not None and name in tensors and tuple(tensors[name].shape) != shape
    ]
    if wrong:
        problems.append(f"of another shape {some_of(wrong)}")
    if problems:
        raise UserError(f"{where}: these are not the weights of {what}: {'; '.join(problems)}")


def some_of(names: Iterable[str]) -> str:
    """List at most four of the names, sorted, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 4} more" if len(ordered) > 4 else ""
    return ", ".join(ordered[:4]) + more
