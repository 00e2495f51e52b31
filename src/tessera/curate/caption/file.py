"""Captions that a user has: .csv, .tsv, .jsonl or .parquet with a picture's name and its text, or a folder.

A folder has `metadata.csv` or `metadata.jsonl` (Hugging Face's ImageFolder), or a .txt file for each picture, of the
same stem; or it is a data set of the Hub, named OWNER/NAME, whose tables are all read. A .tsv file whose captions hold
bare quotes, tabs or line breaks is read line by line, also without a header.
"""

import csv
import hashlib
import json
import re
import unicodedata
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.files import read_table, sha256_file
from tessera.hub import REPOSITORY, fetch_repository

NAME_COLUMNS = ("key", "file_name")
TEXT_COLUMNS = ("text", "caption")
MAX_CAPTION = 10_000_000  # characters in one CSV field


_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_METADATA = ("metadata.csv", "metadata.jsonl")
_HUB_HINT = "give a captions file, a folder with captions, or a data set of the Hub as OWNER/NAME"


def find_captions(file: str | Path) -> tuple[Path, str]:
    """The captions file or folder that `file` means, fetched from the Hub for OWNER/NAME; and NAME@HASH, its record.

    UserError: not there. The hash is of the bytes, or the commit for a data set of the Hub.
    """
    path = Path(file)
    if path.is_file():
        return path, f"{path.name}@{sha256_file(path)[:12]}"
    if path.is_dir():
        digest = hashlib.sha256()
        for part in _files_in(path):
            digest.update(f"{part.relative_to(path).as_posix()}\0{sha256_file(part)}\n".encode())
        return path, f"{path.resolve().name}@{digest.hexdigest()[:12]}"
    if path.is_absolute() or not REPOSITORY.fullmatch(str(file)) or path.suffix.lower() in _TABLES:
        raise UserError(f"{file}: there is no such captions file; {_HUB_HINT}")
    patterns = [f"*{suffix}" for suffix in _TABLES]  # no code of it is fetched, let alone run
    snapshot = fetch_repository(str(file), patterns, repo_type="dataset")
    return snapshot, f"{file}@{snapshot.name[:12]}"


def _files_in(folder: Path) -> list[Path]:
    """What holds the captions of a folder. UserError: nothing does, or two kinds do."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    metadata = [path for path in files if path.name in _METADATA]
    sidecars = [path for path in files if path.suffix.lower() == ".txt"]
    tables = [path for path in files if path.suffix.lower() in _TABLES and path not in metadata]
    kinds = [kind for kind in (metadata, sidecars, tables) if kind]
    if not kinds:
        raise UserError(f"{folder}: has no captions: no metadata.csv or .jsonl, no .txt files, none of {_TABLES}")
    if len(kinds) > 1:
        names = " and ".join(kind[0].relative_to(folder).as_posix() for kind in kinds)
        raise UserError(f"{folder}: has captions of two kinds, {names}; give the file, or a folder with one of them")
    return kinds[0]


def read_captions_file(path: Path, known: Container[str] = ()) -> Iterator[tuple[str, str]]:
    """(name, text) of each caption of a file or folder, in order; texts keep their quotes, tabs and line breaks.

    Names are brought to the form of keys and sources: "/" between parts, Unicode NFC, no leading "./". known: names
    that pictures have; in a .tsv file without quoting they tell a new row from the next line of a caption.
    UserError: another suffix, a missing column, a row that is not well formed, not UTF-8.
    """
    if not path.is_dir():
        yield from _read_file(path, known)
        return
    files = _files_in(path)
    for file in files:
        if file.suffix.lower() == ".txt":
            yield _tidy(file.relative_to(path).with_suffix("").as_posix()), _read_text(file)
        else:
            folder = file.parent.relative_to(path).as_posix()
            joined = file.name in _METADATA and len(files) > 1 and folder != "."
            for name, text in _read_file(file, known):
                yield f"{folder}/{name}" if joined else name, text


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").rstrip("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error


def _read_file(path: Path, known: Container[str]) -> Iterator[tuple[str, str]]:
    readers = {
        ".csv": _read_delimited,
        ".tsv": lambda path: _read_tsv(path, known),
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: captions can be read from {', '.join(readers)}; convert it to one of these")
    try:
        for name, text in reader(path):
            _check_whole(path, name, text)
            yield _tidy(name), text
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _check_whole(path: Path, name: str, text: str) -> None:
    """JSON can spell half of an emoji, as captions have it that were cut to a length."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise UserError(f"{path}: the caption of {name!r} has half a character, {half}; take it out") from error


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


def _read_tsv(path: Path, known: Container[str]) -> Iterator[tuple[str, str]]:
    """As quoted by the rules if it is so throughout, else line by line, as the published captions are."""
    try:
        for _ in _read_delimited(path):
            pass
    except UserError:
        yield from _read_lines(path, known)
        return
    yield from _read_delimited(path)


def _read_lines(path: Path, known: Container[str]) -> Iterator[tuple[str, str]]:
    """Rows of a .tsv file without quoting: the text is the last column, and may hold anything, line breaks too.

    A line begins a row when it has enough tabs and its name is a known one, or looks like one: no spaces, and a digit,
    slash, dot or underscore.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = (line.rstrip("\n").removesuffix("\r") for line in file)
        first = next(lines, "")
        header = first.split("\t")
        if any(name in header for name in (*NAME_COLUMNS, *TEXT_COLUMNS)):
            name_column, text_column = _columns(path, header)
            place, width = header.index(name_column), len(header)
            if header[-1] != text_column:
                raise UserError(f"{path}: its captions are not quoted, so {text_column} must be the last column")
            pending = None
        else:
            place, width = 0, 2
            if len(header) < 2:
                raise UserError(f"{path}: has no column key or file_name; its first line has no tab either")
            pending = (header[0], "\t".join(header[1:]))
        for number, line in enumerate(lines, 2):
            fields = line.split("\t", width - 1)
            if len(fields) == width and _is_name(fields[place], known):
                if pending is not None:
                    yield pending
                pending = (fields[place], fields[-1])
            elif pending is not None:
                pending = (pending[0], f"{pending[1]}\n{line}")
            elif line:
                raise UserError(f"{path}: line {number} has not as many fields as the header")
        if pending is not None:
            yield pending


def _is_name(text: str, known: Container[str]) -> bool:
    return _tidy(text) in known or re.fullmatch(r"\S*[\d/._]\S*", text) is not None


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
