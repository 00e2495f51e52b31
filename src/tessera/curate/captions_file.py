"""Captions that a user has: .csv, .tsv, .jsonl or .parquet with a picture's name and its text."""

import csv
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.files import read_table

NAME_COLUMNS = ("key", "file_name")
TEXT_COLUMNS = ("text", "caption")
MAX_CAPTION = 10_000_000  # characters in one CSV field


def read_captions_file(path: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of each row, in order; texts keep their quotes, tabs and line breaks.

    Names are brought to the form of keys and sources: "/" between parts, Unicode NFC, no leading "./".
    UserError: another suffix, a missing column, a row that is not well formed, not UTF-8.
    """
    readers = {".csv": _read_delimited, ".tsv": _read_delimited, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: captions can be read from {', '.join(readers)}; convert it to one of these")
    try:
        for name, text in reader(path):
            yield _tidy(name), text
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _tidy(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/")).removeprefix("./")


def _columns(path: Path, names: Sequence[str]) -> tuple[str, str]:
    """The name column and the text column among `names`."""
    found = []
    for wanted in (NAME_COLUMNS, TEXT_COLUMNS):
        column = next((column for column in wanted if column in names), None)
        if column is None:
            raise UserError(
                f"{path}: has no column {' or '.join(wanted)}; it has {', '.join(map(str, names)) or 'none'}"
            )
        found.append(column)
    return found[0], found[1]


def _read_delimited(path: Path) -> Iterator[tuple[str, str]]:
    limit = csv.field_size_limit(MAX_CAPTION)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(
                file, dialect="excel-tab" if path.suffix.lower() == ".tsv" else "excel", strict=True
            )
            name_column, text_column = _columns(path, reader.fieldnames or ())
            for row in reader:
                if row[name_column] is None or row[text_column] is None or None in row:
                    raise UserError(f"{path}: line {reader.line_num} has not as many fields as the header; quote it")
                yield row[name_column], row[text_column]
    except csv.Error as error:
        raise UserError(f"{path}: is not well formed near line {reader.line_num} ({error}); mend it") from error
    finally:
        csv.field_size_limit(limit)


def _read_jsonl(path: Path) -> Iterator[tuple[str, str]]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row: Any = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}: line {number} is not JSON ({error}); mend it") from error
            if not isinstance(row, Mapping):
                raise UserError(f'{path}: line {number} is not an object; write {{"key": "...", "text": "..."}}')
            name_column, text_column = _columns(path, list(row))
            if not isinstance(row[name_column], str) or not isinstance(row[text_column], str):
                raise UserError(f"{path}: line {number}: {name_column} and {text_column} must be strings")
            yield row[name_column], row[text_column]


def _read_parquet(path: Path) -> Iterator[tuple[str, str]]:
    table = read_table(path)
    name_column, text_column = _columns(path, table.column_names)
    names, texts = table.column(name_column).to_pylist(), table.column(text_column).to_pylist()
    for number, (name, text) in enumerate(zip(names, texts), 1):
        if not isinstance(name, str) or not isinstance(text, str):
            raise UserError(f"{path}: row {number}: {name_column} and {text_column} must be strings")
        yield name, text
