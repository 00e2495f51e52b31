"""Reference pictures and their features, which are computed once for each network and kept by content.

A file of features says what it holds: the pictures' hash, the network, how a picture came to the network's size, and
how floats became bytes where there were any. It is taken for what it says, and for nothing else.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.evaluate.quality.features import Encoder, Pictures, features_of, find_pictures
from tessera.files import atomic_path

FEATURES = ".features.safetensors"
BYTES = "bytes"
"""The rounding of pictures that were bytes from the start."""


@dataclass(frozen=True)
class Source:
    """Where a reference's features come from."""

    path: Path
    sha256: str
    """Of the pictures, wherever their features come from."""
    pictures: Pictures | None
    """None: `path` holds their features."""


@dataclass(frozen=True)
class Reference:
    """What the samples are compared with."""

    sha256: str
    """Of the pictures, wherever their features come from."""
    images: int
    features: Mapping[str, NDArray[np.float32]]
    arrays: bool
    """Whether some of the pictures were floats or .npy files, whose rounding is a choice."""


def find_reference(path: Path) -> Source:
    """A directory of pictures, or of their features as the cache keeps them. UserError: it is neither, or mixed."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such directory of reference pictures or features")
    if files := _files(path):
        hashes = {_about(file)["pictures_sha256"] for file in files}
        if len(hashes) > 1:
            raise UserError(f"{path}: holds features of {len(hashes)} different sets of pictures; give those of one")
        return Source(path, hashes.pop(), None)
    pictures = find_pictures(path, "reference")
    return Source(path, pictures.sha256, pictures)


def reference_of(
    source: Source,
    encoders: Mapping[str, Encoder],
    cache: Path,
    work: Path,
    batch_size: int,
    rounding: Literal["round", "truncate"],
) -> Reference | None:
    """The features of the source: those of pictures are kept in `cache` by their content, and computed where missing.

    So reference pictures are encoded once for each network, on any number of samples. None as in `features_of`.
    """
    if source.pictures is None:
        return _stored(source.path, source.sha256, encoders, rounding)
    how = rounding if source.pictures.arrays else BYTES
    folder = cache / source.sha256[:16]
    rest = {name: encoder for name, encoder in encoders.items() if not (folder / _name(encoder, how)).is_file()}
    if rest:
        # Beside other pictures' chunks, not among them, where the directory got others since it was begun.
        made = features_of(source.pictures, rest, work / source.sha256[:16], batch_size, rounding, "reference")
        if made is None:
            return None
        for name, features in made.items():
            _store(folder / _name(rest[name], how), source.sha256, rest[name], how, features)
    return _stored(folder, source.sha256, encoders, rounding)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{FEATURES}"))


def _name(encoder: Encoder, rounding: str) -> str:
    short = "".join(c if c.isalnum() or c in "-." else "-" for c in encoder.id.split("/")[-1].split("@")[0])
    seen = hashlib.sha256(f"{encoder.resizing}\n{rounding}".encode()).hexdigest()
    return f"{short}-{encoder.sha256[:12]}-{seen[:8]}{FEATURES}"


def _store(path: Path, pictures: str, encoder: Encoder, rounding: str, features: NDArray[np.float32]) -> None:
    from safetensors.numpy import save_file

    about = {"pictures_sha256": pictures, "encoder": encoder.id, "encoder_sha256": encoder.sha256}
    about |= {"resize": encoder.resizing, "rounding": rounding}
    with atomic_path(path) as temporary:
        save_file({"features": np.ascontiguousarray(features)}, temporary, metadata=about)


def _about(path: Path) -> dict[str, str]:
    """What a file of features says of itself."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            about: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is no file of reference features ({error}); delete it") from error
    if not {"pictures_sha256", "encoder_sha256"} <= about.keys():
        raise UserError(f"{path}: does not say what its features are of; delete it")
    return about


def _stored(folder: Path, sha256: str, encoders: Mapping[str, Encoder], rounding: str) -> Reference:
    from safetensors import safe_open

    found: dict[str, NDArray[np.float32]] = {}
    arrays = False
    for path in _files(folder):
        about = _about(path)
        for name, encoder in encoders.items():
            same = about["encoder_sha256"] == encoder.sha256 and about.get("resize") == encoder.resizing
            if same and about["pictures_sha256"] == sha256 and about.get("rounding") in (BYTES, rounding):
                arrays = arrays or about["rounding"] != BYTES
                with safe_open(path, framework="np") as file:
                    found[name] = file.get_tensor("features")
    absent = [encoders[name].id for name in encoders if name not in found]
    if absent:
        raise UserError(
            f"{folder}: has no features of {absent[0]} with these weights, its resizing and --rounding {rounding}; "
            "give the pictures themselves"
        )
    return Reference(sha256, _rows(folder, found), found, arrays)


def _rows(folder: Path, found: Mapping[str, NDArray[np.float32]]) -> int:
    rows: Sequence[int] = sorted({len(features) for features in found.values()})
    if len(rows) != 1:
        raise UserError(f"{folder}: its features are of {rows} pictures; delete it")
    return rows[0]
