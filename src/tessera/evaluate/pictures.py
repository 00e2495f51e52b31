"""Folders of pictures as features: one decoding feeds all networks; what is done is kept when the process dies.

Pictures are PNG, JPEG, WebP or BMP files, or .npy arrays (H, W, 3) of bytes or floats 0..1. A directory made by
`generate` gives its samples; any other one all the pictures below it, in the order of their paths.
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tessera.config import UserError
from tessera.files import MANIFEST, atomic_path, read_manifest, remove_unfinished, sha256_file
from tessera.runtime import progress, rank, world_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".npy")
CHUNK = 256
"""Pictures whose features are written at once."""
FEATURES = ".features.safetensors"


class Encoder(Protocol):
    """What is needed of a network; `tessera.frozen.features.PictureEncoder` says more."""

    @property
    def id(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def network(self) -> Any: ...
    def prepare(self, picture: NDArray[Any]) -> Any: ...
    def features(self, batch: Any) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Pictures:
    """The pictures of a directory."""

    directory: Path
    files: tuple[str, ...]
    """Relative to the directory, in order."""
    sha256: str
    """Of the names and contents of all of them."""


def find_pictures(directory: Path, what: str) -> Pictures:
    """All pictures of `directory`. UserError: fewer than 2, or fewer than the manifest of `generate` counts."""
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: there is no such directory of {what} pictures")
    pattern, expected = "**/*", None
    if (directory / MANIFEST).is_file():
        manifest = read_manifest(directory)
        if manifest.stage == "generate":
            pattern, expected = "*/samples/*", manifest.counts["images"]
    found = [
        path
        for path in directory.glob(pattern)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith((".", "grid."))
    ]
    files = sorted(path.relative_to(directory).as_posix() for path in found)
    if expected is not None and len(files) != expected:
        raise UserError(f"{directory}: holds {len(files)} of its {expected} pictures; generate it again")
    if len(files) < 2:
        raise UserError(f"{directory}: holds {len(files)} pictures ({', '.join(SUFFIXES)}), at least 2 are needed")
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(lambda file: sha256_file(directory / file), files))
    lines = "".join(f"{file} {digest}\n" for file, digest in zip(files, hashes))
    return Pictures(directory, tuple(files), hashlib.sha256(lines.encode()).hexdigest())


def read_picture(path: Path, rounding: Literal["round", "truncate"] = "round") -> NDArray[np.uint8]:
    """uint8 (H, W, 3); UserError for a damaged file, or an array that is no picture."""
    from tessera.frozen.features import to_bytes

    try:
        if path.suffix.lower() == ".npy":
            picture = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: is not a readable picture ({error}); make it again, or take it away") from error
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise UserError(f"{path}: must be a picture (H, W, 3), not of shape {picture.shape}")
    try:
        return to_bytes(picture, rounding)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def features_of(
    pictures: Pictures,
    encoders: Mapping[str, Encoder],
    work: Path,
    batch_size: int,
    rounding: Literal["round", "truncate"],
    description: str,
) -> dict[str, NDArray[np.float32]] | None:
    """Name of each encoder -> features (N, D); every picture is decoded once for all of them.

    Chunks are written to `work` as they are done and not done again. Under torchrun rank r of w does chunks r, r + w,
    ... and waits for nobody; None while another rank's chunks are missing.
    """
    import torch

    from tessera.models.packing import packed_linears

    starts = range(0, len(pictures.files), CHUNK)
    own = list(starts)[rank() :: world_size()]
    with (
        progress(description, sum(len(pictures.files[s : s + CHUNK]) for s in own)) as bar,
        ThreadPoolExecutor(4) as pool,
        ExitStack() as packed,
    ):
        for encoder in encoders.values():
            packed.enter_context(packed_linears(encoder.network))
        for start in own:
            files = pictures.files[start : start + CHUNK]
            missing = {name: e for name, e in encoders.items() if not _chunk(work, name, start).is_file()}
            made: dict[str, list[NDArray[np.float32]]] = {name: [] for name in missing}
            for first in range(0, len(files) if missing else 0, batch_size):

                def prepare(file: str, missing: Mapping[str, Encoder] = missing) -> list[Any]:
                    picture = read_picture(pictures.directory / file, rounding)
                    return [encoder.prepare(picture) for encoder in missing.values()]

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
    return {name: np.concatenate([np.load(path) for path in chunks]) for name, chunks in paths.items()}


def _chunk(work: Path, name: str, start: int) -> Path:
    return work / name / f"{start:08d}.npy"


@dataclass(frozen=True)
class Reference:
    """What the samples are compared with."""

    sha256: str
    """Of the pictures, wherever their features come from."""
    images: int
    features: Mapping[str, NDArray[np.float32]]


def reference_of(
    path: Path,
    encoders: Mapping[str, Encoder],
    cache: Path,
    work: Path,
    batch_size: int,
    rounding: Literal["round", "truncate"],
) -> Reference | None:
    """The features of a directory of pictures, kept in `cache` by its content; or those of such a cache's directory.

    So reference pictures are encoded once for each network, on any number of samples. None as in `features_of`.
    """
    if stored := sorted(Path(path).glob(f"*{FEATURES}")):
        return _stored(Path(path), stored, encoders)
    pictures = find_pictures(path, "reference")
    folder = cache / pictures.sha256[:16]
    there = {name: e for name, e in encoders.items() if (folder / _name(e)).is_file()}
    rest = {name: encoder for name, encoder in encoders.items() if name not in there}
    if rest:
        made = features_of(pictures, rest, work, batch_size, rounding, "reference")
        if made is None:
            return None
        for name, features in made.items():
            _store(folder / _name(rest[name]), pictures, rest[name], features)
    return _stored(folder, sorted(folder.glob(f"*{FEATURES}")), encoders)


def _name(encoder: Encoder) -> str:
    short = "".join(c if c.isalnum() or c in "-." else "-" for c in encoder.id.split("/")[-1].split("@")[0])
    return f"{short}-{encoder.sha256[:12]}{FEATURES}"


def _store(path: Path, pictures: Pictures, encoder: Encoder, features: NDArray[np.float32]) -> None:
    from safetensors.numpy import save_file

    about = {"pictures_sha256": pictures.sha256, "encoder": encoder.id, "encoder_sha256": encoder.sha256}
    with atomic_path(path) as temporary:
        save_file({"features": np.ascontiguousarray(features)}, temporary, metadata=about)


def _stored(folder: Path, files: Sequence[Path], encoders: Mapping[str, Encoder]) -> Reference:
    from safetensors import SafetensorError, safe_open

    found: dict[str, NDArray[np.float32]] = {}
    hashes: set[str] = set()
    for path in files:
        try:
            with safe_open(path, framework="np") as file:
                about = file.metadata() or {}
                hashes.add(about["pictures_sha256"])
                for name, encoder in encoders.items():
                    if about["encoder_sha256"] == encoder.sha256 and path.name == _name(encoder):
                        found[name] = file.get_tensor("features")
        except (SafetensorError, KeyError, OSError) as error:
            raise UserError(f"{path}: is no file of reference features ({error}); delete it") from error
    absent = [encoders[name].id for name in encoders if name not in found]
    if absent:
        raise UserError(f"{folder}: has no features of {absent[0]} with these weights; give the pictures themselves")
    if len(hashes) > 1:
        raise UserError(f"{folder}: holds features of {len(hashes)} different sets of pictures; give those of one")
    rows = {len(features) for features in found.values()}
    if len(rows) != 1:
        raise UserError(f"{folder}: its features are of {sorted(rows)} pictures; delete it")
    return Reference(hashes.pop(), rows.pop(), found)
