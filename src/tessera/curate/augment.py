"""augment: images/ -> recipe.parquet, one CutMix row per image (paper section 3.2).

A row says which partner is pasted where; images are composed from their row when they are needed. Columns: key, base,
partner (keys of images.parquet), pattern, left, top, right, bottom (pixels), seed. A row's seed is the address
(config's seed, base key); everything else in it follows from its seed and the set of keys, in whatever order the files
are listed and on whatever machine:

- the partner is image number h mod n of the n images of other classes, in the order of (class, key), h being the
  address (row's seed, "partner");
- with pattern "all", rows are ranked by the address (row's seed, "pattern") and dealt out in turn, so that each pattern
  has exactly a quarter of them (one more or less when the number is not a multiple of four), as the paper's CM^all;
- the box is number h mod n of the pattern's n boxes, h being the address (row's seed, "box").

With `partners="balanced"` partners and boxes are dealt out instead (`tessera.curate.partners`), in the order of the
same addresses; with "far" the partner is one of the images that the addresses (row's seed, "partner/0"), ... name.

The pattern "crop" mixes nothing: its rows are windows of single images, which name themselves as partners.
A recipe can be made from the names of published captions too: `tessera.curate.published_recipe`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, blaming, check_ranges, load_part, part_id, to_dict
from tessera.curate.caption.file import find_captions
from tessera.curate.image_features import embed, load_vision_network
from tessera.curate.index import (
    RECIPE_COLUMNS,
    RECIPE_TABLE,
    Composer,
    ImageRow,
    RecipeRow,
    TableRows,
    list_entries,
    read_images,
    read_recipe,
    recipe_rows,
)
from tessera.curate.partners import balanced, far
from tessera.curate.published_recipe import mixes_in, published_name
from tessera.cutmix import CROP, CROP_PATTERN, MIN_SIZE, PATTERNS, TABLE, HalfView, Pattern, windows_of
from tessera.files import remove_unfinished, write_table
from tessera.images import is_complete_png, write_png
from tessera.progress import progress
from tessera.randomness import address
from tessera.records import Placement
from tessera.stages import find_stage, open_stage, read_manifest

SUFFIX = "+mix"
"""Suffix that an augmented image's key adds to its base's."""
_NAMES = ("all", *PATTERNS, CROP)
_OWN = ".py:"


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Mixing of images."""

    pattern: str = "all"
    """One CutMix pattern, "FILE.py:NAME" for one of the user's own (`tessera.cutmix.Pattern`), or "all": each of the
    paper's four for a quarter of the images. "crop" is no mix: a window of one image, scaled up."""
    half_view: HalfView = "aligned"
    """Content of the half pattern: "aligned", the base's left (top) half with the partner's right (bottom) half, or
    "centre", the central half of each."""
    partners: Literal["random", "balanced", "far"] = "random"
    """"random", the paper's; "balanced": every ordered pair of classes and every box equally often; "far": of some
    random images of other classes the one whose embedding is least like the base's."""
    embeddings: str | None = None
    """For far: the network, NAME or NAME:MODEL (`curate.image_features.load_vision_network`); recorded as its id."""
    seed: int = 0
    """Address of the draws, 0 or more."""
    from_captions: str | None = None
    """Captions whose names say the rows, instead of draws (`tessera.curate.published_recipe`); recorded as NAME@HASH.
    None = draw them."""

    def __post_init__(self):
        if self.pattern not in _NAMES and _OWN not in self.pattern:
            raise UserError(f"pattern must be {', '.join(_NAMES)} or FILE.py:NAME, not {self.pattern!r}")
        check_ranges(self, seed="[0, inf)")
        if self.pattern == CROP and self.partners != "random":
            raise UserError(f"partners: the pattern crop mixes nothing; leave {self.partners} out")
        if self.from_captions is not None and (self.pattern, self.partners) != ("all", "random"):
            fix = "leave pattern and partners out"
            raise UserError(f"from_captions: their names say which images are mixed, and where; {fix}")
        if (self.partners == "far") != (self.embeddings is not None):
            raise UserError("embeddings: partners far need them, such as dinov2, and others none")


def augment(
    out: Path, images: Path, config: AugmentConfig, write_images: bool = False, device: str | None = None
) -> None:
    """Make `out`/recipe.parquet for the images of `images`; with `write_images` the images too, out/CLASS/KEY.png.
    device: of the network of embeddings.

    Raises UserError if all images are of one class or smaller than 16 px, or the user's own pattern fails.
    """
    out, images = Path(out), Path(images)
    collected = read_manifest(images, "collect").config
    if collected.get("buckets"):
        raise UserError(
            f"{images}: has crops of several aspect ratios, and CutMix pastes squares into squares; train an arm of "
            "plain images, such as ta, or collect without --buckets"
        )
    size = int(collected["size"])
    patterns = find_patterns(config.pattern)
    captions = None
    if config.from_captions is not None:
        captions, name = find_captions(config.from_captions)
        config = replace(config, from_captions=name)
    network = None if config.embeddings is None else load_vision_network(config.embeddings, device, "embeddings")
    recorded = replace(config, pattern=part_id(config.pattern, _NAMES), embeddings=network and network.id)
    call: Any = {"stage": "augment", "config": to_dict(recorded), "inputs": {"images": images}}
    stage = find_stage(out, **call)
    if stage is None or not stage.done:
        extra = {}
        if captions is None:
            listed = read_images(images)
            read, files = Composer(images).read, [str(row.file) for row in listed]
            features = None if network is None else embed(network, read, files)
            rows = draw_recipe(listed, config, size, features)
        else:
            rows, extra["names_of_other_images"] = _published_recipe(read_images(images), captions, config, size)
        stage = open_stage(out, **call)
        write_table(out / RECIPE_TABLE, rows.table)
        found = Counter(rows.table.column("pattern").to_pylist())
        words = {pattern.name: list(pattern.words) for pattern in patterns if pattern.words}
        counts = {"records": len(rows)} | {name: found[name] for name in (*PATTERNS, *sorted(found))}
        stage.finish(counts | extra, facts={"image_size": size} | ({"words": words} if words else {}))
    if write_images:
        remove_unfinished(out)
        recipe = read_recipe(out)
        compose = Composer(images, recipe.half_view)
        with progress("augment", len(recipe.rows)) as bar:
            for entry in list_entries(read_images(images), recipe.rows):
                path = out / f"{entry.key}.png"
                if not is_complete_png(path):
                    write_png(path, compose(entry), fast=True)
                bar.advance()


def find_patterns(name: str) -> list[Pattern]:
    """Return the patterns of a configuration. Raises UserError for a user's own that is missing or of a wrong kind."""
    if name == "all":
        return list(TABLE.values())
    pattern = load_part(name, TABLE | {CROP: CROP_PATTERN}, "pattern", needs=["windows"])
    if not isinstance(pattern, Pattern):
        raise UserError(f"pattern {name}: is no tessera.cutmix.Pattern; docs/extending.md shows one")
    if _OWN in name and pattern.name in _NAMES:
        raise UserError(f"pattern {name}: its name {pattern.name!r} is tessera's; give it another")
    return [pattern]


def draw_recipe(
    rows: TableRows[ImageRow], config: AugmentConfig, size: int, features: NDArray[np.float16] | None = None
) -> TableRows[RecipeRow]:
    """Draw one augmented row per image, sorted by key. features (n, D), for partners that are far: of `rows`, of length
    1. Raises UserError for one class only, or images below 16 px."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if size < MIN_SIZE:
        raise UserError(f"images of {size} px: CutMix needs at least {MIN_SIZE} px, collect them at a larger size")
    order = [("class", "ascending"), ("key", "ascending")]
    places = pc.call_function("sort_indices", [rows.table], pc.SortOptions(sort_keys=order))
    table = rows.table.select(["key", "class"]).take(places).combine_chunks()
    names = table["class"]
    if config.pattern != CROP and names[0] == names[-1]:
        raise UserError(
            f"images of one class only ({names[0].as_py()!r}): CutMix pastes an image of another class; add a second"
            " class folder, or train without it (tessera run my-pictures --single-class NAME, to another --out)"
        )
    keys, n = pa.concat_arrays(table["key"].chunks), len(table)
    classes = names.dictionary_encode().combine_chunks().indices.to_numpy()
    sizes = np.bincount(classes)
    own, start = sizes[classes], (np.cumsum(sizes) - sizes)[classes]  # size and first number of each one's class
    seeds = np.array([address(config.seed, "augment", key) for key in keys.to_pylist()])

    def drawn(part: str) -> NDArray[np.int64]:
        return np.array([address(seed, part) for seed in seeds.tolist()])

    patterns = find_patterns(config.pattern)
    dealt = np.zeros(n, np.int64)
    if len(patterns) > 1:
        dealt[np.argsort(drawn("pattern"), kind="stable")] = np.arange(n) % len(patterns)
    boxes, window_numbers = np.empty((n, 4), np.int32), drawn("box")
    if config.pattern == CROP:
        partner = np.arange(n)
    elif config.partners == "balanced":
        partner, window_numbers = balanced(classes.astype(np.int64), dealt, drawn("partner"), window_numbers)
    else:

        def of_other_class(part: str) -> NDArray[np.int64]:
            other = drawn(part) % (n - own)
            return np.where(other < start, other, other + own)

        if features is None:
            partner = of_other_class("partner")
        else:
            partner = far(features[places.to_numpy()], lambda k: of_other_class(f"partner/{k}"))
    for number, pattern in enumerate(patterns):
        mine = np.flatnonzero(dealt == number)
        with blaming(config.pattern, "pattern"):
            windows = windows_of(pattern, size)
            for i, window in zip(mine, window_numbers[mine] % len(windows)):
                boxes[i] = Placement(pattern.name, windows[int(window)], size).box
    names = [patterns[number].name for number in dealt]
    mixed = pc.call_function("binary_join_element_wise", [keys, SUFFIX, ""])
    return _table(mixed, keys, keys.take(partner), names, boxes, seeds, size)


def _published_recipe(
    rows: Sequence[ImageRow], captions: str, config: AugmentConfig, size: int
) -> tuple[TableRows[RecipeRow], int]:
    """Return the rows that the captions' names say, sorted by key, and the number of names of other images."""
    import pyarrow as pa

    mixes, strange = mixes_in(captions, rows, size)
    base, partner, placements = zip(*mixes)
    boxes = np.array([placement.box for placement in placements], np.int32)
    keys = [f"{one}+{published_name('', two, place)[1:]}" for one, two, place in mixes]
    seeds = np.array([address(config.seed, "augment", key) for key in keys])
    patterns = [placement.pattern for placement in placements]
    return _table(keys, pa.array(base), pa.array(partner), patterns, boxes, seeds, size), strange


def _table(
    keys: Any, base: Any, partner: Any, patterns: list[str], boxes: NDArray[np.int32], seeds: NDArray, size: int
) -> TableRows[RecipeRow]:
    """Return the rows, sorted by key."""
    import pyarrow as pa

    table = pa.table([keys, base, partner, patterns, *boxes.T.copy(), seeds], names=list(RECIPE_COLUMNS))
    return recipe_rows(table.sort_by("key").combine_chunks(), size)
