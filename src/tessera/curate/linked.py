"""Shards that an encoded set which grew takes over whole, as links to the files of an earlier directory.

The order of the records is that of a set made at once. Where they are stored is not: first the older shards, then, in
shards of their own, the records that are new, changed, or in a shard of which some were changed or removed.
`tessera.encoded.store.ORDER` says where each one is; it is written before any shard, and who resumes keeps to it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.encoded.store import ORDER, SHARD_SHA256, EncodedStore
from tessera.files import read_table, sha256_file, write_table

SHARD_SUMS = "shard_latent_sums"
"""In the manifest's facts: `tessera.encoded.store.latent_sums` of each shard, by file name."""


Whole = Mapping[tuple[str, ...], Path]
"""Keys of a shard's records, in their stored order -> its file."""


def whole_shards(earlier: EncodedStore, records: Mapping[str, tuple[str, ...]], size: int) -> Whole:
    """Return the shards of `size` records that are all among `records`: key -> key, class and the caption of each of
    the earlier directory's levels, of images that did not change."""
    found = {}
    for shard in earlier.shards():
        texts = shard.texts()
        if len(texts) == size and all(records.get(each[0]) == each for each in texts):
            found[tuple(each[0] for each in texts)] = shard.path
    return found


def stored_order(out: Path, keys: Sequence[str], whole: Whole) -> NDArray[np.int64]:
    """Return the number in `keys` of each stored record (records,): as `out` was begun, or else with shards that are
    `whole` first. Write `ORDER` unless the records are stored in their order."""
    path = out / ORDER
    if path.exists():
        return np.argsort(read_table(path, ["place"])["place"].to_numpy())
    if not whole or any(out.glob("shard-*.arrow")):
        return np.arange(len(keys))
    number = {key: index for index, key in enumerate(keys)}
    old = np.array([number[key] for shard in whole for key in shard])
    stored = np.concatenate([old, np.setdiff1d(np.arange(len(keys)), old)])
    write_table(path, {"place": np.argsort(stored)})
    return stored


def shard_facts(
    out: Path,
    shards: Mapping[Path, tuple[str, ...]],
    whole: Whole,
    earlier: Mapping[str, Any],
    sums: Callable[[Path], list[list[float]]] | None,
) -> dict[str, Any]:
    """Return the manifest's facts about the files of `out`, path of a shard -> keys of its records: `SHARD_SHA256`, and
    by the function `sums`, if there is one, `SHARD_SUMS`. Of links to `whole` shards they are those of `earlier`, the
    facts of the directory that has these."""
    hashes, totals = {}, {}
    for path, keys in shards.items():
        made, known = whole.get(keys), {}
        if made is not None and os.path.samefile(made, path):
            known = {name: earlier.get(name, {}).get(made.name) for name in (SHARD_SHA256, SHARD_SUMS)}
        hashes[path.name] = known.get(SHARD_SHA256) or sha256_file(path)
        if sums is not None:
            totals[path.name] = known.get(SHARD_SUMS) or sums(path)
    if (out / ORDER).exists():
        hashes[ORDER] = sha256_file(out / ORDER)
    return {SHARD_SHA256: hashes} | ({SHARD_SUMS: totals} if sums is not None else {})
