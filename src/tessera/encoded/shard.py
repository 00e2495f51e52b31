"""One shard of the encoded store: a memory-mapped Arrow IPC file of records of equal shapes.

Its columns are numpy views of the mapped file, found once, so that a record, read in any order, costs little more than
its own copying.
"""

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tessera.config import UserError
from tessera.encoded.record import GROUP, EncodedRecord, TextEncodingKind
from tessera.files import atomic_path

BATCH_ROWS = 64  # records in an Arrow record batch
AGAIN = "delete the directory and run `tessera encode` again"
_FORMAT = "tessera-encoded-1"


class Layout(NamedTuple):
    """Shapes and encoding in the metadata of a shard's schema."""

    latent_shape: tuple[int, int, int]
    text_width: int
    text_encoding: TextEncodingKind


def write_shard(
    path: Path,
    records: Iterable[EncodedRecord],
    *,
    latent_shape: Sequence[int],
    text_width: int,
    text_encoding: TextEncodingKind = "int8",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write one Arrow IPC file, atomically, 64 records at a time. Equal records give equal bytes.

    latent_shape: (C, H, W). metadata: more for the schema, which holds the shapes. Raises ValueError for a record of
    another shape or dtype, and for no record at all.
    """
    layout = Layout(tuple(latent_shape), text_width, text_encoding)  # type: ignore
    schema = _schema(layout, metadata or {})
    remaining = iter(records)
    written = 0
    with atomic_path(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
            while rows := list(itertools.islice(remaining, BATCH_ROWS)):
                for record in rows:
                    _check_record(record, layout)
                file.write_batch(pa.record_batch([_column(field, rows) for field in schema], schema=schema))
                written += len(rows)
        if not written:
            raise ValueError(f"{path}: a shard needs at least one record")


def _schema(layout: Layout, metadata: Mapping[str, str]) -> pa.Schema:
    latent_shape, text_width, text_encoding = layout

    def required(name: str, kind: pa.DataType) -> pa.Field:
        return pa.field(name, kind, nullable=False)

    def tokens(name: str, kind: pa.DataType, width: int) -> pa.Field:
        return required(name, pa.list_(required("item", pa.list_(required("item", kind), width))))

    fields = [required("key", pa.string()), required("class", pa.string()), required("caption", pa.string())]
    if text_encoding == "int8":
        fields += [tokens("text", pa.int8(), text_width), tokens("text_scale", pa.float16(), -(-text_width // GROUP))]
    elif text_encoding == "fp16":
        fields.append(tokens("text", pa.float16(), text_width))
    elif text_encoding != "none":
        raise UserError(f"text_encoding must be int8, fp16 or none, not {text_encoding!r}")
    for name in ("latent_mean", "latent_std"):
        fields.append(required(name, pa.list_(required("item", pa.float16()), int(np.prod(latent_shape)))))
    own = {"format": _FORMAT, "latent_shape": json.dumps(list(latent_shape)), "text_width": str(text_width)}
    own |= {"text_encoding": text_encoding, "text_group": str(GROUP)}
    return pa.schema(fields, metadata=dict(sorted({**metadata, **own}.items())))


def _check_record(record: EncodedRecord, layout: Layout) -> None:
    length = 0 if record.text_codes is None else len(record.text_codes)
    wanted = dict.fromkeys(("latent_mean", "latent_std"), f"float16 {layout.latent_shape}")
    wanted |= dict.fromkeys(("text_codes", "text_scale"))
    if layout.text_encoding != "none":
        dtype = "int8" if layout.text_encoding == "int8" else "float16"
        wanted["text_codes"] = f"{dtype} {(length, layout.text_width)}"
    if layout.text_encoding == "int8":
        wanted["text_scale"] = f"float16 {(length, -(-layout.text_width // GROUP))}"
    for name, form in wanted.items():
        array = getattr(record, name)
        found = None if array is None else f"{array.dtype} {array.shape}"
        if found != form:
            raise ValueError(f"record {record.key!r}: {name} must be {form}, not {found}")


_ATTRIBUTES = {"class": "class_name", "text": "text_codes"}  # columns whose name is not the record's


def _column(field: pa.Field, rows: list[EncodedRecord]) -> pa.Array:
    values = [getattr(row, _ATTRIBUTES.get(str(field.name), str(field.name))) for row in rows]
    if pa.types.is_string(field.type):
        return pa.array(values, type=field.type)
    if pa.types.is_fixed_size_list(field.type):
        flat = pa.array(np.stack(values).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, type=field.type)
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int32)
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(values).reshape(-1)), type=field.type.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets), tokens, type=field.type)


def _damaged(path: Path, error: Exception | str) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"{path}: is damaged or cut short ({reason}); {AGAIN}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pa.RecordBatchFileReader]:
    try:
        source = pa.memory_map(str(path), "r")
        reader = pa.ipc.open_file(source)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, "not an Arrow file") from error
    with source:
        try:
            yield reader
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error


def inspect_shard(path: Path) -> tuple[Layout, int]:
    """Return a shard's layout and number of records, from its footer and last batch."""
    with _opened(path) as reader:
        data = reader.schema.metadata or {}
        if data.get(b"format") != _FORMAT.encode():
            raise UserError(f"{path}: is not a shard of tessera; {AGAIN}")
        shape, width = json.loads(data[b"latent_shape"]), int(data[b"text_width"])
        layout = Layout(tuple(shape), width, data[b"text_encoding"].decode())  # type: ignore
        if not reader.schema.equals(_schema(layout, {})):  # their metadata are not compared
            raise ValueError("its columns are not those of its shapes")
        batches = reader.num_record_batches
        return layout, (batches - 1) * BATCH_ROWS + reader.get_batch(batches - 1).num_rows


class Shard:
    """The columns of one shard as numpy views of the mapped file.

    The file is closed at once: the mapping lives as long as a view does, and thousands of shards need no descriptors.
    """

    def __init__(self, path: Path, latent_shape: tuple[int, int, int]):
        self.path, self.latent_shape = path, latent_shape
        with _opened(path) as reader:
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
            for batch in batches:
                batch.validate()
            if any(batch.num_rows != BATCH_ROWS for batch in batches[:-1]):
                raise ValueError(f"a batch is not of {BATCH_ROWS} records")
            self.batches = [{name: self._view(batch.column(name)) for name in batch.schema.names} for batch in batches]

    @staticmethod
    def _view(column: pa.Array) -> Any:
        """Return (offsets, bytes) of strings, (offsets, (tokens, width)) of text, (rows, numbers) of latents."""
        if isinstance(column, pa.FixedSizeListArray):
            return column.values.to_numpy().reshape(len(column), -1)
        offsets = np.frombuffer(column.buffers()[1], dtype=np.int32)[: len(column) + 1]
        if (np.diff(offsets) < 0).any():
            raise ValueError("offsets are not in order")
        if isinstance(column, pa.StringArray):
            return offsets.tolist(), memoryview(column.buffers()[2] or b"")
        tokens = column.values
        return offsets.tolist(), tokens.values.to_numpy().reshape(len(tokens), tokens.type.list_size)

    def every_key(self) -> list[str]:
        try:
            return [_string(batch["key"], row) for batch in self.batches for row in range(len(batch["key"][0]) - 1)]
        except UnicodeDecodeError as error:
            raise _damaged(self.path, error) from error

    def read(self, row: int) -> EncodedRecord:
        batch = self.batches[row // BATCH_ROWS]
        row %= BATCH_ROWS
        try:
            key, class_name, caption = (_string(batch[name], row) for name in ("key", "class", "caption"))
        except UnicodeDecodeError as error:
            raise _damaged(self.path, error) from error
        return EncodedRecord(
            key=key,
            class_name=class_name,
            caption=caption,
            text_codes=_rows(batch["text"], row) if "text" in batch else None,
            text_scale=_rows(batch["text_scale"], row) if "text_scale" in batch else None,
            latent_mean=batch["latent_mean"][row].reshape(self.latent_shape).copy(),
            latent_std=batch["latent_std"][row].reshape(self.latent_shape).copy(),
        )


def _string(column: tuple[list[int], memoryview], row: int) -> str:
    offsets, data = column
    return str(data[offsets[row] : offsets[row + 1]], "utf-8")


def _rows(column: tuple[list[int], np.ndarray], row: int) -> np.ndarray:
    offsets, data = column
    return data[offsets[row] : offsets[row + 1]].copy()
