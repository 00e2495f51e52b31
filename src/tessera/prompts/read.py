"""Prompts to draw: from a file, from those that ship with tessera, or given as they are."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tessera.config import UserError, nearest
from tessera.files import sha256_file
from tessera.prompts.caption_sets import Rows, is_caption_set, read_caption_set

SHIPPED = {"teaser": "teaser.txt", "figure4": "figure4.jsonl", "geneval": "geneval.jsonl"}
"""The paper's prompts: the 15 of its first page (appendix E), the three of Figure 4, short and extended (F), and
GenEval's 553 as published (Table 2)."""
JSON_LINES = (".jsonl", ".json")


@dataclass(frozen=True)
class Prompts:
    """Prompts in order, with their identity."""

    rows: tuple[tuple[dict[str, Any], str], ...]
    """(metadata, text to draw) of each prompt."""
    name: str
    """A short name for people: the file's, or the first words of a single prompt."""
    sha256: str
    """The hash of the file's bytes, or of the prompts as lines."""


def load_prompts(source: str | Path | Sequence[str], extended: bool = False) -> Prompts:
    """Read prompts: a file (`read_prompts`), a shipped set (`SHIPPED`), captions (`read_caption_set`), a list of texts.

    A file that has the name of a shipped set goes first. Raises UserError.
    """
    if not isinstance(source, str | Path):
        return _given(list(source), extended)
    if is_caption_set(str(source)):
        if extended:
            raise UserError(f"{source}: captions have no extended texts; turn extended off")
        path, rows = read_caption_set(str(source))
        name = path.parent.name if path.parent.name and path.stem == "captions" else path.stem
    else:
        path = _shipped(Path(source))
        rows, name = read_prompts(path, extended), path.stem
    return Prompts(tuple(rows), name, sha256_file(path))


def _given(texts: list[str], extended: bool) -> Prompts:
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(f"prompt: {texts!r} is not a text, nor a list of texts")
    if extended:
        raise UserError("extended: a prompt given as text has no extended one; give a .jsonl file, or turn it off")
    try:
        digest = hashlib.sha256("".join(f"{text}\n" for text in texts).encode()).hexdigest()
    except UnicodeEncodeError:
        raise UserError(f"prompt: {texts!r} is not valid Unicode") from None
    words = "".join(letter if letter.isalnum() else " " for letter in texts[0].lower()).split()
    name = "-".join(words)[:40].strip("-") or "empty"
    return Prompts(tuple(({"prompt": text}, text) for text in texts), name, digest)


def _shipped(path: Path) -> Path:
    if path.exists() or path.suffix or path.parent != Path():
        return path
    if path.name not in SHIPPED:
        hint = nearest(path.name, SHIPPED)
        raise UserError(f"{path}: no such prompts file;{hint} those that ship with tessera: {', '.join(SHIPPED)}")
    return Path(str(resources.files("tessera") / "assets" / "prompts" / SHIPPED[path.name]))


def read_prompts(path: str | Path, extended: bool = False) -> Rows:
    """Read (metadata, text to draw) of each prompt of a file; empty lines are left out.

    `.jsonl`: a GenEval metadata object on each line, of which "prompt" is needed, and with `extended` also "extended":
    {"text": ...}. Any other name: plain text, one prompt a line. Raises UserError that names the file and line.
    """
    path = Path(path)
    if extended and path.suffix.lower() not in JSON_LINES:
        raise UserError(f"{path} holds plain prompts without extended texts: give a .jsonl file, or turn extended off")
    rows = []
    for where, metadata in read_lines(path):
        if not isinstance(metadata, dict) or not isinstance(metadata.get("prompt"), str):
            raise UserError(f'{where} is not a JSON object with a text "prompt": fix or remove the line')
        text, longer = metadata["prompt"], metadata.get("extended")
        if extended:
            text = longer.get("text") if isinstance(longer, dict) else None
            if not isinstance(text, str):
                raise UserError(f'{where} has no "extended": {{"text": ...}}: add it, or turn extended off')
        rows.append((metadata, text))
    if not rows:
        raise UserError(f"{path} holds no prompts: write one on each line")
    return rows


def read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield ("FILE line N", data) of each line that is not empty: its JSON, or {"prompt": line} of plain text."""
    is_json = path.suffix.lower() in JSON_LINES
    try:
        # Only line feeds end a line: JSON may hold other Unicode line separators inside a string.
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(map(str.strip, file), 1):
                if line:
                    where = f"{path} line {number}"
                    yield where, _parse(where, line) if is_json else {"prompt": line}
    except FileNotFoundError:
        raise UserError(f"{path}: no such prompts file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"cannot be read ({error.strerror})"
        raise UserError(f"{path} {reason}: give a .jsonl or .txt file") from None


def _parse(where: str, line: str) -> Any:
    try:
        data = json.loads(line)
        if "\\u" in line:  # which can spell half of a character; no file can be written with it
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(f"{where} has half of a surrogate pair, which is not valid Unicode: fix the line") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg}, column {error.colno}): fix or remove the line") from None
    return data
