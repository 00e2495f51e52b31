"""What is known of a folder of pictures beside their pixels: captions, what extended them, what tables call them."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tessera.config import UserError
from tessera.evaluate.pictures import FEATURES, Pictures, read_picture
from tessera.evaluate.scores import Extender
from tessera.files import MANIFEST, read_json, read_manifest


def read_captions(pictures: Pictures, prompts: Path | None) -> tuple[str, ...] | None:
    """The caption of each picture: of a file with a line for each, or what `generate` says was drawn. None = has none.

    prompts: plain lines, or JSON lines with "text" or "prompt".
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
        lines = [line for line in Path(prompts).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{prompts}: cannot be read as lines of text ({error})") from error
    if len(lines) != len(pictures.files):
        raise UserError(f"{prompts}: has {len(lines)} lines for {len(pictures.files)} pictures; give one for each")
    if Path(prompts).suffix != ".jsonl":
        return tuple(line.strip() for line in lines)
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            texts.append(_text(json.loads(line), Path(f"{prompts}:{number}")))
        except ValueError as error:
            raise UserError(f"{prompts}:{number}: is not JSON ({error})") from error
    return tuple(texts)


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


def extender_of(samples: Path) -> Extender | None:
    """What extended the prompts that were drawn, by the first line's word."""
    if not (samples / MANIFEST).is_file() or not read_manifest(samples).config.get("extended"):
        return None
    first = min(samples.glob("*/metadata.jsonl"), default=None)
    entry = (read_json(first).get("extended") or {}) if first else {}
    prompt = str(entry.get("template_sha256") or entry.get("template"))
    return Extender(model=str(entry.get("extender")), prompt=prompt, seed=int(entry.get("seed") or 0))


def words_for(pictures: Pictures, reference: Path, rounding: Literal["round", "truncate"]) -> dict[str, str]:
    """What tables call the pictures: their size, whose captions they were drawn by, the reference's folder."""
    first = pictures.directory / pictures.files[0]
    height, width, _ = read_picture(first, rounding).shape
    metadata = first.parent.parent / "metadata.jsonl"
    line = read_json(metadata) if metadata.is_file() else {}
    prompts = {"image_id": "COCO's captions", "key": "captions of one's own", "tag": "GenEval's prompts"}
    found = [words for field, words in prompts.items() if field in line]
    size = str(width) if width == height else f"{width} x {height}"
    kept = any(reference.glob(f"*{FEATURES}"))  # such a directory of features is called by a hash
    named = {} if kept else {"reference": reference.resolve().name}
    return named | {"size": size} | ({"prompts": found[0]} if found else {})
