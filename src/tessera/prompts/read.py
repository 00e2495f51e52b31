"""Prompts to draw: from a file, from those that ship with tessera, or given as they are."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tessera.config import UserError, nearest
from tessera.files import sha256_file
from tessera.prompts.caption_sets import Rows, read_caption_set
from tessera.prompts.rows import JSON, first_captions, read_rows, split_columns

SHIPPED = {"teaser": "teaser.txt", "figure4": "figure4.jsonl", "geneval": "geneval.jsonl"}
"""The paper's prompts: the 15 of its first page (appendix E), the three of Figure 4, short and extended (F), and
GenEval's 553 as published (Table 2)."""
CAPTIONS, PROMPTS = "captions.parquet", "prompts.jsonl"
"""Files of prompts in the directories that the verbs of these names make."""
COLUMNS = ("prompt", "prompts", "text", "caption", "captions")


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
    """Read prompts: a file (`read_prompts`), a shipped set (`SHIPPED`), COCO's or DPG-Bench's captions or
    a table of questions (`read_caption_set`), a directory made by `tessera caption`, `prompts` or `extend-prompts`,
    a list of texts.

    A file that has the name of a shipped set goes first. Raises UserError.
    """
    if not isinstance(source, str | Path):
        return _given(list(source), extended)
    own = read_caption_set(str(source))
    if own is not None:
        path, rows = own
        if extended:
            if not all("extended" in metadata for metadata, _ in rows):
                raise UserError(f"{source}: captions have no extended texts; turn extended off")
            rows = [(metadata, metadata["extended"]["text"]) for metadata, _ in rows]
    else:
        path, columns = split_columns(source)
        if not path.exists() and not path.suffix and path.parent == Path():
            if path.name not in SHIPPED:
                known = f"{nearest(path.name, SHIPPED)} those that ship with tessera: {', '.join(SHIPPED)}"
                raise UserError(f"{path}: there is no such file;{known}")
            path = Path(str(resources.files("tessera") / "assets" / "prompts" / SHIPPED[path.name]))
        path = next((path / file for file in (CAPTIONS, PROMPTS) if (path / file).is_file()), path)
        if not str(source) or path.is_dir():
            where = f"{source}: is a directory without {CAPTIONS} or {PROMPTS}" if str(source) else "it is empty"
            raise UserError(f"prompts: {where}; give a file of prompts, or {', '.join(SHIPPED)}")
        rows = read_prompts(path, extended, columns)
    name = path.parent.name if path.parent.name and path.name == CAPTIONS else path.stem
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


def read_prompts(path: str | Path, extended: bool = False, columns: tuple[str, ...] = ()) -> Rows:
    """Read (metadata, text to draw) of each prompt of a table or a text file (`tessera.prompts.rows`).

    The text is that of the column `columns`, else of the first of `COLUMNS` that is there (of parquet, which may be
    that of `tessera caption`, "text" goes first). Metadata has it as "prompt", and the other columns, of parquet "key"
    alone. Of JSON with `extended` the text is that of "extended": {"text": ...}. Raises UserError that names the line.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if extended and suffix not in JSON:
        raise UserError(f"{path} holds plain prompts without extended texts: give a .jsonl file, or turn extended off")
    rows: Rows = []
    wanted = ("text", "caption", *COLUMNS) if suffix == ".parquet" else COLUMNS
    for where, row, (column,) in first_captions(read_rows(path, wanted, given=columns)):
        text, longer = row[column], row.get("extended")
        if not isinstance(text, str) or not (text.strip() or suffix in JSON):
            raise UserError(f"{where}: {column} is not a text: write one, or remove the row")
        more = {k: v for k, v in row.items() if k not in (column, "prompt") and (suffix != ".parquet" or k == "key")}
        metadata = row if column == "prompt" and suffix in JSON else {"prompt": text} | more
        if extended:
            text = longer.get("text") if isinstance(longer, dict) else None
            if not isinstance(text, str):
                raise UserError(f'{where} has no "extended": {{"text": ...}}: add it, or turn extended off')
        rows.append((metadata, text))
    if not rows:
        raise UserError(f"{path} holds no prompts: write one on each line")
    return rows
