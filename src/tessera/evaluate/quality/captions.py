"""Captions of a directory of images, the extender of its prompts, and its names in tables."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tessera.config import UserError
from tessera.evaluate.quality.features import Images
from tessera.evaluate.quality.reference import Source
from tessera.evaluate.samples import extender_of
from tessera.evaluate.scores import Extender
from tessera.files import read_json
from tessera.images import read_rgb
from tessera.prompts.rows import read_rows, split_columns
from tessera.stages import MANIFEST, read_manifest

TEXTS = ("text", "prompt", "caption")


def read_captions(images: Images, prompts: Path | None) -> tuple[str, ...] | None:
    """Return the caption of each image, from a file or from `generate`'s metadata; None if there are none.

    prompts: plain lines, or a table with a column of `TEXTS` (`tessera.prompts.rows`), in the order of the images'
    paths; or a table in any order that names each image as "file". Raises UserError where the order is not clear.
    """
    if prompts is None:
        folders = {str(Path(file).parent.parent) for file in images.files}
        texts = {}
        for folder in folders:
            path = images.directory / folder / "metadata.jsonl"
            if not path.is_file():
                return None
            texts[folder] = _text(read_json(path), path)
        return tuple(texts[str(Path(file).parent.parent)] for file in images.files)
    path, columns = split_columns(prompts)
    rows = [(where, row, row[column]) for where, row, (column,) in read_rows(path, TEXTS, given=columns)]
    if len(rows) != len(images.files):
        raise UserError(f"{prompts}: has {len(rows)} lines for {len(images.files)} images; give one for each")
    for where, _, text in rows:
        if not isinstance(text, str):
            raise UserError(f"{where}: its caption is not a text; write one")
    named = {row["file"]: text for _, row, text in rows if "file" in row}
    if not named:
        _check_order(images, prompts)
        return tuple(text for _, _, text in rows)
    missing = [file for file in images.files if file not in named]
    if missing:
        raise UserError(f'{prompts}: no line has the "file" {missing[0]} ({len(missing)} images without a line)')
    return tuple(named[file] for file in images.files)


def _check_order(images: Images, prompts: Path) -> None:
    """Raise UserError where names are numbers of different lengths: paths are ordered 10, 2."""

    def counted(file: str) -> list[str | int]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", file)]

    for file, other in zip(images.files, sorted(images.files, key=counted)):
        if file != other:
            raise UserError(
                f"{prompts}: is the line of {file} or of {other} first? Name the images by numbers of one length, or"
                ' give JSON lines that say "file" and "text"'
            )


def _text(data: Any, where: Path) -> str:
    text = data.get("text", data.get("prompt")) if isinstance(data, dict) else None
    if not isinstance(text, str):
        raise UserError(f'{where}: must hold an object with a "text" or "prompt"')
    return text


def known_captions(images: Images, prompts: Path | None) -> tuple[str, ...] | None:
    """Return the same where no metric asks for captions; None for a directory that `generate` did not make."""
    manifest = images.directory / MANIFEST
    if prompts is None and not (manifest.is_file() and read_manifest(images.directory).stage == "generate"):
        return None
    return read_captions(images, prompts)


def captions_sha256(texts: Sequence[str]) -> str:
    """Return the SHA-256 of the captions of all images, in order."""
    return hashlib.sha256("".join(f"{text}\n" for text in texts).encode()).hexdigest()


def extender_of_samples(samples: Path) -> Extender | None:
    """Return the extender of the prompts that were drawn; UserError if there are several."""
    if not (samples / MANIFEST).is_file() or not read_manifest(samples).config.get("extended"):
        return None
    return extender_of(samples, [read_json(path) for path in sorted(samples.glob("*/metadata.jsonl"))])


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
