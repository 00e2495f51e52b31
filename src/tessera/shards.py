"""The encoded store: captions and latents of a set, in memory-mapped Arrow IPC shards.

A record is one picture: key, class, caption, its encoded text (L, D) and the mean and standard deviation (C, H, W) of
its latents. Text is int8 in groups of 64 along the width with an fp16 scale each, or fp16, or absent (encoded on the
fly). Algorithm 1 lets t choose the next record, so reads are random: a shard's columns are numpy views of the mapped
file, found once, and a record costs little more than its own copying.
"""

import base64
import itertools
import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from tessera.config import UserError
from tessera.files import MANIFEST, Manifest, atomic_path, read_manifest, sha256_file

TextEncodingKind = Literal["int8", "fp16", "none"]
GROUP = 64  # numbers that share one scale
BATCH_ROWS = 64  # records in an Arrow record batch
SHARD_SHA256 = "shard_sha256"
"""In the manifest's facts: the SHA-256 of each shard, by file name."""
_FORMAT = "tessera-encoded-1"
_AGAIN = "delete the directory and run `tessera encode` again"


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedRecord:
    """One picture as training reads it. L tokens of width D."""

    key: str
    """Unique in its set: "class/stem"; of an augmented picture its base's, then "+" and more."""
    class_name: str
    caption: str
    text_codes: np.ndarray | None
    """(L, D) int8, or fp16 when `text_scale` is None; None when text is not stored."""
    text_scale: np.ndarray | None
    """(L, ceil(D / 64)) fp16."""
    latent_mean: np.ndarray
    """(C, H, W) fp16, before any normalisation."""
    latent_std: np.ndarray
    """(C, H, W) fp16, >= 0."""

    @property
    def text(self) -> np.ndarray | None:
        """(L, D) float32."""
        if self.text_codes is None:
            return None
        if self.text_scale is None:
            return self.text_codes.astype(np.float32)
        return dequantize(self.text_codes, self.text_scale)


def quantize(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(L, D) floats -> int8 codes (L, D) and fp16 scales (L, ceil(D / 64)); an error is at most 0.57 of its scale.

    Where all 64 are below 0.001, fp16 has too few scales: there it is at most 4e-6.
    """
    text = np.asarray(text, dtype=np.float32)
    length, width = text.shape
    groups = -(-width // GROUP)
    padded = np.zeros((length, groups * GROUP), dtype=np.float32)
    padded[:, :width] = text
    padded = padded.reshape(length, groups, GROUP)
    peak = np.abs(padded).max(axis=2)  # (L, groups)
    if not (peak <= 127 * float(np.finfo(np.float16).max)).all():
        raise ValueError("text embeddings must be finite and below 8e6")
    scale = (peak / 127).astype(np.float16)
    divisor = np.where(scale > 0, scale, 1).astype(np.float32)[..., None]
    codes = np.clip(np.rint(padded / divisor), -127, 127).astype(np.int8)
    return codes.reshape(length, groups * GROUP)[:, :width].copy(), scale


def dequantize(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """int8 codes (L, D) and fp16 scales (L, ceil(D / 64)) -> (L, D) float32."""
    length, width = codes.shape
    if width % GROUP == 0:
        grouped = codes.reshape(length, width // GROUP, GROUP) * scale.astype(np.float32)[..., None]
        return grouped.reshape(length, width)
    return codes * np.repeat(scale.astype(np.float32), GROUP, axis=1)[:, :width]


def pack_floats(array: np.ndarray) -> dict[str, Any]:
    """A float array as JSON: {"shape", "base64" of its little-endian float32}; for a manifest's facts."""
    data = np.ascontiguousarray(array, dtype="<f4")
    return {"shape": list(data.shape), "base64": base64.b64encode(data.tobytes()).decode()}


def unpack_floats(data: Mapping[str, Any]) -> np.ndarray:
    """The inverse of `pack_floats`, float32."""
    flat = np.frombuffer(base64.b64decode(data["base64"], validate=True), dtype="<f4")
    return flat.reshape(data["shape"]).astype(np.float32)


def shard_name(index: int) -> str:
    """The file name of a shard: "shard-00000.arrow"."""
    return f"shard-{index:05d}.arrow"


def write_shard(
    path: Path,
    records: Iterable[EncodedRecord],
    *,
    latent_shape: Sequence[int],
    text_width: int,
    text_encoding: TextEncodingKind = "int8",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes one Arrow IPC file, atomically, 64 records at a time. Equal records give equal bytes.

    latent_shape: (C, H, W). metadata: stands in the schema beside the shapes. Raises ValueError for a record of another
    shape or dtype, and for no record at all.
    """
    schema = _schema(tuple(latent_shape), text_width, text_encoding, metadata or {})
    remaining = iter(records)
    written = 0
    with atomic_path(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
            while rows := list(itertools.islice(remaining, BATCH_ROWS)):
                for record in rows:
                    _check_record(record, tuple(latent_shape), text_width, text_encoding)
                file.write_batch(pa.record_batch([_column(field, rows) for field in schema], schema=schema))
                written += len(rows)
        if not written:
            raise ValueError(f"{path}: a shard needs at least one record")


def write_encoded(
    directory: Path,
    records: Iterable[EncodedRecord],
    *,
    latent_shape: Sequence[int],
    text_width: int,
    text_encoding: TextEncodingKind = "int8",
    shard_size: int = 2048,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes records as shards of `shard_size` (the last may be smaller) and returns their paths."""
    if shard_size < 1:
        raise UserError(f"shard_size must be at least 1, not {shard_size}")
    paths: list[Path] = []
    remaining = iter(records)
    while (first := next(remaining, None)) is not None:
        paths.append(Path(directory) / shard_name(len(paths)))
        shard = itertools.chain([first], itertools.islice(remaining, shard_size - 1))
        layout = {"latent_shape": latent_shape, "text_width": text_width, "text_encoding": text_encoding}
        write_shard(paths[-1], shard, **layout, metadata=metadata)
    return paths


def open_encoded(path: Path) -> "EncodedStore":
    """Opens a directory of shards. UserError if it has none, is unfinished, or a shard is damaged or missing."""
    return EncodedStore(Path(path))


class EncodedStore:
    """A sequence of EncodedRecord; a record is read from the mapped file when asked for, and is a copy.

    records_read: how many records were read so far. latent_shape: (C, H, W). text_width: D.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.manifest: Manifest | None = None
        if (directory / MANIFEST).exists():
            self.manifest = read_manifest(directory, "encode")
        self._paths = sorted(directory.glob("shard-*.arrow"))
        if not self._paths:
            raise UserError(f"{directory}: has no shards (shard-00000.arrow, ...); make them with `tessera encode`")
        self._shards: list[_Shard | None] = [None] * len(self._paths)
        layout, sizes = self._inspect_all()
        self.latent_shape, self.text_width = layout.latent_shape, layout.text_width
        self.text_encoding: TextEncodingKind = layout.text_encoding
        self.records_read = 0
        self._shard_size, self._length = sizes[0], sum(sizes)
        expected = self.manifest.counts.get("records") if self.manifest else None
        if expected not in (None, self._length):
            raise UserError(f"{directory}: has {self._length} records, its manifest says {expected}; {_AGAIN}")

    def _inspect_all(self) -> "tuple[_Layout, list[int]]":
        """The shards' layout and numbers of records, from their footers; they must agree."""
        first, sizes = None, []
        for index, path in enumerate(self._paths):
            if path.name != shard_name(index):
                raise UserError(f"{self.directory / shard_name(index)}: is missing; {_AGAIN}")
            try:
                layout, size = _inspect(path)
            except UserError as error:
                raise UserError(f"{error}{self._checksums(path)}") from error
            first = first or layout
            sizes.append(size)
            if layout != first:
                raise UserError(f"{path}: has other shapes or encodings than {self._paths[0].name}; {_AGAIN}")
        # A record's shard is its index divided by the size of the first.
        for path, size in zip(self._paths, sizes):
            if size > sizes[0] or (size < sizes[0] and path is not self._paths[-1]):
                raise UserError(f"{path}: has {size} records, but {self._paths[0].name} has {sizes[0]}; {_AGAIN}")
        assert first is not None
        return first, sizes

    def _checksums(self, path: Path) -> str:
        """What a damaged shard's checksum is and what it was; "" where the manifest does not say."""
        expected = self.facts.get(SHARD_SHA256, {}).get(path.name)
        return f" (its SHA-256 is {sha256_file(path)}, its manifest says {expected})" if expected else ""

    @property
    def byte_count(self) -> int:
        """Of all shards together."""
        return sum(path.stat().st_size for path in self._paths)

    def verify(self) -> None:
        """Reads every shard whole. UserError names the first one whose bytes are not those that were encoded."""
        expected = self.facts.get(SHARD_SHA256, {})
        for path in self._paths:
            if path.name in expected and sha256_file(path) != expected[path.name]:
                raise UserError(f"{path}: is damaged{self._checksums(path)}; {_AGAIN}")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> EncodedRecord:
        number = operator.index(index)
        if number < 0:
            number += self._length
        if not 0 <= number < self._length:
            raise IndexError(f"record {index} of {self._length}")
        which, row = divmod(number, self._shard_size)
        self.records_read += 1
        return self._shard(which).read(row)

    def keys(self, start: int = 0) -> list[str]:
        """The keys of the records from number `start` on; nothing else of them is read."""
        first = start // self._shard_size
        found = [key for which in range(first, len(self._paths)) for key in self._shard(which).every_key()]
        return found[start - first * self._shard_size :]

    def _shard(self, which: int) -> "_Shard":
        shard = self._shards[which]
        if shard is None:
            shard = self._shards[which] = _Shard(self._paths[which], self.latent_shape)
        return shard

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of the directory's manifest; empty without one."""
        return self.manifest.facts if self.manifest else {}

    @property
    def null_condition(self) -> np.ndarray:
        """(1, D) float32, the encoding of the empty caption."""
        if "null_condition" not in self.facts:
            raise UserError(f"{self.directory}: no manifest with a null condition; make it with `tessera encode`")
        return unpack_floats(self.facts["null_condition"])


class _Layout(NamedTuple):
    """What a shard's schema says, in its metadata."""

    latent_shape: tuple[int, int, int]
    text_width: int
    text_encoding: TextEncodingKind


def _schema(
    latent_shape: tuple[int, ...], text_width: int, text_encoding: TextEncodingKind, metadata: Mapping[str, str]
) -> pa.Schema:
    def required(name: str, kind: pa.DataType) -> pa.Field:
        return pa.field(name, kind, nullable=False)

    def tokens(name: str, kind: pa.DataType, width: int) -> pa.Field:
        return required(name, pa.list_(required("item", pa.list_(required("item", kind), width))))

    fields = [required("key", pa.string()), required("class", pa.string()), required("caption", pa.string())]
    if text_encoding == "int8":
        fields.append(tokens("text", pa.int8(), text_width))
        fields.append(tokens("text_scale", pa.float16(), -(-text_width // GROUP)))
    elif text_encoding == "fp16":
        fields.append(tokens("text", pa.float16(), text_width))
    elif text_encoding != "none":
        raise UserError(f"text_encoding must be int8, fp16 or none, not {text_encoding!r}")
    for name in ("latent_mean", "latent_std"):
        fields.append(required(name, pa.list_(required("item", pa.float16()), int(np.prod(latent_shape)))))
    own = {
        "format": _FORMAT,
        "latent_shape": json.dumps(list(latent_shape)),
        "text_width": str(text_width),
        "text_encoding": text_encoding,
        "text_group": str(GROUP),
    }
    return pa.schema(fields, metadata=dict(sorted({**metadata, **own}.items())))


def _check_record(
    record: EncodedRecord, latent_shape: tuple[int, ...], text_width: int, text_encoding: TextEncodingKind
) -> None:
    def check(name: str, array: np.ndarray | None, dtype: Any, shape: tuple[int, ...] | None) -> None:
        if shape is None:
            fits = array is None
        else:
            fits = array is not None and array.dtype == dtype and array.shape == shape
        if not fits:
            wanted = f"{np.dtype(dtype).name} {shape}" if shape else "None"
            got = "None" if array is None else f"{array.dtype} {array.shape}"
            raise ValueError(f"record {record.key!r}: {name} must be {wanted}, not {got}")

    length = 0 if record.text_codes is None else len(record.text_codes)
    stored = text_encoding != "none"
    groups = -(-text_width // GROUP)
    check("latent_mean", record.latent_mean, np.float16, latent_shape)
    check("latent_std", record.latent_std, np.float16, latent_shape)
    codes_dtype = np.int8 if text_encoding == "int8" else np.float16
    check("text_codes", record.text_codes, codes_dtype, (length, text_width) if stored else None)
    check("text_scale", record.text_scale, np.float16, (length, groups) if text_encoding == "int8" else None)


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
    return UserError(f"{path}: is damaged or cut short ({reason}); {_AGAIN}")


def _open_file(path: Path) -> tuple[pa.MemoryMappedFile, pa.RecordBatchFileReader]:
    try:
        source = pa.memory_map(str(path), "r")
        return source, pa.ipc.open_file(source)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, "not an Arrow file") from error


def _inspect(path: Path) -> tuple[_Layout, int]:
    """A shard's layout and number of records, from its footer and last batch."""
    source, reader = _open_file(path)
    data = reader.schema.metadata or {}
    if data.get(b"format") != _FORMAT.encode():
        raise UserError(f"{path}: is not a shard of tessera; {_AGAIN}")
    with source:
        try:
            shape, width = json.loads(data[b"latent_shape"]), int(data[b"text_width"])
            layout = _Layout(tuple(shape), width, data[b"text_encoding"].decode())  # type: ignore
            if not reader.schema.equals(_schema(*layout, {})):  # their metadata are not compared
                raise ValueError("its columns are not those of its shapes")
            batches = reader.num_record_batches
            return layout, (batches - 1) * BATCH_ROWS + reader.get_batch(batches - 1).num_rows
        except (KeyError, TypeError, ValueError, pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error


class _Shard:
    """The columns of one shard as numpy views of the mapped file.

    The file is closed at once: the mapping lives as long as a view does, and thousands of shards need no descriptors.
    """

    def __init__(self, path: Path, latent_shape: tuple[int, int, int]):
        self.path, self.latent_shape = path, latent_shape
        source, reader = _open_file(path)
        with source:
            try:
                batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
                for batch in batches:
                    batch.validate()
                if any(batch.num_rows != BATCH_ROWS for batch in batches[:-1]):
                    raise ValueError(f"a batch is not of {BATCH_ROWS} records")
                self.batches = [
                    {name: self._view(batch.column(name)) for name in batch.schema.names} for batch in batches
                ]
            except (ValueError, pa.ArrowException, OSError) as error:
                raise _damaged(path, error) from error

    @staticmethod
    def _view(column: pa.Array) -> Any:
        """(offsets, bytes) of strings, (offsets, (tokens, width)) of text, (rows, numbers) of latents."""
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
