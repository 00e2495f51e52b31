"""The rows of a set, and its images: crops of images/, or compositions of them by a recipe.

A set is a completed images/ directory (`read_images`), optionally with a recipe of augmented images (`read_recipe`).
`list_entries` gives what is needed to make each image, and `Composer` makes it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.cutmix import CROP, compose
from tessera.files import read_table
from tessera.images import read_rgb
from tessera.records import Placement, Scene, SceneObject
from tessera.stages import read_manifest

if TYPE_CHECKING:
    import pyarrow as pa

IMAGES_TABLE = "images.parquet"
SCENES_TABLE = "scenes.parquet"
RECIPE_TABLE = "recipe.parquet"
RECIPE_COLUMNS = ("key", "base", "partner", "pattern", "left", "top", "right", "bottom", "seed")

_BATCH = 8192  # rows made at a time
Row = TypeVar("Row")


class ImageRow(NamedTuple):
    """Row of images.parquet."""

    key: str
    class_name: str
    file: str | None
    """Relative to images/; None for a reject."""
    width: int | None
    height: int | None
    source: str
    reject: str | None


class RecipeRow(NamedTuple):
    """Row of recipe.parquet, an augmented image; base and partner are keys of images.parquet."""

    key: str
    base: str
    partner: str
    placement: Placement
    seed: int


@dataclass(frozen=True)
class Recipe:
    """A completed recipe directory."""

    rows: "TableRows[RecipeRow]"
    """Sorted by key."""
    half_view: str
    words: Mapping[str, tuple[str, str]]
    """Pattern -> where base and partner are, of a user's pattern that says it."""


class TableRows(Sequence[Row]):
    """The rows of an Arrow table, each made by `make` of its values when it is asked for."""

    def __init__(self, table: "pa.Table", make: Callable[..., Row]):
        self.table, self._make = table, make

    def where(self, column: str, values: Iterable[str]) -> "TableRows[Row]":
        """Return the rows whose `column` has one of `values`."""
        import pyarrow.compute as pc

        return TableRows(self.table.filter(pc.field(column).isin(sorted(set(values)))), self._make)

    def __len__(self) -> int:
        return self.table.num_rows

    def __iter__(self) -> Iterator[Row]:
        for batch in self.table.to_batches(max_chunksize=_BATCH):
            yield from map(self._make, *(column.to_pylist() for column in batch.columns))

    def __getitem__(self, index: Any) -> Any:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        return self._make(*(column[places].as_py() for column in self.table.columns))

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, TableRows) and self.table.equals(other.table)

    __hash__ = None  # type: ignore[assignment]


def images_schema() -> "pa.Schema":
    """Return the schema of images.parquet."""
    import pyarrow as pa

    text, number = pa.string(), pa.int32()
    types = {"key": text, "class": text, "file": text, "width": number, "height": number, "source": text}
    return pa.schema([*types.items(), ("reject", text)])


def read_images(images: Path) -> TableRows[ImageRow]:
    """Return the images of a completed images/ directory, sorted by key; rejects are left out."""
    import pyarrow.compute as pc

    read_manifest(images, "collect")
    table = read_table(Path(images) / IMAGES_TABLE, images_schema().names)
    return TableRows(table.filter(pc.field("reject").is_null()).sort_by("key"), ImageRow)


def read_recipe(recipe: Path) -> Recipe:
    """Return a completed recipe directory."""
    manifest = read_manifest(Path(recipe), "augment")
    table = read_table(Path(recipe) / RECIPE_TABLE, RECIPE_COLUMNS)
    words = {name: (base, partner) for name, (base, partner) in manifest.facts.get("words", {}).items()}
    return Recipe(recipe_rows(table, int(manifest.facts["image_size"])), manifest.config["half_view"], words)


def recipe_rows(table: "pa.Table", size: int) -> TableRows[RecipeRow]:
    """Return the rows of a table with `RECIPE_COLUMNS`, of images of `size` px."""

    def make(key: str, base: str, partner: str, pattern: str, *box_and_seed: Any) -> RecipeRow:
        *box, seed = box_and_seed
        return RecipeRow(key, base, partner, Placement(pattern, tuple(box), size), seed)

    return TableRows(table, make)


def read_scenes(images: Path) -> dict[str, Scene]:
    """Return key -> ground truth of a miniature's images/ directory. Raises UserError if it is not the miniature."""
    path = Path(images) / SCENES_TABLE
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; only the miniature has ground truth")
    keys, texts = read_table(path, ["key", "scene"]).to_pydict().values()
    try:
        return {key: _scene(json.loads(text)) for key, text in zip(keys, texts)}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged ({error}); delete the directory and collect again") from error


def _scene(data: dict[str, Any]) -> Scene:
    """Do what `from_dict` does, which is ten times slower for its messages."""
    objects = tuple(SceneObject(**{**thing, "center": tuple(thing["center"])}) for thing in data["objects"])
    return Scene(objects=objects, backgrounds=tuple(data["backgrounds"]), seed=data["seed"])


@dataclass(frozen=True)
class Entry:
    """Recipe for making one image of a set; files are relative to images/."""

    key: str
    class_name: str
    """Both of an augmented image, joined by " + ", where they differ."""
    base: str
    partner: str | None = None
    placement: Placement | None = None
    """None = the crop itself."""


def list_entries(rows: Sequence[ImageRow], mixes: Sequence[RecipeRow] | None = None) -> list[Entry]:
    """Return what it takes to make each image of `rows`, or of the recipe's rows `mixes` if given, in their order."""
    if mixes is None:
        return [Entry(row.key, row.class_name, str(row.file)) for row in rows]
    of = {row.key: (row.class_name, str(row.file)) for row in rows}
    entries = []
    for mix in mixes:
        (base_class, base), (partner_class, partner) = of[mix.base], of[mix.partner]
        names = " + ".join(dict.fromkeys((base_class, partner_class)))
        entries.append(Entry(mix.key, names, base, partner, mix.placement))
    return entries


class Composer:
    """The images of a set: reads the crops below `images` and composes augmented ones when they are asked for.

    half_view: of the recipe. size: side in pixels that every crop must have; None = any. cache_bytes: decoded crops to
    hold in memory, so that each is read about once.
    """

    def __init__(self, images: Path, half_view: str = "aligned", *, size: int | None = None, cache_bytes: int = 0):
        self.images, self.half_view, self._size, self._room = images, half_view, size, cache_bytes
        self._cache: dict[str, NDArray[np.uint8]] = {}

    def __call__(self, entry: Entry) -> NDArray[np.uint8]:
        """Return the image, uint8 (S, S, 3). Raises UserError for a missing, damaged or wrongly sized crop."""
        base = self.read(entry.base)
        if entry.placement is None or entry.partner is None:
            return base
        partner = base if entry.placement.pattern == CROP else self.read(entry.partner)
        return compose(base, partner, entry.placement, self.half_view)

    def read(self, file: str) -> NDArray[np.uint8]:
        """Return a crop, uint8 (S, S, 3); `file` is relative to images/. Threads may call it."""
        if (known := self._cache.get(file)) is not None:
            return known
        path = self.images / file
        pixels = read_rgb(path, fix="delete its directory and collect again")
        if self._size is not None and pixels.shape[:2] != (self._size, self._size):
            raise UserError(f"{path}: is not {self._size} x {self._size} RGB; delete its directory and collect again")
        if (len(self._cache) + 1) * pixels.nbytes > self._room:
            self._cache.clear()
        if self._room:
            self._cache[file] = pixels
        return pixels
