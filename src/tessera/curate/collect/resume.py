"""Resuming collect: crops of the same source, made since it last changed, are used again.

An unfinished images/ holds a note of its source, itself an unfinished file: completing the directory removes it.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessera.curate.collect.sources import key_hash
from tessera.files import TEMPORARY, write_json

_NOTE = f"{TEMPORARY}source.json"


def is_begun_from(out: Path, source: Path) -> bool:
    """Return whether the unfinished directory `out` was begun from the source that lies at `source` now."""
    try:
        return json.loads((out / _NOTE).read_bytes()) == _identity(source)
    except (OSError, ValueError):
        return False


def note_source(out: Path, source: Path) -> None:
    """Note the source of the crops in `out`."""
    write_json(out / _NOTE, _identity(source))


def _identity(source: Path) -> list[str | int]:
    """Return path and inode: another folder of that name, or one put in its place, is another source."""
    return [str(source.resolve()), source.stat().st_ino]


def remove_crops(out: Path, but: NDArray[np.uint64]) -> None:
    """Remove all crops in `out` except those whose keys have these sorted hashes."""
    for path in out.glob("*/*.png"):
        mine = np.frombuffer(key_hash(path.relative_to(out).as_posix().removesuffix(".png")), np.uint64)
        place = int(np.searchsorted(but, mine[0]))
        if place == len(but) or but[place] != mine[0]:
            path.unlink()
