"""collect: a source of labeled images -> images/, class folders of square crops with images.parquet.

The source is the built-in miniature world, or images in one of the layouts of `tessera.curate.collect.layouts`: class
folders, ImageNet's trees and tars, the Hub's Parquet files, WebDataset. Keys are "class label/name", so a set has the
same keys and pixels in whatever layout it comes.

images.parquet has a row for every image found: key, class, file (relative to the directory; null for a reject), width
and height (of the whole image), source (its place in the source), reject (the reason, or null).
source_files.parquet has the state of each image's file, for a set that grows (`tessera.curate.grown`).
The miniature adds scenes.parquet: key, scene (JSON of `tessera.records.Scene`).

An interrupted collect is resumed with the crops of the same source that were made since it last changed: an unfinished
images/ holds a note of its source, itself an unfinished file, which completing the directory removes.
"""

import contextlib
import functools
import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, check_ranges, compare, lookup, part_id, to_dict
from tessera.curate.buckets import Size, bucket_of, bucket_sizes
from tessera.curate.collect.class_folders import WORDNET_ID, as_text
from tessera.curate.collect.class_names import (
    ClassNames,
    find_class_names,
    is_code,
    name_classes,
    read_class_names,
)
from tessera.curate.collect.layouts import LAYOUTS, Source, find_source
from tessera.curate.collect.sources import (
    BY_PILLOW,
    CropWork,
    Group,
    Index,
    check_keys,
    hashes,
    index_groups,
    key_hash,
    keys_twice,
    listed,
)
from tessera.curate.collect.splits import Split, check_named
from tessera.curate.grown import STATES_TABLE, Changes, check_same_config, check_states, states_schema
from tessera.curate.index import IMAGES_TABLE, SCENES_TABLE, images_schema
from tessera.files import TEMPORARY, write_json, write_table, writing_rows
from tessera.images import READABLE, is_complete_png, write_png
from tessera.miniature import WorldConfig, draw_scene, render, scene_key
from tessera.progress import progress
from tessera.stages import Stage, find_stage, open_stage, read_manifest, run_folder
from tessera.workers import map_chunks

MINIATURE = "miniature"
_NOTE = f"{TEMPORARY}source.json"


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
    """The part of a set that has parts: "train", "val", "test", or "all" for every part."""
    fast: bool = False
    """JPEG files through simplejpeg, decoded near the size of the crop: faster, and the pixels differ a little."""
    gray_range: bool = False
    """Gray levels of more than 8 bits from the lowest to the highest of each image become black to white, as for 12-bit
    values in files of 16 bits; else white is the highest that the file's bits can say."""
    buckets: bool = False
    """Crops of several aspect ratios and about the square's area (`tessera.curate.buckets`), instead of squares."""
    layout: str | None = None
    """A layout of `tessera.curate.collect.layouts` or "FILE.py:NAME" for one of the user's own; None = the one that is
    there."""
    class_names: str | None = None
    """A file of the classes' names; recorded as NAME@HASH of its bytes. None = the layout's own."""
    world: WorldConfig | None = None
    """The miniature world, of the same size; None = the default world when the source is the miniature."""

    def __post_init__(self):
        check_ranges(self, size="[16, 4096]")
        if not self.source.strip():
            raise UserError("source is empty: give miniature or a name for the folder")
        if self.single_class is not None and not self.single_class.strip():
            raise UserError("single_class is empty: give the class's name")
        if self.single_class is not None and self.class_names is not None:
            raise UserError("class_names: single_class names the one class itself; leave one of the two out")
        if self.buckets:
            bucket_sizes(self.size)
            if self.fast:
                raise UserError("fast: decodes near the side of a square; leave out --fast or --buckets")
            if self.world is not None:
                raise UserError("buckets: the miniature is square; leave out --buckets")
        if self.layout is not None and ".py:" not in self.layout:
            lookup(self.layout, LAYOUTS, "layout")
        if self.world is not None and self.source != MINIATURE:
            raise UserError(f"world is for the source miniature, not for {self.source!r}: leave one of the two out")
        if self.world is not None and self.world.size != self.size:
            raise UserError(f"size is {self.size}, but world.size is {self.world.size}: give both the same")


def collect(
    out: Path,
    config: CollectConfig,
    source_dir: Path | None = None,
    part_size: int = 64,
    *,
    reuse: Path | None = None,
    by_hash: bool = False,
) -> None:
    """Make the directory `out` (images/) from the miniature, or from the folder or file `source_dir`, of which a
    process takes `part_size` images at a time.

    reuse: a completed images/ of the same source and configuration, from before it gained, lost or changed images: its
    crops are linked where the image's file is as it was. changes.json then names what is not. by_hash: files are told
    apart by their bytes, for sets that were copied, rather than by size, times and place on the disk.
    Images that are there already, from an interrupted call, are used again. Raises UserError if the source is missing,
    empty, mixed or of no known layout, two images have one key, nothing names the classes, a class has no readable
    image, or the source has changed since `out` was completed: other names, labels or sizes. Times are not compared, as
    copies differ in them, so an image edited in place to as many bytes goes unnoticed then.
    """
    if source_dir is not None:
        _collect_source(Path(out), config, Path(source_dir), part_size, reuse and Path(reuse), by_hash)
    elif reuse is not None or by_hash:
        raise UserError("--reuse and --by-hash are for folders of images; the miniature is drawn anew")
    elif config.source == MINIATURE:
        _collect_miniature(Path(out), replace(config, world=config.world or WorldConfig(size=config.size)))
    else:
        raise UserError(f"source {config.source!r}: give the folder of its images")


def _collect_miniature(out: Path, config: CollectConfig) -> None:
    recorded = to_dict(config)
    if unlike := compare(recorded, to_dict(CollectConfig(size=config.size, world=config.world))):
        raise UserError(f"{unlike[0][0]}: is for folders of images; the miniature is drawn anew, leave it out")
    del recorded["buckets"]
    stage = open_stage(out, stage="collect", config=recorded)
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
    rows = [(key, key.split("/")[0], f"{key}.png", world.size, world.size, MINIATURE, None) for key in keys]
    tally = _Tally([(world.size, world.size)])
    with writing_rows(out / IMAGES_TABLE, images_schema()) as write:
        write(tally.take(rows))
    tally.finish(stage, ignored={}, facts={})


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

    def __init__(self, sizes: Sequence[Size]):
        """Take the sizes of crops, in which images are counted that are smaller."""
        self.sizes = sizes
        self.good: Counter[str] = Counter()
        self.enlarged = 0
        self.bad: dict[str, tuple[str, str]] = {}
        """Class -> source and reason of its first reject."""
        self.rejects: dict[str, str] = {}

    def take(self, rows: Sequence[tuple]) -> Sequence[tuple]:
        for _, name, _, width, height, source, reject in rows:
            if reject is None:
                self.good[name] += 1
                wide, high = self.sizes[bucket_of(width, height, self.sizes)]
                self.enlarged += width < wide or height < high
            else:
                self.rejects[source] = reject
                self.bad.setdefault(name, (source, reject))
        return rows

    def finish(self, stage: Stage, ignored: Mapping[str, int], facts: dict[str, Any]) -> None:
        counts = {"images": self.good.total(), "classes": len(self.good)}
        counts |= {"rejected": len(self.rejects), "ignored": sum(ignored.values())}
        counts |= {"enlarged": self.enlarged} if self.enlarged else {}
        facts |= {"ignored": dict(sorted(ignored.items()))} if ignored else {}
        stage.finish(counts, self.rejects, {"classes": dict(sorted(self.good.items())), **facts})


def _collect_source(
    out: Path, config: CollectConfig, source: Path, part_size: int, reuse: Path | None, by_hash: bool
) -> None:
    if config.source == MINIATURE:
        config = replace(config, source=source.resolve().name or "folder", world=None)
    given = None
    if config.class_names is not None:
        given = read_class_names(Path(config.class_names))
        config = replace(config, class_names=given.record)
    recorded = to_dict(replace(config, layout=config.layout and part_id(config.layout, LAYOUTS)))
    sizes = bucket_sizes(config.size) if config.buckets else ()
    if not sizes:
        del recorded["buckets"]
    # What stops the work is found before the directory is begun: a corrected input may belong in it.
    stage = find_stage(out, stage="collect", config=recorded)
    done = stage is not None and stage.done
    if reuse is not None and not done:
        if out.resolve() == reuse.resolve():
            raise UserError(f"{out}: is the directory to reuse, which stays as it is; choose another --out")
        check_same_config(reuse, "collect", recorded)
        check_states(reuse, by_hash)
    if done and not source.exists():
        return  # once all images are here, the source may be gone; as long as it is there, it must be the same
    listed.cache_clear()
    found = find_source(source, out, config.single_class, config.split, config.layout)
    indexes = _index(found.groups)
    if found.by_row and len(keys_twice(hashes(b"".join(index.keys for index in indexes)))):
        listed.cache_clear()
        found = replace(found, groups=found.by_row)
        indexes = _index(found.groups)
    labels = {label for index in indexes for label in index.labels if label}
    codes = {label: code for index in indexes for label, code in index.codes.items() if label}
    if config.single_class is None and any(is_code(label, codes) for label in labels):
        given = given or find_class_names(source)
    digest = _digest(indexes, found.strays)
    if done:
        _check_unchanged(out, source, digest, given)
        return
    _check_any(source, found, indexes)
    if ".py:" not in (config.layout or ""):
        check_named(source, config.split, next(item.source for group in found.groups for item in listed(group).items))
    keys = check_keys(source, found.groups, indexes)
    if config.single_class is not None:
        names, taken_off = dict.fromkeys(labels, config.single_class.strip()), {}
    else:
        asked = config.class_names is not None
        names, taken_off = name_classes(source, labels, codes, given, found.label_names, asked)
    # ImageNet is cropped as it always was, without regard to EXIF and ICC; people's own images as people see them.
    upright = not (names and all(WORDNET_ID.fullmatch(label) for label in names))
    turned = "upright" if upright else "ignored"
    if reuse is not None and read_manifest(reuse).facts["exif_rotation"] != turned:
        raise UserError(
            f"{reuse}: its classes are named in another way, so that EXIF flags count now or then; leave --reuse out"
        )
    identity = [str(source.resolve()), source.stat().st_ino]  # another folder put in its place is another source
    begun = False
    with contextlib.suppress(OSError, ValueError):
        begun = json.loads((out / _NOTE).read_bytes()) == identity
    notes = list(out.glob(f"{BY_PILLOW}*")) if begun else []
    stage = open_stage(out, stage="collect", config=recorded)
    if begun:
        write_json(out / _NOTE, identity)  # open_stage took it out
        for note in notes:
            note.touch()
    _remove_crops(out, but=keys if begun else np.empty(0, np.uint64))
    write_json(out / _NOTE, identity)
    work = CropWork(source, out, config.size, config.fast, upright, config.gray_range, sizes, reuse, by_hash)
    changes = Changes(reuse) if reuse is not None else None
    parts, total = [], sum(index.count for index in indexes)
    for group, index in zip(found.groups, indexes):
        step = max(index.count, 1) if group.whole else part_size
        parts += [(group, start, min(start + step, index.count)) for start in range(0, index.count, step)]
    tally = _Tally(sizes or ((config.size, config.size),))
    states = writing_rows(out / STATES_TABLE, states_schema())
    with writing_rows(out / IMAGES_TABLE, images_schema()) as write, states as write_states:
        few = total < 2 * part_size or len(parts) < 2
        chunks = map_chunks(work, parts, chunk=1, parallel_from=len(parts) + 1 if few else 2)
        with progress("collect", total) as bar, chunks as results:
            for rows in results:
                write(tally.take([(row[0], names.get(row[1], ""), *row[2:-1]) for row in rows]))
                pairs = [(row[0], row[-1]) for row in rows]
                write_states(pairs)
                if changes is not None:
                    changes.note(pairs)
                bar.advance(len(rows))
        write(tally.take([(name, "", None, None, None, name, reason) for name, reason in found.strays.items()]))
    if not tally.good:
        shutil.rmtree(out)  # nothing of it can be used, whatever source is given next
    _check_classes(source, tally)
    listed.cache_clear()
    empty = (group for group, index in zip(found.groups, indexes) if not index.count)
    barren = {name for group in empty for name in getattr(group, "folders", ())} - {""}
    holding = {path.name for path in out.resolve().parents if path.parent == source.resolve()}
    facts = {
        "layout": found.layout,
        "exif_rotation": turned,
        "icc_profiles": "followed" if upright else "ignored",
        "class_names": given.record if given else None,
        "source_digest": digest,
        "folders_without_images": sorted(map(as_text, barren - holding)),
    }
    if taken_off:
        facts["codes_taken_off"] = taken_off
    if config.fast:
        noted = hashes(b"".join(bytes.fromhex(path.name[len(BY_PILLOW) :]) for path in out.glob(f"{BY_PILLOW}*")))
        facts["read_by_pillow"] = int(np.isin(noted, keys).sum())  # JPEG files that simplejpeg refuses
    if changes is not None:
        facts["grown"] = changes.write(out)
    tally.finish(stage, _ignored(found, indexes), facts)
    if tally.enlarged:
        said = (
            f"{tally.enlarged:,} of {tally.good.total():,} images are smaller than "
            f"{'their bucket' if sizes else f'{config.size} px'} and were enlarged"
        )
        print(f"collect: {said}; a smaller --size keeps their detail as it is", file=sys.stderr)


def _index(groups: Sequence[Group]) -> list[Index]:
    indexes: list[Index] = []
    chunks = map_chunks(index_groups, groups, chunk=4, parallel_from=64)
    with progress("list", len(groups), "groups") as bar, chunks as results:
        for some in results:
            indexes += some
            bar.advance(len(some))
    return indexes


def _check_unchanged(out: Path, source: Path, digest: str, given: ClassNames | None) -> None:
    facts = read_manifest(out).facts
    names = given.record if given is not None else facts["class_names"]  # as the images, their file may be gone by now
    # What lies in a working folder follows from its images, and `run` has no --reuse.
    fix = "" if run_folder(out) else f", with --reuse {out} to make only the difference, or delete the directory"
    for what, fact, now in (("images", "source_digest", digest), ("class names", "class_names", names)):
        if facts[fact] != now:
            raise UserError(
                f"{source}: its {what} were changed since {out} was made: {facts[fact]} then, {now} now"
                f" (choose another --out{fix})"
            )


def _digest(indexes: Sequence[Index], strays: Collection[str]) -> str:
    # A folder without images that came or went changes nothing.
    parts = [index.digest for index in indexes if index.count] + [f"{name}\0".encode() for name in strays]
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    return f"{sum(index.count for index in indexes) + len(strays)} images ({digest[:12]})"


def _remove_crops(out: Path, but: NDArray[np.uint64]) -> None:
    """Remove all crops in `out` except those whose keys have these sorted hashes."""
    for path in out.glob("*/*.png"):
        mine = hashes(key_hash(path.relative_to(out).as_posix().removesuffix(".png")))[0]
        place = np.searchsorted(but, mine)
        if mine not in but[place : place + 1]:
            path.unlink()


def _check_any(source: Path, found: Source, indexes: Sequence[Index]) -> None:
    if any(index.count for index in indexes):
        if not any(label for index in indexes for label in index.labels):
            first = next(item for group in found.groups for item in listed(group).items)
            folders = "; if a tar's folders are the classes, unpack it" if first.source.count("/") > 1 else ""
            raise UserError(
                f"{source}: none of its {sum(index.count for index in indexes)} images can be used ({first.source!r}:"
                f" {first.reject}); if all show one class, give --single-class NAME{folders}"
            )
        return
    expected = f"expected is {source}/CLASS/IMAGE"
    if found.strays:
        fix = "(if all show one class, give --single-class NAME)"
        raise UserError(f"{source}: has {len(found.strays)} images, but no class folders; {expected} {fix}")
    suffixes = " ".join(sorted(suffix[1:] for suffix in READABLE))
    ignored = _ignored(found, indexes).total()
    what = f"has no images among its {ignored} files" if ignored else "is empty"
    others = "or ImageNet's tree or tar, the Hub's Parquet files, WebDataset tars"
    raise UserError(f"{source}: {what}; {expected}, an image being one of: {suffixes}; {others}")


def _ignored(found: Source, indexes: Sequence[Index]) -> Counter[str]:
    return sum((Counter(index.ignored) for index in indexes), Counter(found.ignored))


def _check_classes(source: Path, tally: _Tally) -> None:
    bad = sorted(name for name in tally.bad if name and name not in tally.good)
    if not tally.good and not bad:
        example, reason = next(iter(tally.bad.values()))
        raise UserError(f"{source}: none of its {len(tally.rejects)} images can be used ({example!r}: {reason})")
    if bad:
        example, reason = tally.bad[bad[0]]
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise UserError(
            f"{source}: no readable image of class {', '.join(map(repr, bad[:5]))}{more} ({example!r}: {reason}); put"
            " readable images in, or take the folder out"
        )
