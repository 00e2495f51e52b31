"""captions.parquet: a row for each caption of an image, and its reading.

Columns: key, text, captioner, prompt, settings (JSON), revision; where any has one, note ("cut", "by hand"). A set of
several captions an image has a row for each, one after another, and after the key the column level: the kind of the
caption, such as long and short. Without that column all are `LONG`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tessera.config import UserError
from tessera.encoded.record import LONG
from tessera.files import read_table
from tessera.stages import read_manifest

CAPTIONS_TABLE = "captions.parquet"
COLUMNS = ("key", "text", "captioner", "prompt", "settings", "revision")
LEVEL = "level"

LEVEL_NAME = re.compile(r"[^\s,=:/\\]+")
Texts = Mapping[str, str]
"""Level -> text of the captions of one image."""


def in_order(levels: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct levels, `LONG` first: where one caption is wanted, it is that of the first level."""
    return tuple(sorted(dict.fromkeys(levels), key=lambda level: level != LONG))


def check_level(name: str, where: object) -> str:
    """Return the name of a level; UserError for one that flags, columns and files cannot hold."""
    if not LEVEL_NAME.fullmatch(name):
        raise UserError(f"{where}: {name!r} names no level of captions; use a word such as short, without , = : or /")
    return name


def read_levels(captions: Path) -> dict[str, dict[str, str]]:
    """Return level -> key -> text of a completed captions directory, `LONG` first."""
    read_manifest(captions, "caption")
    table = read_table(Path(captions) / CAPTIONS_TABLE)
    keys, texts = table["key"].to_pylist(), table["text"].to_pylist()
    if LEVEL not in table.column_names:
        return {LONG: dict(zip(keys, texts))}
    levels = table[LEVEL].to_pylist()
    found: dict[str, dict[str, str]] = {level: {} for level in in_order(levels)}
    for key, level, text in zip(keys, levels, texts):
        found[level][key] = text
    return found


def read_captions(captions: Path) -> dict[str, str]:
    """Return key -> text of a completed captions directory: of several captions that of the first level."""
    read_manifest(captions, "caption")
    table = read_table(Path(captions) / CAPTIONS_TABLE, ["key", "text"]).to_pydict()
    found: dict[str, str] = {}
    for key, text in zip(table["key"], table["text"]):  # the levels of an image are in their order
        found.setdefault(key, text)
    return found
