"""Directories of images as features: one decoding feeds all networks; finished chunks outlive the process.

Images are files of the kinds that `collect` reads, or .npy arrays (H, W, 3) of bytes or floats 0..1. A directory made
by `generate` gives its samples; any other one all the images below it but hidden ones, in the order of their paths.
"""

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tessera.config import UserError
from tessera.devices import rank, world_size
from tessera.evaluate.samples import Samples, read_samples
from tessera.files import atomic_path, remove_unfinished, sha256_file
from tessera.images import READABLE, UNREADABLE, open_image, read_rgb
from tessera.progress import progress
from tessera.stages import MANIFEST, read_manifest
from tessera.workers import draw_ahead

if TYPE_CHECKING:
    from tessera.pretrained.features.encoder import ImageEncoder

SUFFIXES = (*sorted(READABLE), ".npy")


@dataclass(frozen=True)
class Images:
    """The images of a directory."""

    directory: Path
    files: tuple[str, ...]
    """Relative to the directory, in order."""
    sha256: str
    """Hash of all names and contents."""
    drawn: Samples | None = None
    """The same with their prompts, if `generate` made them."""
    others: tuple[str, ...] = ()
    """Files below the directory that are no images."""

    @property
    def arrays(self) -> bool:
        """True if there are .npy files among them, whose rounding is a choice."""
        return any(file.endswith(".npy") for file in self.files)


def find_images(directory: Path, what: str) -> Images:
    """Return all images of `directory`, those of its manifest if `generate` or `collect` made it.

    Raises UserError for fewer than 2, for another number than the manifest counts, for links to a directory or to
    nothing, and for images of a kind that is not read: all of these would be missing from the numbers.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: there is no such directory of {what} images")
    manifest = read_manifest(directory) if (directory / MANIFEST).is_file() else None
    drawn, others = None, []
    if manifest and manifest.stage == "generate":
        drawn = read_samples(directory)
        found = [drawn.image(i, k) for i in range(len(drawn.lines)) for k in range(drawn.per_prompt)]
    else:
        found, others = _sorted_out(directory)
    files = sorted(path.relative_to(directory).as_posix() for path in found)
    if manifest and manifest.stage == "collect" and len(files) != manifest.counts["images"]:
        raise UserError(f"{directory}: holds {len(files)} of its {manifest.counts['images']} images; collect it again")
    if len(files) < 2:
        raise UserError(f"{directory}: holds {len(files)} images, at least 2 are needed")
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(lambda file: sha256_file(directory / file), files))
    lines = "".join(f"{file} {digest}\n" for file, digest in zip(files, hashes))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    return Images(
        directory, tuple(files), digest, drawn, tuple(path.relative_to(directory).as_posix() for path in others)
    )


def say_others(verb: str, *searched: Images | None) -> None:
    """Print how many files of the directories are no images, and the first of them."""
    for images in searched:
        if images and images.others and rank() == 0:
            count, first = len(images.others), images.others[0]
            print(f"{verb}: {images.directory}: {count} files are no images, the first is {first}", file=sys.stderr)


def _sorted_out(directory: Path) -> tuple[list[Path], list[Path]]:
    """Return the images below a directory, and its other files; both without hidden ones and grids next to samples/."""
    images, others = [], []
    for path in _below(directory):
        if path.name.startswith(".") or (path.name.startswith("grid.") and (path.parent / "samples").is_dir()):
            continue
        if not path.is_file():
            raise UserError(f"{path}: is a link to nothing, or no file; put the image itself there")
        suffix = path.suffix.lower()
        if suffix in SUFFIXES:
            images.append(path)
        elif suffix in UNREADABLE or _is_image(path):
            raise UserError(
                f"{path}: is an image that is not read by this name; give it as one of {', '.join(SUFFIXES)}"
            )
        else:
            others.append(path)
    return images, sorted(others)


def _is_image(path: Path) -> bool:
    try:
        open_image(path).close()
    except Image.DecompressionBombError:
        return True
    except Exception:  # decoders raise many types
        return False
    return True


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
    own = {start: images.files[start : start + chunk] for start in [*starts][rank() :: world_size()]}
    missing = {
        start: {name: e for name, e in encoders.items() if not _chunk(work, name, start).is_file()} for start in own
    }
    with (
        progress(description, sum(map(len, own.values()))) as bar,
        ThreadPoolExecutor(4) as pool,
        ExitStack() as packed,
    ):
        for name in {name for names in missing.values() for name in names}:
            packed.enter_context(packed_linears(encoders[name].network))
        for start, files in own.items():
            made: dict[str, list[NDArray[np.float32]]] = {name: [] for name in missing[start]}

            def prepare(file: str, start: int = start) -> list[Any]:
                image = read_rgb(images.directory / file, rounding=rounding)
                return [encoder.prepare(image) for encoder in missing[start].values()]

            firsts = range(0, len(files) if made else 0, batch_size)
            batches = (list(pool.map(prepare, files[first : first + batch_size])) for first in firsts)
            for prepared in draw_ahead(batches, 1):  # the next ones are decoded while the networks compute
                for name, rows in zip(made, zip(*prepared)):
                    made[name].append(encoders[name].features(torch.stack(rows)))
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
