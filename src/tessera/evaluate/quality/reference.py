"""Images and their features, which are computed once for each network and cached by content: references and samples.

The metadata of a file of features name what it holds: the images' hash, the network, its resizing (with Pillow's
version where Pillow resizes: 13 gives other pixels than 12), and the rounding of floats to bytes where there were any.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import PIL
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.evaluate.quality.features import SUFFIXES, Images, features_of, find_images
from tessera.files import atomic_path

if TYPE_CHECKING:
    from tessera.pretrained.features.encoder import ImageEncoder

FEATURES = ".features.safetensors"
SAMPLES = "samples"
"""Folder of the cache with the features of generated images, which are useless once all is measured."""
BYTES = "bytes"
"""The rounding of images that were bytes from the start."""


def user_cache() -> Path:
    """Return the directory of reference images' features in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tessera" / "reference"


@dataclass(frozen=True)
class Source:
    """A directory that a reference's features come from."""

    path: Path
    sha256: str
    """Hash of the images, wherever their features come from."""
    images: Images | None
    """None: `path` holds their features."""


@dataclass(frozen=True)
class Reference:
    """The features that samples are compared with."""

    sha256: str
    images: int
    features: Mapping[str, NDArray[np.float32]]
    arrays: bool
    """True if some of the images were .npy files, whose rounding is a choice."""


def find_reference(path: Path) -> Source:
    """Return a directory of images, or of their features as the cache has them; UserError if neither, or mixed."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such directory of reference images or features")
    if files := _files(path):
        hashes = {_about(file)["images_sha256"] for file in files}
        if len(hashes) > 1:
            raise UserError(f"{path}: holds features of {len(hashes)} different sets of images; give those of one")
        if any(file.suffix.lower() in SUFFIXES for file in path.rglob("*")):
            raise UserError(f"{path}: holds images and features of images; give a directory of one of them")
        return Source(path, hashes.pop(), None)
    images = find_images(path, "reference")
    return Source(path, images.sha256, images)


def reference_of(
    source: Source,
    encoders: "Mapping[str, ImageEncoder]",
    cache: Path,
    work: Path,
    batch_size: int,
    rounding: Literal["round", "truncate"],
    chunk: int,
    description: str = "reference",
) -> Reference | None:
    """Return the features of the source; those of images come from `cache`, or are computed and put there.

    So images are encoded once for each network, whatever is measured of them and against what. None as in
    `features_of`.
    """
    from safetensors.numpy import save_file

    if source.images is None:
        return _stored(source.path, source.sha256, encoders, rounding)
    how = rounding if source.images.arrays else BYTES
    folder = cache / source.sha256[:16]
    rest = {name: encoder for name, encoder in encoders.items() if not (folder / _name(encoder, how)).is_file()}
    if rest:
        # In a directory of its own: the reference may have got other images since the work began.
        made = features_of(source.images, rest, work / source.sha256[:16], batch_size, rounding, description, chunk)
        if made is None:
            return None
        for name, features in made.items():
            network = rest[name]
            about = {"images_sha256": source.sha256, "encoder": network.id, "encoder_sha256": network.sha256}
            about |= {"resize": _resizing(network), "rounding": how}
            with atomic_path(folder / _name(network, how)) as temporary:
                save_file({"features": np.ascontiguousarray(features)}, temporary, metadata=about)
    return _stored(folder, source.sha256, encoders, rounding)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{FEATURES}"))


def _name(encoder: "ImageEncoder", rounding: str) -> str:
    short = "".join(c if c.isalnum() or c in "-." else "-" for c in encoder.id.split("/")[-1].split("@")[0])
    seen = hashlib.sha256(f"{_resizing(encoder)}\n{rounding}".encode()).hexdigest()
    return f"{short}-{encoder.sha256[:12]}-{seen[:8]}{FEATURES}"


def _resizing(encoder: "ImageEncoder") -> str:
    return encoder.resizing.replace("Pillow", f"Pillow {PIL.__version__}")


def _about(path: Path) -> dict[str, str]:
    """Return the metadata of a file of features."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            about: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is no file of reference features ({error}); delete it") from error
    if not {"images_sha256", "encoder_sha256"} <= about.keys():
        raise UserError(f"{path}: does not name the images of its features; delete it")
    return about


def _stored(folder: Path, sha256: str, encoders: "Mapping[str, ImageEncoder]", rounding: str) -> Reference:
    from safetensors.numpy import load_file

    found: dict[str, NDArray[np.float32]] = {}
    arrays = False
    for path in _files(folder):
        about = _about(path)
        if about["images_sha256"] == sha256 and about.get("rounding") in (BYTES, rounding):
            for name, encoder in encoders.items():
                if (about["encoder_sha256"], about.get("resize")) == (encoder.sha256, _resizing(encoder)):
                    arrays = arrays or about["rounding"] != BYTES
                    found[name] = load_file(path)["features"]
    absent = [encoders[name].id for name in encoders if name not in found]
    if absent:
        raise UserError(
            f"{folder}: has no features of {absent[0]} with these weights, its resizing and --rounding {rounding}"
            f" (by Pillow {PIL.__version__}); "
            "give the images themselves"
        )
    rows = sorted({len(features) for features in found.values()})
    if len(rows) != 1:
        raise UserError(f"{folder}: its features are of {rows} images; delete it")
    return Reference(sha256, rows[0], found, arrays)
