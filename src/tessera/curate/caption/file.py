"""Captions that a user has: a table with an image's name and its text (`tessera.prompts.rows`), or a folder.

A folder has `metadata.csv` or `metadata.jsonl` (Hugging Face's ImageFolder), or a .txt, .caption or .json file for each
image, of the same stem, as img2dataset and kohya's scripts write them, or WebDataset tars or Parquet files with the
images; or it is a data set of the Hub, named OWNER/NAME, whose tables are all read. A .tsv file whose captions hold
bare quotes, tabs or line breaks is read line by line, also without a header, and so is a .txt file split at tabs.

Several captions of an image are of several levels (`tessera.curate.caption.table`): columns `long`, `medium`, `short`
and `tags`, `caption_0`, `caption_1`, ..., or those that are named, FILE:NAME,TEXT,TEXT; columns `key` and `level` of
tables with a row for each caption; files `a.short.txt` next to `a.txt`; lists, whose texts are `long`, `long-2`, ...
"""

import functools
import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.curate.caption.table import LEVEL, LEVEL_NAME, check_level
from tessera.curate.collect.packed import names_apart
from tessera.curate.collect.parquet import holds_image_column
from tessera.curate.collect.tars import entries
from tessera.encoded.record import LONG
from tessera.files import sha256_file
from tessera.hub import REPOSITORY, fetch_repository
from tessera.images import READABLE, UNREADABLE
from tessera.prompts.rows import MAX_FIELD, NAME_COLUMNS, TABLES, read_rows, split_columns

_FIRST = ("caption_0", "caption_1", "caption0", "caption1", "text_0", "text_1")
_NUMBERED = re.compile(r"(text|caption)_?\d")
TEXT_COLUMNS = ("text", "caption", "captions", "long", "tags", "txt", "comment", *_FIRST)
MORE_COLUMNS = ("medium", "short", "tags")
"""Columns of further levels, in tables that have `long`, `medium` or `short`."""
TEXTS = (".txt", ".caption")
"""Suffixes of files with one caption, named as their images are."""
Told = tuple[str, str, str]
"""(name, level, text) of a caption."""
_METADATA = ("metadata.csv", "metadata.jsonl")


def find_captions(file: str | Path) -> tuple[str, str]:
    """Find the captions `file`, a file or FILE:NAME,TEXT (its columns), a folder, or OWNER/NAME, fetched from the Hub.

    Return what `read_captions_file` reads, and its record NAME@HASH: of the bytes, or the commit of the Hub. Raises
    UserError if it is not there.
    """
    path, columns = split_columns(file)
    if path.is_file():
        return str(file), f"{':'.join([path.name, *([','.join(columns)] if columns else [])])}@{sha256_file(path)[:12]}"
    if path.is_dir():
        digest = hashlib.sha256()
        for part in _files_in(path):
            digest.update(f"{part.relative_to(path).as_posix()}\0{sha256_file(part)}\n".encode())
        return str(path), f"{path.resolve().name}@{digest.hexdigest()[:12]}"
    if path.is_absolute() or not REPOSITORY.fullmatch(str(file)) or path.suffix.lower() in TABLES:
        raise UserError(
            f"{file}: there is no such captions file; give one, a folder with captions, or a data set of the Hub as"
            " OWNER/NAME"
        )
    patterns = [f"*{suffix}" for suffix in TABLES]  # no code of it is fetched, let alone run
    snapshot = fetch_repository(str(file), patterns, repo_type="dataset")
    if not any(path.suffix in TABLES for path in snapshot.rglob("*")):
        raise UserError(f"{file}: has no tables; for texts in tars: tessera fetch-captions {file} --out told")
    return str(snapshot), f"{file}@{snapshot.name[:12]}"


def check_captions(file: str | Path) -> None:
    """Raise UserError for what `read_captions_file` would say of its first row, or if there is none."""
    path, _ = find_captions(file)
    if next(read_captions_file(path), None) is None:
        raise UserError(f"{file}: has no captions; give a file with a row for each image")


def _files_in(folder: Path) -> list[Path]:
    """List the files with a folder's captions: metadata, texts of the same stem as an image, or tables.

    Where images are there, texts and JSON without an image of their name are no captions; img2dataset's JSON next to
    texts, and tables next to the folder or tar that they list, hold no other ones. Raises UserError for none, or two
    kinds.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    images = {path.with_suffix("") for path in files if path.suffix.lower() in READABLE | UNREADABLE}
    kinds: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        suffix = path.suffix.lower()
        stem = path.with_suffix("")
        paired = stem in images
        if suffix in TEXTS and not paired:
            paired = _split_level(str(stem), lambda base: Path(base) in images)[0] != str(stem)
        if path.name in _METADATA:
            kinds["metadata"].append(path)
        elif suffix in TEXTS and (paired or not images):
            kinds[suffix].append(path)
        elif suffix == ".json" and paired:
            kinds["sidecars"].append(path)
        elif suffix == ".tar" or (suffix in TABLES and not _is_about(path)):
            kinds["tables"].append(path)
    if any(kinds.get(suffix) for suffix in TEXTS):
        kinds.pop("sidecars", None)
    found = [kinds[kind] for kind in sorted(kinds, key=lambda kind: kind != "metadata") if kinds[kind]]
    if not found:
        raise UserError(
            f"{folder}: has no captions: no metadata.csv or .jsonl, no texts {' or '.join(TEXTS)} of the images' names,"
            f" none of {', '.join(TABLES)}"
        )
    if len(found) > 1:
        found = [kind for kind in found if kind != kinds["tables"] or any(map(_has_captions, kind))]
    if len(found) > 1:
        names = " and ".join(kind[0].relative_to(folder).as_posix() for kind in found)
        raise UserError(f"{folder}: has captions of two kinds, {names}; give the file, or a folder with one of them")
    return found[0]


def _is_about(path: Path) -> bool:
    """Return whether a table lists the images of the folder or tar of its name, as img2dataset's do."""
    return path.with_suffix("").is_dir() or path.with_suffix(".tar").is_file() or path.name.endswith("_stats.json")


def _has_captions(path: Path) -> bool:
    """Return whether a table, such as one next to texts, has captions at all."""
    try:
        return path.suffix.lower() == ".tar" or next(_read_table(path, ()), None) is not None
    except UserError:
        return False


def read_captions_file(source: str | Path, known: Container[str] = ()) -> Iterator[Told]:
    """Yield (name, level, text) of each caption that `find_captions` found, in order; texts stay as they are.

    Names are brought to the form of keys and sources: "/" between parts, Unicode NFC, no leading "./". known: names
    that images have; in a .tsv file without quoting they tell a new row from the next line of a caption.
    UserError: another suffix, a missing column, a row that is not well formed, not UTF-8.
    """
    path, columns = split_columns(source)
    folder = path.is_dir()
    files = _files_in(path) if folder else [path]
    stems, called = {file.with_suffix("") for file in files}, names_apart(path, files)
    for file in files:
        place = file.parent.relative_to(path).as_posix() if folder else "."
        suffix = file.suffix.lower()
        start = f"{place}/" if file.name in _METADATA and place != "." else ""
        own = file.relative_to(path).with_suffix("").as_posix() if folder else ""
        if folder and suffix in TEXTS:
            stem, level = own, LONG
            if own not in known and not _is_sidecar(file.with_suffix("")):
                stem, level = _split_level(own, lambda base: path / base in stems or _is_sidecar(path / base))
            rows = [(stem, level, _decoded(str(file), file.read_bytes()))]
        elif folder and suffix == ".json" and _is_sidecar(file.with_suffix("")):
            rows = _of_json(own, str(file), file.read_bytes())
        elif suffix == ".tar":
            rows = _read_tar(file, called[file])
        elif (suffix == ".tsv" or _is_bare(file)) and not _is_quoted(file, columns):
            rows = _read_unquoted(file, known)
        else:
            rows = _read_table(file, columns, called[file])
        for name, level, text in rows:
            yield f"{start}{_tidy(name)}", check_level(level, file), text


def _decoded(where: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error


def _is_sidecar(stem: Path) -> bool:
    """Return True if an image of this name is there."""
    return any(stem.with_name(f"{stem.name}{suffix}").is_file() for suffix in READABLE | UNREADABLE)


def _split_level(stem: str, has: Callable[[str], bool]) -> tuple[str, str]:
    """Return (stem of the image, level) of a text's stem: a.short is of a, if that `has` an image or a text."""
    base, _, level = stem.rpartition(".")
    if not base or not LEVEL_NAME.fullmatch(level) or not has(base):
        return stem, LONG
    return base, LONG if level in TEXT_COLUMNS[:3] else level


def _of_list(value: Any, level: str = LONG) -> Iterator[tuple[str, Any]]:
    """Yield (level, text) of a text, or of each of a list."""
    for number, text in enumerate(value if isinstance(value, list) else [value], 1):
        yield (level if number == 1 else f"{level}-{number}"), text


@functools.lru_cache
def _levels(columns: tuple[str, ...], texts: tuple[str, ...]) -> dict[str, str]:
    """Return column -> level of a row's captions; `texts`: the first, or all that the user named."""
    named = {column.strip().lower(): column for column in columns}
    first, *more = texts
    if more:
        wanted = {name: LONG if name in TEXT_COLUMNS[:3] else name for name in named} | _numbered(named)
        return {column: wanted[name] for name, column in named.items() if column in texts}
    found = {first: LONG}
    if _NUMBERED.fullmatch(first.strip().lower()):
        return {named[name]: level for name, level in _numbered(named).items()}
    if named.keys() & {LONG, "medium", "short"}:
        found |= {named[level]: level for level in MORE_COLUMNS if level in named and named[level] not in found}
    return found


def _numbered(names: Iterable[str]) -> dict[str, str]:
    """Return the level of each of the columns caption_0, caption_1, ...: `long`, `long-2`, ..."""
    names = sorted(name for name in names if _NUMBERED.fullmatch(name))
    return {name: LONG if number == 1 else f"{LONG}-{number}" for number, name in enumerate(names, 1)}


def _of_json(name: str, where: str, data: bytes) -> Iterator[Told]:
    """Yield the captions of the JSON object of one image, maybe several; none where it has no such field."""
    try:
        row = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not JSON ({error}); fix it") from error
    first = next((column for column in TEXT_COLUMNS if row.get(column)), None) if isinstance(row, dict) else None
    for column, level in _levels(tuple(row), (first,)).items() if first is not None else ():
        yield from ((name, each, text) for each, text in _of_list(row.get(column), level) if isinstance(text, str))


def _read_tar(path: Path, called: str) -> Iterator[Told]:
    """Yield the captions in a WebDataset shard, named CALLED/KEY: its .txt or .caption entries, else its .json."""
    parts = [name.rpartition(".") for name, _, _ in entries(path)]
    images = {stem for stem, _, suffix in parts if f".{suffix.lower()}" not in (*TEXTS, ".json")}
    told: set[str] = set()
    with open(path, "rb") as file:
        for kinds in (TEXTS, (".json",)):
            for name, offset, size in entries(path):
                stem, dot, suffix = name.rpartition(".")
                if f"{dot}{suffix.lower()}" not in kinds or stem in told or not 0 <= size <= MAX_FIELD:
                    continue
                file.seek(offset)
                data, where = file.read(size), f"{path}: entry {name!r}"
                image, level = (stem, LONG) if stem in images else _split_level(stem, images.__contains__)
                own = f"{called}/{image}"
                rows = _of_json(own, where, data) if kinds != TEXTS else iter([(own, level, _decoded(where, data))])
                for row in rows:
                    told.add(stem)
                    yield row
    if not told:
        raise UserError(f"{path}: has no captions: no .txt or .caption entries, and no .json with {TEXT_COLUMNS}")


def _tidy(name: str) -> str:
    name = re.sub(r"(\.[A-Za-z]{3,4})#\d+$", r"\1", name.strip())  # Flickr8k.token.txt has a.jpg#0 to a.jpg#4
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")


def _read_table(path: Path, columns: tuple[str, ...], called: str = "") -> Iterator[Told]:
    of_rows = path.suffix.lower() == ".parquet" and len(columns) < 2 and holds_image_column([path])
    if of_rows:  # its images are known by their rows, as `tessera collect` names them
        rows = read_rows(path, TEXT_COLUMNS, given=columns)
    else:
        wanted = (NAME_COLUMNS, TEXT_COLUMNS, *[()] * (len(columns) - 2))
        optional = (*columns[-1:], LONG, *MORE_COLUMNS) if len(columns) < 2 else columns[1:]
        rows = read_rows(path, *wanted, given=columns, bare=False, plain=False, optional=optional)
    for number, (where, row, found) in enumerate(rows):
        name, texts = (f"{called}:{number}", found) if of_rows else (row[found[0]], found[1:])
        levels = _levels(tuple(row), texts)
        if found[0] == "key" and isinstance(row.get(LEVEL), str):  # a row for each caption
            levels = {texts[0]: row[LEVEL]}
        for column, level in levels.items():
            for each, text in _of_list(row[column], level):
                if text is None or text != text:  # as pandas writes what is missing
                    text = ""
                if not isinstance(name, str) or not isinstance(text, str):
                    raise UserError(f"{where}: {' and '.join(found)} must be strings")
                yield name, each, text


def _is_bare(path: Path) -> bool:
    """Return whether a .txt file is split at tabs."""
    if path.suffix.lower() != ".txt":
        return False
    with open(path, "rb") as file:
        return b"\t" in file.readline(MAX_FIELD)


def _is_quoted(path: Path, columns: tuple[str, ...]) -> bool:
    """Return True if a .tsv file is well formed with quotes, as the published captions are not."""
    try:
        return all(True for _ in _read_table(path, columns))
    except UserError:
        return False


def _read_unquoted(path: Path, known: Container[str]) -> Iterator[Told]:
    """Yield rows of a .tsv file without quoting: the text is the last column, and may hold tabs and line breaks.

    A line begins a row when it has enough tabs and its name is a known one, or looks like one: no spaces, and a digit,
    slash, dot or underscore.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = (line.rstrip("\n").removesuffix("\r") for line in file)
        first = next(lines, "")
        header = first.split("\t")
        name = next((column for column in NAME_COLUMNS if column in header), None)
        text = next((column for column in TEXT_COLUMNS if column in header), None)
        place, width, pending = 0, 2, None
        if name is not None and text is not None:
            place, width = header.index(name), len(header)
            if header[-1] != text:
                raise UserError(f"{path}: its captions are not quoted, so {text} must be the last column")
        elif name is not None or text is not None or len(header) < 2:
            raise UserError(f"{path}: has no column key or file_name and text; its first line is {first[:80]!r}")
        else:
            pending = (header[0], "\t".join(header[1:]))
        for number, line in enumerate(lines, 2):
            fields = line.split("\t", width - 1)
            if len(fields) == width and _is_name(fields[place], known):
                if pending is not None:
                    yield (pending[0], LONG, pending[1])
                pending = (fields[place], fields[-1])
            elif pending is not None:
                pending = (pending[0], f"{pending[1]}\n{line}")
            elif line:
                raise UserError(f"{path}: line {number} has not as many fields as the header")
        if pending is not None:
            yield (pending[0], LONG, pending[1])


def _is_name(text: str, known: Container[str]) -> bool:
    return _tidy(text) in known or re.fullmatch(r"\S*[\d/._]\S*", text) is not None
