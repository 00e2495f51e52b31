"""Which layout a source has, told from what is there; and its groups of pictures.

| layout        | what is there                                                                             |
|---------------|-------------------------------------------------------------------------------------------|
| class folders | SOURCE/CLASS/PICTURE                                                                      |
| ImageNet tree | ILSVRC/Data/CLS-LOC as Kaggle has it, val by LOC_val_solution.csv; or train/CLASS/PICTURE |
| ImageNet tar  | ILSVRC2012_img_train.tar of n01440764.tar, ..., or a folder of these                      |
| Hub parquet   | *.parquet with the columns image and label                                                |
| WebDataset    | *.tar of KEY.jpg and KEY.cls or KEY.json                                                  |
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tessera.config import UserError
from tessera.curate.collect.class_folders import WORDNET_ID, SolutionGroup, folder_groups, is_made
from tessera.curate.collect.parquet import names_in, row_groups
from tessera.curate.collect.sources import Group
from tessera.curate.collect.tars import ClassTarGroup, WebDatasetGroup, class_tars
from tessera.images import READABLE

Split = Literal["train", "val"]

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_SPLIT = re.compile(rf"(?:^|[-_./])({'|'.join(_SPLIT_WORDS)})(?=[-_./]|$)", re.IGNORECASE)
_OURS = {"images.parquet", "scenes.parquet"}
_KAGGLE = Path("ILSVRC/Data/CLS-LOC")


@dataclass(frozen=True)
class Source:
    """A source's layout and its pictures."""

    layout: str
    groups: Sequence[Group]
    strays: Sequence[str] = ()
    """Pictures beside the class folders, in none of them."""
    ignored: int = 0
    """Other files there."""
    label_names: Sequence[str] | None = None
    """The classes' names by number, where the files say them."""


def find_source(source: Path, out: Path, single_class: str | None = None, split: Split = "train") -> Source:
    """Tells the layout of `source`. UserError: not there, mixed, or without the asked part."""
    if not source.exists():
        raise UserError(
            f"{source}: there is no such folder or file; give the folder that holds the class folders, or a tar"
        )
    if single_class is not None and source.is_dir():
        groups, strays, ignored = folder_groups(source, out, single_class)
        return Source("class folders", groups, strays, ignored)
    if source.is_file():
        if source.suffix.lower() == ".tar":
            return _of_tars(source, [source], split)
        if source.suffix.lower() == ".parquet":
            return _of_parquet(source, [source], split)
        raise UserError(f"{source}: is not a folder, nor a .tar or .parquet file")
    tree = _tree(source, out)
    tars = sorted(path for path in source.rglob("*.tar") if _is_data(path, source, out))
    parquet = sorted(path for path in source.rglob("*.parquet") if _is_data(path, source, out))
    kinds = {
        f"tar files ({_first(tars, source)})": bool(tars),
        f"Parquet files ({_first(parquet, source)})": bool(parquet),
        "class folders": tree is not None or ((bool(tars) or bool(parquet)) and _has_class_folders(source, out)),
    }
    there = [kind for kind, found in kinds.items() if found]
    if len(there) > 1:
        raise UserError(f"{source}: has {' and '.join(there)}: layouts are mixed; give the folder of one of them")
    if tree is not None:
        return _of_tree(source, tree, out, split)
    if tars:
        return _of_tars(source, tars, split)
    if parquet:
        return _of_parquet(source, parquet, split)
    groups, strays, ignored = folder_groups(source, out, None)
    return Source("class folders", groups, strays, ignored)


def _is_data(path: Path, source: Path, out: Path) -> bool:
    parts = path.relative_to(source).parts
    hidden = any(part.startswith(".") for part in parts)
    if hidden or path.name in _OURS or not path.is_file():
        return False
    return not any(is_made(folder, out) for folder in path.parents if source in folder.parents)


def _first(paths: Sequence[Path], source: Path) -> str:
    return paths[0].relative_to(source).as_posix() if paths else ""


def _has_class_folders(source: Path, out: Path) -> bool:
    folders = [path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return any(
        path.suffix.lower() in READABLE for folder in folders if not is_made(folder, out) for path in folder.iterdir()
    )


def _tree(source: Path, out: Path) -> Path | None:
    """The folder with train/ and val/, of Kaggle's tree or one like it; None for a source that is another layout."""
    if (source / "LOC_synset_mapping.txt").is_file() and not (source / _KAGGLE).is_dir():
        if not any(WORDNET_ID.fullmatch(path.name.removesuffix(".tar")) for path in source.iterdir()) and not any(
            any(source.rglob(pattern)) for pattern in ("*.tar", "*.parquet")
        ):
            raise UserError(f"{source}: has LOC_synset_mapping.txt, but no {_KAGGLE.as_posix()}; unpack the rest too")
        return None
    if (source / _KAGGLE).is_dir():
        return source / _KAGGLE
    below = [path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")]
    folders = {path.name for path in below if not is_made(path, out)}
    if folders and folders <= set(_SPLIT_WORDS):
        inner = [path for name in sorted(folders) for path in (source / name).iterdir() if path.is_dir()]
        if inner and (source / "train").is_dir():
            return source
    return None


def _of_tree(source: Path, tree: Path, out: Path, split: Split) -> Source:
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
    raise UserError(f"{folder}: has no class folders, and no LOC_{split}_solution.csv is beside it; put Kaggle's there")


def _of_split(source: Path, paths: Sequence[Path], split: Split) -> list[Path]:
    """The files of a split, where their names say one; else all."""
    root = source if source.is_dir() else source.parent
    found: dict[Path, str] = {}
    for path in paths:
        words = _SPLIT.findall(path.relative_to(root).as_posix())
        if words:
            found[path] = _SPLIT_WORDS[words[-1].lower()]
    if not found:
        return list(paths)
    chosen = [path for path, word in found.items() if word == split]
    if not chosen:
        others = ", ".join(sorted(set(found.values())))
        raise UserError(f"{source}: has no files of the split {split}, only of {others} (see --split)")
    return chosen


def _of_tars(source: Path, tars: Sequence[Path], split: Split) -> Source:
    if all(WORDNET_ID.fullmatch(path.stem) for path in tars):
        return Source("ImageNet tar", [ClassTarGroup(path, path.stem, 0, path.stat().st_size) for path in tars])
    chosen = _of_split(source, tars, split)
    inside = {path: class_tars(path) for path in chosen}
    outer = [path for path, groups in inside.items() if groups]
    if not outer:
        return Source("WebDataset", [WebDatasetGroup(path) for path in chosen])
    if len(outer) < len(chosen) or len(outer) > 1:
        names = ", ".join(path.name for path in chosen[:3])
        raise UserError(f"{source}: has several tars beside a tar of class tars ({names}): give the one file to read")
    return Source("ImageNet tar", inside[outer[0]])


def _of_parquet(source: Path, paths: Sequence[Path], split: Split) -> Source:
    chosen = _of_split(source, paths, split)
    return Source("Hub parquet", row_groups(chosen), label_names=names_in(chosen[0]))
