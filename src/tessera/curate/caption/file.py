"""Captions that a user has: .csv, .tsv, .jsonl or .parquet with an image's name and its text, or a folder.

A folder has `metadata.csv` or `metadata.jsonl` (Hugging Face's ImageFolder), or a .txt file for each image, of the same
stem; or it is a data set of the Hub, named OWNER/NAME, whose tables are all read. A .tsv file whose captions hold bare
quotes, tabs or line breaks is read line by line, also without a header.
"""

import csv
import hashlib
import re
import unicodedata
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.files import read_table, sha256_file
from tessera.hub import REPOSITORY, fetch_repository
from tessera.prompts.read import read_lines

NAME_COLUMNS = ("key", "file_name")
TEXT_COLUMNS = ("text", "caption")
MAX_CAPTION = 10_000_000  # characters in one CSV field
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_METADATA = ("metadata.csv", "metadata.jsonl")


def find_captions(file: str | Path) -> tuple[Path, str]:
    """Find the captions file or folder `file`, fetched from the Hub for OWNER/NAME; return it and its record NAME@HASH.

    The hash is of the bytes, or the commit for a data set of the Hub. Raises UserError if it is not there.
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
        raise UserError(
            f"{file}: there is no such captions file; give one, a folder with captions, or a data set of the Hub as"
            " OWNER/NAME"
        )
    patterns = [f"*{suffix}" for suffix in _TABLES]  # no code of it is fetched, let alone run
    snapshot = fetch_repository(str(file), patterns, repo_type="dataset")
    return snapshot, f"{file}@{snapshot.name[:12]}"


def _files_in(folder: Path) -> list[Path]:
    """List the files with a folder's captions. Raises UserError if there are none, or two kinds of them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    metadata = [path for path in files if path.name in _METADATA]
    texts = [path for path in files if path.suffix.lower() == ".txt"]
    tables = [path for path in files if path.suffix.lower() in _TABLES and path not in metadata]
    kinds = [kind for kind in (metadata, texts, tables) if kind]
    if not kinds:
        raise UserError(f"{folder}: has no captions: no metadata.csv or .jsonl, no .txt files, none of {_TABLES}")
    if len(kinds) > 1:
        names = " and ".join(kind[0].relative_to(folder).as_posix() for kind in kinds)
        raise UserError(f"{folder}: has captions of two kinds, {names}; give the file, or a folder with one of them")
    return kinds[0]


def read_captions_file(path: Path, known: Container[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of each caption of a file or folder, in order; texts keep their quotes, tabs and line breaks.

    Names are brought to the form of keys and sources: "/" between parts, Unicode NFC, no leading "./". known: names
    that images have; in a .tsv file without quoting they tell a new row from the next line of a caption.
    UserError: another suffix, a missing column, a row that is not well formed, not UTF-8.
    """
    if not path.is_dir():
        yield from _read_file(path, known)
        return
    files = _files_in(path)
    for file in files:
        folder = file.parent.relative_to(path).as_posix()
        joined = file.name in _METADATA and len(files) > 1 and folder != "."
        for name, text in _read_file(file, known, file.relative_to(path).with_suffix("").as_posix()):
            yield f"{folder}/{name}" if joined else name, text


def _read_file(path: Path, known: Container[str], stem: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name, text) of one file; `stem`: the name that a .txt file's text has, "" where there is none."""
    readers = {
        ".csv": _read_delimited,
        ".tsv": lambda path: _read_tsv(path, known),
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
    if stem:
        readers[".txt"] = lambda path: iter([(stem, path.read_text(encoding="utf-8-sig").rstrip("\n"))])
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
    """Return the name column and the text column among `names`."""
    found = []
    for wanted in (NAME_COLUMNS, TEXT_COLUMNS):
        column = next((column for column in wanted if column in names), None)
        if column is None:
            raise UserError(f"{path}: has no column {' or '.join(wanted)}; it has {', '.join(names) or 'none'}")
        found.append(column)
    return found[0], found[1]


def _read_delimited(path: Path) -> Iterator[tuple[str, str]]:
    limit = csv.field_size_limit(MAX_CAPTION)
    dialect = "excel-tab" if path.suffix.lower() == ".tsv" else "excel"
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, dialect=dialect, strict=True)
            name_column, text_column = _columns(path, reader.fieldnames or ())
            for row in reader:
                if row[name_column] is None or row[text_column] is None or None in row:
                    raise UserError(f"{path}: line {reader.line_num} has not as many fields as the header; quote it")
                yield row[name_column], row[text_column]
    except csv.Error as error:
        raise UserError(f"{path}: is not well formed near line {reader.line_num} ({error}); fix it") from error
    finally:
        csv.field_size_limit(limit)


def _read_tsv(path: Path, known: Container[str]) -> Iterator[tuple[str, str]]:
    """Yield rows as quoted by the rules if all are, else line by line, as the published captions are."""
    try:
        for _ in _read_delimited(path):
            pass
    except UserError:
        yield from _read_unquoted(path, known)
        return
    yield from _read_delimited(path)


def _read_unquoted(path: Path, known: Container[str]) -> Iterator[tuple[str, str]]:
    """Yield rows of a .tsv file without quoting: the text is the last column, and may hold tabs and line breaks.

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
    for where, row in read_lines(path):
        if not isinstance(row, dict):
            raise UserError(f'{where} is not an object; write {{"key": "...", "text": "..."}}')
        columns = _columns(path, list(row))
        yield _texts(where, columns, row[columns[0]], row[columns[1]])


def _read_parquet(path: Path) -> Iterator[tuple[str, str]]:
    table = read_table(path)
    columns = _columns(path, table.column_names)
    for number, (name, text) in enumerate(zip(*(table.column(column).to_pylist() for column in columns)), 1):
        yield _texts(f"{path} row {number}", columns, name, text)


def _texts(where: str, columns: tuple[str, str], name: Any, text: Any) -> tuple[str, str]:
    """Return (name, text), which must be strings."""
    if not isinstance(name, str) or not isinstance(text, str):
        raise UserError(f"{where}: {' and '.join(columns)} must be strings")
    return name, text
