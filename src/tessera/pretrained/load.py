"""Loading of pretrained networks by transformers and diffusers: the one way to load one, and its tokenizer."""

import contextlib
import functools
import importlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tessera.config import UserError
from tessera.devices import pick_device
from tessera.extras import require
from tessera.hub import ModelFolder, find_model
from tessera.pretrained.tensors import first_line

if TYPE_CHECKING:
    import torch


class Pretrained:
    """A frozen network of transformers or diffusers in a folder, whose weights are read when they are first needed.

    cls, field: of `load_network`. name, patterns: of `find_model`. device: None = the best there is. dtype, of: of
    `check_float`.
    """

    def __init__(
        self, cls: str, name: str, patterns: Sequence[str], field: str, of: str, device: Any, dtype: Any
    ) -> None:
        require(cls.partition(".")[0], "hub", f"{field}: {name}")
        self._cls, self._field = cls, field
        self.dtype = check_float(dtype, field, of)
        self.device = pick_device(device)
        self.folder = find_model(name, patterns, field)
        self.id = self.folder.id

    may_be_missing = ""
    """Parameters that the files may be without: the pattern that `load_network` takes."""

    @functools.cached_property
    def network(self) -> Any:
        """The network on its device."""
        return load_network(
            self._cls,
            self.folder,
            self._field,
            dtype=self.dtype,
            device=self.device,
            may_be_missing=self.may_be_missing,
        )

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
        if (where := torch.device(device)).type == "cuda":  # from the files, not through all of the host's memory
            index = where.index if where.index is not None else torch.cuda.current_device()
            options["device_map"] = {"": index}
    else:
        options["torch_dtype"] = dtype or torch.float32
    with _loading(model, field, advice), quiet(library):
        network, info = found.from_pretrained(
            str(model.path), use_safetensors=True, local_files_only=True, output_loading_info=True, **options
        )
    lost = [key for key in sorted(info["missing_keys"]) if not re.fullmatch(may_be_missing, key)]
    lost += sorted(str(key) for key in info["mismatched_keys"])
    unused = [key for key in sorted(info["unexpected_keys"]) if not re.fullmatch(may_be_unused, key)]
    unknown = f"has weights that a {name} does not have"
    for fault, keys in (("is missing weights required by its config.json", lost), (unknown, unused)):
        if keys:
            raise UserError(f"{field}: {model.id} {fault}: {', '.join(keys[:3])}, ...")
    return network.to(device).eval().requires_grad_(False)


def load_tokenizer(model: ModelFolder, field: str) -> Any:
    """Load the tokenizer of a model of transformers; UserError if it has none that can be loaded."""
    load = require("transformers", "hub", f"{field}: {model.id}").AutoTokenizer.from_pretrained
    with _loading(model, field, "; copy its tokenizer there"):
        return load(str(model.path), local_files_only=True, trust_remote_code=False)


@contextlib.contextmanager
def _loading(model: ModelFolder, field: str, advice: str) -> Iterator[None]:
    """Turn what from_pretrained raises for faulty files into a UserError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise UserError(f"{field}: {model.id} cannot be loaded: {first_line(error)}{advice}") from error


def check_float(dtype: "torch.dtype | None", field: str, of: str) -> "torch.dtype":
    """Return float32 for None; UserError for anything but float32 and bfloat16 (float16 overflows here)."""
    import torch

    if dtype not in (None, torch.float32, torch.bfloat16):
        raise UserError(f"{field}: {of} computes in float32 or bfloat16, not {str(dtype).removeprefix('torch.')}")
    return dtype or torch.float32


@contextlib.contextmanager
def quiet(*libraries: str, reports: bool = False) -> Iterator[None]:
    """Hide the progress bars of from_pretrained in "transformers" or "diffusers", and unless `reports` its reports."""
    modules = [importlib.import_module(f"{library}.utils.logging") for library in libraries]
    before = [(module, module.get_verbosity(), module.is_progress_bar_enabled()) for module in modules]
    for module in modules:
        module.disable_progress_bar()
        if not reports:
            module.set_verbosity_error()
    try:
        yield
    finally:
        for module, level, shown in before:
            module.set_verbosity(level)
            if shown:
                module.enable_progress_bar()
