"""Images in Parquet files as the Hugging Face Hub keeps them: `image` (bytes and path) and `label`.

ImageNet's paths there are n01440764_10026_n01440764.JPEG: the last part is the class, and is no part of the name.
"""

import contextlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tessera.config import UserError
from tessera.curate.collect.class_folders import as_text, safe
from tessera.curate.collect.class_names import read_label
from tessera.curate.collect.crops import RejectedImage
from tessera.curate.collect.sources import Group, Item, Listing, Read

_SYNSET_SUFFIX = re.compile(r"_(n\d{8})$")
_EXPECTED = "expected are the columns image (with bytes and path) and label"


@dataclass(frozen=True)
class RowGroup(Group):
    """The images of one row group."""

    path: Path
    number: int
    first_row: int
    whole = True

    def list(self) -> Listing:
        with _opened(self.path) as file:
            names = label_names(file.schema_arrow.metadata)
            labeled = "label" in file.schema_arrow.names
            table = file.read_row_group(self.number, columns=["image.path", "label"][: 1 + labeled])
            labels = table["label"].to_pylist() if labeled else itertools.repeat(None)
            group = file.metadata.row_group(self.number)
            columns = [group.column(number) for number in range(group.num_columns)]
            length = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == "image.bytes")
        items = []
        for row, (image, label) in enumerate(zip(table["image"].to_pylist(), labels)):
            path = image["path"] if image else None
            text, code = read_label(label)
            code = None if isinstance(label, str) else code  # a name, though it has digits alone
            source = f"{self.path.name}:{self.first_row + row}"
            stem = PurePosixPath(path.replace("\\", "/")).stem if path else f"{self.path.stem}-{self.first_row + row}"
            synset = _SYNSET_SUFFIX.search(stem)
            if synset:
                text, stem = synset.group(1) if text else "", stem[: synset.start()]
            elif code is not None and names is not None and code < len(names):
                text = names[code]
            reject = None if text else "no label"
            key = f"{safe(text) if text else 'unknown'}/{safe(stem)}"
            items.append(Item(key, as_text(text), source, str(self.path), row, 0, code, reject))
        return Listing(items, length=length)

    @contextlib.contextmanager
    def reader(self) -> Iterator[Read]:
        with _opened(self.path) as file:
            column = file.read_row_group(self.number, columns=["image.bytes"]).column("image").combine_chunks()

        def read(item: Item) -> bytes:
            assert item.offset is not None
            image = column[item.offset].as_py()
            if not image or image["bytes"] is None:
                raise RejectedImage("no bytes in its row")
            return image["bytes"]

        yield read


def row_groups(paths: Sequence[Path]) -> tuple[list[RowGroup], list[str] | None]:
    """Return the row groups of all files, and the classes' names by number where the first file says them.

    Raises UserError for a file that is not Parquet, or has other columns.
    """
    groups, names = [], []
    for path in paths:
        with _opened(path) as file:
            _check_columns(path, file.schema_arrow)
            names.append(label_names(file.schema_arrow.metadata))
            row = 0
            for number in range(file.num_row_groups):
                groups.append(RowGroup(path, number, row))
                row += file.metadata.row_group(number).num_rows
    return groups, names[0] if names else None


def holds_image_column(paths: Sequence[Path]) -> bool:
    """Return whether the first of the files has the column image."""
    if not paths:
        return False
    with _opened(paths[0]) as file:
        return "image" in file.schema_arrow.names


def label_names(metadata: dict[bytes, bytes] | None) -> list[str] | None:
    """Return the classes' names in the order of their numbers, where the schema's metadata has them."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _check_columns(path: Path, schema: Any) -> None:
    import pyarrow as pa

    fields = {field.name: field.type for field in schema}
    image = fields.get("image")
    if image is None:
        raise UserError(f"{path}: has the columns {', '.join(fields)}; {_EXPECTED}")
    if not pa.types.is_struct(image) or {"bytes", "path"} - {field.name for field in image}:
        raise UserError(f"{path}: its column image is {image}; {_EXPECTED}")
    if "label" in fields and pa.types.is_nested(fields["label"]):
        raise UserError(f"{path}: its column label is {fields['label']}; wanted is one class for each image")
    if pa.types.is_binary(image.field("path").type):
        raise UserError(f"{path}: its column image has paths that are no text; {_EXPECTED}")


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
