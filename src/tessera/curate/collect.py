"""collect: a source of labelled pictures -> images/, class folders of square crops with images.parquet beside them.

The source is the built-in miniature world or a user's class folders:

    SOURCE/red_fox/any name.jpg        class "red fox", key "red_fox/any name"
    SOURCE/red_fox/more/b.webp         class "red fox", key "red_fox/more-b"

images.parquet has a row for every picture found: key, class, file (relative to the directory; null for a reject), width
and height (of the whole picture), source (relative to the source folder), reject (the reason, or null).
The miniature adds scenes.parquet: key, scene (JSON of `tessera.records.Scene`).
"""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tessera.config import UserError, to_dict
from tessera.curate.engine import map_chunks
from tessera.curate.folder import as_text, check_layout, crop_all, find_pictures, make_keys
from tessera.curate.pictures import is_whole_png, write_png
from tessera.files import MANIFEST, Stage, open_stage, read_manifest, read_table, write_table
from tessera.miniature import WorldConfig, draw_scene, render, scene_key
from tessera.records import Scene, SceneObject
from tessera.runtime import progress

MINIATURE = "miniature"
IMAGES_TABLE = "images.parquet"
SCENES_TABLE = "scenes.parquet"


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """What to collect."""

    source: str = MINIATURE
    """"miniature", or the name under which a user's folder is recorded (its path is an argument, and is not kept)."""
    size: int = 32
    """Side of the square crops in pixels, 16 to 4096."""
    single_class: str | None = None
    """The one class of all pictures of a folder, as it stands; None = the class folders name the classes."""
    world: WorldConfig | None = None
    """The miniature world, of the same size; None = the default world when the source is the miniature."""

    def __post_init__(self):
        if not 16 <= self.size <= 4096:
            raise UserError(f"size is {self.size}: give a side from 16 to 4096 pixels")
        if not self.source.strip():
            raise UserError("source is empty: give miniature or a name for the folder")
        if self.single_class is not None and not self.single_class.strip():
            raise UserError("single_class is empty: give the class's name")
        if self.world is not None and self.source != MINIATURE:
            raise UserError(f"world is for the source miniature, not for {self.source!r}: leave one of the two out")
        if self.world is not None and self.world.size != self.size:
            raise UserError(f"size is {self.size}, but world.size is {self.world.size}: give both the same")


@dataclass(frozen=True)
class ImageRow:
    """One row of images.parquet."""

    key: str
    class_name: str
    file: str | None
    width: int | None
    height: int | None
    source: str
    reject: str | None


def collect(out: Path, config: CollectConfig, source_dir: Path | None = None) -> None:
    """Makes the directory `out` (images/) from the miniature, or from the folder `source_dir`.

    Pictures that are there already, from an interrupted call, are kept. UserError: the folder is missing, empty or
    without class folders, a class has no readable picture, or the folder has changed since `out` was completed.
    """
    if source_dir is None:
        if config.source != MINIATURE:
            raise UserError(f"source {config.source!r}: give the folder of its pictures")
        _collect_miniature(Path(out), replace(config, world=config.world or WorldConfig(size=config.size)))
        return
    source_dir = Path(source_dir)
    if config.source == MINIATURE:
        config = replace(config, source=source_dir.resolve().name or "folder", world=None)
    _collect_folder(Path(out), config, source_dir)


def is_complete(directory: Path) -> bool:
    """Whether a stage has finished `directory`.

    A stage that has not checks its input before it opens the directory: a mistake in the input that stops it must not
    leave a started directory behind, which the mended input no longer fits.
    """
    return (directory / MANIFEST).exists() and read_manifest(directory, must_be_complete=False).complete


def read_images(images: Path) -> list[ImageRow]:
    """The pictures of a completed images/ directory, sorted by key; rejects are left out."""
    images = Path(images)
    read_manifest(images, "collect")
    columns = read_table(images / IMAGES_TABLE, list(_COLUMNS)).to_pydict()
    rows = [ImageRow(*values) for values in zip(*(columns[name] for name in _COLUMNS))]
    return sorted((row for row in rows if row.reject is None), key=lambda row: row.key)


def read_scenes(images: Path) -> dict[str, Scene]:
    """Key -> ground truth of a miniature's images/ directory. UserError if it is not the miniature."""
    path = Path(images) / SCENES_TABLE
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; only the miniature has ground truth")
    columns = read_table(path, ["key", "scene"]).to_pydict()
    try:
        return {key: _scene(json.loads(text)) for key, text in zip(columns["key"], columns["scene"])}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged ({error}); delete the directory and collect again") from error


def _scene(data: dict[str, Any]) -> Scene:
    """As `from_dict` does, which is ten times slower for its messages."""
    objects = tuple(SceneObject(**{**thing, "center": tuple(thing["center"])}) for thing in data["objects"])
    return Scene(objects=objects, backgrounds=tuple(data["backgrounds"]), seed=data["seed"])


def class_name(folder: str) -> str:
    """The class that a folder's name says: "_" and "-" are spaces."""
    folder = as_text(folder)
    return " ".join(folder.replace("_", " ").replace("-", " ").split()) or folder


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
    rows = [ImageRow(key, key.split("/")[0], f"{key}.png", side, side, MINIATURE, None) for key in keys]
    _finish(stage, rows, ignored=0, facts={})


def _render_all(world: WorldConfig, out: Path, numbers: Sequence[int]) -> list[str]:
    """Writes the pictures that are not there yet and returns the scenes as JSON."""
    texts = []
    for number in numbers:
        scene = draw_scene(world, number)
        path = out / f"{scene_key(world, number)}.png"
        if not is_whole_png(path):
            write_png(path, render(scene, world.size))
        texts.append(json.dumps(to_dict(scene), sort_keys=True))
    return texts


def _collect_folder(out: Path, config: CollectConfig, source: Path) -> None:
    complete = is_complete(out)
    # Once all pictures are here, the source may be gone; as long as it is there, it must be the same.
    found = None if complete and not source.is_dir() else find_pictures(source, out, config.single_class)
    if found is not None and not complete:
        check_layout(source, found)
    stage = open_stage(out, stage="collect", config=to_dict(config))
    if stage.done:
        then = read_manifest(out).facts["source_digest"]
        if found is not None and then != found.digest:
            raise UserError(
                f"{source}: its pictures were changed since {out} was made: {then} then, {found.digest} now"
                " (choose another --out, or delete the directory)"
            )
        return
    assert found is not None

    keys = make_keys(found.pictures)
    tasks = [(source / path, out / f"{key}.png") for (path, _, _), key in zip(found.pictures, keys)]
    results: list[tuple[int | None, int | None, str | None]] = []
    chunks = map_chunks(functools.partial(crop_all, config.size), tasks, chunk=8, parallel_from=128)
    with progress("collect", len(tasks)) as bar, chunks as crops:
        for done in crops:
            results += done
            bar.advance(len(done))

    rows = []
    for (path, folder, _), key, (width, height, reject) in zip(found.pictures, keys, results):
        file = None if reject else f"{key}.png"
        name = config.single_class.strip() if config.single_class is not None else class_name(folder)
        rows.append(ImageRow(key, name, file, width, height, as_text(path.as_posix()), reject))
    _check_classes(source, rows)
    for path in found.strays:
        name = as_text(path.as_posix())
        rows.append(ImageRow(name, "", None, None, None, name, "lies in no class folder"))
    _remove_others(out, {row.file for row in rows})
    facts = {"source_digest": found.digest, "folders_without_pictures": found.barren}
    _finish(stage, rows, ignored=found.ignored, facts=facts)


def _check_classes(source: Path, rows: list[ImageRow]) -> None:
    good = {row.class_name for row in rows if row.reject is None}
    bad = [row for row in rows if row.class_name not in good]
    if not bad:
        return
    names = sorted({row.class_name for row in bad})
    listed = ", ".join(repr(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    raise UserError(
        f"{source}: no readable picture of class {listed} ({bad[0].source!r}: {bad[0].reject});"
        " put readable pictures in, or take the folder out"
    )


def _remove_others(out: Path, files: set[str | None]) -> None:
    """Crops of an interrupted call whose source is gone since."""
    for path in out.glob("*/*.png"):
        if path.relative_to(out).as_posix() not in files:
            path.unlink()


_COLUMNS = ("key", "class", "file", "width", "height", "source", "reject")


def _finish(stage: Stage, rows: list[ImageRow], *, ignored: int, facts: dict[str, Any]) -> None:
    import pyarrow as pa

    text, number = pa.string(), pa.int32()
    schema = pa.schema(list(zip(_COLUMNS, (text, text, text, number, number, text, text))))
    write_table(stage.directory / IMAGES_TABLE, dict(zip(_COLUMNS, _columns(rows))), schema)
    classes = Counter(row.class_name for row in rows if row.reject is None)
    rejects = {row.source: row.reject for row in rows if row.reject is not None}
    images = sum(classes.values())
    counts = {"images": images, "classes": len(classes), "rejected": len(rows) - images, "ignored": ignored}
    stage.finish(counts, rejects, {"classes": dict(sorted(classes.items())), **facts})


def _columns(rows: list[ImageRow]) -> Iterator[list[Any]]:
    for name in ("key", "class_name", "file", "width", "height", "source", "reject"):
        yield [getattr(row, name) for row in rows]
