"""A set that grows: what `collect`, `caption` and `encode` take over from a directory that was made before.

Next to images.parquet, collect keeps source_files.parquet: the key of each image and the state of its file. A directory
that took crops of another one over has changes.json: the hash of that one's manifest, and the keys of the images that
were added, changed or removed since.
"""

import functools
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.config import UserError, compare
from tessera.curate.index import IMAGES_TABLE
from tessera.files import read_json, read_table, write_json
from tessera.stages import read_manifest

if TYPE_CHECKING:
    import pyarrow as pa

STATES_TABLE = "source_files.parquet"
CHANGES = "changes.json"
_HASH = "blake2b "


def file_state(path: str, offset: int | None, length: int) -> str:
    """Return the size, the times and the number on its disk of an image's file, and its place in it; "" if it is gone.

    An edit, a file put in its place and a renamed folder change it, a copy of the whole set too.
    """
    try:
        found = os.stat(path)
    except OSError:
        return ""
    place = "" if offset is None else f" {offset}+{length}"
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}{place}"


def content_state(source: Path | bytes) -> str:
    """Return a hash of an image's bytes: the same wherever the file lies and however old it is; "" if it is gone."""
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError:
        return ""
    return _HASH + hashlib.blake2b(data, digest_size=16).hexdigest()


def check_same_config(reuse: Path, stage: str, config: Mapping[str, Any]) -> None:
    """Raise UserError unless the complete directory `reuse` was made by `stage` with `config`."""
    pairs = compare(read_manifest(reuse, stage).config, config)
    if pairs:
        fields = "; ".join(f"{field}: the directory has {a}, this call has {b}" for field, a, b in pairs)
        raise UserError(f"{reuse}: was made otherwise: {fields}; give the same settings, or leave --reuse out")


def states_schema() -> "pa.Schema":
    """Return the schema of source_files.parquet."""
    import pyarrow as pa

    return pa.schema([("key", pa.string()), ("state", pa.string())])


@functools.lru_cache(maxsize=1)
def read_states(images: Path) -> dict[str, str]:
    """Return key -> state of the file of each image that a completed images/ directory was made of."""
    path = images / STATES_TABLE
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; --reuse needs a directory that was collected from files")
    return dict(zip(*read_table(path, ["key", "state"]).to_pydict().values()))


def check_states(images: Path, hashed: bool) -> None:
    """Raise UserError where the states of a directory that is to be taken over are of the other kind."""
    if any(state and state.startswith(_HASH) != hashed for state in read_states(images).values()):
        how, fix = ("without", "leave it out") if hashed else ("with", "give it")
        raise UserError(f"{images}: was collected {how} --by-hash; {fix}, or leave --reuse out")


@functools.lru_cache(maxsize=1)
def read_sizes(images: Path) -> dict[str, tuple[int, int]]:
    """Return key -> width and height of the whole image, of those that gave a crop."""
    columns = read_table(images / IMAGES_TABLE, ["key", "width", "height"]).to_pydict().values()
    return {key: (width, height) for key, width, height in zip(*columns) if width is not None}


class Changes:
    """The difference between the images of a source now and those that `reuse` was made of."""

    def __init__(self, reuse: Path):
        self._before = read_states(reuse)
        self._gone = set(self._before)
        self.made_from = read_manifest(reuse, "collect").sha256
        self.added: list[str] = []
        self.changed: list[str] = []

    def note(self, states: Iterable[tuple[str, str]]) -> None:
        """Note the keys and states of images that are there now."""
        for key, state in states:
            self._gone.discard(key)
            if key not in self._before:
                self.added.append(key)
            elif not state or self._before[key] != state:
                self.changed.append(key)

    def write(self, out: Path) -> dict[str, Any]:
        """Write changes.json into `out`; return the hash of the other manifest, and how many there are of each kind."""
        kinds = {"added": self.added, "changed": self.changed, "removed": list(self._gone)}
        write_json(out / CHANGES, {"made_from": self.made_from, **{name: sorted(keys) for name, keys in kinds.items()}})
        return {"made_from": self.made_from, **{name: len(keys) for name, keys in kinds.items()}}


def changed_since(images: Path, reuse: Path, stage: str, config: Mapping[str, Any], recipe: Path | None) -> set[str]:
    """Return the keys of `images` whose pixels may be others than those that the directory `reuse` was made from.

    Raises UserError if `reuse` was not made by `stage` with `config`, if it was made from images that `images` neither
    is nor took over, and where it or this call is of a recipe.
    """
    check_same_config(reuse, stage, config)
    if recipe is not None:
        raise UserError("--reuse does without --recipe: a recipe draws its pairs anew from a set that grew")
    inputs = read_manifest(reuse).inputs
    if "recipe" in inputs:
        raise UserError(f"{reuse}: is of a recipe, which draws its pairs anew from a set that grew; leave --reuse out")
    if (images / CHANGES).exists():
        changes = read_json(images / CHANGES)
        if changes["made_from"] == inputs["images"]:
            return {*changes["added"], *changes["changed"]}
    if read_manifest(images, "collect").sha256 != inputs["images"]:
        raise UserError(
            f"{reuse}: was made from images that {images} was not collected with: collect with --reuse of those, or"
            " leave --reuse out here"
        )
    return set()
