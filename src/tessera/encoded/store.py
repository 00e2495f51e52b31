"""The encoded store: captions and latents of a set, in memory-mapped Arrow IPC shards.

A record is one image: key, class, caption, its encoded text (L, D) and the mean and standard deviation (C, H, W) of
its latents; it may have several captions, of named levels. Text is int8 in groups of 64 along the width with an fp16
scale each, or fp16, or absent (encoded on the fly). Algorithm 1 lets t choose the next record, so reads are random.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.encoded.record import LONG, EncodedRecord, TextEncodingKind, unpack_floats
from tessera.encoded.shard import AGAIN, Layout, Shard, inspect_shard, write_shard
from tessera.files import read_table, sha256_file
from tessera.stages import MANIFEST, read_manifest

SHARD_SHA256 = "shard_sha256"
"""In the manifest's facts: the SHA-256 of each shard, and of `ORDER`, by file name."""
ORDER = "order.parquet"
"""Column `place`: the number under which each record is stored. Of sets that grew, whose older shards stay as they
were; without the file the records are stored in their order."""


def shard_name(index: int) -> str:
    """Return the file name of a shard: "shard-00000.arrow"."""
    return f"shard-{index:05d}.arrow"


def write_encoded(
    directory: Path,
    records: Iterable[EncodedRecord],
    *,
    latent_shape: Sequence[int],
    text_width: int,
    text_encoding: TextEncodingKind = "int8",
    levels: Sequence[str] = (LONG,),
    shapes: Sequence[tuple[int, int, int]] = (),
    features: tuple[int, int] = (0, 0),
    shard_size: int = 2048,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write records as shards of `shard_size` (the last may be smaller) and return their paths."""
    if shard_size < 1:
        raise UserError(f"shard_size must be at least 1, not {shard_size}")
    paths: list[Path] = []
    layout: Any = {"latent_shape": latent_shape, "text_width": text_width}
    layout |= {"text_encoding": text_encoding, "levels": levels, "shapes": shapes, "features": features}
    remaining = iter(records)
    for first in remaining:
        paths.append(Path(directory) / shard_name(len(paths)))
        shard = itertools.chain([first], itertools.islice(remaining, shard_size - 1))
        write_shard(paths[-1], shard, **layout, metadata=metadata)
    return paths


def latent_sums(shard: Shard) -> list[list[float]]:
    """Return of each channel of a shard's latents the number of values, their sum, and the sum of their squares."""
    count, total, square = 0, np.zeros(shard.latent_shape[0]), np.zeros(shard.latent_shape[0])
    for mean, std in shard.latents():
        mean, std = mean.astype(np.float64), std.astype(np.float64)
        count += mean.shape[0] * mean.shape[2]
        total += mean.sum((0, 2))
        square += (mean**2 + std**2).sum((0, 2))
    return [[count] * len(total), total.tolist(), square.tolist()]


def latent_moments(sums: Iterable[list[list[float]]]) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation of each channel from the sums of all shards, to 6 digits."""
    count, total, square = np.sum([*sums], axis=0)
    means = total / count
    stds = np.sqrt(np.maximum(square / count - means**2, 0))
    means, stds = ([float(f"{value:.6g}") for value in values] for values in (means, stds))
    return means, stds


def open_encoded(path: Path) -> "EncodedStore":
    """Open a directory of shards. Raises UserError if it has none, is unfinished, or a shard is damaged or missing."""
    return EncodedStore(Path(path))


def check_roles(plain: "EncodedStore", augmented: "EncodedStore | None") -> None:
    """Raise UserError for swapped sets, one set given twice, and sets of different images, as far as their manifests
    tell: `tessera encode` names its inputs there, `write_encoded` alone does not."""
    made_from = [store.manifest.inputs if store and store.manifest else {} for store in (plain, augmented)]
    if "recipe" in made_from[0]:
        fix = "give it as --augmented, and as --plain a set that was encoded without a recipe"
        raise UserError(f"{plain.directory}: holds augmented images (it was encoded with a recipe); {fix}")
    if augmented is None:
        return
    if made_from[1] and "recipe" not in made_from[1]:
        fix = "give as --augmented a set that was encoded with --recipe"
        raise UserError(f"{augmented.directory}: holds plain images (it was encoded without a recipe); {fix}")
    if plain.directory.resolve() == augmented.directory.resolve():
        raise UserError(f"{augmented.directory}: is given as --plain and as --augmented; give two sets")
    images, others = (inputs.get("images") for inputs in made_from)
    if images and others and images != others:
        raise UserError(
            f"{augmented.directory}: was encoded from other images than {plain.directory} (manifests {others[:12]} and "
            f"{images[:12]}); encode both sets from one directory of `tessera collect`"
        )


class EncodedStore:
    """Sequence of EncodedRecord; a record is read from the mapped file when asked for, and is a copy.

    records_read: how many records were read so far. latent_shape: (C, H, W). text_width: D. levels: of the captions.
    shapes: of latents by bucket of aspect ratios, of a set that has some; latent_shape is then the square's. features:
    tokens and width of an image's, (0, 0) where there are none.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.manifest = read_manifest(directory, "encode") if (directory / MANIFEST).exists() else None
        self._paths = sorted(directory.glob("shard-*.arrow"))
        if not self._paths:
            raise UserError(f"{directory}: has no shards (shard-00000.arrow, ...); make them with `tessera encode`")
        self._shards: list[Shard | None] = [None] * len(self._paths)
        layout, sizes = self._inspect_all()
        self.latent_shape, self.text_width, self.text_encoding, self.levels, self.shapes, self.features = layout
        self.records_read = 0
        self._shard_size, self._length = sizes[0], sum(sizes)
        self._order = self._read_order()
        expected = self.manifest.counts.get("records") if self.manifest else None
        if expected not in (None, self._length):
            raise UserError(f"{directory}: has {self._length} records, its manifest says {expected}; {AGAIN}")

    def _inspect_all(self) -> tuple[Layout, list[int]]:
        """Return the shards' layout and numbers of records, from their footers; they must agree."""
        layouts, sizes = [], []
        for index, path in enumerate(self._paths):
            if path.name != shard_name(index):
                raise UserError(f"{self.directory / shard_name(index)}: is missing; {AGAIN}")
            try:
                layout, size = inspect_shard(path)
            except UserError as error:
                raise UserError(f"{error}{self._checksums(path)}") from error
            layouts.append(layout)
            sizes.append(size)
            if layout != layouts[0]:
                raise UserError(
                    f"{path}: has other shapes or encodings, or levels of captions, than {self._paths[0].name}; {AGAIN}"
                )
        # A record's shard is its index divided by the size of the first.
        for path, size in zip(self._paths, sizes):
            if size > sizes[0] or (size < sizes[0] and path is not self._paths[-1]):
                raise UserError(f"{path}: has {size} records, but {self._paths[0].name} has {sizes[0]}; {AGAIN}")
        return layouts[0], sizes

    def _read_order(self) -> np.ndarray | None:
        """Return the place of each record (records,), None = its own number."""
        path = self.directory / ORDER
        if not path.exists() and ORDER not in self.facts.get(SHARD_SHA256, {}):
            return None
        places = read_table(path, ["place"])["place"].to_numpy()
        if not np.array_equal(np.sort(places), np.arange(self._length)):
            raise UserError(f"{path}: is not an order of the {self._length} records; {AGAIN}")
        return places

    def _find(self, index: int) -> tuple[int, int]:
        """Return the number of a record's shard, and its row there."""
        index = range(self._length)[index]
        return divmod(index if self._order is None else int(self._order[index]), self._shard_size)

    def _checksums(self, path: Path) -> str:
        """Return a damaged file's checksum and its former one in words; "" where the manifest has none."""
        expected = self.facts.get(SHARD_SHA256, {}).get(path.name)
        return f" (its SHA-256 is {sha256_file(path)}, its manifest says {expected})" if expected else ""

    @property
    def byte_count(self) -> int:
        """Size of all shards together."""
        return sum(path.stat().st_size for path in self._paths)

    def verify(self, part: int = 0, parts: int = 1) -> None:
        """Read every shard whole, process `part` of `parts` every `parts`-th one. Raises UserError that names the first
        whose bytes are not those that were encoded."""
        expected = self.facts.get(SHARD_SHA256, {})
        files = self._paths if self._order is None else [*self._paths, self.directory / ORDER]
        for path in files[part::parts]:
            if path.name in expected and sha256_file(path) != expected[path.name]:
                raise UserError(f"{path}: is damaged{self._checksums(path)}; {AGAIN}")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> EncodedRecord:
        return self.read(index)

    def read(self, index: int, level: int = 0, features: bool = False) -> EncodedRecord:
        """Return record `index` with its caption of level number `level`, or the first that it has; and, where asked
        for, the features of its image."""
        which, row = self._find(index)
        self.records_read += 1
        return self._shard(which).read(row, level, self.features[0] if features else 0)

    def length(self, index: int, level: int = 0) -> int:
        """Return the number of tokens of what `read` returns, or bytes of its caption where no text is stored."""
        which, row = self._find(index)
        return self._shard(which).length(row, level)

    def captions(self, index: int) -> dict[str, str]:
        """Return level -> caption of the levels that record `index` has."""
        which, row = self._find(index)
        told = dict(zip(self.levels, self._shard(which).captions(row)))
        return {level: caption for level, caption in told.items() if caption or len(told) == 1}

    def keys(self, start: int = 0) -> list[str]:
        """Return the keys of the records from number `start` on; nothing else of them is read."""
        first = 0 if self._order is not None else start // self._shard_size
        found = [key for which in range(first, len(self._paths)) for key in self._shard(which).strings("key")]
        if self._order is not None:
            return [found[place] for place in self._order[start:]]
        return found[start - first * self._shard_size :]

    def shards(self) -> list[Shard]:
        """Return the shards, as they are stored."""
        return [self._shard(which) for which in range(len(self._paths))]

    def latents(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield means and standard deviations, fp16 (n, C, H, W) each, of all records in their order; without their
        texts where shards lie in that order. Of a set without buckets."""
        if self._order is not None:
            for record in self:
                yield record.latent_mean[None], record.latent_std[None]
            return
        for shard in self.shards():
            for mean, std in shard.latents():
                yield mean.reshape(-1, *self.latent_shape), std.reshape(-1, *self.latent_shape)

    def _shard(self, which: int) -> Shard:
        shard = self._shards[which]
        if shard is None:
            shard = self._shards[which] = Shard(self._paths[which], self.latent_shape, self.levels, self.shapes)
        return shard

    @functools.cached_property
    def buckets(self) -> np.ndarray:
        """The number of each record's bucket (records,) uint8; all 0 in a set without buckets."""
        if not self.shapes:
            return np.zeros(len(self), np.uint8)
        stored = np.concatenate([shard.buckets() for shard in self.shards()])
        return stored if self._order is None else stored[self._order]

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
