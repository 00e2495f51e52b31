"""The names that an image may have in a user's captions file, and the search for the image that one means."""

import functools
import re
import unicodedata
import urllib.parse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from tessera.curate.collect.splits import split_of_path
from tessera.curate.index import ImageRow
from tessera.images import READABLE

_BEFORE = re.compile(r"^(?:[a-z][a-z0-9+.-]+://|[a-z]:(?=/))", re.IGNORECASE)  # file://, C:


def without_suffix(name: str) -> str:
    """Return the name without the suffix of an image file."""
    place = PurePosixPath(name)
    return name[: -len(place.suffix)] if place.suffix.lower() in READABLE else name


def last_part(name: str) -> str:
    """Return the last part of a name, without the suffix of an image file."""
    return without_suffix(name).rpartition("/")[2]


def image_names(rows: Iterable[ImageRow]) -> dict[str, str]:
    """Return every name that an image may have in a file of captions -> its key.

    Its key, its file, its source, these without suffix, and their last part where no other image has it.
    """
    names: dict[str, str] = {}
    stems: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        for name in (row.source, without_suffix(row.source), row.file):
            if name:
                names.setdefault(name, row.key)
        for stem in (row.key, row.source):
            stems[last_part(stem)].add(row.key)
    by_stem = {stem: key for stem, (key, *others) in stems.items() if not others}
    # A key wins over another image's file of that name, and any full name over a last part.
    return by_stem | names | {row.key: row.key for row in rows}


class ImageNames:
    """The names of a set's images, and those that a name in a file written elsewhere comes near.

    exact: name -> key, as of `image_names`. rows: the images.
    """

    def __init__(self, rows: Iterable[ImageRow], exact: dict[str, str]):
        self.exact, self._rows = exact, rows

    def find(self, name: str) -> tuple[int, str] | None:
        """Return (rank, key) of the image that a name means, rank 0 for one of its own names; None for no one image.

        Rank 1: in other case, with %20, a drive, "../" or folders in front ("/data/photos/", "photos/", "train/"), or
        with folders of the set's own left away, as long as one image alone comes near and no other split is named.
        """
        key = self.exact.get(name) or self.exact.get(without_suffix(name))
        if key is not None:
            return 0, key
        parts = _plain(name).split("/")
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            keys = self._whole.get(tail) or (self._tails.get(tail) if start == 0 else None)
            if keys:
                said = split_of_path("/".join(parts[:start]))
                near = {key for key, source in keys if said is None or _split(source) in (None, said[0])}
                return (1, near.pop()) if len(near) == 1 else None
        return None

    @functools.cached_property
    def _whole(self) -> dict[str, set[tuple[str, str]]]:
        """Plain form of every full name, also without suffix -> (key, source) of the images that have it."""
        found: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        for row in self._rows:
            for name in (row.key, row.source, row.file):
                if name:
                    for form in {_plain(name), _plain(without_suffix(name))}:
                        found[form].add((row.key, row.source))
        return found

    @functools.cached_property
    def _tails(self) -> dict[str, set[tuple[str, str]]]:
        """The same of names of which folders in front are left away, one folder at least being left."""
        found: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        for form, images in self._whole.items():
            for tail in _shorter(form):
                found[tail] |= images
        return found


def _split(source: str) -> str | None:
    said = split_of_path(source.rpartition("/")[0])
    return said[0] if said else None


def _shorter(name: str) -> Iterator[str]:
    parts = name.split("/")
    yield from ("/".join(parts[start:]) for start in range(1, len(parts) - 1))


def _plain(name: str) -> str:
    """Return a name in lower case, without %20 and the like, a drive, a URL's query, and "." and ".." in front of it or
    within."""
    if "://" in name:
        name = re.split(r"[?#]", name)[0]
    name = unicodedata.normalize("NFC", urllib.parse.unquote(name)).replace("\\", "/")
    parts: list[str] = []
    for part in _BEFORE.sub("", name).casefold().split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return "/".join(parts)
