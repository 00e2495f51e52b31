"""Codecs and text encoders by name: the one resolver, and parts from users' own files.

A name is what the user types; an id is what manifests and exports store:

    words:64                      a family of the package and its whole number
    owner/name, FOLDER            a pretrained model; ids as in `tessera.hub`
    my_parts.py:MyEncoder         a class of a user's own file, called without arguments
    my_parts.py:MyEncoder@HASH    its id: the file's SHA-256 begins with HASH, 12 hex digits

A stored id runs no code by itself: its file is looked for in the folders of the environment variable TESSERA_MODELS
alone. The folder of a file that the user has named is put there, for this process and those that it starts.
"""

import functools
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from tessera.config import UserError, blaming, load_part, part_id
from tessera.files import sha256_file
from tessera.hub import MODELS_VARIABLE, is_model_name, model_places

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
_OWN = re.compile(r".+\.py:\w+")
_OWN_ID = re.compile(r"([^/\\]+\.py):(\w+)@([0-9a-f]{12})")


class Part(Protocol):
    """An image codec or text encoder, which its id names."""

    @property
    def id(self) -> str:
        """The name under which `Kind.load` finds it."""
        ...

    @property
    def sha256(self) -> str | None:
        """Content hash of a pretrained model's files; None where there are none."""
        ...

    def to(self, device: "torch.device | str") -> None:
        """Move the network to a device; do nothing where there is none."""
        ...


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A table of parts of one kind: its families, and the classes of pretrained and of users' own parts."""

    field: str  # the beginning of every UserError
    what: str  # the kind, in words
    families: dict[str, Callable[..., T]]  # constructors by name, each with one optional whole number
    pretrained: Callable[..., T]  # called with a model's name, device, dtype, load
    own: Callable[..., T]  # called with "FILE.py:CLASS" and device
    known: str  # for the UserError about an unknown name

    def load(self, name: str, device: Any = None, dtype: Any = None, load: bool = True, run_files: bool = False) -> T:
        """Load the part called `name`, such as "words:64", "stabilityai/sd-vae-ft-ema", "my_parts.py:MyEncoder@HASH".

        device, dtype, load: see `pretrained`; the others do without. run_files: the user typed the name, so it may be
        the path of a file to run. Raises UserError that lists what there is for an unknown name.
        """
        family, colon, argument = name.partition(":")
        if family in self.families and (not colon or (argument.isascii() and argument.isdigit())):
            return self.families[family](int(argument)) if colon else self.families[family]()
        if _OWN_ID.fullmatch(name) or _OWN.fullmatch(name):
            return self.own(_find_own(name, self.field, run_files), device)
        if family not in self.families and is_model_name(name):
            return self.pretrained(name, device, dtype, load)
        choices = f"there are: {self.known}, and FILE.py:CLASS of your own"
        raise UserError(f"{self.field}: unknown {self.what} {name!r}; {choices}")


def _find_own(name: str, field: str, run_files: bool) -> str:
    """Return FILE.py:CLASS for a name or an id of a part in a user's file."""
    match = _OWN_ID.fullmatch(name)
    if match is None and not run_files:
        raise UserError(f"{field}: {name} is not run: a stored name of a user's part ends in @HASH of its file")
    if match is None:
        return name
    file, attribute, digest = match.groups()
    other = ""
    for place in model_places():
        if (path := place / file).is_file():
            if sha256_file(path).startswith(digest):
                return f"{path}:{attribute}"
            other = f"; {path} has other contents"
    raise UserError(
        f"{field}: {attribute} of a user's own file {file} (SHA-256 {digest}...) is needed and not here{other}; set "
        f"{MODELS_VARIABLE} to the folder that holds that file"
    )


class OwnPart:
    """A class of a user's own file and its object, made when first needed. What it raises names its file and line."""

    sha256: str | None = None  # the id has the hash of the user's file

    def __init__(self, spec: str, what: str, needs: Iterable[str], device: "str | torch.device | None") -> None:
        self._spec, self._what, self._device = spec, what, device
        self._class: Callable[[], Any] = load_part(spec, {}, what, needs)
        self.id = part_id(spec, {})
        folder = str(Path(spec.rpartition(":")[0]).resolve().parent)
        places = [str(place) for place in model_places()]
        if folder not in places:
            os.environ[MODELS_VARIABLE] = os.pathsep.join([*places, folder])

    def blaming(self) -> Any:
        """Return a context whose errors are those of the user's file."""
        return blaming(self._spec, self._what)

    @functools.cached_property
    def part(self) -> Any:
        """The object, on its device if it has a method `to`."""
        from tessera.devices import pick_device

        with self.blaming():
            part = self._class()
            if hasattr(part, "to"):
                part.to(pick_device(self._device))
        return part

    def to(self, device: "torch.device | str") -> None:
        """Move the part to a device if it has a method `to`."""
        with self.blaming():
            if hasattr(self.part, "to"):
                self.part.to(device)
