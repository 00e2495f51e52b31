"""Captions of a directory of images, and its names in tables."""

import re
from collections import Counter
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, Literal

from tessera.config import UserError
from tessera.evaluate.quality.features import Images
from tessera.evaluate.quality.reference import Source
from tessera.files import read_json
from tessera.images import read_rgb
from tessera.prompts.rows import NAME_COLUMNS, first_captions, read_rows, split_columns

TEXTS = ("text", "prompt", "caption")


def read_captions(images: Images, prompts: Path | None) -> tuple[str, ...] | None:
    """Return the caption of each image, from a file or from `generate`'s metadata; None if there are none.

    prompts: plain lines, or a table with a column of `TEXTS` (`tessera.prompts.rows`), in the order of the images'
    paths; or a table in any order with a column of `NAME_COLUMNS`, which names each image by its path, with its suffix
    or without. Raises UserError where the order is not clear, and for an image that such a column does not name.
    """
    if prompts is None and images.drawn:
        lines = enumerate(images.drawn.lines)
        texts = {f"{i:05d}": _text(line, str(images.drawn.metadata(i))) for i, line in lines}
        return tuple(texts[file.split("/")[0]] for file in images.files)
    if prompts is None:
        folders = {Path(file).parent.parent for file in images.files}
        paths = {folder: images.directory / folder / "metadata.jsonl" for folder in folders}
        if not all(path.is_file() for path in paths.values()):
            return None
        texts = {folder: _text(read_json(path), str(path)) for folder, path in paths.items()}
        return tuple(texts[Path(file).parent.parent] for file in images.files)
    path, columns = split_columns(prompts)
    read = first_captions(read_rows(path, TEXTS, given=columns))
    rows = [(where, row, row[column]) for where, row, (column,) in read]
    if len(rows) != len(images.files):
        raise UserError(f"{prompts}: has {len(rows)} lines for {len(images.files)} images; give one for each")
    for where, _, text in rows:
        if not isinstance(text, str):
            raise UserError(f"{where}: its caption is not a text; write one")
    told = [({name.strip().lower(): value for name, value in row.items()}, text) for _, row, text in rows]
    unlike = []
    for column in [name for name in NAME_COLUMNS if any(name in row for row, _ in told)]:
        named = {str(row.get(column)).replace("\\", "/").removeprefix("./"): text for row, text in told}
        names = [file if file in named else str(Path(file).with_suffix("")) for file in images.files]
        missing = [file for file, name in zip(images.files, names) if name not in named]
        if not missing:
            return tuple(named[name] for name in names)
        words = f'no line has the "{column}" {missing[0]} ({len(missing)} images without a line)'
        unlike.append((len(missing), words))
    if unlike:
        raise UserError(
            f"{prompts}: {min(unlike)[1]}; name each image by its path, or leave the column out where the lines are in"
            " the order of the paths"
        )
    _check_order(images, prompts)
    return tuple(text for _, text in told)


def _check_order(images: Images, prompts: Path) -> None:
    """Raise UserError where names are numbers of different lengths: paths are ordered 10, 2."""

    def counted(file: str) -> list[str | int]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", file)]

    other = sorted(images.files, key=counted)
    if doubtful := [pair for pair in zip(images.files, other) if pair[0] != pair[1]]:
        raise UserError(
            f"{prompts}: is the line of {doubtful[0][0]} or of {doubtful[0][1]} first? Name the images by numbers of "
            'one length, or give JSON lines that say "file" and "text"'
        )


def numbered_prompts(prompts: Iterable[Hashable]) -> list[tuple[int, int]]:
    """Return (prompt, sample) of each image: its prompt's number, and its own among the images of equal prompts."""
    numbers: dict[Hashable, int] = {}
    counts: Counter[Hashable] = Counter()
    found = []
    for prompt in prompts:
        found.append((numbers.setdefault(prompt, len(numbers)), counts[prompt]))
        counts[prompt] += 1
    return found


def _text(data: Any, where: str) -> str:
    text = data.get("text", data.get("prompt")) if isinstance(data, dict) else None
    if not isinstance(text, str):
        raise UserError(f'{where}: must hold an object with a "text" or "prompt"')
    return text


def words_for(images: Images, source: Source | None, rounding: Literal["round", "truncate"]) -> dict[str, str]:
    """Return the words of tables for the images: their size, their captions, the reference's directory."""
    first = images.directory / images.files[0]
    height, width, _ = read_rgb(first, rounding=rounding).shape
    metadata = first.parent.parent / "metadata.jsonl"
    line = read_json(metadata) if metadata.is_file() else {}
    prompts = {"image_id": "COCO's captions", "key": "captions of one's own", "tag": "GenEval's prompts"}
    found = [words for field, words in prompts.items() if field in line]
    size = str(width) if width == height else f"{width} x {height}"
    # The name of a directory of features is a hash.
    named = {"reference": source.path.resolve().name} if source and source.images else {}
    return named | {"size": size} | ({"prompts": found[0]} if found else {})
