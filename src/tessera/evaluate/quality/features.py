"""Directories of images as features: one decoding feeds all networks; finished chunks outlive the process.

Images are PNG, JPEG, WebP or BMP files, or .npy arrays (H, W, 3) of bytes or floats 0..1. A directory made by
`generate` gives its samples; any other one all the images below it but hidden ones, in the order of their paths.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.devices import rank, world_size
from tessera.files import atomic_path, remove_unfinished, sha256_file
from tessera.images import read_rgb
from tessera.progress import progress
from tessera.stages import MANIFEST, read_manifest

if TYPE_CHECKING:
    from tessera.pretrained.features.encoder import ImageEncoder

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".npy")


@dataclass(frozen=True)
class Images:
    """The images of a directory."""

    directory: Path
    files: tuple[str, ...]
    """Relative to the directory, in order."""
    sha256: str
    """Hash of all names and contents."""

    @property
    def arrays(self) -> bool:
        """True if there are .npy files among them, whose rounding is a choice."""
        return any(file.endswith(".npy") for file in self.files)


def find_images(directory: Path, what: str) -> Images:
    """Return all images of `directory`.

    Raises UserError for fewer than 2, for another number than the manifest of `generate` counts, and for a link to a
    directory, whose images would be missing.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: there is no such directory of {what} images")
    drawn, expected = False, None
    if (directory / MANIFEST).is_file():
        manifest = read_manifest(directory)
        if manifest.stage == "generate":
            drawn, expected = True, manifest.counts["images"]
    found = [
        path
        for path in (directory.glob("*/samples/*") if drawn else _below(directory))
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith((".", "grid."))
    ]
    files = sorted(path.relative_to(directory).as_posix() for path in found)
    if expected is not None and len(files) != expected:
        raise UserError(f"{directory}: holds {len(files)} of its {expected} images; generate it again")
    if len(files) < 2:
        raise UserError(f"{directory}: holds {len(files)} images ({', '.join(SUFFIXES)}), at least 2 are needed")
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(lambda file: sha256_file(directory / file), files))
    lines = "".join(f"{file} {digest}\n" for file, digest in zip(files, hashes))
    return Images(directory, tuple(files), hashlib.sha256(lines.encode()).hexdigest())


def _below(directory: Path) -> Iterator[Path]:
    """Yield all files, without hidden directories."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from error

    for place, folders, files in os.walk(directory, onerror=refuse):  # which does not follow links
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise UserError(f"{Path(place) / name}: is a link; put the directory itself there")
        yield from (Path(place) / name for name in files)


def features_of(
    images: Images,
    encoders: "Mapping[str, ImageEncoder]",
    work: Path,
    batch_size: int,
    rounding: Literal["round", "truncate"],
    description: str,
    chunk: int,
) -> dict[str, NDArray[np.float32]] | None:
    """Return features (N, D) by the encoders' names; every image is decoded once for all of them.

    Chunks of `chunk` images are written to `work` as they are done and not done again. Under torchrun rank r of w does
    chunks r, r + w, ... and waits for nobody; None while another rank's chunks are missing.
    """
    import torch

    from tessera.models.packing import packed_linears

    torch.backends.cudnn.allow_tf32 = False  # its default keeps 10 bits of the factors in convolutions on recent GPUs
    starts = range(0, len(images.files), chunk)
    own = list(starts)[rank() :: world_size()]
    with (
        progress(description, sum(len(images.files[s : s + chunk]) for s in own)) as bar,
        ThreadPoolExecutor(4) as pool,
        ExitStack() as packed,
    ):
        for name, encoder in encoders.items():
            if not all(_chunk(work, name, start).is_file() for start in own):
                packed.enter_context(packed_linears(encoder.network))
        for start in own:
            files = images.files[start : start + chunk]
            missing = {name: e for name, e in encoders.items() if not _chunk(work, name, start).is_file()}
            made: dict[str, list[NDArray[np.float32]]] = {name: [] for name in missing}
            for first in range(0, len(files) if missing else 0, batch_size):

                def prepare(file: str, missing: "Mapping[str, ImageEncoder]" = missing) -> list[Any]:
                    image = read_rgb(images.directory / file, rounding=rounding)
                    return [encoder.prepare(image) for encoder in missing.values()]

                prepared = list(pool.map(prepare, files[first : first + batch_size]))
                for (name, encoder), rows in zip(missing.items(), zip(*prepared)):
                    made[name].append(encoder.features(torch.stack(rows)))
            for name, rows in made.items():
                with atomic_path(_chunk(work, name, start)) as temporary, open(temporary, "wb") as file:
                    np.save(file, np.concatenate(rows))
            bar.advance(len(files))
    paths = {name: [_chunk(work, name, start) for start in starts] for name in encoders}
    if not all(path.is_file() for chunks in paths.values() for path in chunks):
        return None
    if world_size() > 1 and work.is_dir():
        remove_unfinished(work)
    try:
        return {name: np.concatenate([np.load(path) for path in chunks]) for name, chunks in paths.items()}
    except FileNotFoundError:
        if world_size() == 1:
            raise
        return None  # another rank had them all too, and is done with them


def _chunk(work: Path, name: str, start: int) -> Path:
    return work / name / f"{start:08d}.npy"
