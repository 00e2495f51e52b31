"""What is known of a folder of pictures beside their pixels: captions, what extended them, what tables call them."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tessera.config import UserError
from tessera.evaluate.quality.features import Pictures
from tessera.evaluate.quality.reference import Source
from tessera.evaluate.samples import extender_of
from tessera.evaluate.scores import Extender
from tessera.files import read_json
from tessera.images import read_rgb
from tessera.stages import MANIFEST, read_manifest


def read_captions(pictures: Pictures, prompts: Path | None) -> tuple[str, ...] | None:
    """The caption of each picture: of a file with a line for each, or what `generate` says was drawn. None = has none.

    prompts: plain lines, or JSON lines with "text" or "prompt", in the order of the pictures' paths; or JSON lines in
    any order that name their picture as "file". UserError where it is not plain which line is whose.
    """
    if prompts is None:
        folders = {str(Path(file).parent.parent) for file in pictures.files}
        texts = {}
        for folder in folders:
            path = pictures.directory / folder / "metadata.jsonl"
            if not path.is_file():
                return None
            texts[folder] = _text(read_json(path), path)
        return tuple(texts[str(Path(file).parent.parent)] for file in pictures.files)
    try:
        # Not by splitlines(), which also splits at characters that stand within JSON's texts.
        lines = [line for line in Path(prompts).read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{prompts}: cannot be read as lines of text ({error})") from error
    if len(lines) != len(pictures.files):
        raise UserError(f"{prompts}: has {len(lines)} lines for {len(pictures.files)} pictures; give one for each")
    if Path(prompts).suffix != ".jsonl":
        _check_order(pictures, prompts)
        return tuple(line.strip() for line in lines)
    texts, named = [], {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{prompts}:{number}: is not JSON ({error})") from error
        texts.append(_text(row, Path(f"{prompts}:{number}")))
        if "file" in row:
            named[row["file"]] = texts[-1]
    if not named:
        _check_order(pictures, prompts)
        return tuple(texts)
    missing = [file for file in pictures.files if file not in named]
    if missing:
        raise UserError(f'{prompts}: no line has the "file" {missing[0]} ({len(missing)} pictures without a line)')
    return tuple(named[file] for file in pictures.files)


def _check_order(pictures: Pictures, prompts: Path) -> None:
    """UserError where names are numbers of unlike length: people count 2, 10, and paths are ordered 10, 2."""

    def counted(file: str) -> list[str | int]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", file)]

    for file, other in zip(pictures.files, sorted(pictures.files, key=counted)):
        if file != other:
            raise UserError(
                f"{prompts}: is the line of {file} or of {other} first? Name the pictures by numbers of one length, or"
                ' give JSON lines that say "file" and "text"'
            )


def _text(data: Any, where: Path) -> str:
    text = data.get("text", data.get("prompt")) if isinstance(data, dict) else None
    if not isinstance(text, str):
        raise UserError(f'{where}: must hold an object with a "text" or "prompt"')
    return text


def known_captions(pictures: Pictures, prompts: Path | None) -> tuple[str, ...] | None:
    """The same where no metric asks for captions; None too of a folder from elsewhere, whatever files lie in it."""
    manifest = pictures.directory / MANIFEST
    if prompts is None and not (manifest.is_file() and read_manifest(pictures.directory).stage == "generate"):
        return None
    return read_captions(pictures, prompts)


def captions_sha256(texts: Sequence[str]) -> str:
    """Of the captions of all pictures, in order."""
    return hashlib.sha256("".join(f"{text}\n" for text in texts).encode()).hexdigest()


def extender_of_samples(samples: Path) -> Extender | None:
    """What extended the prompts that were drawn; UserError where several did."""
    if not (samples / MANIFEST).is_file() or not read_manifest(samples).config.get("extended"):
        return None
    return extender_of(samples, [read_json(path) for path in sorted(samples.glob("*/metadata.jsonl"))])


def words_for(pictures: Pictures, source: Source | None, rounding: Literal["round", "truncate"]) -> dict[str, str]:
    """What tables call the pictures: their size, whose captions they were drawn by, the reference's folder."""
    first = pictures.directory / pictures.files[0]
    height, width, _ = read_rgb(first, rounding=rounding).shape
    metadata = first.parent.parent / "metadata.jsonl"
    line = read_json(metadata) if metadata.is_file() else {}
    prompts = {"image_id": "COCO's captions", "key": "captions of one's own", "tag": "GenEval's prompts"}
    found = [words for field, words in prompts.items() if field in line]
    size = str(width) if width == height else f"{width} x {height}"
    # A directory of features is called by a hash.
    named = {"reference": source.path.resolve().name} if source and source.pictures else {}
    return named | {"size": size} | ({"prompts": found[0]} if found else {})
