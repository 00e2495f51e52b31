"""Images in tar files, read in place by their offsets: ImageNet's tar of class tars, and WebDataset's shards.

Nothing is ever unpacked. Names in an archive only become keys, and one that climbs out of it is refused all the same.
"""

import io
import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from tessera.config import UserError
from tessera.curate.collect.class_folders import WORDNET_ID, as_text, kind_of, safe
from tessera.curate.collect.class_names import read_label
from tessera.curate.collect.crops import UNREADABLE
from tessera.curate.collect.sources import Group, Item, Listing
from tessera.images import READABLE

_RECORDS = [2**power for power in range(15, 21)]  # bytes, of tar -b 64 to -b 2048
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PK\3\4")  # gzip, bzip2, xz, Zstandard, zip
_LINK = "a link in its archive, without bytes of its own"


class _Section(io.RawIOBase):
    """A stretch of a file as a file, as far as tarfile uses one."""

    def __init__(self, file: BinaryIO, start: int, length: int):
        self._file, self._start, self._length, self._at = file, start, length, 0

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        self._file.seek(self._start + self._at)
        data = self._file.read(max(min(size, self._length - self._at), 0))
        self._at += len(data)
        return data


def entries(path: Path, offset: int = 0, length: int | None = None) -> Iterator[tuple[str, int, int]]:
    """Yield (name, offset in `path`, size) of each file in a tar file, or in the tar file that lies in it at `offset`.

    A link to another entry has no bytes of its own: its size is -1.
    Raises UserError for another kind of file, a damaged or cut header, a missing end mark or anything after it, a name
    that is absolute or has "..".
    """
    where = f" (in the part at byte {offset})" if offset else ""
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size - offset if length is None else length
            section = cast(BinaryIO, _Section(file, offset, size))
            for name, start, extent in entries_in(section, size, path, where):
                yield name, offset + start, extent
    except tarfile.TarError as error:
        with open(path, "rb") as file:
            file.seek(offset)
            packed = file.read(6).startswith(_PACKED)
        if packed:
            raise UserError(f"{path}: is compressed{where}, so that it cannot be read in place; unpack it") from error
        raise UserError(f"{path}: is not a whole tar file{where}: {error}; fetch it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def entries_in(file: BinaryIO, size: int, path: object, where: str = "") -> Iterator[tuple[str, int, int]]:
    """Yield what `entries` does of a tar of `size` bytes, with offsets in it; in between `file` may be read from
    elsewhere. path, where: what a UserError names. Raises TarError for another kind of file."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would keep them all
            _check_name(path, member.name)
            if member.issym() or member.islnk():
                yield member.name, member.offset_data, -1
            elif member.isfile():
                yield member.name, member.offset_data, member.size
        end = tar.offset  # type: ignore[attr-defined]
    file.seek(end)
    if problem := _problem_at_end(file, end, size):
        raise UserError(f"{path}: is not a whole tar file{where}: {problem}; fetch it again")


def _problem_at_end(file: BinaryIO, at: int, size: int) -> str:
    """Return what is wrong where tarfile stopped; "" for an end mark with nothing but zeros after it.

    Behind the first entry, tarfile (Python 3.11 to 3.14) takes a block that is no header, a cut header and the end of
    the file for the end of the archive, and reads nothing after a block of zeros. Tars end with 1024 zeros, filled up
    to whole records of 10,240 bytes (GNU tar's default; -b makes others).
    """
    mark = file.read(tarfile.BLOCKSIZE)
    if not mark:
        return f"it has no end mark at byte {at}, so it is cut there or was never finished"
    if any(mark):
        return (
            f"it is cut at byte {at}" if len(mark) < tarfile.BLOCKSIZE else f"byte {at} is damaged, no header is there"
        )
    while chunk := file.read(2**20):
        if any(chunk):
            return f"data follow its end mark at byte {at}, so it is damaged there or was joined from several"
    zeros = size - at
    if zeros >= 1024 + 10240 and not any(size % record == 0 and zeros < 1024 + record for record in _RECORDS):
        return f"its last {zeros} bytes are zeros, more than a tar ends with, so its end is missing"
    return ""


def _check_name(path: object, name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or (parts and parts[0][1:2] == ":"):
        raise UserError(f"{path}: its entry {name!r} leads out of the archive; do not use it, fetch the set again")


def _is_hidden(name: str) -> bool:
    return PurePosixPath(name).name.startswith(".")


@dataclass(frozen=True)
class ClassTarGroup(Group):
    """The images of one class tar, n01440764.tar, which may lie inside the tar of them all."""

    path: Path
    label: str
    offset: int
    length: int

    def list(self) -> Listing:
        items: list[Item] = []
        ignored: Counter[str] = Counter()
        for name, offset, size in entries(self.path, self.offset, self.length):
            place = PurePosixPath(name)
            if _is_hidden(name) or place.suffix.lower() not in READABLE | UNREADABLE:
                ignored[kind_of(place.name)] += 1
                continue
            key = f"{self.label}/{safe('-'.join(place.with_suffix('').parts))}"
            source = f"{self.label}.tar/{as_text(name)}"
            reject = _LINK if size < 0 else None
            items.append(Item(key, self.label, source, str(self.path), offset, size, reject=reject))
        items.sort(key=lambda item: item.source)
        return Listing(items, ignored)


def class_tars(path: Path) -> list[ClassTarGroup]:
    """Return the class tars inside a tar, by their names; none when it is another kind of tar."""
    groups = []
    for name, offset, size in entries(path):
        label = PurePosixPath(name).stem
        if size < 0:
            continue
        if not name.endswith(".tar"):
            if groups:
                raise UserError(f"{path}: has class tars and other files, such as {name!r}; give a tar of one layout")
            return []
        if not WORDNET_ID.fullmatch(label):
            raise UserError(f"{path}: its entry {name!r} is not named by a WordNet id like n01440764.tar")
        groups.append(ClassTarGroup(path, label, offset, size))
    return sorted(groups, key=lambda group: group.label)


@dataclass(frozen=True)
class WebDatasetGroup(Group):
    """The samples of one WebDataset shard: entries of one stem, an image and its label in `.cls` or `.json`.

    `.cls` is the class, as a number or a word; `.json` is an object with `label`, and perhaps `filename`, whose WordNet
    id wins over a number.
    """

    path: Path
    name: str
    """The file's, in the places of its images."""

    def list(self) -> Listing:
        samples: defaultdict[str, dict[str, tuple[str, int, int]]] = defaultdict(dict)
        labels: dict[str, tuple[str, int | None]] = {}
        ignored: Counter[str] = Counter()
        with open(self.path, "rb") as file:
            for name, offset, size in entries(self.path):
                folder, _, last = name.rpartition("/")
                stem, _, extension = last.partition(".")
                sample = f"{folder}/{stem}" if folder else stem
                dotted, _, kind = extension.lower().rpartition(".")
                if not stem:
                    ignored[kind_of(last)] += 1
                elif f".{kind}" in READABLE | UNREADABLE:
                    if extension in samples[sample]:
                        raise UserError(f"{self.path}: has two entries named {name!r}: keys must be unique; rename one")
                    samples[sample][extension] = name, offset, size
                elif kind in ("cls", "json") and 0 <= size <= 2**20:
                    file.seek(offset)
                    label = _label(self.path, name, kind, file.read(size))
                    own = f"{sample}.{extension.rpartition('.')[0]}" if dotted else sample
                    if label is not None and (kind == "cls" or own not in labels):
                        labels[own] = label
                else:
                    ignored[kind_of(last)] += 1
        items = []
        for sample, images in samples.items():
            for key, (name, offset, size) in _images_of(self.path, sample, images, labels, ignored):
                label, code = labels.get(name.rpartition(".")[0]) or labels.get(sample, ("", None))
                reject = None if label else "no class with it (.cls, or .json with label)"
                reject = _LINK if size < 0 else reject
                source = f"{self.name}/{as_text(name)}"
                key = f"{safe(label) if label else 'unknown'}/{safe(key)}"
                items.append(Item(key, label, source, str(self.path), offset, size, code, reject))
        items.sort(key=lambda item: item.source)
        return Listing(items, ignored)


def _images_of(
    path: Path, sample: str, images: dict[str, tuple[str, int, int]], labels: Container[str], ignored: Counter[str]
) -> list[tuple[str, tuple[str, int, int]]]:
    """Return (key, entry) of a sample's images: of a.jpg and a.seg.png the first, unless the second has a label of
    its own (a.seg.cls). Raises UserError where it cannot be told which one is meant."""
    own = {extension: entry[0].rpartition(".")[0] for extension, entry in images.items() if "." in extension}
    found = [(own[extension], images[extension]) for extension in own if own[extension] in labels]
    others = [extension for extension in images if own.get(extension, "") not in labels]
    plain = [extension for extension in others if extension not in own] or (others if not found else [])
    if len(plain) > 1:
        names = " and ".join(repr(images[extension][0]) for extension in plain[:2])
        raise UserError(f"{path}: sample {sample!r} has two images, {names}: keys must be unique; rename one")
    for extension in others:
        if extension not in plain:
            ignored[f"*.{extension}"] += 1
    return [*((sample, images[extension]) for extension in plain), *found]


def _label(path: Path, name: str, kind: str, data: bytes) -> tuple[str, int | None] | None:
    """Return (label, its number or None) of an image's .cls or .json; None when it says no class."""
    try:
        text = data.decode("utf-8").strip()
        value = json.loads(text) if kind == "json" else text
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: entry {name!r} is not {kind} text ({error}); fix it") from error
    if kind == "cls":
        label, number = read_label(text)
        return (label, number) if label else None
    value = value if isinstance(value, dict) else {}
    said = value.get("label", value.get("cls"))
    label, number = read_label(said)
    synset = WORDNET_ID.search(str(value.get("filename", ""))) if said is not None else None
    return (synset.group() if synset else label, number) if synset or label else None
