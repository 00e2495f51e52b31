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
"""

import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tessera.config import UserError, from_dict, to_dict
from tessera.curate.collect import ImageRow, is_complete, read_images
from tessera.curate.pictures import is_whole_png, read_png, write_png
from tessera.cutmix import HALF_VIEWS, MIN_SIZE, PATTERNS, HalfView, Pattern, compose, count_placements, placement_at
from tessera.files import open_stage, read_manifest, read_table, write_table
from tessera.records import Placement
from tessera.runtime import address, progress

RECIPE_TABLE = "recipe.parquet"
SUFFIX = "+mix"
"""What an augmented picture's key adds to its base's."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How pictures are mixed."""

    pattern: Literal["all"] | Pattern = "all"
    """One CutMix pattern, or "all": each of the four for a quarter of the pictures."""
    half_view: HalfView = "aligned"
    """What the half pattern shows: "aligned", the base's left (top) half beside the partner's right (bottom) half, or
    "centre", the central half of each."""
    seed: int = 0
    """Address of the draws, 0 or more."""

    def __post_init__(self):
        if self.pattern not in ("all", *PATTERNS):
            raise UserError(f"pattern must be all, {', '.join(PATTERNS)}, not {self.pattern!r}")
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

    rows: list[RecipeRow]
    config: AugmentConfig


def augment(out: Path, images: Path, config: AugmentConfig, write_images: bool = False) -> None:
    """Makes `out`/recipe.parquet for the pictures of `images`; with `write_images` the pictures too, out/CLASS/KEY.png.

    UserError: all pictures are of one class, or smaller than 16 px.
    """
    out, images = Path(out), Path(images)
    size = int(read_manifest(images, "collect").config["size"])
    rows = [] if is_complete(out) else draw_recipe(read_images(images), config, size)
    stage = open_stage(out, stage="augment", config=to_dict(config), inputs={"images": images})
    if not stage.done:
        _write_recipe(out / RECIPE_TABLE, rows)
        counts = {"records": len(rows)}
        for pattern in PATTERNS:
            counts[pattern] = sum(row.placement.pattern == pattern for row in rows)
        stage.finish(counts, facts={"image_size": size})
    if write_images:
        _write_pictures(out, images)


def draw_recipe(rows: list[ImageRow], config: AugmentConfig, size: int) -> list[RecipeRow]:
    """One augmented row per picture, sorted by key. UserError: one class only, or pictures below 16 px."""
    if size < MIN_SIZE:
        raise UserError(f"pictures of {size} px: CutMix needs at least {MIN_SIZE} px, collect them at a larger size")
    ordered = sorted(rows, key=lambda row: (row.class_name, row.key))
    class_sizes = Counter(row.class_name for row in ordered)
    if len(class_sizes) < 2:
        name = ordered[0].class_name if ordered else "none"
        raise UserError(
            f"images of one class only ({name!r}): CutMix pastes a picture of another class;"
            " add a second class folder, or train without it (tessera run my-pictures --single-class NAME)"
        )
    class_starts = dict(zip(class_sizes, itertools.accumulate(class_sizes.values(), initial=0)))
    seeds = {row.key: address(config.seed, "augment", row.key) for row in ordered}
    patterns = _deal_patterns(seeds, config.pattern)
    placements = {pattern: count_placements(pattern, size) for pattern in PATTERNS}

    recipe = []
    for row in ordered:
        seed, pattern = seeds[row.key], patterns[row.key]
        own, start = class_sizes[row.class_name], class_starts[row.class_name]
        other = address(seed, "partner") % (len(ordered) - own)
        partner = ordered[other if other < start else other + own]
        placement = placement_at(pattern, size, address(seed, "box") % placements[pattern])
        recipe.append(RecipeRow(f"{row.key}{SUFFIX}", row.key, partner.key, placement, seed))
    return sorted(recipe, key=lambda row: row.key)


def read_recipe(recipe: Path) -> Recipe:
    """A completed recipe directory."""
    recipe = Path(recipe)
    manifest = read_manifest(recipe, "augment")
    config = from_dict(AugmentConfig, manifest.config, str(recipe))
    columns = read_table(recipe / RECIPE_TABLE, list(_COLUMNS)).to_pydict()
    size = int(manifest.facts["image_size"])
    rows = []
    for key, base, partner, pattern, left, top, right, bottom, seed in zip(*(columns[name] for name in _COLUMNS)):
        rows.append(RecipeRow(key, base, partner, Placement(pattern, (left, top, right, bottom), size), seed))
    return Recipe(rows, config)


def _deal_patterns(seeds: dict[str, int], pattern: str) -> dict[str, str]:
    """Pattern of each base key, of the rows' seeds."""
    if pattern != "all":
        return dict.fromkeys(seeds, pattern)
    ranked = sorted((address(seed, "pattern"), key) for key, seed in seeds.items())
    return {key: PATTERNS[rank % len(PATTERNS)] for rank, (_, key) in enumerate(ranked)}


_COLUMNS = ("key", "base", "partner", "pattern", "left", "top", "right", "bottom", "seed")


def _write_recipe(path: Path, rows: list[RecipeRow]) -> None:
    import pyarrow as pa

    text, number = pa.string(), pa.int32()
    types = (text, text, text, text, number, number, number, number, pa.int64())
    values = [
        [row.key for row in rows],
        [row.base for row in rows],
        [row.partner for row in rows],
        [row.placement.pattern for row in rows],
        *([row.placement.box[edge] for row in rows] for edge in range(4)),
        [row.seed for row in rows],
    ]
    write_table(path, dict(zip(_COLUMNS, values)), pa.schema(list(zip(_COLUMNS, types))))


def _write_pictures(out: Path, images: Path) -> None:
    recipe = read_recipe(out)
    files = {row.key: images / str(row.file) for row in read_images(images)}
    with progress("augment", len(recipe.rows)) as bar:
        for row in recipe.rows:
            path = out / f"{row.key}.png"
            if not is_whole_png(path):
                base, partner = read_png(files[row.base]), read_png(files[row.partner])
                write_png(path, compose(base, partner, row.placement, recipe.config.half_view))
            bar.advance()
