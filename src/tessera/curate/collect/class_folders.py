"""Class folders: the images of each class, and their keys.

    SOURCE/red_fox/any name.jpg        label "red_fox", key "red_fox/any name"
    SOURCE/red_fox/more/b.webp         label "red_fox", key "red_fox/more-b"

Nothing here depends on the order in which a file system lists its files.
"""

import csv
import itertools
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tessera.config import UserError
from tessera.curate.collect.crops import UNREADABLE
from tessera.curate.collect.sources import Group, Item, Listing
from tessera.images import READABLE
from tessera.stages import MANIFEST

WORDNET_ID = re.compile(r"n\d{8}")
_SKIPPED = re.compile(r"\.|(__MACOSX|@eaDir|\$RECYCLE\.BIN)$")  # folders


@dataclass(frozen=True)
class FolderGroup(Group):
    """The images of some class folders whose names become the same name, nearly always of one."""

    source: Path
    folders: tuple[str, ...]
    """Below the source, as the file system spells them; "" for all of it."""
    out: Path
    """Skipped when it lies in the source, as is everything else that tessera made there."""
    single_class: str | None = None

    def list(self) -> Listing:
        images: list[tuple[Path, str, str]] = []
        ignored = 0
        for folder in self.folders:
            found, others = _walk(self.source / folder, self.out)
            ignored += others
            for path in found:
                path = path.relative_to(self.source)
                parts = path.with_suffix("").parts
                images.append((path, self.single_class or folder, "-".join(parts[self.single_class is None :])))
        return Listing(items_of(self.source, images), ignored)


@dataclass(frozen=True)
class SolutionGroup(Group):
    """Kaggle's validation images: one folder, and a csv file with the columns ImageId and PredictionString."""

    folder: Path
    solution: Path

    def list(self) -> Listing:
        labels: dict[str, str] = {}
        try:
            with open(self.solution, newline="", encoding="utf-8-sig") as file:
                for row in csv.DictReader(file):
                    label = (row.get("PredictionString") or "").split(" ")[0]
                    if not WORDNET_ID.fullmatch(label) or not row.get("ImageId"):
                        expected = "expected are the columns ImageId, PredictionString (n01440764 ...)"
                        raise UserError(f"{self.solution}: {expected}")
                    labels[row["ImageId"]] = label
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self.solution}: cannot be read ({error})") from error
        found, ignored = _walk(self.folder, self.folder / ".none")
        items = []
        for path in sorted(found):
            label = labels.get(path.stem)
            source = f"{self.folder.name}/{as_text(path.relative_to(self.folder).as_posix())}"
            reject = None if label else f"not in {self.solution.name}"
            key = f"{label or 'unknown'}/{safe(path.stem)}"
            items.append(Item(key, label or "", source, str(path), length=_bytes_of(path), reject=reject))
        return Listing(items, ignored)


def folder_groups(source: Path, out: Path, single_class: str | None) -> tuple[list[Group], list[str], int]:
    """Return the groups of a source of class folders, its images in no folder, and its number of ignored files."""
    if single_class is not None:
        return [FolderGroup(source, ("",), out, single_class)], [], 0
    together: defaultdict[str, list[str]] = defaultdict(list)
    strays, ignored = [], 0
    try:
        with os.scandir(source) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise _cannot_be_read(error) from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if _SKIPPED.match(entry.name):
                ignored += _files_below(entry.path)
            elif not is_made(Path(entry.path), out):
                together[safe(entry.name).casefold()].append(entry.name)
        elif entry.is_dir():
            ignored += 1  # a link to a folder: it may lead anywhere, round and round too
        elif _is_image(entry.name):
            strays.append(as_text(entry.name))
        else:
            ignored += 1
    groups: list[Group] = [FolderGroup(source, tuple(sorted(folders)), out) for _, folders in sorted(together.items())]
    return groups, sorted(strays), ignored


def _walk(folder: Path, out: Path) -> tuple[list[Path], int]:
    """Return the image files below `folder`, and the number of other files, hidden ones, and links to folders."""
    found, ignored = [], 0

    def fail(error: OSError) -> None:
        raise _cannot_be_read(error)

    for place, folders, files in os.walk(folder, onerror=fail):
        where = Path(place)
        linked = {name for name in folders if (where / name).is_symlink()}  # os.walk does not follow them
        hidden = set(filter(_SKIPPED.match, folders)) - linked
        ignored += len(linked) + sum(_files_below(str(where / name)) for name in hidden)
        folders[:] = sorted(n for n in folders if n not in linked | hidden and not is_made(where / n, out))
        images = [where / name for name in files if _is_image(name)]
        ignored += len(files) - len(images)
        found += images
    return found, ignored


def is_made(folder: Path, out: Path) -> bool:
    """Return whether a folder in the source is `out`, or another one made by tessera, as when one works there."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return folder.resolve() == out.resolve()
    tool = manifest.get("tool") if isinstance(manifest, dict) else None
    return isinstance(tool, dict) and tool.get("name") == "tessera"


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in READABLE | UNREADABLE


def _files_below(folder: str) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _cannot_be_read(error: OSError) -> UserError:
    return UserError(f"{error.filename}: cannot be read: {error.strerror}")


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # a broken link: it is listed, and rejected when it is opened


def items_of(source: Path, files: Sequence[tuple[Path, str, str]]) -> list[Item]:
    """Return the items of image files: (path, within the source or absolute; label, "" = rejected; name for its key).

    Each gets a unique key "label/name"; files that would share one get their suffix added. Keys name files too, so they
    differ in more than upper and lower case or the Unicode form.
    """
    files = sorted(files, key=lambda file: as_text(file[0].as_posix()))
    plain = [f"{safe(label or 'unknown')}/{safe(name)}" for _, label, name in files]
    shared = Counter(key.casefold() for key in plain)
    items: list[Item] = []
    taken: set[str] = set()
    for (path, label, name), key in zip(files, plain):
        if shared[key.casefold()] > 1:
            key = f"{key.partition('/')[0]}/{safe(f'{name}-{path.suffix[1:]}')}"
        names = itertools.chain([key], (f"{key}-{count}" for count in itertools.count(2)))
        unique = next(name for name in names if name.casefold() not in taken)
        taken.add(unique.casefold())
        place = source / path
        about = as_text(path.as_posix())
        reject = None if label else "no label"
        items.append(Item(unique, as_text(label), about, str(place), length=_bytes_of(place), reject=reject))
    return items


def safe(name: str) -> str:
    """Return a name as a part of a path on any file system: no separators, not hidden, at most 180 bytes."""
    name = re.sub(r'[/\\:*?"<>|\x00-\x1f]', "-", as_text(name)).encode()[:180].decode(errors="ignore").rstrip(". ")
    return f"-{name[1:]}" if name.startswith(".") else name or "-"


def as_text(name: str) -> str:
    """Return a file's name as valid text in one Unicode form, whatever its bytes in the file system are."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode(errors="replace"))
