"""Groups of labeled images, which every layout of a source gives; each is listed and read without the others.

A group is a small, picklable description (one class folder, one tar inside a tar, one row group), so that a process
can list and read it alone and memory does not grow with the number of images. Listing it twice gives the same.
"""

import contextlib
import functools
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.curate.buckets import Size
from tessera.curate.collect.crops import RejectedImage, image_size, square_crop
from tessera.curate.grown import content_state, file_state, read_sizes, read_states
from tessera.files import TEMPORARY, link_or_copy
from tessera.images import is_complete_png, write_png

BY_PILLOW = f"{TEMPORARY}pillow-"
"""Name of an unfinished file that counts a JPEG file which simplejpeg refuses; the hash of its key follows."""


@dataclass(frozen=True)
class Item:
    """Image of a group."""

    key: str
    label: str
    """As the layout has it: a folder's name, a WordNet id, a number."""
    source: str
    """Its place within the source, for people."""
    path: str
    """The file that holds its bytes, as the file system spells it."""
    offset: int | None = None
    """Start of its bytes in that file, or its row in a row group; None = the file is the image."""
    length: int = 0
    """Number of its bytes, as far as it is known without reading them."""
    code: int | None = None
    """The label's number, where the layout has one."""
    reject: str | None = None
    """Reason for rejecting it, when that is known without opening it."""


@dataclass(frozen=True)
class Listing:
    """The images of a group, in an order that depends on their names only."""

    items: Sequence[Item]
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Number of files and entries that are not taken, by their kind ("*.txt") or folder ("cat/test/")."""
    length: int = 0
    """Number of bytes of all images together, where those of each are not known without reading them."""


Read = Callable[[Item], "Path | bytes"]


class Group:
    """Images of a source that are listed and read together. This one's are files, or spans of files."""

    whole = False
    """True if its images are read all at once, so that dividing it among processes wins nothing."""

    def list(self) -> Listing:
        """Return its images."""
        raise NotImplementedError

    @contextlib.contextmanager
    def reader(self) -> Iterator[Read]:
        """Give a function from an item to its file or bytes; that function raises RejectedImage."""
        with contextlib.ExitStack() as stack:
            files: dict[str, BinaryIO] = {}

            def read(item: Item) -> Path | bytes:
                if item.offset is None:
                    return Path(item.path)
                if item.path not in files:
                    try:
                        files[item.path] = stack.enter_context(open(item.path, "rb", buffering=0))
                    except OSError as error:
                        raise UserError(f"{item.path}: cannot be read: {error.strerror}") from error
                file = files[item.path]
                file.seek(item.offset)
                data = file.read(min(item.length, os.fstat(file.fileno()).st_size))
                if len(data) < item.length:
                    raise RejectedImage("truncated")
                return data

            yield read


@dataclass(frozen=True)
class ItemGroup(Group):
    """Files that are listed already."""

    items: tuple[Item, ...]
    whole = True

    def list(self) -> Listing:
        return Listing(self.items)


@dataclass(frozen=True)
class Index:
    """Summary of a group's listing."""

    count: int
    ignored: Mapping[str, int]
    labels: dict[str, int]
    """Label -> number of images."""
    codes: dict[str, int]
    """Label -> its number, where the layout has numbers."""
    digest: bytes
    """Hash of the images' names, labels and sizes."""
    keys: bytes
    """8 bytes of each key's hash, upper and lower case being the same."""


@functools.lru_cache(maxsize=2)
def listed(group: Group) -> Listing:
    """Return the group's listing, cached while its parts are worked on one after the other."""
    return group.list()


def index_groups(groups: Sequence[Group]) -> list[Index]:
    """Return the index of each group."""
    indexes = []
    for listing in map(listed, groups):
        digest = hashlib.sha256(f"{listing.length}\n".encode())
        for item in listing.items:
            digest.update(f"{item.source}\0{item.label}\0{item.length}\n".encode())
        keys = b"".join(key_hash(item.key) for item in listing.items)
        labels = Counter(item.label for item in listing.items)
        codes = {item.label: item.code for item in listing.items if item.code is not None}
        indexes.append(Index(len(listing.items), listing.ignored, dict(labels), codes, digest.digest(), keys))
    return indexes


def key_hash(key: str) -> bytes:
    """Return 8 bytes for a key, or for a file's name without its suffix, on file systems that ignore case."""
    return hashlib.blake2b(key.casefold().encode(), digest_size=8).digest()


def hashes(keys: bytes) -> NDArray[np.uint64]:
    """Return the sorted hashes of joined `key_hash`es."""
    return np.sort(np.frombuffer(keys, np.uint64))


def keys_twice(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the keys that are there again, of sorted ones."""
    return keys[1:][keys[1:] == keys[:-1]]


def check_keys(source: Path, groups: Sequence[Group], indexes: Sequence[Index]) -> NDArray[np.uint64]:
    """Return the sorted hashes of all keys. Raises UserError if two images have one key."""
    keys = hashes(b"".join(index.keys for index in indexes))
    twice = keys_twice(keys)
    if len(twice):
        wanted = twice[:1].tobytes()
        holding = [group for group, index in zip(groups, indexes) if wanted in index.keys]
        one, two, *_ = (item for group in holding for item in listed(group).items if key_hash(item.key) == wanted)
        raise UserError(
            f"{source}: {len(twice)} images have the key of another: {one.source!r} and {two.source!r} are both"
            f" {one.key!r}; rename one, or take it out"
        )
    return keys


@dataclass(frozen=True)
class CropWork:
    """Crops of parts of groups; called in worker processes."""

    source: Path
    out: Path
    size: int
    fast: bool
    upright: bool
    gray_range: bool
    buckets: tuple[Size, ...] = ()
    reuse: Path | None = None
    """A completed images/ whose crops are taken over where the image's file did not change."""
    hashed: bool = False
    """True: files are compared by their bytes, else by size, times and place."""

    def __call__(self, parts: Sequence[tuple[Group, int, int]]) -> list[tuple]:
        """Write the crops of the parts; return (key, label, file, width, height, source, reject, state of the file) of
        each image."""
        rows = []
        for group, start, stop in parts:
            with group.reader() as read:
                rows += [self._crop(read, item) for item in listed(group).items[start:stop]]
        return rows

    def _crop(self, read: Read, item: Item) -> tuple:
        path, state = self.out / f"{item.key}.png", ""
        note = self.out / f"{BY_PILLOW}{key_hash(item.key).hex()}"
        try:
            if item.reject is not None:
                raise RejectedImage(item.reject)
            state = content_state(read(item)) if self.hashed else file_state(item.path, item.offset, item.length)
            size = self._taken_over(item.key, state, path)
            if size is not None:
                width, height = size
            elif self._is_newer(path, Path(item.path)) and is_complete_png(path):
                width, height = image_size(read(item), upright=self.upright)
            else:
                how = {"upright": self.upright, "fast": self.fast, "gray_range": self.gray_range}
                crop = square_crop(read(item), self.size, **how, buckets=self.buckets)
                width, height = crop.width, crop.height
                if self.fast:
                    if crop.by_pillow:
                        note.touch()
                    else:
                        note.unlink(missing_ok=True)
                write_png(path, crop.pixels, fast=True)
            if self.fast and note.exists():
                state = ""  # it is read again in a set that grew, and counted
        except RejectedImage as reason:
            path.unlink(missing_ok=True)  # of an interrupted call, when the image was readable
            return item.key, item.label, None, None, None, item.source, str(reason), state
        return item.key, item.label, f"{item.key}.png", width, height, item.source, None, state

    def _taken_over(self, key: str, state: str, path: Path) -> tuple[int, int] | None:
        """Link (or copy) an earlier crop of the same file to `path`; return the image's size, or None where that cannot
        be."""
        if self.reuse is None or not state or read_states(self.reuse).get(key) != state:
            return None
        made, size = self.reuse / f"{key}.png", read_sizes(self.reuse).get(key)
        if size is None or not is_complete_png(made):
            return None
        link_or_copy(made, path, durable=False)
        return size

    def _is_newer(self, crop: Path, file: Path) -> bool:
        """Return whether a crop of an interrupted call was made from the file that has the image's place now.

        A link may lead elsewhere by now; and the files of a renamed folder do not change, but the folder does.
        """
        folders = [folder for folder in file.parents if self.source in folder.parents]
        try:
            made = crop.stat().st_mtime_ns
            now = file.stat()
            changes = [now.st_mtime_ns, now.st_ctime_ns, file.lstat().st_ctime_ns]
            return made > max(*changes, *(folder.stat().st_ctime_ns for folder in folders))
        except OSError:
            return False
