"""Layouts of a source: how labeled images lie on disk, recognized by what is there or named by the user.

| layout        | what is there                                                                             |
|---------------|-------------------------------------------------------------------------------------------|
| class-folders | SOURCE/CLASS/IMAGE                                                                        |
| imagenet-tree | ILSVRC/Data/CLS-LOC as Kaggle has it, val by LOC_val_solution.csv; or train/CLASS/IMAGE   |
| imagenet-tar  | ILSVRC2012_img_train.tar of n01440764.tar, ..., or a folder of these                      |
| webdataset    | *.tar of KEY.jpg and KEY.cls or KEY.json                                                  |
| hub-parquet   | *.parquet with the columns image and label                                                |
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from tessera.config import UserError, blaming, load_part
from tessera.curate.collect.class_folders import WORDNET_ID, SolutionGroup, folder_groups, is_made, items_of
from tessera.curate.collect.parquet import row_groups
from tessera.curate.collect.sources import Group, ItemGroup
from tessera.curate.collect.tars import ClassTarGroup, WebDatasetGroup, class_tars
from tessera.images import READABLE

Split = Literal["train", "val"]

_SPLIT_WORDS = {"training": "train", "valid": "val", "validation": "val"} | {n: n for n in ("train", "val", "test")}
_SPLIT = re.compile(rf"(?:^|[-_./])({'|'.join(_SPLIT_WORDS)})(?=[-_./]|$)", re.IGNORECASE)
_OURS = {"images.parquet", "scenes.parquet"}
_KAGGLE = Path("ILSVRC/Data/CLS-LOC")
_FOLDERS = "class folders"
_CHUNK = 64  # files of a user's layout that a process takes at a time


@dataclass(frozen=True)
class Source:
    """The images of a source."""

    layout: str
    """The layout's name in words, for the manifest."""
    groups: Sequence[Group]
    strays: Sequence[str] = ()
    """Images in no class folder."""
    ignored: int = 0
    """Number of other files."""
    label_names: Sequence[str] | None = None
    """The classes' names by number, where the files say them."""


class Layout(Protocol):
    """A way in which labeled images lie on disk. A user's own needs `open` alone and is named by --layout."""

    def there(self, source: Path, out: Path) -> str:
        """Return what `source` has of this layout, in words ("tar files (a.tar)"); "" for nothing.

        Layouts that say the same are alternatives: the first in the table whose `open` finds images is taken.
        """
        ...

    def open(self, source: Path, out: Path, split: Split) -> Source | None:
        """Return the images of `source` (for a user's own: `of_files(...)`); None if it is not of this layout.

        out: the directory being made, which may lie in the source. split: the part of a set that has parts.
        """
        ...


def of_files(source: Path, files: Iterable[tuple[Path, str]], layout: str = "files") -> Source:
    """Return the source of these image files with their labels, for a layout of the user's own: paths that can be
    opened as they are, such as `source.glob` gives.

    A label is a class's name, a WordNet id or a number in the form of the folder names; "" rejects the file.
    """
    within = [(path.relative_to(source) if path.is_relative_to(source) else path.absolute(), y) for path, y in files]
    items = items_of(source, [(path, label, path.stem) for path, label in within])
    chunks = [tuple(items[start : start + _CHUNK]) for start in range(0, len(items), _CHUNK)]
    return Source(layout, [ItemGroup(chunk) for chunk in chunks])


class ClassFolders:
    """A folder of images for each class."""

    def there(self, source: Path, out: Path) -> str:
        folders = (path for path in _folders(source) if not is_made(path, out))
        return _FOLDERS * any(path.suffix.lower() in READABLE for folder in folders for path in folder.iterdir())

    def open(self, source: Path, out: Path, split: Split, single_class: str | None = None) -> Source:
        return Source("class folders", *folder_groups(source, out, single_class))


class ImageNetTree:
    """Splits of class folders, or Kaggle's tree, whose validation images are labeled by a csv file."""

    def there(self, source: Path, out: Path) -> str:
        return _FOLDERS * (source.is_dir() and self._tree(source, out) is not None)

    def open(self, source: Path, out: Path, split: Split) -> Source | None:
        tree = self._tree(source, out)
        if tree is None:
            return None
        folder = tree / split
        if not folder.is_dir():
            there = ", ".join(sorted(path.name for path in tree.iterdir() if path.is_dir()))
            raise UserError(f"{folder}: there is no such folder; {tree} has {there or 'none'} (see --split)")
        groups, strays, ignored = folder_groups(folder, out, None)
        if groups or not strays:
            return Source("ImageNet tree", groups, strays, ignored)
        for place in (source, *list(source.resolve().parents)[:3]):
            if (place / f"LOC_{split}_solution.csv").is_file():
                return Source("ImageNet tree", [SolutionGroup(folder, place / f"LOC_{split}_solution.csv")])
        raise UserError(f"{folder}: has neither class folders nor Kaggle's LOC_{split}_solution.csv above it; add it")

    def _tree(self, source: Path, out: Path) -> Path | None:
        """Return the folder with train/ and val/; None for a source that is another layout."""
        if (source / _KAGGLE).is_dir():
            return source / _KAGGLE
        if (source / "LOC_synset_mapping.txt").is_file():
            if not any(WORDNET_ID.fullmatch(path.name.removesuffix(".tar")) for path in source.iterdir()) and not any(
                any(source.rglob(pattern)) for pattern in ("*.tar", "*.parquet")
            ):
                raise UserError(f"{source}: has LOC_synset_mapping.txt, but no {_KAGGLE.as_posix()}; unpack that too")
            return None
        names = {path.name for path in _folders(source) if not is_made(path, out)}
        splits = "train" in names and names <= set(_SPLIT_WORDS)
        return source if splits and any(_folders(source / name) for name in names) else None


class _Tars:
    def there(self, source: Path, out: Path) -> str:
        return _first("tar files", source, out, ".tar")


class ImageNetTar(_Tars):
    """A tar file for each class, in a folder or inside one tar file."""

    def open(self, source: Path, out: Path, split: Split) -> Source | None:
        tars = _files(source, out, ".tar")
        if all(WORDNET_ID.fullmatch(path.stem) for path in tars):
            return Source("ImageNet tar", [ClassTarGroup(path, path.stem, 0, path.stat().st_size) for path in tars])
        chosen = _of_split(source, tars, split)
        inside = {path: class_tars(path) for path in chosen}
        outer = [groups for groups in inside.values() if groups]
        if outer and len(chosen) > 1:
            names = ", ".join(path.name for path in chosen[:3])
            raise UserError(f"{source}: has several tars, one with class tars ({names}): give the one file to read")
        return Source("ImageNet tar", outer[0]) if outer else None


class WebDataset(_Tars):
    """Tar files of images, each with its label in an entry of the same stem."""

    def open(self, source: Path, out: Path, split: Split) -> Source:
        chosen = _of_split(source, _files(source, out, ".tar"), split)
        return Source("WebDataset", [WebDatasetGroup(path) for path in chosen])


class HubParquet:
    """Parquet files as the Hugging Face Hub keeps data sets."""

    def there(self, source: Path, out: Path) -> str:
        return _first("Parquet files", source, out, ".parquet")

    def open(self, source: Path, out: Path, split: Split) -> Source:
        chosen = _of_split(source, _files(source, out, ".parquet"), split)
        groups, names = row_groups(chosen)
        return Source("Hub parquet", groups, label_names=names)


LAYOUTS: dict[str, Layout] = {
    "imagenet-tree": ImageNetTree(),
    "class-folders": ClassFolders(),
    "imagenet-tar": ImageNetTar(),
    "webdataset": WebDataset(),
    "hub-parquet": HubParquet(),
}
"""In the order in which they are tried. An entry here adds one."""


def find_source(
    source: Path, out: Path, single_class: str | None = None, split: Split = "train", layout: str | None = None
) -> Source:
    """Return the images of `source` by the layout of that name; None = the one that is there.

    Raises UserError if it is missing, of several layouts, or has no such split, or the user's own layout fails.
    """
    if not source.exists():
        raise UserError(f"{source}: there is no such folder or file; give the folder of the class folders, or a tar")
    if layout is not None:
        entry = load_part(layout, LAYOUTS, "layout", needs=["open"])
        with blaming(layout, "layout"):
            entry = entry() if isinstance(entry, type) else entry
            found = entry.open(source, out, split)
        if not isinstance(found, Source):
            returned = type(found).__name__
            raise UserError(f"{source}: is not of the layout {layout}, whose open() returned {returned}")
        return found
    if single_class is not None and source.is_dir():
        return ClassFolders().open(source, out, split, single_class)
    there = {name: words for name, entry in LAYOUTS.items() if (words := entry.there(source, out))}
    if len(set(there.values())) > 1:
        said = " and ".join(sorted(set(there.values()), reverse=True))
        raise UserError(f"{source}: has {said}: layouts are mixed; give the folder of one of them")
    if not there and source.is_file():
        raise UserError(f"{source}: is not a folder, nor a .tar or .parquet file")
    for name in there or ["class-folders"]:
        found = LAYOUTS[name].open(source, out, split)
        if found is not None:
            return found
    raise AssertionError(f"{source}: no layout of {', '.join(there)} opened it")


def _folders(source: Path) -> list[Path]:
    if not source.is_dir():
        return []
    return sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(source: Path, out: Path, suffix: str) -> list[Path]:
    """Return the files of a suffix in the source, or the source itself; not hidden ones or those of tessera."""
    if source.is_file():
        return [source] if source.suffix.lower() == suffix else []
    found = [path for path in source.rglob(f"*{suffix}") if path.is_file() and path.name not in _OURS]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(source).parts)]
    return sorted(p for p in found if not any(is_made(above, out) for above in p.parents if source in above.parents))


def _first(words: str, source: Path, out: Path, suffix: str) -> str:
    files = _files(source, out, suffix)
    return f"{words} ({files[0].relative_to(source).as_posix()})" if files else ""


def _of_split(source: Path, paths: Sequence[Path], split: Split) -> list[Path]:
    """Return the files of a split, where their names say one; else all."""
    root = source if source.is_dir() else source.parent
    words = {path: _SPLIT.findall(path.relative_to(root).as_posix()) for path in paths}
    found = {path: _SPLIT_WORDS[last[-1].lower()] for path, last in words.items() if last}
    if not found:
        return list(paths)
    chosen = [path for path, word in found.items() if word == split]
    if not chosen:
        others = ", ".join(sorted(set(found.values())))
        raise UserError(f"{source}: has no files of the split {split}, only of {others} (see --split)")
    return chosen
