"""Tars and tables of a source: which there are, which of them are of a split, and which are missing."""

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from tessera.config import UserError
from tessera.curate.collect.class_folders import is_image, is_made, kind_of, walked
from tessera.curate.collect.parquet import holds_image_column
from tessera.curate.collect.splits import Split, split_of_path

PACKED_SAYS = "is compressed, so that its images cannot be read in place; unpack it and give what is in it"
"""The fault of a file that `is_compressed`, in an error."""
_OURS = {"images.parquet", "scenes.parquet"}
_COMPRESSED = {".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".zip", ".7z", ".rar"}


def is_compressed(path: Path) -> bool:
    """Return whether a file is an archive or a file packed by one of the usual programs, by its name."""
    return path.suffix.lower() in _COMPRESSED


def files_with_suffix(source: Path, out: Path, suffix: str) -> tuple[list[Path], Counter[str]]:
    """Return the files of a suffix in the source, or the source itself, and the number of others by kind.

    Hidden files and those of tessera are none of them. Raises UserError for compressed ones.
    """
    if source.is_file():
        return ([source] if source.suffix.lower() == suffix else []), Counter()
    files, images = all_files(source, out)
    found = sorted(path for path in files if path.suffix.lower() == suffix)
    packed = [path.relative_to(source).as_posix() for path in files if is_compressed(path) and found]
    if packed:
        raise UserError(f"{source}: {packed[0]} {PACKED_SAYS}")
    return found, images + Counter(kind_of(path.name) for path in files if path.suffix.lower() != suffix)


@functools.lru_cache(maxsize=1)
def all_files(source: Path, out: Path) -> tuple[list[Path], Counter[str]]:
    """List the files below a folder that are no images, and count these by kind; links to folders are followed."""
    found: list[Path] = []
    images: Counter[str] = Counter()
    for where, folders, names, again in walked(source):
        if again or (where != source and is_made(where, out)):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = [name for name in names if not name.startswith(".") and name not in _OURS]
        images.update(kind_of(name) for name in names if is_image(name))
        found += [where / name for name in names if not is_image(name)]
    return found, images


def names_apart(source: Path, paths: Sequence[Path]) -> dict[Path, str]:
    """Return the name of each file, with its folders below the source where another file has that name too."""
    often = Counter(path.name for path in paths)
    return {path: path.name if often[path.name] == 1 else path.relative_to(source).as_posix() for path in paths}


def first_file(words: str, source: Path, out: Path, suffix: str) -> str:
    """Return `words` with the first file of a suffix in brackets, "tar files (a.tar)"; "" where there is none."""
    files, _ = files_with_suffix(source, out, suffix)
    return f"{words} ({files[0].relative_to(source).as_posix()})" if files else ""


def _missing_shards(paths: Iterable[Path]) -> Counter[str]:
    """Count the files that are not there, by the names of those that are: train-00001-of-00003 tells of three."""
    numbers: defaultdict[tuple[str, str, int], set[int]] = defaultdict(set)
    for path in paths:
        if match := re.fullmatch(r"(.*?)(\d+)([-_]of[-_])0*(\d+)", path.stem):
            numbers[match[1], match[3], int(match[4])].add(int(match[2]))
    missing = {key: key[2] - len(found) for key, found in numbers.items()}
    return Counter({f"{name}*{of}{total}, not there": n for (name, of, total), n in missing.items() if n > 0})


def of_split(source: Path, paths: Sequence[Path], split: Split, others: Counter[str]) -> list[Path]:
    """Return the files of a split, where their names say one, and count the other ones in `others`; else all."""
    others.update(_missing_shards(paths))
    if source.is_file() or split == "all":
        return list(paths)
    names = {path: path.relative_to(source).as_posix() for path in paths}
    said = {path: found for path, name in names.items() if (found := split_of_path(name)) is not None}
    if not said:
        return list(paths)
    frames: defaultdict[str, set[str]] = defaultdict(set)
    for found, frame in said.values():
        frames[frame].add(found)
    several = {found for found, _ in said.values()}
    unnamed = [names[path] for path in paths if path not in said]
    if unnamed or (len(several) > 1 and all(len(found) == 1 for found in frames.values())):
        like, without = (", ".join([*some[:3], "..."][: len(some)]) for some in ([names[p] for p in said], unnamed))
        raise UserError(
            f"{source}: its files may be those of splits ({like})"
            + f", and others are not ({without})" * bool(unnamed)
            + ": give --split all to take every file, or the folder or file of one split"
        )
    chosen = [path for path, (found, _) in said.items() if found == split]
    if not chosen:
        raise UserError(
            f"{source}: has no files of the split {split}, only of {', '.join(sorted(several))} (see --split)"
        )
    others.update(f"split {found}" for found, _ in said.values() if found != split)
    return chosen


def tars_and_tables(source: Path, out: Path) -> list[str]:
    """Return what a source has of tars and of Parquet files of images, in words, with the first of each."""
    tables = first_file("Parquet files", source, out, ".parquet")
    found = [first_file("tar files", source, out, ".tar")]
    found += [tables] if tables and holds_image_column(files_with_suffix(source, out, ".parquet")[0]) else []
    return [words for words in found if words]
