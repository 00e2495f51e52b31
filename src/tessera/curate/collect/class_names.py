"""Names of classes: from the layout's own mapping, a file next to it, or one that the user gives.

Such a file has a line for each class, "n02099601 golden retriever" (LOC_synset_mapping.txt, synset_words.txt; synonyms
after a comma), "label<TAB>name", a number and a name ("0 cat", "0: cat", "0,cat") in every line, or names alone in the
order of the labels' numbers (classnames.txt); or it is csv with a label and a name in each row, with a header or
without; or it is JSON: an object of label -> name, a list of names, or imagenet_class_index.json.
"""

import csv
import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.curate.collect.class_folders import WORDNET_ID, as_text

NAMES_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "imagenet_class_index.json", "classnames.txt")
"""Files that are found by themselves, in the source or in a folder above it."""


_CODE = re.compile(r"(n\d{8}|\d+)[\s._-]+(?=[^\W\d_])")  # in front of a class's name
_NUMBERED = re.compile(r"(\d+)(?:\s*[,:;=)]\s*|\s+-\s+|\.?\s+)(\S.*)")  # a line with a label's number and its name


@dataclass(frozen=True)
class ClassNames:
    """Names by label, and by the label's number."""

    file: str
    by_label: Mapping[str, str]
    """Synonyms and all."""
    in_order: Sequence[str]
    record: str
    """NAME@HASH of the file's bytes."""


def read_class_names(path: Path) -> ClassNames:
    """Read a file of class names. Raises UserError if it is missing or has another form."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: class names cannot be read ({error}); give a UTF-8 text or JSON file") from error
    read = {".json": _from_json, ".csv": _from_csv}.get(path.suffix.lower(), _from_lines)
    by_label, in_order = read(path, text)
    if by_label and all(map(WORDNET_ID.fullmatch, by_label)):  # sorted, their numbers are those of ImageNet's labels
        in_order = [by_label[label] for label in sorted(by_label)]
    by_label = {read_label(label)[0] or label: name for label, name in by_label.items()}
    if not (by_label or in_order):
        raise UserError(f'{path}: has no class names; a line is "n02099601 golden retriever" or "label<TAB>name"')
    record = f"{path.name}@{hashlib.sha256(data).hexdigest()[:12]}"
    return ClassNames(path.name, by_label, in_order, record)


def find_class_names(source: Path) -> ClassNames | None:
    """Read the file of class names in the source, or in one of the three folders above it; None if there is none."""
    folders = (source.resolve(), *list(source.resolve().parents)[:3])
    found = (folder / name for folder in folders for name in NAMES_FILES if (folder / name).is_file())
    return next(map(read_class_names, found), None)


def is_code(label: str, codes: Mapping[str, int]) -> bool:
    """Return whether a label is a WordNet id or a number, which says nothing to anybody."""
    return WORDNET_ID.fullmatch(label) is not None or (label in codes and label == str(codes[label]))


def read_label(value: Any) -> tuple[str, int | None]:
    """Return a label of a table or text file as text, and its number if it has one; ("", None) where it is none.

    Whole floats are numbers: pandas writes a column with a gap as doubles, DuckDB its HUGEINTs and sums. Null, other
    floats and negative numbers, as the Hub's -1, are no label.
    """
    if isinstance(value, bytes):  # as DuckDB's BLOB
        value = value.decode("utf-8", "replace")
    value = value.strip() if isinstance(value, str) else value
    if isinstance(value, str) and re.fullmatch(r"-\d+|-?\d+\.0*", value):
        value = float(value)
    if isinstance(value, float | Decimal):
        value = int(value) if math.isfinite(value) and value == int(value) else None
    if value in (None, "nan", "NaN", "<NA>") or (isinstance(value, int) and value < 0):
        return "", None
    text = str(value)
    return text, int(text) if text.isdecimal() else None


def name_classes(
    where: Path,
    labels: Iterable[str],
    codes: Mapping[str, int],
    given: ClassNames | None,
    own: Sequence[str] | None,
    asked: bool = False,
) -> tuple[dict[str, str], dict[str, str]]:
    """Return label -> the class's name, and name -> the code that was taken off in front of it.

    codes: label -> its number, where the layout has numbers. given: the file of names; asked: by the user, so that it
    goes before names of the layout. own: names by number in the layout itself. Raises UserError for WordNet ids or
    numbers that nothing names, a number that is not the label's, or a file of the user's that names nothing.
    """
    labels, synsets = sorted(labels), sorted(filter(WORDNET_ID.fullmatch, given.by_label if given else ()))
    full: dict[str, str] = {}
    by_file: set[str] = set()
    unnamed: list[str] = []
    for label in labels:
        code = codes.get(label)
        # The folders of a set may be numbers too.
        number = int(label) if code is None and asked and label.isdecimal() else code
        in_order = number is not None and not WORDNET_ID.fullmatch(label) and (asked or label == str(number))
        if given is not None and label in given.by_label:
            # The number is that of another class then.
            if code is not None and WORDNET_ID.fullmatch(label) and synsets[code : code + 1] != [label]:
                raise UserError(
                    f"{where}: the label {code} stands at {label}, but {label} is not number {code} of {given.file};"
                    " give the --class-names FILE of this set"
                )
            full[label] = given.by_label[label]
            by_file.add(label)
        elif given is not None and in_order and number is not None and number < len(given.in_order):
            full[label] = given.in_order[number]
            by_file.add(label)
        elif own is not None and code is not None and code < len(own) and not WORDNET_ID.fullmatch(own[code]):
            full[label] = own[code]
        elif is_code(label, codes) or (by_file and number is not None):
            unnamed.append(label)
        else:
            full[label] = class_name(label)
    some = ", ".join([*(unnamed or labels)[:3], "..."][: len(unnamed or labels)])
    if unnamed:
        source = f"{given.file} does not name" if given is not None else "no file near it names"
        raise UserError(
            f"{where}: {source} {len(unnamed)} of {len(labels)} classes ({some});"
            " give --class-names FILE, such as LOC_synset_mapping.txt"
        )
    if given is not None and asked and not by_file:
        raise UserError(
            f"{where}: {given.file} names none of the {len(labels)} classes ({some}); a line is LABEL<TAB>NAME, or"
            " leave --class-names out"
        )
    # The first synonym of each, or all of them where two classes would be called the same.
    first = {label: name.split(",")[0].strip() for label, name in full.items()}
    often = Counter(first.values())
    return _without_codes({label: name if often[name] == 1 else full[label].strip() for label, name in first.items()})


def _without_codes(names: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names without the WordNet ids or numbers in front, and name -> what was taken off; where most have
    one, and no two classes would be called the same."""
    found = {label: match for label, name in names.items() if (match := _CODE.match(name)) is not None}
    bare = dict(names) | {label: names[label][match.end() :] for label, match in found.items()}
    if 2 * len(found) <= len(names) or len(set(bare.values())) < len(set(names.values())):
        return dict(names), {}
    return bare, {bare[label]: match[1] for label, match in found.items()}


def class_name(folder: str) -> str:
    """Return the class that a folder's name says: "_" and "-" are spaces."""
    folder = as_text(folder)
    return " ".join(folder.replace("_", " ").replace("-", " ").split()) or folder


def _from_lines(path: Path, text: str) -> tuple[dict[str, str], list[str]]:
    numbered = [_NUMBERED.fullmatch(line.strip()) for line in text.splitlines() if line.strip()]
    pairs = [(found[1], found[2]) for found in numbered if found]
    if len(pairs) == len(numbered) == len(dict(pairs)) == len({name for _, name in pairs}):  # else "1 euro", "2 euro"
        return dict(pairs), []
    by_label: dict[str, str] = {}
    in_order: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line:
            continue
        first, _, rest = line.partition(" ") if "\t" not in line else line.partition("\t")
        if not WORDNET_ID.fullmatch(first.strip()) and "\t" not in line:
            in_order.append(line)
            continue
        label, name = first.strip(), rest.strip()
        if not name or by_label.setdefault(label, name) != name:
            raise UserError(f"{path}: line {number} {'has no name' if not name else f'names {label} a second time'}")
    if by_label and all(re.match(r"\d+\s+\S", name) for name in by_label.values()):  # map_clsloc.txt: id, number, name
        by_label = {label: name.split(maxsplit=1)[1].replace("_", " ") for label, name in by_label.items()}
    if by_label and in_order:
        raise UserError(f"{path}: has lines with a label and lines without, such as {in_order[0]!r}; use one form")
    return by_label, in_order


def _from_csv(path: Path, text: str) -> tuple[dict[str, str], list[str]]:
    rows = [[field.strip() for field in row] for row in csv.reader(io.StringIO(text)) if any(map(str.strip, row))]
    if rows and {name.lower() for name in rows[0][1:2]} <= {"name", "names", "class", "class_name", "label", "text"}:
        rows = rows[1:]
    for row in rows:
        if len(row) != 2 or not all(row):
            raise UserError(f"{path}: a row is {','.join(row)!r}; expected are a label and a name, quoted if need be")
    if len({label for label, _ in rows}) < len(rows):
        raise UserError(f"{path}: names a label a second time")
    return dict(rows), []


def _from_json(path: Path, text: str) -> tuple[dict[str, str], list[str]]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); fix it") from error
    if isinstance(data, list) and all(isinstance(name, str) for name in data):
        return {}, data
    pairs: list[tuple[str, Any]] = list(data.items()) if isinstance(data, dict) else [("", None)]
    for number, (_, name) in enumerate(pairs):
        if isinstance(name, list) and len(name) == 2 and all(isinstance(part, str) for part in name):
            pairs[number] = name[0], name[1].replace("_", " ")  # imagenet_class_index.json: WordNet id, name
    if not all(isinstance(name, str) and name.strip() for _, name in pairs):
        raise UserError(f"{path}: expected is an object of label -> name, or a list of names")
    return dict(pairs), []
