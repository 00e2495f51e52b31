"""Prompts to draw: from a file, from those that ship with tessera, or given as they are."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tessera.config import UserError, nearest
from tessera.files import sha256_file
from tessera.prompts.caption_sets import is_caption_set, read_caption_set

SHIPPED = {"teaser": "teaser.txt", "figure4": "figure4.jsonl", "geneval": "geneval.jsonl"}
"""The paper's prompts: the 15 of its first page (appendix E), the three of Figure 4, short and extended (F), and
GenEval's 553 as published (Table 2)."""


@dataclass(frozen=True)
class Prompts:
    """What to draw, in order."""

    rows: tuple[tuple[dict[str, Any], str], ...]
    """(metadata, text to draw) of each prompt."""
    name: str
    """A short name for people: of the file, or the first words of a single prompt."""
    sha256: str
    """Of the file's bytes, or of the prompts as lines."""


def load_prompts(source: str | Path | Sequence[str], extended: bool = False) -> Prompts:
    """Prompts of a file (`read_prompts`), a shipped set (`SHIPPED`), captions (`read_caption_set`), or a list of texts.

    A file that has the name of a shipped set goes first. Raises UserError.
    """
    if isinstance(source, str | Path) and is_caption_set(str(source)):
        if extended:
            raise UserError(f"{source}: captions have no extended texts; turn extended off")
        path, rows = read_caption_set(str(source))
        name = path.parent.name if path.parent.name and path.stem == "captions" else path.stem
        return Prompts(tuple(rows), name, sha256_file(path))
    if isinstance(source, str | Path):
        path = _shipped(Path(source))
        rows = read_prompts(path, extended)
        return Prompts(tuple(rows), path.stem, hashlib.sha256(path.read_bytes()).hexdigest())
    texts = list(source)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(f"prompt: {texts!r} is not a text, nor a list of texts")
    if extended:
        raise UserError("extended: a prompt given as text has no extended one; give a .jsonl file, or turn it off")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise UserError(f"prompt: {texts!r} is not valid Unicode") from None
    digest = hashlib.sha256("".join(f"{text}\n" for text in texts).encode()).hexdigest()
    words = "".join(letter if letter.isalnum() else " " for letter in texts[0].lower()).split()
    return Prompts(
        tuple(({"prompt": text}, text) for text in texts), "-".join(words)[:40].strip("-") or "empty", digest
    )


def _shipped(path: Path) -> Path:
    if path.exists() or path.suffix or path.parent != Path():
        return path
    if path.name not in SHIPPED:
        hint = nearest(path.name, SHIPPED)
        raise UserError(f"{path}: no such prompts file;{hint} those that ship with tessera: {', '.join(SHIPPED)}")
    return Path(str(resources.files("tessera") / "assets" / "prompts" / SHIPPED[path.name]))


def read_prompts(path: str | Path, extended: bool = False) -> list[tuple[dict[str, Any], str]]:
    """(metadata, text to draw) of each prompt of a file; empty lines are passed over.

    `.jsonl`: a GenEval metadata object on each line, of which "prompt" is needed, and with `extended` also "extended":
    {"text": ...}. Any other name: plain text, one prompt a line. Raises UserError that names the file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such prompts file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"cannot be read ({error.strerror})"
        raise UserError(f"{path} {reason}: give a .jsonl or .txt file of prompts") from None
    is_json = path.suffix.lower() in (".jsonl", ".json")
    if extended and not is_json:
        raise UserError(f"{path} holds plain prompts without extended texts: give a .jsonl file, or turn extended off")
    found = [
        _read_line(f"{path} line {number}", line, is_json, extended)
        # Only line feeds end a line: JSON may hold other Unicode line separators inside a string.
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if not found:
        raise UserError(f"{path} holds no prompts: write one on each line")
    return found


def _read_line(where: str, line: str, is_json: bool, extended: bool) -> tuple[dict[str, Any], str]:
    if not is_json:
        return {"prompt": line.strip()}, line.strip()
    try:
        metadata = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg}, column {error.colno}): mend or remove the line") from None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("prompt"), str):
        raise UserError(f'{where} is not a JSON object with a text "prompt": mend or remove the line')
    try:  # as the pictures' metadata is written
        json.dumps(metadata, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(f"{where} has half of a surrogate pair, which is not valid Unicode: mend the line") from None
    if not extended:
        return metadata, metadata["prompt"]
    longer = metadata.get("extended")
    if not isinstance(longer, dict) or not isinstance(longer.get("text"), str):
        raise UserError(f'{where} has no "extended": {{"text": ...}}: add it, or turn extended off')
    return metadata, longer["text"]
