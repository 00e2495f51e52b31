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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from tessera.config import UserError
from tessera.curate.collect.crops import UNREADABLE
from tessera.curate.collect.sources import Group, Item, Listing, Read
from tessera.curate.collect.splits import Split, splits_among
from tessera.images import READABLE
from tessera.stages import MANIFEST

WORDNET_ID = re.compile(r"n\d{8}")
_SKIPPED = re.compile(r"\.|(__MACOSX|@eaDir|\$RECYCLE\.BIN)$")  # folders


@dataclass(frozen=True)
class FolderGroup(Group):
    """The images of some class folders whose names become the same name, nearly always of one."""

    source: Path
    folders: tuple[str, ...]
    """Below the source, as the file system spells them, "/" between parts; the last part is the label. "" = all."""
    out: Path
    """Skipped when it lies in the source, as is everything else that tessera made there."""
    single_class: str | None = None
    split: Split = "all"
    """The part to take where a folder below holds one for each split."""

    def list(self) -> Listing:
        images: list[tuple[Path, str, str]] = []
        ignored: Counter[str] = Counter()
        for folder in self.folders:
            found, others = _walk(self.source, folder, self.out, self.split)
            ignored += others
            above = 0 if self.single_class is not None else len(PurePosixPath(folder).parts)
            for path in found:
                name = "-".join(path.with_suffix("").parts[above:])
                images.append((path, self.single_class or PurePosixPath(folder).name, name))
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
        found, ignored = _walk(self.folder.parent, self.folder.name, self.folder / ".none", "all")
        items = []
        for path in sorted(found):
            label, place = labels.get(path.stem), self.folder.parent / path
            reject = None if label else f"not in {self.solution.name}"
            key = f"{label or 'unknown'}/{safe(path.stem)}"
            source = as_text(path.as_posix())
            items.append(Item(key, label or "", source, str(place), length=_bytes_of(place), reject=reject))
        return Listing(items, ignored)


def folder_groups(
    source: Path, out: Path, split: Split, roots: Sequence[str] = ("",)
) -> tuple[list[Group], dict[str, str], Counter[str]]:
    """Return the groups of the class folders in `roots` (below `source`); images and links that are in none of them,
    with the reason; and the number of ignored files by kind or folder."""
    together: defaultdict[str, list[str]] = defaultdict(list)
    strays: dict[str, str] = {}
    ignored: Counter[str] = Counter()
    for root in roots:
        try:
            with os.scandir(source / root) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise _cannot_be_read(error) from error
        for entry in entries:
            path, name = Path(entry.path), f"{root}/{entry.name}" if root else entry.name
            if entry.is_dir():
                if _SKIPPED.match(entry.name):
                    ignored[f"{as_text(name)}/"] += files_below(path)
                elif entry.is_symlink() and path.resolve() in (source.resolve(), *source.resolve().parents):
                    strays[as_text(name)] = "a link to the folder that holds it"
                elif not is_made(path, out):
                    together[safe(entry.name).casefold()].append(name)
            elif is_image(entry.name):
                strays[as_text(name)] = "lies in no class folder"
            elif entry.is_symlink() and not path.exists():
                strays[as_text(name)] = "a link that leads nowhere"
            else:
                ignored[kind_of(entry.name)] += 1
    groups: list[Group] = [FolderGroup(source, tuple(sorted(f)), out, split=split) for _, f in sorted(together.items())]
    return groups, strays, ignored


def _walk(source: Path, folder: str, out: Path, split: Split) -> tuple[list[Path], Counter[str]]:
    """Return the image files below a folder of `source`, relative to it, and the number of other files by kind or
    folder. Links to folders are followed; no folder is read twice, and none that lies above."""
    found: list[Path] = []
    ignored: Counter[str] = Counter()
    for where, folders, files, again in walked(source / folder):
        within = where.relative_to(source)
        if again:
            ignored[f"{as_text(within.as_posix())}/"] += len(files)
            continue
        linked = {name for name in folders if (where / name).is_symlink()}
        above = {where.resolve(), *where.resolve().parents} if linked else set()
        skipped = {n for n in folders if _SKIPPED.match(n) or (n in linked and (where / n).resolve() in above)}
        taken = [name for name in folders if name not in skipped and not is_made(where / name, out)]
        skipped |= set(other_splits(where, taken, split))
        for name in skipped:
            below = 1 if name in linked else files_below(where / name)
            ignored[f"{as_text((within / name).as_posix())}/"] += below
        folders[:] = sorted((name for name in taken if name not in skipped), key=lambda name: (name in linked, name))
        for name in files:
            if is_image(name):
                found.append(within / name)
            else:
                broken = not os.path.splitext(name)[1] and (where / name).is_symlink() and not (where / name).exists()
                ignored[as_text((within / name).as_posix()) if broken else kind_of(name)] += 1
    return found, ignored


def walked(folder: Path) -> Iterator[tuple[Path, list[str], list[str], bool]]:
    """Walk a folder as `os.walk` does, through links too, but to folders above it. A folder that comes again, then with
    True, is not entered."""

    def fail(error: OSError) -> None:
        raise _cannot_be_read(error)

    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        stat = os.stat(place)
        again = (stat.st_dev, stat.st_ino) in seen
        seen.add((stat.st_dev, stat.st_ino))
        if again:
            folders.clear()
        yield Path(place), folders, files, again
        folders[:] = [name for name in folders if not _leads_up(Path(place) / name, folder)]


def _leads_up(path: Path, folder: Path) -> bool:
    return path.is_symlink() and folder.resolve().is_relative_to(path.resolve())


def other_splits(folder: Path, names: Iterable[str], split: Split) -> list[str]:
    """Return those of a folder's folders that hold other splits than `split`, where they are splits beyond doubt.

    Raises UserError if others with images lie among them.
    """
    names = list(names)
    splits, sure = splits_among(names) if split != "all" else ({}, False)
    if not sure:
        return []
    check_no_others(folder, names, splits)
    return [name for name, found in splits.items() if found != split]


def check_no_others(folder: Path, names: Iterable[str], splits: Mapping[str, str]) -> None:
    """Raise UserError if folders with images lie among those that are named like splits: they may be classes."""
    others = sorted(name for name in names if name not in splits and holds_images(folder / name))
    if others:
        raise UserError(
            f"{folder}: has folders named like splits ({', '.join(sorted(splits))}) among others with images"
            f" ({', '.join([*others[:3], '...'][: len(others)])}): give --layout class-folders if all are classes, else"
            " the folder of one split"
        )


def holds_images(folder: Path) -> bool:
    """Return whether any image lies below a folder."""
    return any(is_image(name) for _, _, files, _ in walked(folder) for name in files)


def kind_of(name: str) -> str:
    """Return the kind of a file that is no image, for counting: "*.txt"."""
    suffix = os.path.splitext(name)[1]
    return f"*{suffix.lower()}" if re.fullmatch(r"\.[A-Za-z]{1,12}\d?", suffix) else "*"


def is_made(folder: Path, out: Path) -> bool:
    """Return whether a folder in the source is `out`, or another one made by tessera, as when one works there."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return folder.resolve() == out.resolve()
    tool = manifest.get("tool") if isinstance(manifest, dict) else None
    return isinstance(tool, dict) and tool.get("name") == "tessera"


def is_image(name: str) -> bool:
    """Return whether a file's name is that of an image, also of a kind that cannot be read."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in READABLE | UNREADABLE


def files_below(folder: Path) -> int:
    """Count the files below a folder."""
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


@dataclass(frozen=True)
class OneClassGroup(Group):
    """The images of a group as those of one class, whatever their labels are."""

    group: Group
    label: str

    @property
    def whole(self) -> bool:  # type: ignore[override]
        return self.group.whole

    def list(self) -> Listing:
        listing = self.group.list()
        items = []
        for item in listing.items:
            name = safe(item.key.replace("/", "-")) if item.label else item.key.partition("/")[2]
            reject = item.reject if item.label or item.length < 0 else None  # that of an image without a label
            key = f"{safe(self.label)}/{name}"
            items.append(replace(item, key=key, label=self.label, code=None, reject=reject))
        return replace(listing, items=items)

    def reader(self) -> AbstractContextManager[Read]:
        return self.group.reader()
