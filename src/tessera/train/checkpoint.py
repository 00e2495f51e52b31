"""Checkpoints: everything that a run needs to go on bit for bit.

`checkpoints/000000640000/` (the number of images seen) holds `state.safetensors` (master weights, optimiser, EMA) and
`meta.json`. It is written under another name, brought to the disk and renamed: a directory with that name is whole.
There is no random state in it: draws have addresses.
"""

import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tessera.config import UserError
from tessera.files import TEMPORARY, read_json, write_json

FOLDER = "checkpoints"
STATE = "state.safetensors"
META = "meta.json"
_NAME = re.compile(r"\d{12}")


@dataclass(frozen=True)
class Checkpoint:
    """What `load` gives."""

    num_images: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def save(
    run: Path,
    num_images: int,
    tensors: dict[str, Tensor],
    meta: dict[str, Any],
    keep: int = 2,
    every: int | None = None,
) -> Path:
    """Writes the state after `num_images` images, then prunes with `keep` and `every`. Returns its directory.

    Equal states give equal bytes. If it is killed, what is left has another name and is removed by the next `save`.
    """
    folder = run / FOLDER
    final = folder / f"{num_images:012d}"
    if not final.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        temporary = folder / f"{TEMPORARY}{secrets.token_hex(4)}-{final.name}"
        temporary.mkdir()
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / STATE)
            write_json(temporary / META, {"num_images": num_images, **meta})
            _sync(temporary / STATE)
            _sync(temporary)
            os.rename(temporary, final)
            _sync(folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise UserError(f"{final}: the checkpoint cannot be written: {error}") from error
    prune(run, keep, every)
    return final


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


def load(directory: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Reads a checkpoint's directory. UserError where a file is damaged."""
    meta = read_json(directory / META)
    try:
        tensors = load_file(directory / STATE, device=str(device))
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{directory / STATE}: is damaged ({error}); delete {directory} to go on from an older one"
        ) from error
    return Checkpoint(meta["num_images"], tensors, meta)


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
