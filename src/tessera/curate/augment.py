"""augment: images/ -> recipe.parquet, one CutMix row per picture (paper section 3.2).

A row says which partner is pasted where; pictures are composed from their row when they are needed. Columns: key, base,
partner (keys of images.parquet), pattern, left, top, right, bottom (pixels), seed. A row's seed is the address
(config's seed, base key); everything else in it follows from its seed and the set of keys, in whatever order the files
are listed and on whatever machine:

- the partner is picture number h mod n of the n pictures of other classes, in the order of (class, key), h being the
  address (row's seed, "partner");
- with pattern "all", rows are ranked by the address (row's seed, "pattern") and dealt out in turn, so that each pattern
  has exactly a quarter of them (one more or less when the number is not a multiple of four), as the paper's CM^all;
- the box is number h mod n of the pattern's n placements, h being the address (row's seed, "box").

The pattern "crop" mixes nothing: its rows are windows of single pictures, which name themselves as partners.
A recipe can be made from the names of published captions too: `tessera.curate.published_recipe`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, from_dict, to_dict
from tessera.curate.caption.file import find_captions
from tessera.curate.collect.collect import ImageRow, is_complete, read_images
from tessera.curate.index import TableRows
from tessera.curate.published_recipe import mixes_in, published_name
from tessera.cutmix import (
    CROP,
    HALF_VIEWS,
    MIN_SIZE,
    PATTERNS,
    HalfView,
    Pattern,
    compose,
    count_placements,
    placement_at,
)
from tessera.files import read_table, remove_unfinished, write_table
from tessera.images import is_complete_png, read_rgb, write_png
from tessera.progress import progress
from tessera.randomness import address
from tessera.records import Placement
from tessera.stages import open_stage, read_manifest

RECIPE_TABLE = "recipe.parquet"
SUFFIX = "+mix"
"""What an augmented picture's key adds to its base's."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How pictures are mixed."""

    pattern: Literal["all", "crop"] | Pattern = "all"
    """One CutMix pattern, or "all": each of the four for a quarter of the pictures. "crop" is no mix: a window of one
    picture, scaled up."""
    half_view: HalfView = "aligned"
    """What the half pattern shows: "aligned", the base's left (top) half beside the partner's right (bottom) half, or
    "centre", the central half of each."""
    seed: int = 0
    """Address of the draws, 0 or more."""
    from_captions: str | None = None
    """Captions whose names say the rows, in place of drawing them (`tessera.curate.published_recipe`); recorded as
    NAME@HASH. None = draw them."""

    def __post_init__(self):
        if self.pattern not in ("all", *PATTERNS, CROP):
            raise UserError(f"pattern must be all, {', '.join((*PATTERNS, CROP))}, not {self.pattern!r}")
        if self.half_view not in HALF_VIEWS:
            raise UserError(f"half_view must be one of {', '.join(HALF_VIEWS)}, not {self.half_view!r}")
        if self.seed < 0:
            raise UserError(f"seed must be 0 or more, not {self.seed}")


@dataclass(frozen=True)
class RecipeRow:
    """One augmented picture."""

    key: str
    base: str
    partner: str
    placement: Placement
    seed: int


@dataclass(frozen=True)
class Recipe:
    """A completed recipe directory: its rows sorted by key, and its configuration."""

    rows: Sequence[RecipeRow]
    config: AugmentConfig


def augment(out: Path, images: Path, config: AugmentConfig, write_images: bool = False) -> None:
    """Makes `out`/recipe.parquet for the pictures of `images`; with `write_images` the pictures too, out/CLASS/KEY.png.

    UserError: all pictures are of one class, or smaller than 16 px.
    """
    out, images = Path(out), Path(images)
    size = int(read_manifest(images, "collect").config["size"])
    captions = None
    if config.from_captions is not None:
        captions, name = find_captions(config.from_captions)
        config = replace(config, from_captions=name)
    rows, strange = None, 0
    if not is_complete(out) and captions is not None:
        rows, strange = _told_recipe(read_images(images), captions, config, size)
    elif not is_complete(out):
        rows = draw_recipe(read_images(images), config, size)
    stage = open_stage(out, stage="augment", config=to_dict(config), inputs={"images": images})
    if not stage.done:
        assert rows is not None
        write_recipe(out, rows)
        counts = count_patterns(rows) | ({"names_of_other_pictures": strange} if captions is not None else {})
        stage.finish(counts, facts={"image_size": size})
    if write_images:
        remove_unfinished(out)
        _write_pictures(out, images)


def draw_recipe(rows: Sequence[ImageRow], config: AugmentConfig, size: int) -> "TableRows[RecipeRow]":
    """One augmented row per picture, sorted by key. UserError: one class only, or pictures below 16 px."""
    if size < MIN_SIZE:
        raise UserError(f"pictures of {size} px: CutMix needs at least {MIN_SIZE} px, collect them at a larger size")
    keys, own, start = _by_class(rows, mixing=config.pattern != CROP)
    n = len(keys)
    seeds = _addresses(keys.to_pylist(), lambda key: address(config.seed, "augment", key))
    patterns = _deal_patterns(seeds, config.pattern)
    if config.pattern == CROP:
        partner = np.arange(n)
    else:
        other = _addresses(seeds.tolist(), lambda seed: address(seed, "partner")) % (n - own)
        partner = np.where(other < start, other, other + own)
    box_address = _addresses(seeds.tolist(), lambda seed: address(seed, "box"))
    boxes = np.empty((n, 4), np.int32)
    for pattern in dict.fromkeys(_PATTERNS[number] for number in np.unique(patterns)):
        mine = np.flatnonzero(patterns == _PATTERNS.index(pattern))
        count = count_placements(pattern, size)
        for i, number in zip(mine, box_address[mine] % count):
            boxes[i] = placement_at(pattern, size, int(number)).box
    return _table(keys, keys.take(partner), patterns, boxes, seeds, size)


def _told_recipe(
    rows: Sequence[ImageRow], captions: Path, config: AugmentConfig, size: int
) -> "tuple[TableRows[RecipeRow], int]":
    """The rows that the captions' names say, sorted by key, and how many names are of other pictures."""
    import pyarrow as pa

    mixes, strange = mixes_in(captions, rows, size)
    base, partner = (pa.array([mix[part] for mix in mixes]) for part in (0, 1))
    placements = [placement for _, _, placement in mixes]
    patterns = np.array([_PATTERNS.index(placement.pattern) for placement in placements])
    boxes = np.array([placement.box for placement in placements], np.int32)
    names = [f"{one}+{published_name('', two, place)[1:]}" for one, two, place in mixes]
    seeds = np.array([address(config.seed, "augment", name) for name in names])
    return _table(base, partner, patterns, boxes, seeds, size, keys=pa.array(names)), strange


def read_recipe(recipe: Path) -> Recipe:
    """A completed recipe directory."""
    recipe = Path(recipe)
    manifest = read_manifest(recipe, "augment")
    config = from_dict(AugmentConfig, manifest.config, str(recipe))
    table = read_table(recipe / RECIPE_TABLE, list(_COLUMNS))
    return Recipe(_rows(table, int(manifest.facts["image_size"])), config)


def write_recipe(out: Path, rows: "TableRows[RecipeRow]") -> None:
    """Writes the rows of `draw_recipe` into the directory `out`."""
    write_table(out / RECIPE_TABLE, rows.table)


def count_patterns(rows: "TableRows[RecipeRow]") -> dict[str, int]:
    """The manifest's counts: records, and those of each pattern."""
    counts = Counter(rows.table.column("pattern").to_pylist())
    return {"records": len(rows)} | {pattern: counts[pattern] for pattern in (*PATTERNS, *([CROP] * (CROP in counts)))}


_PATTERNS = (*PATTERNS, CROP)


def _by_class(rows: Sequence[ImageRow], mixing: bool) -> tuple[Any, NDArray[np.int64], NDArray[np.int64]]:
    """The keys (an Arrow array) by class and key; the size of each one's class, and where that class begins."""
    import pyarrow as pa

    if isinstance(rows, TableRows):
        table = rows.table.select(["key", "class"])
    else:
        table = pa.table({"key": [row.key for row in rows], "class": [row.class_name for row in rows]})
    table = table.sort_by([("class", "ascending"), ("key", "ascending")]).combine_chunks()
    names = table["class"]
    if table.num_rows == 0 or (mixing and names[0] == names[-1]):
        name = names[0].as_py() if table.num_rows else "none"
        raise UserError(
            f"images of one class only ({name!r}): CutMix pastes a picture of another class;"
            " add a second class folder, or train without it (tessera run my-pictures --single-class NAME, to another"
            " --out)"
        )
    codes = table["class"].dictionary_encode().combine_chunks().indices.to_numpy()
    sizes = np.bincount(codes)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    keys = table["key"].combine_chunks()
    return keys.chunk(0) if isinstance(keys, pa.ChunkedArray) else keys, sizes[codes], starts[codes]


def _addresses(of: Sequence[Any], draw: Callable[[Any], int]) -> NDArray[np.int64]:
    return np.fromiter(map(draw, of), np.int64, len(of))


def _deal_patterns(seeds: NDArray[np.int64], pattern: str) -> NDArray[np.int64]:
    """Number of each row's pattern in `_PATTERNS`, of the rows' seeds."""
    if pattern != "all":
        return np.full(len(seeds), _PATTERNS.index(pattern))
    drawn = _addresses(seeds.tolist(), lambda seed: address(seed, "pattern"))
    patterns = np.empty(len(seeds), np.int64)
    patterns[np.argsort(drawn, kind="stable")] = np.arange(len(seeds)) % len(PATTERNS)
    return patterns


def _rows(table: Any, size: int) -> "TableRows[RecipeRow]":
    def make(
        key: str, base: str, partner: str, pattern: str, left: int, top: int, right: int, bottom: int, seed: int
    ) -> RecipeRow:
        return RecipeRow(key, base, partner, Placement(pattern, (left, top, right, bottom), size), seed)

    return TableRows(table, make)


_COLUMNS = ("key", "base", "partner", "pattern", "left", "top", "right", "bottom", "seed")


def _table(
    base: Any,
    partner: Any,
    patterns: NDArray[np.int64],
    boxes: NDArray[np.int32],
    seeds: NDArray[np.int64],
    size: int,
    keys: Any = None,
) -> "TableRows[RecipeRow]":
    """The rows, sorted by key."""
    import pyarrow as pa
    import pyarrow.compute as pc

    key = keys if keys is not None else pc.call_function("binary_join_element_wise", [base, SUFFIX, ""])
    pattern = pa.array(_PATTERNS).take(pa.array(patterns))
    edges = [pa.array(np.ascontiguousarray(boxes[:, edge])) for edge in range(4)]
    table = pa.table([key, base, partner, pattern, *edges, pa.array(seeds)], names=list(_COLUMNS))
    return _rows(table.sort_by("key").combine_chunks(), size)


def _write_pictures(out: Path, images: Path) -> None:
    recipe = read_recipe(out)
    files = {row.key: images / str(row.file) for row in read_images(images)}
    with progress("augment", len(recipe.rows)) as bar:
        for row in recipe.rows:
            path = out / f"{row.key}.png"
            if not is_complete_png(path):
                base, partner = read_rgb(files[row.base]), read_rgb(files[row.partner])
                write_png(path, compose(base, partner, row.placement, recipe.config.half_view), fast=True)
            bar.advance()
