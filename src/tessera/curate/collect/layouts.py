"""Layouts of a source: how labeled images lie on disk, recognized by what is there or named by the user.

| layout        | what is there                                                                             |
|---------------|-------------------------------------------------------------------------------------------|
| class-folders | SOURCE/CLASS/IMAGE                                                                        |
| imagenet-tree | ILSVRC/Data/CLS-LOC as Kaggle has it, val by LOC_val_solution.csv; or train/CLASS/IMAGE,  |
|               | a folder for each split, in any spelling (`tessera.curate.collect.splits`)                |
| imagenet-tar  | ILSVRC2012_img_train.tar of n01440764.tar, ..., or a folder of these                      |
| webdataset    | *.tar of KEY.jpg and KEY.cls or KEY.json                                                  |
| hub-parquet   | *.parquet with the columns image and label (one class needs none)                         |
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from tessera.config import UserError, blaming, load_part
from tessera.curate.collect.class_folders import (
    WORDNET_ID,
    FolderGroup,
    OneClassGroup,
    SolutionGroup,
    check_no_others,
    files_below,
    folder_groups,
    holds_images,
    is_image,
    is_made,
    items_of,
)
from tessera.curate.collect.packed import (
    PACKED_SAYS,
    all_files,
    files_with_suffix,
    first_file,
    is_compressed,
    names_apart,
    of_split,
    tars_and_tables,
)
from tessera.curate.collect.parquet import holds_image_column, row_groups
from tessera.curate.collect.sources import Group, ItemGroup
from tessera.curate.collect.splits import Split, says_nothing, split_of, splits_among
from tessera.curate.collect.tars import ClassTarGroup, WebDatasetGroup, class_tars

_KAGGLE = Path("ILSVRC/Data/CLS-LOC")
_FOLDERS = "class folders"
_MIXED = "layouts are mixed; give the folder of one of them, or --layout NAME to take one alone"
_GROUPS = ("groups", "by_row")  # fields of a source
_CHUNK = 64  # files of a user's layout that a process takes at a time


@dataclass(frozen=True)
class Source:
    """The images of a source."""

    layout: str
    """The layout's name in words, for the manifest."""
    groups: Sequence[Group]
    strays: Mapping[str, str] = field(default_factory=dict)
    """Name -> reason of what may be images and cannot be used, such as images in no class folder."""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Number of other files, by kind ("*.txt") or folder ("test/")."""
    by_row: Sequence[Group] | None = None
    """The same groups with keys by the images' places, for images whose names turn out not to be unique."""
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
        folders = _folders(source, out)
        if not any(map(holds_images, folders)):
            return ""
        tables = (source / f"{folder.name}{end}" for folder in folders for end in (".parquet", "_stats.json"))
        numbered = all(re.fullmatch(r"\d{5,}", folder.name) for folder in folders)
        if any(map(Path.is_file, tables)) or (numbered and any(map(_has_json, folders))):
            raise UserError(
                f"{source}: looks like a download of img2dataset, which has no classes: give --single-class NAME, or"
                " --layout class-folders if its folders are classes"
            )
        _check_no_parts(source, folders, out)
        return _FOLDERS

    def open(self, source: Path, out: Path, split: Split) -> Source:
        root = _unwrapped(source, out)
        within = "" if root == source else root.relative_to(source).as_posix()
        return Source("class folders", *folder_groups(source, out, split, [within]))


class ImageNetTree:
    """Splits of class folders, or Kaggle's tree, whose validation images are labeled by a csv file."""

    def there(self, source: Path, out: Path) -> str:
        tree = self._tree(source, out)
        if tree is None:
            return ""
        names = [path.name for path in _folders(tree, out)]
        splits, sure = splits_among(names)
        if not any(holds_images(tree / name) for name in splits):
            return ""
        others = any(holds_images(tree / name) for name in names if name not in splits)
        if not sure and others and all(_has_images(tree / name) for name in splits):
            return ""  # a class called "train" among others
        check_no_others(tree, names, splits)
        return _FOLDERS

    def open(self, source: Path, out: Path, split: Split) -> Source | None:
        chosen, others = self.choose(source, out, split)
        if not chosen:
            return None
        within = [self._inner(folder, out).relative_to(source).as_posix() for folder in chosen]
        groups, strays, ignored = folder_groups(source, out, "all", within)
        ignored += others
        if groups or not strays:
            return Source("ImageNet tree", groups, strays, ignored)
        for place in (source, *list(source.resolve().parents)[:3]):
            if (place / f"LOC_{split}_solution.csv").is_file():
                return Source("ImageNet tree", [SolutionGroup(chosen[0], place / f"LOC_{split}_solution.csv")])
        raise UserError(
            f"{chosen[0]}: has {len(strays)} images, but no class folders, nor is Kaggle's LOC_{split}_solution.csv"
            " above it. If all show one class, give --single-class NAME; if the folder is one, --layout class-folders"
        )

    def choose(self, source: Path, out: Path, split: Split) -> tuple[list[Path], Counter[str]]:
        """Return the folders of a split, none for a source without splits; and the numbers of files in the others."""
        tree = self._tree(source, out)
        if tree is None:
            return [], Counter()
        folders = _folders(tree, out)
        splits, _ = splits_among(path.name for path in folders)
        chosen = [
            folder for folder in folders if split in (splits.get(folder.name, ""), "all") and folder.name in splits
        ]
        if not chosen:
            names = ", ".join(sorted(splits))
            raise UserError(f"{tree}: has no folder of the split {split}, only {names} (see --split)")
        left = [folder for folder in folders if folder not in chosen]
        return chosen, Counter({f"{path.relative_to(source).as_posix()}/": max(files_below(path), 1) for path in left})

    def _inner(self, folder: Path, out: Path) -> Path:
        """Return the folder of the classes of a split: seg_train/seg_train, as some archives have it."""
        said = split_of(folder.name)
        for _ in range(3):
            inside = [path for path in folder.iterdir() if path.is_dir() or is_image(path.name)]
            if len(inside) != 1 or not inside[0].is_dir() or split_of(inside[0].name) != said:
                break
            folder = inside[0]
        return _unwrapped(folder, out)

    def _tree(self, source: Path, out: Path) -> Path | None:
        """Return the folder of the splits; None for a source that is another layout."""
        if (source / _KAGGLE).is_dir():
            return source / _KAGGLE
        if (source / "LOC_synset_mapping.txt").is_file():
            if not any(WORDNET_ID.fullmatch(path.name.removesuffix(".tar")) for path in source.iterdir()) and not any(
                any(source.rglob(pattern)) for pattern in ("*.tar", "*.parquet")
            ):
                raise UserError(f"{source}: has LOC_synset_mapping.txt, but no {_KAGGLE.as_posix()}; unpack that too")
            return None
        # Folders may be around the splits: images/train/CLASS next to annotations/.
        folder = source
        for _ in range(4):
            folders = _folders(folder, out)
            splits, sure = splits_among(path.name for path in folders)
            if splits and (sure or folder == source or says_nothing(folder.name)):
                return folder
            holding = [path for path in folders if holds_images(path)] if len(folders) < 10 else []
            if len(holding) != 1 or _has_images(folder):
                break
            folder = holding[0]
        return None


class _Tars:
    def there(self, source: Path, out: Path) -> str:
        return first_file("tar files", source, out, ".tar")


class ImageNetTar(_Tars):
    """A tar file for each class, in a folder or inside one tar file."""

    def open(self, source: Path, out: Path, split: Split) -> Source | None:
        tars, others = files_with_suffix(source, out, ".tar")
        chosen = of_split(source, tars, split, others)
        if all(WORDNET_ID.fullmatch(path.stem) for path in tars):
            groups = [ClassTarGroup(path, path.stem, 0, path.stat().st_size) for path in chosen]
            return Source("ImageNet tar", groups, ignored=others)
        inside = {path: class_tars(path) for path in chosen}
        outer = [groups for groups in inside.values() if groups]
        if outer and len(chosen) > 1:
            names = ", ".join(path.name for path in chosen[:3])
            raise UserError(f"{source}: has several tars, one with class tars ({names}): give the one file to read")
        return Source("ImageNet tar", outer[0], ignored=others) if outer else None


class WebDataset(_Tars):
    """Tar files of images, each with its label in an entry of the same stem."""

    def open(self, source: Path, out: Path, split: Split) -> Source:
        tars, others = files_with_suffix(source, out, ".tar")
        names = names_apart(source, tars)
        groups = [WebDatasetGroup(path, names[path]) for path in of_split(source, tars, split, others)]
        return Source("WebDataset", groups, ignored=others)


class HubParquet:
    """Parquet files as the Hugging Face Hub keeps data sets."""

    def there(self, source: Path, out: Path) -> str:
        return first_file("Parquet files", source, out, ".parquet")

    def open(self, source: Path, out: Path, split: Split) -> Source:
        files, others = files_with_suffix(source, out, ".parquet")
        groups, names = row_groups(of_split(source, files, split, others), names_apart(source, files))
        by_row = [replace(group, by_row=True) for group in groups]
        return Source("Hub parquet", groups, ignored=others, by_row=by_row, label_names=names)


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

    single_class: the class of all images, whatever the layout says. Raises UserError if the source is missing, of
    several layouts, or has no such split, or the user's own layout fails.
    """
    all_files.cache_clear()
    if not source.exists():
        raise UserError(f"{source}: there is no such folder or file; give the folder of the class folders, or a tar")
    if single_class is not None and source.is_dir() and layout in (None, "class-folders", "imagenet-tree"):
        part = "all" if layout == "class-folders" else split
        tree = ImageNetTree()
        if layout is not None or holds_images(source):
            others = tars_and_tables(source, out) if layout is None else []
            if others:
                raise UserError(f"{source}: has {' and '.join(others)} and images: {_MIXED}")
            # The whole source, or the folders of the split where it has some.
            has_splits = layout == "imagenet-tree" or (layout is None and tree.there(source, out))
            chosen, left = tree.choose(source, out, split) if has_splits else ([], Counter())
            within = tuple(folder.relative_to(source).as_posix() for folder in chosen) or ("",)
            return Source("class folders", [FolderGroup(source, within, out, single_class, part)], ignored=left)
    if layout is None:
        found = _open_what_is_there(source, out, split, single_class)
    else:
        entry = load_part(layout, LAYOUTS, "layout", needs=["open"])
        with blaming(layout, "layout"):
            entry = entry() if isinstance(entry, type) else entry
            found = entry.open(source, out, "all" if layout == "class-folders" else split)
        if not isinstance(found, Source):
            returned = type(found).__name__
            raise UserError(f"{source}: is not of the layout {layout}, whose open() returned {returned}")
    if single_class is not None:
        one = {name: [OneClassGroup(group, single_class) for group in getattr(found, name) or ()] for name in _GROUPS}
        found = replace(found, **one, label_names=None)
    return found


def _open_what_is_there(source: Path, out: Path, split: Split, single_class: str | None) -> Source:
    there = {name: words for name, entry in LAYOUTS.items() if (words := entry.there(source, out))}
    if len(set(there.values())) > 1 and not holds_image_column(files_with_suffix(source, out, ".parquet")[0]):
        there.pop("hub-parquet", None)  # tables about the images, such as img2dataset's
    if len(set(there.values())) > 1:
        said = " and ".join(sorted(set(there.values()), reverse=True))
        raise UserError(f"{source}: has {said}: {_MIXED}")
    if not there and source.is_file():
        packed = f"; it {PACKED_SAYS}" if is_compressed(source) else ""
        raise UserError(f"{source}: is not a folder, nor a .tar or .parquet file{packed}")
    for path in all_files(source, out)[0] if not there else ():
        if is_compressed(path):
            raise UserError(f"{source}: {path.relative_to(source).as_posix()} {PACKED_SAYS}")
    for name in there or ["class-folders"]:
        found = LAYOUTS[name].open(source, out, split)
        if found is not None:
            return found
    raise AssertionError(f"{source}: no layout of {', '.join(there)} opened it")


def _folders(source: Path, out: Path) -> list[Path]:
    """List the folders of a source that may hold images: not hidden ones, nor what tessera made."""
    if not source.is_dir():
        return []
    with os.scandir(source) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return [source / name for name in names if not is_made(source / name, out)]


def _unwrapped(folder: Path, out: Path) -> Path:
    """Return the folder of the class folders: `folder`, or the only one in it, such as images/ of images/CLASS.

    Raises UserError for an only folder with folders of images, by whose name it may be a class.
    """
    inner = folder
    for _ in range(4):
        if len(inside := _folders(inner, out)) == 1 and not _has_images(inner):
            inner = inside[0]
    classes = [path.name for path in _folders(inner, out) if holds_images(path)]
    if len(classes) < 2 or _has_images(inner):
        return folder
    within = inner.relative_to(folder)
    if not all(map(says_nothing, within.parts)):
        raise UserError(
            f"{folder}: has one folder, {within.as_posix()}, with folders of images in it ({', '.join(classes[:3])}):"
            f" give {inner} if these are the classes, or --single-class {inner.name}"
        )
    return inner


def _check_no_parts(source: Path, folders: Sequence[Path], out: Path) -> None:
    """Raise UserError for folders such as fold1 and fold2, which differ in a number and hold the same folders."""
    alike = {re.sub(r"\d+", "", folder.name) for folder in folders}
    if len(folders) < 2 or alike in ({""}, {"n"}) or len(alike) > 1 or any(map(_has_images, folders)):
        return
    inside = [{path.name for path in _folders(folder, out) if holds_images(path)} for folder in folders]
    if shared := sorted(set.intersection(*inside)):
        raise UserError(
            f"{source}: {folders[0].name} and {folders[1].name} hold the same folders of images ({shared[0]}, ...), as"
            " parts of one set do: give the folder of one part, or --layout class-folders if they are classes"
        )


def _has_images(folder: Path) -> bool:
    return any(is_image(path.name) for path in folder.iterdir())


def _has_json(folder: Path) -> bool:
    return any(path.suffix == ".json" for path in folder.iterdir())
