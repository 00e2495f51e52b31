"""Checkpoints: everything that a run needs to resume bit for bit.

`checkpoints/000000640000/` (the number of images seen) holds safetensors files (master weights, optimizer, EMA) and
`meta.json`, which has each file's SHA-256. torch.distributed.checkpoint writes and reads them: each rank writes its
own part and reads what it needs of all, so any number of ranks, split or not, resumes from any other. The directory is
written under another name, synced to the disk and renamed: a directory with that name is whole. It holds no random
state: draws have addresses.
"""

import json
import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as read_into
from torch.distributed.checkpoint.state_dict_saver import save as write_from

from tessera.config import UserError
from tessera.devices import rank, world_size
from tessera.files import TEMPORARY, read_json, sha256_file, sync, write_json

FOLDER = "checkpoints"
BEST = "best"
"""Folder of a run in which `BestEMA` keeps checkpoints of EMA weights alone."""
META = "meta.json"
FILE_BYTES = 500_000_000
"""Approximate size of the tensors in one file; writing it takes twice as much memory."""
PATIENCE = 90.0
"""Seconds that rank 0 waits for other machines' files: a network file system may show them that much later."""
_NAME = re.compile(r"\d{12}")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read."""

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
    file_bytes: int = FILE_BYTES,
) -> Path:
    """Write the state after `num_images` images, then prune with `keep` and `every`. Return its directory.

    All ranks have to call it; `meta` is rank 0's. Tensors that all ranks have are divided among them, of a DTensor each
    writes its part. Equal states of as many ranks give equal bytes. If it is killed, its files have another name and
    are removed by the next `save`. Raises UserError for a full disk, and for what is no dense tensor: for a number,
    torch 2.13's writer would make a file that is not safetensors.
    """
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            what = f"is {value!r}" if isinstance(value, int | float | str) else f"is a {type(value).__name__}"
            raise UserError(f"{name}: {what}; a checkpoint holds dense tensors, make it one (torch.tensor)")
    folder = run / FOLDER
    final = folder / f"{num_images:012d}"
    temporary = folder / f"{TEMPORARY}{final.name}"  # the same on all ranks
    try:
        if rank() == 0:
            _remove_leftovers(folder)
            temporary.mkdir(parents=True, exist_ok=True)
        _write(temporary, tensors, file_bytes)
        files = _finish_files(temporary)
        if rank() > 0:
            return final
        write_json(temporary / META, {"num_images": num_images, "files": files, **meta})
        sync(temporary)
        os.rename(temporary, final)
        sync(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"{final}: the checkpoint cannot be written: {error}") from error
    prune(run, keep, every)
    return final


def _write(directory: Path, tensors: Mapping[str, Tensor], file_bytes: int) -> None:
    """Write this rank's files. Raises OSError where a rank could not."""
    file_of, number, filled = {}, 1, 0
    for name, tensor in tensors.items():
        if filled and filled + tensor.nbytes > file_bytes:
            number, filled = number + 1, 0
        file_of[name] = number
        filled += tensor.nbytes
    if world_size() > 1:  # a plan may let any rank write any of them
        every = [file_of] * world_size()
        dist.all_gather_object(every, file_of)
        file_of = {name: number for part in every for name, number in part.items()}
    writer = HuggingFaceStorageWriter(str(directory), file_of, save_distributed=True)
    state = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        with warnings.catch_warnings():  # a single process needs no process group
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            write_from(state, storage_writer=writer, no_dist=world_size() == 1)
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise (OSError(str(cause)) if isinstance(cause, SafetensorError) else cause) from error


def _finish_files(directory: Path) -> dict[str, str]:
    """Sync each rank's files to the disk. Return the SHA-256 of all, by name, on rank 0."""
    mine = {}
    for path in directory.glob(f"shard-{rank() + 1:05d}-*.safetensors"):
        _sort_header(path)
        sync(path)
        mine[path.name] = sha256_file(path)
    every = [mine]
    if world_size() > 1:
        every = [mine] * world_size()
        dist.all_gather_object(every, mine)
    if rank() > 0:  # rank 0 continues and renames the directory
        return {}
    files = {name: digest for part in every for name, digest in part.items()}
    deadline = time.monotonic() + PATIENCE
    while missing := [name for name in files if not (directory / name).exists()]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    there = {path.name for path in directory.glob("shard-*.safetensors")}
    if missing or there != files.keys():
        raise OSError(f"rank 0 sees {len(there)} of {len(files)} files; all ranks need one shared folder")
    return files


def _sort_header(path: Path) -> None:
    """Sort a file's header, which safetensors writes in random order, so that equal tensors are equal bytes."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        text = json.dumps(header, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
        assert len(text) <= size
        file.seek(8)
        file.write(text.ljust(size))


def found(run: Path) -> list[Path]:
    """Return the directories of the whole checkpoints, oldest first."""
    folder = run / FOLDER
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def latest(run: Path) -> Path | None:
    """Return the directory of the newest whole checkpoint; None without any."""
    return next(reversed(found(run)), None)


def prune(run: Path, keep: int, every: int | None = None) -> None:
    """Delete all checkpoints but the newest `keep` and, for each multiple of `every` images (None = none), the first at
    or after it; also delete the files of killed saves."""
    there = found(run)
    stay = set(there[-keep:])
    if every is not None:
        firsts = {int(path.name) // every: path for path in reversed(there)}
        stay |= {path for multiple, path in firsts.items() if multiple > 0}
    remove(path for path in there if path not in stay)
    _remove_leftovers(run / FOLDER)


def remove(directories: Iterable[Path]) -> None:
    """Delete checkpoints."""
    for old in directories:
        # Renamed first: a half-deleted directory must not look like a checkpoint.
        doomed = old.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{old.name}")
        os.rename(old, doomed)
        shutil.rmtree(doomed)


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(leftover)


def load(directory: Path, into: Mapping[str, Tensor] | None = None, *, partial: bool = False) -> Checkpoint:
    """Read a checkpoint's directory into these tensors, in place, of DTensors this rank's part; each rank by itself.
    None = all of it into new ones. partial: it may have other tensors too, which other ranks read.

    Raises UserError where a file is damaged or missing, and where names or shapes are not those of `into`.
    """
    meta = read_json(directory / META)
    fix = f"delete {directory} to resume from an older one"
    if not isinstance(meta, dict) or not isinstance(meta.get("files"), dict) or "num_images" not in meta:
        raise UserError(f"{directory / META}: does not list the checkpoint's files; {fix}")
    for name, digest in meta["files"].items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path}: is missing; {fix}")
        if (now := sha256_file(path)) != digest:
            raise UserError(f"{path}: is damaged (its SHA-256 is {now}, {META} says {digest}); {fix}")
    reader = HuggingFaceStorageReader(str(directory))
    # By itself it reads every *.safetensors of the folder (torch 2.13): also what was never verified, such as a copy of
    # other weights under the same names, or macOS's "._" files.
    reader.fs.ls = lambda _path: [str(directory / name) for name in meta["files"]]  # type: ignore[method-assign]
    try:
        saved = reader.read_metadata().state_dict_metadata
    except (SafetensorError, OSError) as error:
        raise UserError(f"{directory}: a file is damaged ({error}); {fix}") from error
    there = {name: entry for name, entry in saved.items() if isinstance(entry, TensorStorageMetadata)}
    if into is None:
        into = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in there.items()}
    kinds = {
        "missing": into.keys() - there.keys(),
        "unknown": set() if partial else there.keys() - into.keys(),
        "of another shape": {n for n, tensor in into.items() if n in there and there[n].size != tensor.shape},
    }
    said = [f"{kind}: {', '.join(sorted(n)[:3])}{', ...' * (len(n) > 3)}" for kind, n in kinds.items() if n]
    if said:
        raise UserError(f"{directory}: is not of this network ({'; '.join(said)}); delete the run and train again")
    tensors = dict(into)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        read_into(tensors, storage_reader=reader, no_dist=True)
    return Checkpoint(meta["num_images"], tensors, meta)


def check_space(run: Path, checkpoint_bytes: int, count: int) -> None:
    """Raise UserError unless there is room for `count` more checkpoints of that size where `run` is or will be."""
    there = next(p for p in (run, *run.absolute().parents) if p.exists())
    need, free = checkpoint_bytes * count / 1e9, shutil.disk_usage(there).free / 1e9
    if need > free:
        raise UserError(f"{run}: checkpoints need {need:.2f} GB, only {free:.2f} GB are free; make room first")
