"""A user's folder of pictures: which files are pictures of which class, under which key, and their crops.

Nothing here depends on the order in which a file system lists its files.
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tessera.config import UserError
from tessera.curate.pictures import (
    READABLE,
    UNREADABLE,
    RejectedPicture,
    is_whole_png,
    picture_size,
    square_crop,
    write_png,
)

_SKIPPED_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})


@dataclass(frozen=True)
class Found:
    """The picture files of a source folder."""

    pictures: list[tuple[Path, str, str]]
    """(path relative to the source, class folder, name below it without suffix)."""
    strays: list[Path]
    """Pictures beside the class folders, in none of them."""
    ignored: int
    """Other files, hidden ones, and links to folders."""
    barren: list[str]
    """Folders without any picture."""
    digest: str
    """Of the pictures' names and sizes in bytes."""


def find_pictures(source: Path, out: Path, single_class: str | None) -> Found:
    """All picture files below `source`, in an order that depends on their names only."""
    if not source.is_dir():
        what = "is not a folder" if source.exists() else "there is no such folder"
        raise UserError(f"{source}: {what}; give the folder that holds the class folders")
    pictures, strays, ignored, barren = [], [], 0, []
    lines = []
    own = out.resolve()
    folder_counts: Counter[str] = Counter()
    for place, folders, files in os.walk(source, onerror=_cannot_be_read):
        where = Path(place)
        linked = [name for name in folders if (where / name).is_symlink()]  # os.walk does not follow them
        hidden = [name for name in folders if name.startswith(".") or name in _SKIPPED_FOLDERS]
        ignored += len(linked)
        ignored += sum(len(inside) for name in hidden for _, _, inside in os.walk(where / name))
        left_out = {*linked, *hidden}
        folders[:] = sorted(n for n in folders if n not in left_out and (where / n).resolve() != own)
        parts = where.relative_to(source).parts
        if len(parts) == 1:
            folder_counts[parts[0]] += 0
        for name in sorted(files):
            path = where.relative_to(source) / name
            if name.startswith(".") or path.suffix.lower() not in READABLE | UNREADABLE:
                ignored += 1
                continue
            if single_class is not None:
                pictures.append((path, single_class, "-".join(path.with_suffix("").parts)))
            elif parts:
                pictures.append((path, parts[0], "-".join(path.with_suffix("").parts[1:])))
                folder_counts[parts[0]] += 1
            else:
                strays.append(path)
            lines.append(f"{as_text(path.as_posix())}\0{_bytes_of(where / name)}\n")
    if single_class is None:
        barren = sorted(as_text(name) for name, count in folder_counts.items() if count == 0)
    digest = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()[:12]
    pictures.sort(key=lambda item: as_text(item[0].as_posix()))
    return Found(pictures, strays, ignored, barren, f"{len(lines)} pictures ({digest})")


def _cannot_be_read(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read: {error.strerror}")


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # a broken link: it is listed, and rejected when it is opened


def check_layout(source: Path, found: Found) -> None:
    if found.pictures:
        return
    if found.strays:
        raise UserError(
            f"{source}: has {len(found.strays)} pictures, but no class folders; expected is {source}/CLASS/PICTURE with"
            " a folder per class. If all show one class, give --single-class NAME"
        )
    suffixes = " ".join(sorted(suffix[1:] for suffix in READABLE))
    what = f"has no pictures among its {found.ignored} files" if found.ignored else "is empty"
    raise UserError(f"{source}: {what}; expected is {source}/CLASS/PICTURE, a picture being one of: {suffixes}")


def crop_all(size: int, tasks: Sequence[tuple[Path, Path]]) -> list[tuple[int | None, int | None, str | None]]:
    """(width, height, None) of each picture, or (None, None, reason)."""
    results = []
    for source, path in tasks:
        try:
            if _is_newer(path, source) and is_whole_png(path):
                results.append((*picture_size(source), None))
                continue
            crop = square_crop(source, size)
        except RejectedPicture as reason:
            results.append((None, None, str(reason)))
            continue
        write_png(path, crop.pixels)
        results.append((crop.width, crop.height, None))
    return results


def _is_newer(crop: Path, source: Path) -> bool:
    """Whether a crop of an interrupted call was made from the source as it is now."""
    try:
        was, now = crop.stat(), source.stat()
    except OSError:
        return False
    return was.st_mtime_ns > max(now.st_mtime_ns, now.st_ctime_ns)


def make_keys(pictures: Sequence[tuple[Path, str, str]]) -> list[str]:
    """A unique key "folder/name" for each picture; pictures that would share one get their suffix added.

    Keys name files too, so they differ in more than upper and lower case or the Unicode form.
    """
    plain = [f"{_safe(folder)}/{_safe(name)}" for _, folder, name in pictures]
    shared = Counter(key.casefold() for key in plain)
    keys: list[str] = []
    taken: set[str] = set()
    for (path, folder, name), key in zip(pictures, plain):
        if shared[key.casefold()] > 1:
            key = f"{_safe(folder)}/{_safe(f'{name}-{path.suffix[1:]}')}"
        unique, count = key, 1
        while unique.casefold() in taken:
            count += 1
            unique = f"{key}-{count}"
        taken.add(unique.casefold())
        keys.append(unique)
    return keys


def _safe(name: str) -> str:
    """One part of a path that every file system takes: no separators, not hidden, at most 180 bytes."""
    name = "".join(
        "-" if character in '/\\:*?"<>|' or ord(character) < 32 else character for character in as_text(name)
    )
    name = name.encode()[:180].decode(errors="ignore").rstrip(". ")
    return f"-{name[1:]}" if name.startswith(".") else name or "-"


def as_text(name: str) -> str:
    """A file's name as valid text in one Unicode form, whatever bytes the file system keeps."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode(errors="replace"))
