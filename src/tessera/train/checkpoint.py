"""Checkpoints: everything that a run needs to go on bit for bit.

`checkpoints/000000640000/` (the number of images seen) holds safetensors files (master weights, optimiser, EMA) and
`meta.json`, which has each file's SHA-256. torch.distributed.checkpoint writes and reads them: each rank writes its
own part and reads what it needs of all, so any number of ranks, split or not, goes on from any other. The directory is
written under another name, brought to the disk and renamed: a directory with that name is whole. There is no random
state in it: draws have addresses.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as read_into
from torch.distributed.checkpoint.state_dict_saver import save as write_from

from tessera.config import UserError
from tessera.devices import rank, world_size
from tessera.files import TEMPORARY, read_json, sha256_file, write_json
from tessera.train.distributed import add_up

FOLDER = "checkpoints"
META = "meta.json"
FILE_BYTES = 500_000_000
"""Of tensors in one file, about: twice as much memory is needed while it is written."""
_NAME = re.compile(r"\d{12}")
_FILE = re.compile(r"shard-(\d{5})-model-(\d{5})-of-\d{5}\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What `load` gives."""

    num_images: int
    tensors: Mapping[str, Tensor]
    meta: dict[str, Any]


def save(
    run: Path,
    num_images: int,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    keep: int = 2,
    every: int | None = None,
) -> Path:
    """Writes the state after `num_images` images, then prunes with `keep` and `every`. Returns its directory.

    All ranks have to call it, with the same names; `meta` is rank 0's. Tensors that all ranks have are shared out among
    them, of a DTensor each writes its part. Equal states of as many ranks give equal bytes. If it is killed, what is
    left has another name and is removed by the next `save`.
    """
    folder = run / FOLDER
    final = folder / f"{num_images:012d}"
    temporary = folder / f"{TEMPORARY}{final.name}"  # the same on all ranks
    try:
        if rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
            temporary.mkdir(exist_ok=True)
        _write(temporary, tensors)
        files = _finish_files(temporary, next(iter(tensors.values())).device)
        if rank() > 0:
            return final
        write_json(temporary / META, {"num_images": num_images, "files": files, **meta})
        _sync(temporary)
        os.rename(temporary, final)
        _sync(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"{final}: the checkpoint cannot be written: {error}") from error
    prune(run, keep, every)
    return final


def _write(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """This rank's files. OSError: a rank could not."""
    file_of, number, filled = {}, 1, 0
    for name, tensor in tensors.items():
        if filled and filled + tensor.nbytes > FILE_BYTES:
            number, filled = number + 1, 0
        file_of[name] = number
        filled += tensor.nbytes
    writer = HuggingFaceStorageWriter(str(directory), file_of, save_distributed=True)
    state = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        with _alone():
            write_from(state, storage_writer=writer, no_dist=world_size() == 1)
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise (OSError(str(cause)) if isinstance(cause, SafetensorError) else cause) from error


def _finish_files(directory: Path, device: torch.device) -> dict[str, str]:
    """Brings each rank's files to the disk. Returns the SHA-256 of all, by name, on rank 0."""
    names = [match for path in sorted(directory.iterdir()) if (match := _FILE.fullmatch(path.name))]
    mine = [match for match in names if int(match[1]) == rank() + 1]
    count = torch.zeros(world_size(), device=device)
    count[rank()] = len(mine)
    add_up([count])
    digests = torch.zeros(world_size(), int(count.max()), 32, device=device)
    for row, match in enumerate(mine):
        path = directory / match[0]
        _sort_header(path)
        _sync(path)
        digests[rank(), row] = torch.tensor(list(bytes.fromhex(sha256_file(path))), dtype=torch.float32)
    add_up([digests])
    if rank() > 0:  # rank 0 goes on, and the directory gets its name
        return {}
    there = [path.name for path in sorted(directory.iterdir()) if _FILE.fullmatch(path.name)]
    if len(there) != int(count.sum()):
        raise OSError(
            f"rank 0 sees {len(there)} of {int(count.sum())} files; all ranks need one folder that they share"
        )
    rows = [digests[r, i] for r in range(world_size()) for i in range(int(count[r]))]
    return {name: bytes(row.int().tolist()).hex() for name, row in zip(there, rows)}


def _sort_header(path: Path) -> None:
    """safetensors writes the notes in a header in random order; sorted, equal tensors are equal bytes."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        text = json.dumps(header, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
        assert len(text) <= size
        file.seek(8)
        file.write(text.ljust(size))


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """torch warns where there is no group of processes; one process needs none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def found(run: Path) -> list[Path]:
    """The directories of the whole checkpoints, oldest first."""
    folder = run / FOLDER
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def latest(run: Path) -> Path | None:
    """The directory of the newest whole checkpoint; None without any."""
    return next(reversed(found(run)), None)


def prune(run: Path, keep: int, every: int | None = None) -> None:
    """Deletes the checkpoints but the newest `keep` and, for each multiple of `every` images (None = of nothing), the
    first at or after it; and what killed saves left."""
    there = found(run)
    stay = set(there[-keep:])
    if every is not None:
        reached = 0
        for path in there:
            if int(path.name) // every > reached:
                reached = int(path.name) // every
                stay.add(path)
    for old in there:
        if old in stay:
            continue
        # Renamed first: a half-deleted directory must not pass for a checkpoint.
        doomed = old.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{old.name}")
        os.rename(old, doomed)
        shutil.rmtree(doomed)
    if (run / FOLDER).is_dir():
        _remove_leftovers(run / FOLDER)


def load(directory: Path, into: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """Reads a checkpoint's directory into these tensors, in place, of DTensors this rank's part; each rank by itself.
    None = all of it into new ones.

    UserError where a file is damaged or missing, and where names or shapes are not those of `into`.
    """
    meta = read_json(directory / META)
    fix = f"delete {directory} to go on from an older one"
    for name, digest in meta.get("files", {}).items():  # earlier versions wrote none
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path}: is missing; {fix}")
        if (now := sha256_file(path)) != digest:
            raise UserError(f"{path}: is damaged (its SHA-256 is {now}, {META} says {digest}); {fix}")
    reader = HuggingFaceStorageReader(str(directory))
    try:
        saved = reader.read_metadata().state_dict_metadata
    except (SafetensorError, OSError) as error:
        raise UserError(f"{directory}: a file is damaged ({error}); {fix}") from error
    there = {name: entry for name, entry in saved.items() if isinstance(entry, TensorStorageMetadata)}
    if into is None:
        into = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in there.items()}
    _check_names(directory, there, into)
    tensors = dict(into)
    with _alone():
        read_into(tensors, storage_reader=reader, no_dist=True)
    return Checkpoint(meta["num_images"], tensors, meta)


def _check_names(directory: Path, there: Mapping[str, TensorStorageMetadata], into: Mapping[str, Tensor]) -> None:
    other = [f"{n} of shape {tuple(there[n].size)}" for n, t in into.items() if n in there and there[n].size != t.shape]
    kinds = {
        "lacks": sorted(into.keys() - there.keys()),
        "has besides": sorted(there.keys() - into.keys()),
        "has otherwise": sorted(other),
    }
    said = [f"it {verb} {', '.join(names[:3])}{', ...' * (len(names) > 3)}" for verb, names in kinds.items() if names]
    if said:
        raise UserError(
            f"{directory}: is not of this network: {'; '.join(said)}; go on with the version of tessera that wrote it"
        )


def check_space(run: Path, checkpoint_bytes: int, count: int) -> None:
    """Raises UserError unless there is room for `count` more checkpoints of that size where `run` is or will be."""
    there = next(p for p in (run, *run.absolute().parents) if p.exists())
    need, free = checkpoint_bytes * count, shutil.disk_usage(there).free
    if need > free:
        raise UserError(
            f"{run}: checkpoints need {need / 1e9:.2f} GB, only {free / 1e9:.2f} GB are free; make room first"
        )


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(leftover)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return  # only posix lets a directory be opened
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
