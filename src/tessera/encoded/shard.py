"""One shard of the encoded store: a memory-mapped Arrow IPC file of records.

Its columns are numpy views of the mapped file, found once, so that a record, read in any order, costs little more than
its own copying. A set of several captions an image has more columns for each further level, "caption/LEVEL",
"text/LEVEL", "text_scale/LEVEL"; a text that an earlier level of the record has too is stored there alone. A set of
buckets of aspect ratios has a column "bucket", and latents of any length.
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
from tessera.encoded.record import GROUP, LONG, EncodedRecord, EncodedText, TextEncodingKind
from tessera.files import atomic_path

BATCH_ROWS = 64  # records in an Arrow record batch
AGAIN = "delete the directory and run `tessera encode` again"
_FORMAT = "tessera-encoded-1"


class Layout(NamedTuple):
    """Shapes and encoding in the metadata of a shard's schema."""

    latent_shape: tuple[int, int, int]
    text_width: int
    text_encoding: TextEncodingKind
    levels: tuple[str, ...] = (LONG,)
    """Levels of captions, at least one of which every image has."""
    shapes: tuple[tuple[int, int, int], ...] = ()
    """Shapes of latents by bucket; () = all have `latent_shape`."""
    features: tuple[int, int] = (0, 0)
    """Tokens and width of an image's features; (0, 0) = none are stored."""


def write_shard(
    path: Path,
    records: Iterable[EncodedRecord],
    *,
    latent_shape: Sequence[int],
    text_width: int,
    text_encoding: TextEncodingKind = "int8",
    levels: Sequence[str] = (LONG,),
    shapes: Sequence[tuple[int, int, int]] = (),
    features: tuple[int, int] = (0, 0),
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write one Arrow IPC file, atomically, 64 records at a time. Equal records give equal bytes.

    latent_shape: (C, H, W). levels: of the captions of a record. shapes: of latents by bucket. features: tokens
    and width of an image's. metadata: more for the schema, which holds the shapes.
    Raises ValueError for a record of another shape or dtype, and for no record at all.
    """
    layout = Layout(tuple(latent_shape), text_width, text_encoding, tuple(levels), tuple(shapes), features)  # type: ignore
    schema = _schema(layout, metadata or {})
    remaining = iter(records)
    written = 0
    with atomic_path(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
            while rows := list(itertools.islice(remaining, BATCH_ROWS)):
                texts = [_texts(record, layout) for record in rows]
                for record, each in zip(rows, texts):
                    _check_record(record, each, layout)
                file.write_batch(
                    pa.record_batch([_column(field, rows, texts, layout) for field in schema], schema=schema)
                )
                written += len(rows)
        if not written:
            raise ValueError(f"{path}: a shard needs at least one record")


def _schema(layout: Layout, metadata: Mapping[str, str]) -> pa.Schema:
    latent_shape, text_width, text_encoding, levels, shapes, features = layout

    def required(name: str, kind: pa.DataType) -> pa.Field:
        return pa.field(name, kind, nullable=False)

    def tokens(name: str, kind: pa.DataType, width: int) -> pa.Field:
        return required(name, pa.list_(required("item", pa.list_(required("item", kind), width))))

    fields = [required("key", pa.string()), required("class", pa.string())]
    for level in range(len(levels)):
        caption, text, scale = _columns_of(levels, level)
        fields.append(required(caption, pa.string()))
        if text_encoding == "int8":
            fields += [tokens(text, pa.int8(), text_width), tokens(scale, pa.float16(), -(-text_width // GROUP))]
        elif text_encoding == "fp16":
            fields.append(tokens(text, pa.float16(), text_width))
        elif text_encoding != "none":
            raise UserError(f"text_encoding must be int8, fp16 or none, not {text_encoding!r}")
    if shapes:
        fields.append(required("bucket", pa.uint8()))
    for name in ("latent_mean", "latent_std"):
        length = -1 if shapes else int(np.prod(latent_shape))  # -1: any
        fields.append(required(name, pa.list_(required("item", pa.float16()), length)))
    for name, kind, width in _of_features(features):
        fields.append(required(name, pa.list_(required("item", pa.type_for_alias(kind)), features[0] * width)))
    own = {"format": _FORMAT, "latent_shape": json.dumps(list(latent_shape)), "text_width": str(text_width)}
    own |= {"text_encoding": text_encoding, "text_group": str(GROUP)}
    own |= {"levels": json.dumps(list(levels))} if levels != (LONG,) else {}
    own |= {"latent_shapes": json.dumps(shapes)} if shapes else {}
    own |= {"features": json.dumps(features)} if features[0] else {}
    return pa.schema(fields, metadata=dict(sorted({**metadata, **own}.items())))


def _of_features(features: tuple[int, int]) -> list[tuple[str, str, int]]:
    """Return name, kind of numbers and width of the columns of features."""
    width = features[1]
    return [("features", "int8", width), ("features_scale", "float16", -(-width // GROUP))] if features[0] else []


def _columns_of(levels: Sequence[str], level: int) -> tuple[str, str, str]:
    """Return the names of a level's columns of captions, codes and scales."""
    suffix = f"/{levels[level]}" if level else ""
    return f"caption{suffix}", f"text{suffix}", f"text_scale{suffix}"


def _texts(record: EncodedRecord, layout: Layout) -> list[EncodedText]:
    """Return what is stored of the record at each level: no tokens of no caption, and of an earlier level's."""
    texts = [EncodedText(record.caption, record.text_codes, record.text_scale)]
    if len(layout.levels) == 1:
        return texts
    width, kind = layout.text_width, layout.text_encoding
    codes = None if kind == "none" else np.empty((0, width), np.int8 if kind == "int8" else np.float16)
    scale = np.empty((0, -(-width // GROUP)), np.float16) if kind == "int8" else None
    if not record.caption:
        texts = [EncodedText("", codes, scale)]
    told = {record.caption}
    for each in record.more:
        caption = each.caption if each is not None else ""
        texts.append(EncodedText(caption, codes, scale) if each is None or caption in told else each)
        told.add(caption)
    return texts


def _check_record(record: EncodedRecord, texts: Sequence[EncodedText], layout: Layout) -> None:
    levels = layout.levels
    if len(record.more) != len(levels) - 1 or (len(levels) > 1 and not any(text.caption for text in texts)):
        raise ValueError(f"record {record.key!r}: give captions of {', '.join(levels)}, None where there is none")
    shape = record.latent_mean.shape if record.latent_mean.shape in layout.shapes else layout.latent_shape
    latents: dict[str, str | None] = dict.fromkeys(("latent_mean", "latent_std"), f"float16 {shape}")
    _check_arrays(record.key, record, latents)
    columns = {name: f"{kind} {(layout.features[0], width)}" for name, kind, width in _of_features(layout.features)}
    _check_arrays(record.key, record, {name: columns.get(name) for name in ("features", "features_scale")})
    for text in texts:
        length = 0 if text.text_codes is None else len(text.text_codes)
        wanted: dict[str, str | None] = dict.fromkeys(("text_codes", "text_scale"))
        if layout.text_encoding != "none":
            dtype = "int8" if layout.text_encoding == "int8" else "float16"
            wanted["text_codes"] = f"{dtype} {(length, layout.text_width)}"
        if layout.text_encoding == "int8":
            wanted["text_scale"] = f"float16 {(length, -(-layout.text_width // GROUP))}"
        _check_arrays(record.key, text, wanted)


def _check_arrays(key: str, values: object, wanted: Mapping[str, str | None]) -> None:
    for name, form in wanted.items():
        array = getattr(values, name)
        found = None if array is None else f"{array.dtype} {array.shape}"
        if found != form:
            raise ValueError(f"record {key!r}: {name} must be {form}, not {found}")


_ATTRIBUTES = {"class": "class_name", "text": "text_codes"}  # columns whose name is not the record's


def _column(
    field: pa.Field, rows: Sequence[EncodedRecord], texts: Sequence[Sequence[EncodedText]], layout: Layout
) -> pa.Array:
    name, _, level = str(field.name).partition("/")
    attribute = _ATTRIBUTES.get(name, name)
    if attribute in EncodedText._fields:
        place = layout.levels.index(level) if level else 0
        values = [getattr(each[place], attribute) for each in texts]
    elif name == "bucket":
        return pa.array([layout.shapes.index(row.latent_mean.shape) for row in rows], type=field.type)  # type: ignore
    else:
        values = [getattr(row, attribute) for row in rows]
    if pa.types.is_string(field.type):
        return pa.array(values, type=field.type)
    if pa.types.is_fixed_size_list(field.type):
        flat = pa.array(np.stack(values).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, type=field.type)
    if pa.types.is_floating(field.type.value_type):
        values = [value.reshape(-1) for value in values]
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int32)
    if pa.types.is_floating(field.type.value_type):
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values)), type=field.type)
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
        levels = tuple(json.loads(data.get(b"levels", f'["{LONG}"]')))
        shapes = tuple(tuple(each) for each in json.loads(data.get(b"latent_shapes", "[]")))
        features = tuple(json.loads(data.get(b"features", "[0, 0]")))
        layout = Layout(tuple(shape), width, data[b"text_encoding"].decode(), levels, shapes, features)  # type: ignore
        if not reader.schema.equals(_schema(layout, {})):  # their metadata are not compared
            raise ValueError("its columns are not those of its shapes")
        batches = reader.num_record_batches
        return layout, (batches - 1) * BATCH_ROWS + reader.get_batch(batches - 1).num_rows


class Shard:
    """The columns of one shard as numpy views of the mapped file.

    The file is closed at once: the mapping lives as long as a view does, and thousands of shards need no descriptors.
    """

    def __init__(
        self,
        path: Path,
        latent_shape: tuple[int, int, int],
        levels: Sequence[str] = (LONG,),
        shapes: Sequence[tuple[int, int, int]] = (),
    ):
        self.path, self.latent_shape, self.shapes = path, latent_shape, shapes
        self._columns = [_columns_of(levels, level) for level in range(len(levels))]
        with _opened(path) as reader:
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
            for batch in batches:
                batch.validate()
            if any(batch.num_rows != BATCH_ROWS for batch in batches[:-1]):
                raise ValueError(f"a batch is not of {BATCH_ROWS} records")
            self.batches = [{name: self._view(batch.column(name)) for name in batch.schema.names} for batch in batches]

    @staticmethod
    def _view(column: pa.Array) -> Any:
        """Return (offsets, bytes) of strings, (offsets, (tokens, width)) of text, (rows, numbers) of latents; of
        buckets their numbers, and (offsets, numbers) of latents."""
        if isinstance(column, pa.FixedSizeListArray):
            return column.values.to_numpy().reshape(len(column), -1)
        if isinstance(column, pa.UInt8Array):
            return column.to_numpy()
        offsets = np.frombuffer(column.buffers()[1], dtype=np.int32)[: len(column) + 1]
        if (np.diff(offsets) < 0).any():
            raise ValueError("offsets are not in order")
        if isinstance(column, pa.StringArray):
            return offsets.tolist(), memoryview(column.buffers()[2] or b"")
        tokens = column.values
        if isinstance(tokens, pa.HalfFloatArray):
            return offsets.tolist(), tokens.to_numpy()
        return offsets.tolist(), tokens.values.to_numpy().reshape(len(tokens), tokens.type.list_size)

    def strings(self, name: str) -> list[str]:
        """Return a column of texts: key, class, or a caption's."""
        try:
            columns = [batch[name] for batch in self.batches]
            return [_string(column, row) for column in columns for row in range(len(column[0]) - 1)]
        except UnicodeDecodeError as error:
            raise _damaged(self.path, error) from error

    def texts(self) -> list[tuple[str, ...]]:
        """Return key, class and the caption of each level, "" where there is none, of every record."""
        return list(zip(*(self.strings(name) for name in ("key", "class", *(each[0] for each in self._columns)))))

    def captions(self, row: int) -> list[str]:
        """Return a record's caption of each level, "" where it has none."""
        batch = self.batches[row // BATCH_ROWS]
        try:
            return [_string(batch[columns[0]], row % BATCH_ROWS) for columns in self._columns]
        except UnicodeDecodeError as error:
            raise _damaged(self.path, error) from error

    def length(self, row: int, level: int = 0) -> int:
        """Return the number of tokens of what `read` returns, or bytes of its caption where no text is stored."""
        batch = self.batches[row // BATCH_ROWS]
        row %= BATCH_ROWS
        # Without further levels no caption is read, whose page of the file is often not in memory.
        place = self._told(batch, row, level)[1] if len(self._columns) > 1 else 0
        caption, text, _ = self._columns[place]
        offsets, _ = batch[text if text in batch else caption]
        return offsets[row + 1] - offsets[row]

    def _told(self, batch: dict[str, Any], row: int, level: int) -> tuple[str, int]:
        """Return a record's caption of the level, or the first that it has, and the number of the level that stores
        it."""
        try:
            captions = [_string(batch[columns[0]], row) for columns in self._columns[: level + 1]]
            if not captions[level] and len(self._columns) > 1:
                captions = [_string(batch[columns[0]], row) for columns in self._columns]
                level = next((place for place, caption in enumerate(captions) if caption), 0)
        except UnicodeDecodeError as error:
            raise _damaged(self.path, error) from error
        return captions[level], captions.index(captions[level])

    def read(self, row: int, level: int = 0, features: int = 0) -> EncodedRecord:
        """Return a record with its caption of the level, or the first that it has; and with its features, so many
        tokens, unless that is 0."""
        batch = self.batches[row // BATCH_ROWS]
        row %= BATCH_ROWS
        try:
            key, class_name = (_string(batch[name], row) for name in ("key", "class"))
        except UnicodeDecodeError as error:
            raise _damaged(self.path, error) from error
        caption, place = self._told(batch, row, level)
        _, text, scale = self._columns[place]
        return EncodedRecord(
            key=key,
            class_name=class_name,
            caption=caption,
            text_codes=_rows(batch[text], row) if text in batch else None,
            text_scale=_rows(batch[scale], row) if scale in batch else None,
            latent_mean=self._latents(batch, "latent_mean", row),
            latent_std=self._latents(batch, "latent_std", row),
            features=batch["features"][row].reshape(features, -1).copy() if features else None,
            features_scale=batch["features_scale"][row].reshape(features, -1).copy() if features else None,
        )

    def _latents(self, batch: dict[str, Any], name: str, row: int) -> np.ndarray:
        if not self.shapes:
            return batch[name][row].reshape(self.latent_shape).copy()
        return _rows(batch[name], row).reshape(self.shapes[batch["bucket"][row]])

    def buckets(self) -> np.ndarray:
        """Return the number of each record's bucket, of a shard that has some."""
        return np.concatenate([batch["bucket"] for batch in self.batches])

    def latents(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield means and standard deviations, fp16 (n, C, H W) each, of records of one shape."""
        channels = self.latent_shape[0]
        for batch in self.batches:
            if not self.shapes:
                columns = (batch["latent_mean"], batch["latent_std"])
                yield tuple(column.reshape(len(column), channels, -1) for column in columns)  # type: ignore
            for row in range(len(batch["bucket"]) if self.shapes else 0):
                pair = (self._latents(batch, name, row) for name in ("latent_mean", "latent_std"))
                yield tuple(part.reshape(1, channels, -1) for part in pair)  # type: ignore


def _string(column: tuple[list[int], memoryview], row: int) -> str:
    offsets, data = column
    return str(data[offsets[row] : offsets[row + 1]], "utf-8")


def _rows(column: tuple[list[int], np.ndarray], row: int) -> np.ndarray:
    offsets, data = column
    return data[offsets[row] : offsets[row + 1]].copy()
