"""Images in Parquet files as the Hugging Face Hub keeps them: `image` (bytes and path) and `label`; or a column of
bytes alone, `image` or, as img2dataset writes it, `jpg`, `png` or `webp`. An only column of images may have any name,
such as CIFAR's `img`.

ImageNet's paths there are n01440764_10026_n01440764.JPEG: the last part is the class, and is no part of the name.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tessera.config import UserError
from tessera.curate.collect.class_folders import as_text, safe
from tessera.curate.collect.class_names import read_label
from tessera.curate.collect.crops import RejectedImage
from tessera.curate.collect.sources import Group, Item, Listing, Read

_SYNSET_SUFFIX = re.compile(r"_(n\d{8})$")
_ONLY_PATHS = (
    "holds only the paths of its images, not their bytes, as datasets' to_parquet writes it; give the folder of the"
    " images, or write it again after datasets.table.embed_table_storage"
)
_EXPECTED = "expected are the columns image (with bytes and path) and label"
_IMAGE_COLUMNS = ("image", "jpg", "png", "webp")
_LABEL_COLUMNS = ("label", "labels", "class", "cls")


@dataclass(frozen=True)
class RowGroup(Group):
    """The images of one row group."""

    path: Path
    name: str
    """The file's, in the places of its images."""
    number: int
    first_row: int
    by_row: bool = False
    """True if images are named by their rows, because their own names are not unique."""
    whole = True

    def list(self) -> Listing:
        with _opened(self.path) as file:
            image, schema = _image_column(file.schema_arrow), file.schema_arrow
            labeled = _label_column(schema)
            names = label_names(schema.metadata, labeled)
            has_paths = "path" in _fields(schema.field(image).type)
            wanted = [*([f"{image}.path"] if has_paths else []), *([labeled] if labeled else [])]
            table = file.read_row_group(self.number, columns=wanted)
            group = file.metadata.row_group(self.number)
            labels = table[labeled].to_pylist() if labeled else [None] * group.num_rows
            places = table[image].to_pylist() if has_paths else [None] * group.num_rows
            columns = [group.column(number) for number in range(group.num_columns)]
            parts = (image, f"{image}.bytes")
            length = sum(column.total_uncompressed_size for column in columns if column.path_in_schema in parts)
        items = []
        for row, (place, label) in enumerate(zip(places, labels)):
            path = place["path"] if place else None
            text, code = read_label(label)
            code = None if isinstance(label, str | bytes) else code  # a name, though it has digits alone
            source = f"{self.name}:{self.first_row + row}"
            by_row = f"{PurePosixPath(self.name).with_suffix('')}-{self.first_row + row}"
            stem = PurePosixPath(path.replace("\\", "/")).stem if path else by_row
            synset = _SYNSET_SUFFIX.search(stem)
            if synset:
                text, stem = synset.group(1) if text else "", stem[: synset.start()]
            elif code is not None and names is not None and code < len(names):
                text = names[code]
            reject = None if text else "no label" if labeled else "no column label"
            key = f"{safe(text) if text else 'unknown'}/{safe(by_row if self.by_row else stem)}"
            items.append(Item(key, as_text(text), source, str(self.path), row, 0, code, reject))
        return Listing(items, length=length)

    @contextlib.contextmanager
    def reader(self) -> Iterator[Read]:
        with _opened(self.path) as file:
            name = _image_column(file.schema_arrow)
            nested = bool(_fields(file.schema_arrow.field(name).type))
            table = file.read_row_group(self.number, columns=[f"{name}.bytes" if nested else name])
            column = table.column(name).combine_chunks()

        def read(item: Item) -> bytes:
            assert item.offset is not None
            image = column[item.offset].as_py()
            data = image["bytes"] if nested and image else image
            if data is None:
                raise RejectedImage("no bytes in its row")
            return data

        yield read


def row_groups(paths: Sequence[Path], called: Mapping[Path, str]) -> tuple[list[RowGroup], list[str] | None]:
    """Return the row groups of all files, and the classes' names by number where the first file says them; called: the
    files' names in the places of their images.

    Raises UserError for a file that is not Parquet, has other columns, or holds no bytes of its images.
    """
    groups, names, bytes_in = [], [], False
    for path in paths:
        with _opened(path) as file:
            _check_columns(path, file.schema_arrow)
            names.append(label_names(file.schema_arrow.metadata, _label_column(file.schema_arrow)))
            image, row = _image_column(file.schema_arrow), 0
            for number in range(file.num_row_groups):
                group = file.metadata.row_group(number)
                groups.append(RowGroup(path, called[path], number, row))
                row += group.num_rows
                columns = (group.column(place) for place in range(group.num_columns))
                # Without statistics it is not known; rows without bytes are rejected one by one then.
                stats = [c.statistics for c in columns if c.path_in_schema in (image, f"{image}.bytes")]
                stats = stats if _holds_bytes(file.schema_arrow.field(image).type) else []
                bytes_in |= any(s is None or not s.has_null_count or s.null_count < group.num_rows for s in stats)
    if groups and not bytes_in:
        raise UserError(f"{paths[0]}: {_ONLY_PATHS}")
    return groups, names[0] if names else None


def holds_image_column(paths: Sequence[Path]) -> bool:
    """Return whether the first of the files has a column of images."""
    if not paths:
        return False
    with _opened(paths[0]) as file:
        return _image_column(file.schema_arrow) != ""


def _image_column(schema: Any) -> str:
    import pyarrow as pa

    def holds(name: str) -> bool:
        kind = schema.field(name).type
        return "bytes" in _fields(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    there = [name for name in schema.names if holds(name)]
    if len(there) == 1 and "image" not in schema.names:
        return there[0]
    return next((name for name in _IMAGE_COLUMNS if name in there), "")


def _label_column(schema: Any) -> str:
    return next((name for name in _LABEL_COLUMNS if name in schema.names), "")


def _fields(kind: Any) -> list[str]:
    import pyarrow as pa

    return [field.name for field in kind] if pa.types.is_struct(kind) else []


def label_names(metadata: dict[bytes, bytes] | None, column: str = "label") -> list[str] | None:
    """Return the classes' names in the order of their numbers, where the schema's metadata has them."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _holds_bytes(kind: Any) -> bool:
    """Return whether a column of images may hold bytes; pandas gives those that are all missing the type null."""
    import pyarrow as pa

    return "bytes" not in _fields(kind) or not pa.types.is_null(kind.field("bytes").type)


def _check_columns(path: Path, schema: Any) -> None:
    import pyarrow as pa

    fields = {field.name: field.type for field in schema}
    name, label = _image_column(schema), _label_column(schema)
    if not name and "image" in fields:
        told = "; of base64, write the bytes" if pa.types.is_string(fields["image"]) else ""
        raise UserError(f"{path}: its column image is {fields['image']}, without bytes: it {_ONLY_PATHS}{told}")
    if not name:
        no_table = "a table of names or URLs has no images: give their folder"
        raise UserError(f"{path}: has the columns {', '.join(fields)}; {_EXPECTED}; {no_table}")
    if label and pa.types.is_nested(fields[label]):
        raise UserError(f"{path}: its column {label} is {fields[label]}; wanted is one class for each image")
    if "path" in _fields(fields[name]) and pa.types.is_binary(fields[name].field("path").type):
        raise UserError(f"{path}: its column {name} has paths that are no text; {_EXPECTED}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: is not a Parquet file or is damaged ({reason}); fetch it again") from error
