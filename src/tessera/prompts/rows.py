"""The one reader of files with prompts or captions: csv, tsv, jsonl, json, parquet, and plain text, a line each."""

import contextlib
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.files import read_table

MAX_FIELD = 10_000_000  # characters in one CSV field
DELIMITERS = {".csv": ",;\t|", ".tsv": "\t"}
JSON = (".jsonl", ".json", ".ndjson")
TABLES = (*DELIMITERS, *JSON, ".parquet")
NAMED = {"prompt", "text", "caption"}
NAME_COLUMNS = ("key", "file_name", "image", "filename", "image_path", "image_name", "file", "path")
"""Columns that name a caption's image, the first that is there."""
PLAIN = "prompt"
"""The column of a plain text file, and of a JSON list of texts."""
_NOT_TEXT = (".xlsx", ".xls", ".ods", ".yaml", ".yml", ".xml", ".html", ".htm", ".pkl", ".zip", ".gz")

Columns = tuple[str, ...]
Row = tuple[str, dict[str, Any], Columns]
"""("FILE line N", row, columns found)."""
Find = Callable[[object, Iterable[str]], Columns]


def split_columns(source: str | Path) -> tuple[Path, Columns]:
    """Return (file, columns) of "FILE:COLUMN" or "FILE:COLUMN,COLUMN"; of a path alone (path, ())."""
    file, colon, columns = str(source).rpartition(":")
    if colon and not Path(source).exists() and Path(file).is_file():
        return Path(file), tuple(columns.split(","))
    return Path(source), ()


def read_rows(
    path: Path,
    *wanted: Sequence[str],
    given: Columns | None = None,
    bare: bool = True,
    plain: bool = True,
    optional: Sequence[str] = (),
) -> Iterator[Row]:
    """Yield ("FILE line N", row, columns) of each row: `columns` are those found for each group of names in `wanted`.

    The first name of a group that is there in upper or lower case is taken; `given` names the last ones instead; None:
    a user cannot name them. A csv file may be split at ";", tab or "|" too, where that gives the columns, and so may
    plain text with such a header.
    bare: a tsv file that is not quoted by the rules is read line by line. plain: what is no table is plain text, whose
    empty lines are left out; else an error. optional: columns that are None in objects of JSON without them, where
    another object of the file has them. Raises UserError that names the file and line.
    """
    fix = "rename the one that is meant" if given is None else "name it: FILE:COLUMN"
    given = given or ()
    chosen = (*[None] * (len(wanted) - len(given)), *given)

    def find(where: object, names: Iterable[str]) -> Columns:
        return tuple(_find(where, list(names), group, own, fix) for group, own in zip(wanted, chosen, strict=True))

    suffix, last = path.suffix.lower(), (None, ())
    if len(given) > len(wanted):
        raise UserError(f"{path}: {', '.join(given)} are more columns than the {len(wanted)} that are read")
    try:
        if suffix == ".parquet":
            rows = _read_parquet(path, find)
        elif suffix in JSON or _is_json(path, suffix):
            rows = _read_json(path) if plain else map(_with_image, _read_json(path, joined=True))
            if optional:
                there = {name for _, row in _read_json(path, joined=True) for name in optional if name in row}
                rows = ((where, row | dict.fromkeys(there - row.keys())) for where, row in rows)
        elif delimiter := _delimiter(path, suffix, {*given, *(name for group in wanted for name in group)}):
            rows = _read_delimited(path, delimiter, bare, find)
        elif plain and suffix not in _NOT_TEXT:
            rows = ((where, {PLAIN: line}) for where, line in _lines(path))
        else:
            raise UserError(f"{path}: is none of {', '.join(TABLES)}{' or .txt' * plain}; convert it to one of these")
        for where, row in rows:
            if row.keys() != last[0]:
                last = row.keys(), find(where, row)
            yield where, row, last[1]
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except RecursionError as error:
        raise UserError(f"{path}: nests its JSON too deeply ({error}); fix it") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def first_captions(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows of `read_rows`, of several captions of an image, as `tessera caption` writes them, the first."""
    told: set[object] = set()
    for where, row, columns in rows:
        if "level" in row and "key" in row:
            if row["key"] in told:
                continue
            told.add(row["key"])
        yield where, row, columns


def _find(where: object, names: Sequence[str], wanted: Sequence[str], given: str | None, fix: str) -> str:
    known = {name.strip().lower(): name for name in reversed(names)} if given is None else dict(zip(names, names))
    found = next((known[name] for name in ([given] if given is not None else wanted) if name in known), None)
    if found is None:
        several = ", ".join(name for name in dict.fromkeys(wanted) if not name[-1].isdigit())
        missing = several if given is None else repr(given)
        raise UserError(f"{where}: has no column {missing}; it has {', '.join(names) or 'none'}; {fix}")
    return found


def _delimiter(path: Path, suffix: str, wanted: set[str]) -> str | None:
    """Return the character that splits the first line into columns of which one is wanted, the suffix's own if none
    does; None for plain text."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        header = file.readline(MAX_FIELD)
    for delimiter in DELIMITERS.get(suffix, ",\t;|"):
        names = [name.strip().strip('"') for name in header.split(delimiter)]
        words = suffix in DELIMITERS or (len(names) > 1 and all(" " not in name for name in names))
        if words and any(name in wanted or name.lower() in wanted for name in names):
            return delimiter
    return DELIMITERS[suffix][0] if suffix in DELIMITERS else None


def _is_json(path: Path, suffix: str) -> bool:
    """Return whether a file of another suffix, such as .txt, holds JSON: the whole of it, or its first line."""
    if suffix in DELIMITERS or suffix in _NOT_TEXT:
        return False
    with open(path, encoding="utf-8-sig") as file:
        text = file.read(MAX_FIELD).strip()
    for part in (text, text.partition("\n")[0]) if text[:1] in ("[", "{") else ():
        with contextlib.suppress(ValueError):
            return isinstance(json.loads(part), dict | list)
    return False


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    # Other Unicode line separators end no line: JSON may hold them inside a string.
    with open(path, encoding="utf-8-sig") as file:
        yield from ((f"{path} line {number}", line) for number, line in enumerate(map(str.strip, file), 1) if line)


def _read_delimited(path: Path, delimiter: str, bare: bool, find: Find) -> Iterator[tuple[str, dict[str, Any]]]:
    quoting = csv.QUOTE_MINIMAL
    if delimiter == "\t" and bare:
        try:
            for _ in _read_delimited(path, delimiter, False, find):
                pass
        except UserError:
            quoting = csv.QUOTE_NONE
    limit = csv.field_size_limit(MAX_FIELD)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=delimiter, quoting=quoting, strict=True)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            for name in find(path, reader.fieldnames):
                if reader.fieldnames.count(name) > 1:
                    raise UserError(f"{path}: has more than one column {name}; rename the others")
            for row in reader:
                where = f"{path} line {reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(f"{where} has not as many fields as the header; quote it")
                yield where, row
    except csv.Error as error:
        raise UserError(f"{path}: is not well formed near line {reader.line_num} ({error}); fix it") from error
    finally:
        csv.field_size_limit(limit)


def _read_parquet(path: Path, find: Find) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa

    table = read_table(path)
    lists = (pa.list_(pa.string()), pa.large_list(pa.string()))
    table = table.select(
        [
            f.name
            for f in table.schema
            if f.type in lists or not (pa.types.is_nested(f.type) or pa.types.is_binary(f.type))
        ]
    )
    find(path, table.column_names)
    rows = (row for batch in table.to_batches() for row in batch.to_pylist())
    yield from ((f"{path} row {number}", row) for number, row in enumerate(rows, 1))


def _read_json(path: Path, joined: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a list's objects, an object's objects by their names, or the object of each line. joined: of COCO's
    annotations each, with its image's file_name."""
    data = None
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        with contextlib.suppress(json.JSONDecodeError):  # one object a line
            data = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(data, Mapping):
        lists = [name for name, value in data.items() if isinstance(value, list) and value]
        if data and all(isinstance(value, Mapping) for value in data.values()):
            data = [{"key": name, **value} for name, value in data.items()]
        elif len(data) > 1 and not data.keys() & NAMED and all(isinstance(value, str) for value in data.values()):
            data = [{"key": name, "text": text} for name, text in data.items()]
        elif len(lists) > 1 and "annotations" in lists and joined:
            try:
                names = {image["id"]: image["file_name"] for image in data["images"]}
                data = [{"file_name": names[each["image_id"]], **each} for each in data["annotations"]]
            except (KeyError, TypeError) as error:
                raise UserError(
                    f"{path}: its images and annotations are not of COCO's form ({error}); fix it"
                ) from error
        elif len(lists) > 1 and "annotations" in lists:
            raise UserError(f"{path}: are annotations of COCO's form; give coco:{path}, or a table made of them")
        else:
            # {"prompts": [...], "version": 1}
            data = data[lists[0]] if len(lists) == 1 and not {name.lower() for name in data} & NAMED else [data]
    if isinstance(data, list):
        for number, item in enumerate(data, 1):
            yield where_object(f"{path} entry {number}", {PLAIN: item} if isinstance(item, str) else item)
        return
    for where, line in _lines(path):
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where} is not JSON ({error.msg}, column {error.colno}): fix or remove it") from None
        yield where_object(where, {PLAIN: data} if isinstance(data, str) else data, "\\u" in line)


def _with_image(row: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Return a row of a conversation with a last column `path`: the only one of `images`, or "" as LLaVA's entries
    without an image have none."""
    where, data = row
    if not data.keys() & {"conversations", "messages"}:
        return row
    images = data.get("images")
    return where, {"path": images[0] if isinstance(images, list) and len(images) == 1 else "", **data}


def where_object(where: str, data: Any, spelled: bool = True) -> tuple[str, dict[str, Any]]:
    """Return (where, data), checked to be an object; `spelled`: it may have characters that JSON spells in ASCII."""
    turns = (data.get("conversations") or data.get("messages")) if isinstance(data, dict) else None
    for turn in turns if isinstance(turns, list) else ():  # LLaVA's form: the first answer is the text
        if isinstance(turn, dict) and turn.get("from", turn.get("role")) in ("gpt", "assistant", "model"):
            said = turn.get("value", turn.get("content"))
            if isinstance(said, list):  # in parts
                said = "".join(str(part.get("text") or "") for part in said if isinstance(part, dict))
            data = {**data, "text": said}
            break
    if not isinstance(data, dict):
        raise UserError(f'{where} is not a JSON object such as {{"prompt": "..."}}: fix or remove it')
    try:
        if spelled:  # which can be half of a character; no file can be written with it
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(f"{where} has half of a surrogate pair, which is not valid Unicode: fix it") from None
    return where, data
