"""collect: a source of labeled images -> images/, class folders of square crops with images.parquet.

The source is the built-in miniature world, or images in one of the layouts of `tessera.curate.collect.layouts`: class
folders, ImageNet's trees and tars, the Hub's Parquet files, WebDataset. Keys are "class label/name", so a set has the
same keys and pixels in whatever layout it comes.

images.parquet has a row for every image found: key, class, file (relative to the directory; null for a reject), width
and height (of the whole image), source (its place in the source), reject (the reason, or null).
The miniature adds scenes.parquet: key, scene (JSON of `tessera.records.Scene`).
"""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tessera.config import UserError, nearest, part_id, to_dict
from tessera.curate.collect.class_folders import WORDNET_ID, as_text
from tessera.curate.collect.class_names import (
    ClassNames,
    find_class_names,
    is_code,
    name_classes,
    read_class_names,
)
from tessera.curate.collect.layouts import LAYOUTS, Source, Split, find_source
from tessera.curate.collect.resume import is_begun_from, note_source, remove_crops
from tessera.curate.collect.sources import CropWork, Group, Index, hashes, index_groups, key_hash, listed
from tessera.curate.index import IMAGES_TABLE, SCENES_TABLE, images_schema, is_complete
from tessera.files import write_table, writing_rows
from tessera.images import READABLE, is_complete_png, write_png
from tessera.miniature import WorldConfig, draw_scene, render, scene_key
from tessera.progress import progress
from tessera.stages import Stage, open_stage, read_manifest
from tessera.workers import map_chunks

MINIATURE = "miniature"
_PART = 64  # images of a group that one process takes at a time


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """Images to collect, and how."""

    source: str = MINIATURE
    """"miniature", or the name under which a user's folder is recorded (its path is an argument, and is not kept)."""
    size: int = 32
    """Side of the square crops in pixels, 16 to 4096."""
    single_class: str | None = None
    """The one class of all images of a folder, as it stands; None = the class folders name the classes."""
    split: Split = "train"
    """The part of a set that has parts: "train" or "val"."""
    fast: bool = False
    """JPEG files through simplejpeg, decoded near the size of the crop: faster, and the pixels differ a little."""
    layout: str | None = None
    """A layout of `tessera.curate.collect.layouts` or "FILE.py:NAME" for one of the user's own; None = the one that is
    there."""
    class_names: str | None = None
    """A file of the classes' names; recorded as NAME@HASH of its bytes. None = the layout's own."""
    world: WorldConfig | None = None
    """The miniature world, of the same size; None = the default world when the source is the miniature."""

    def __post_init__(self):
        if not 16 <= self.size <= 4096:
            raise UserError(f"size is {self.size}: give a side from 16 to 4096 pixels")
        if not self.source.strip():
            raise UserError("source is empty: give miniature or a name for the folder")
        if self.single_class is not None and not self.single_class.strip():
            raise UserError("single_class is empty: give the class's name")
        if self.split not in ("train", "val"):
            raise UserError(f"split must be train or val, not {self.split!r}")
        if self.layout is not None and self.layout not in LAYOUTS and ".py:" not in self.layout:
            near = nearest(self.layout, LAYOUTS)
            raise UserError(f"unknown layout {self.layout!r};{near} known: {', '.join(LAYOUTS)}, or FILE.py:NAME")
        if self.world is not None and self.source != MINIATURE:
            raise UserError(f"world is for the source miniature, not for {self.source!r}: leave one of the two out")
        if self.world is not None and self.world.size != self.size:
            raise UserError(f"size is {self.size}, but world.size is {self.world.size}: give both the same")


def collect(out: Path, config: CollectConfig, source_dir: Path | None = None) -> None:
    """Make the directory `out` (images/) from the miniature, or from the folder or file `source_dir`.

    Images that are there already, from an interrupted call, are used again. Raises UserError if the source is missing,
    empty, mixed or of no known layout, two images have one key, nothing names the classes, a class has no readable
    image, or the source has changed since `out` was completed: other names, labels or sizes. Times are not compared, as
    copies differ in them, so an image edited in place to as many bytes goes unnoticed then.
    """
    if source_dir is None:
        if config.source != MINIATURE:
            raise UserError(f"source {config.source!r}: give the folder of its images")
        _collect_miniature(Path(out), replace(config, world=config.world or WorldConfig(size=config.size)))
        return
    source_dir = Path(source_dir)
    if config.source == MINIATURE:
        config = replace(config, source=source_dir.resolve().name or "folder", world=None)
    _collect_source(Path(out), config, source_dir)


def _collect_miniature(out: Path, config: CollectConfig) -> None:
    stage = open_stage(out, stage="collect", config=to_dict(config))
    if stage.done:
        return
    world = config.world
    assert world is not None
    scenes: list[str] = []
    work = functools.partial(_render_all, world, out)
    chunks = map_chunks(work, range(world.num_images), chunk=128, parallel_from=4000)
    with progress("collect", world.num_images) as bar, chunks as results:
        for done in results:
            scenes += done
            bar.advance(len(done))
    keys = [scene_key(world, number) for number in range(world.num_images)]
    write_table(out / SCENES_TABLE, {"key": keys, "scene": scenes})
    side = world.size
    rows = [(key, key.split("/")[0], f"{key}.png", side, side, MINIATURE, None) for key in keys]
    tally = _Tally()
    with writing_rows(out / IMAGES_TABLE, images_schema()) as write:
        write(tally.take(rows))
    _finish(stage, tally, ignored=0, facts={})


def _render_all(world: WorldConfig, out: Path, numbers: Sequence[int]) -> list[str]:
    """Write the images that are not there yet and return the scenes as JSON."""
    texts = []
    for number in numbers:
        scene = draw_scene(world, number)
        path = out / f"{scene_key(world, number)}.png"
        if not is_complete_png(path):
            write_png(path, render(scene, world.size), fast=True)
        texts.append(json.dumps(to_dict(scene), sort_keys=True))
    return texts


class _Tally:
    """Counts of rows as they pass."""

    def __init__(self):
        self.good: Counter[str] = Counter()
        self.bad: dict[str, tuple[str, str]] = {}
        """Class -> source and reason of its first reject."""
        self.rejects: dict[str, str] = {}

    def take(self, rows: Sequence[tuple]) -> Sequence[tuple]:
        for _, name, _, _, _, source, reject in rows:
            if reject is None:
                self.good[name] += 1
            else:
                self.rejects[source] = reject
                self.bad.setdefault(name, (source, reject))
        return rows


def _collect_source(out: Path, config: CollectConfig, source: Path) -> None:
    given = None
    if config.class_names is not None:
        given = read_class_names(Path(config.class_names))
        config = replace(config, class_names=given.record)
    recorded = config if config.layout is None else replace(config, layout=part_id(config.layout, LAYOUTS))
    complete = is_complete(out)
    listed.cache_clear()
    # Once all images are here, the source may be gone; as long as it is there, it must be the same.
    found = (
        None
        if complete and not source.exists()
        else find_source(source, out, config.single_class, config.split, config.layout)
    )
    indexes = _index_all(found.groups) if found is not None else []
    digest = _digest(indexes, found.strays) if found is not None else ""
    labels = {label for index in indexes for label in index.labels if label}
    codes = {label: code for index in indexes for label, code in index.codes.items() if label}
    if config.single_class is None and any(is_code(label, codes) for label in labels):
        given = given or find_class_names(source)
    names: dict[str, str] = {}
    if found is not None and not complete:
        _check_any(source, found, indexes)
        keys = _check_keys(source, found.groups, indexes)
        if config.single_class is not None:
            names = dict.fromkeys(labels, config.single_class.strip())
        else:
            names = name_classes(source, labels, codes, given, found.label_names)
    begun = found is not None and is_begun_from(out, source)
    stage = open_stage(out, stage="collect", config=to_dict(recorded))
    if stage.done:
        if found is not None:
            _check_unchanged(out, source, digest, given)
        return
    assert found is not None
    if begun:
        note_source(out, source)  # open_stage took it out
    remove_crops(out, but=keys if begun else np.empty(0, np.uint64))
    note_source(out, source)

    # ImageNet is cropped as it always was, without regard to EXIF and ICC; people's own images as people see them.
    upright = not (names and all(WORDNET_ID.fullmatch(label) for label in names))
    work = CropWork(source, out, config.size, config.fast, upright)
    parts = [part for group, index in zip(found.groups, indexes) for part in _parts(group, index.count)]
    total = sum(index.count for index in indexes)
    tally = _Tally()
    with writing_rows(out / IMAGES_TABLE, images_schema()) as write:
        few = total < 2 * _PART or len(parts) < 2
        chunks = map_chunks(work, parts, chunk=1, parallel_from=len(parts) + 1 if few else 2)
        with progress("collect", total) as bar, chunks as results:
            for rows in results:
                write(tally.take([(row[0], names.get(row[1], ""), *row[2:]) for row in rows]))
                bar.advance(len(rows))
        write(tally.take([(name, "", None, None, None, name, "lies in no class folder") for name in found.strays]))
        _check_classes(source, tally)
    listed.cache_clear()
    empty = [group for group, index in zip(found.groups, indexes) if not index.count]
    barren = [name for group in empty for name in getattr(group, "folders", ())]
    holding = {path.name for path in out.resolve().parents if path.parent == source.resolve()}
    facts = {
        "layout": found.layout,
        "exif_rotation": "upright" if upright else "ignored",
        "icc_profiles": "followed" if upright else "ignored",
        "class_names": given.record if given else None,
        "source_digest": digest,
        "folders_without_images": sorted(as_text(name) for name in barren if name and name not in holding),
    }
    _finish(stage, tally, ignored=found.ignored + sum(index.ignored for index in indexes), facts=facts)


def _check_unchanged(out: Path, source: Path, digest: str, given: ClassNames | None) -> None:
    facts = read_manifest(out).facts
    changes = {"images were": (facts["source_digest"], digest)}
    if given is not None:  # as the images, the file may be gone by now
        changes["class names were"] = (facts["class_names"], given.record)
    for what, (then, now) in changes.items():
        if then != now:
            raise UserError(
                f"{source}: its {what} changed since {out} was made: {then} then, {now} now"
                " (choose another --out, or delete the directory)"
            )


def _index_all(groups: Sequence[Group]) -> list[Index]:
    indexes: list[Index] = []
    with (
        progress("list", len(groups), "groups") as bar,
        map_chunks(index_groups, groups, chunk=4, parallel_from=64) as results,
    ):
        for done in results:
            indexes += done
            bar.advance(len(done))
    return indexes


def _digest(indexes: Sequence[Index], strays: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for index in indexes:
        if index.count:  # a folder without images that came or went changes nothing
            digest.update(index.digest)
    for name in strays:
        digest.update(f"{name}\0".encode())
    return f"{sum(index.count for index in indexes) + len(strays)} images ({digest.hexdigest()[:12]})"


def _parts(group: Group, count: int) -> list[tuple[Group, int, int]]:
    step = max(count, 1) if group.whole else _PART
    return [(group, start, min(start + step, count)) for start in range(0, count, step)]


def _check_any(source: Path, found: Source, indexes: Sequence[Index]) -> None:
    if any(index.count for index in indexes):
        return
    if found.strays:
        raise UserError(
            f"{source}: has {len(found.strays)} images, but no class folders; expected is {source}/CLASS/IMAGE with"
            " a folder per class. If all show one class, give --single-class NAME"
        )
    suffixes = " ".join(sorted(suffix[1:] for suffix in READABLE))
    ignored = found.ignored + sum(index.ignored for index in indexes)
    what = f"has no images among its {ignored} files" if ignored else "is empty"
    raise UserError(
        f"{source}: {what}; expected is {source}/CLASS/IMAGE, an image being one of: {suffixes}; or ImageNet's tree"
        " or tar, the Hub's Parquet files, WebDataset tars"
    )


def _check_keys(source: Path, groups: Sequence[Group], indexes: Sequence[Index]) -> "np.ndarray":
    """Return the sorted hashes of all keys. Raises UserError if two images have one key."""
    keys = hashes(b"".join(index.keys for index in indexes))
    twice = keys[1:][keys[1:] == keys[:-1]]
    if len(twice) == 0:
        return keys
    wanted = twice[:1].tobytes()
    first = [
        item for group, index in zip(groups, indexes) if wanted in index.keys
        for item in listed(group).items if key_hash(item.key) == wanted
    ]  # fmt: skip
    raise UserError(
        f"{source}: {len(twice)} images have the key of another: {first[0].source!r} and {first[1].source!r} are both"
        f" {first[0].key!r}; rename one, or take it out"
    )


def _check_classes(source: Path, tally: _Tally) -> None:
    bad = {name: first for name, first in tally.bad.items() if name and name not in tally.good}
    if not bad and not tally.good:
        example, reason = next(iter(tally.bad.values()))
        raise UserError(f"{source}: none of its {len(tally.rejects)} images can be used ({example!r}: {reason})")
    if not bad:
        return
    names = sorted(bad)
    listed_names = ", ".join(repr(name) for name in names[:5]) + (
        f" and {len(names) - 5} more" if len(names) > 5 else ""
    )
    example, reason = bad[names[0]]
    raise UserError(
        f"{source}: no readable image of class {listed_names} ({example!r}: {reason});"
        " put readable images in, or take the folder out"
    )


def _finish(stage: Stage, tally: _Tally, *, ignored: int, facts: dict[str, Any]) -> None:
    images = sum(tally.good.values())
    counts = {"images": images, "classes": len(tally.good), "rejected": len(tally.rejects), "ignored": ignored}
    stage.finish(counts, tally.rejects, {"classes": dict(sorted(tally.good.items())), **facts})
