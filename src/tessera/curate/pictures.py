"""Any picture file to a square RGB crop, or the reason why not; and PNG files written so that none is ever half there.

Pictures come from users, so every format trap is met here once: truncated and empty files, other things named .jpg,
palettes, transparency, CMYK, 16 bits, rotation flags, animations, and files that unpack to gigabytes.
"""

import contextlib
import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tessera.files import atomic_path

MAX_PIXELS = 100_000_000
"""Larger pictures are refused from their header, before anything is decoded."""

READABLE = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "dib"),
        *("tif", "tiff", "ppm", "pgm", "pbm", "pnm", "ico", "avif", "jp2"),
    )
)
"""Suffixes of picture files that can be read."""

UNREADABLE = frozenset(
    f".{suffix}"
    for suffix in ("heic", "heif", "jxl", "svg", "psd", "tga", "eps", "raw", "dng", "cr2", "cr3", "nef", "arw")
)
"""Suffixes of picture files that cannot be read, and are reported rather than passed over."""

# No EPS and the like: opening one starts an interpreter.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000")

# What Pillow's decoders are known to raise on damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    ArithmeticError,
    EOFError,
    NotImplementedError,
    struct.error,
    zlib.error,
)

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class RejectedPicture(ValueError):
    """A file that gives no picture. The message is the reason: a few words without the file's name."""


@dataclass(frozen=True)
class Crop:
    """A square crop and the size of the picture it was cut from."""

    pixels: NDArray[np.uint8]
    """(S, S, 3) RGB."""
    width: int
    """Of the whole picture, upright, in pixels."""
    height: int


def square_crop(path: Path, size: int) -> Crop:
    """The central square of the picture in file `path`, scaled to `size` px with Pillow's bicubic filter, as RGB.

    As a viewer shows it: turned upright by its EXIF flag, transparency over white, an animation's first frame.
    Grey and 16-bit pictures become RGB. A JPEG of over four times the size is decoded at a half, quarter or eighth.
    Raises RejectedPicture with the reason.
    """
    with _reasons(path), _open(path) as image:
        width, height = upright = _upright_size(image)
        orientation = _orientation(image)
        shorter = min(upright)
        if image.format in ("JPEG", "MPO") and shorter > 4 * size:
            scale = 2 * size / shorter  # leaves at least twice what the bicubic filter is to make
            image.draft(image.mode, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = _to_rgb(image.crop((left, top, left + side, top + side)))
        square = square.resize((size, size), Image.Resampling.BICUBIC)
        if orientation in _UPRIGHT:
            square = square.transpose(_UPRIGHT[orientation])
        return Crop(np.asarray(square), width, height)


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of an upright picture, from its header. Raises RejectedPicture."""
    with _reasons(path), _open(path) as image:
        return _upright_size(image)


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Writes uint8 (H, W, 3) as a PNG file, whole or not at all; equal pixels give equal bytes."""
    data = io.BytesIO()  # one write: Pillow's many small ones cost more than its encoder
    Image.fromarray(pixels).save(data, "PNG", compress_level=1)
    with atomic_path(path, durable=False) as temporary:
        temporary.write_bytes(data.getbuffer())


def read_png(path: Path) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) of a PNG file written by `write_png`. Raises OSError or SyntaxError if it is damaged."""
    with Image.open(path, formats=("PNG",)) as image:
        return np.asarray(image)


def is_whole_png(path: Path) -> bool:
    """Whether `path` is a PNG file with its end: even a file renamed into place can lose its bytes in a crash."""
    try:
        with open(path, "rb") as file:
            file.seek(-12, 2)
            return file.read() == b"\x00\x00\x00\x00IEND\xaeB\x60\x82"
    except OSError:
        return False


_TOO_LARGE = f"more than {MAX_PIXELS // 10**6} megapixels"


@contextlib.contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Turns what Pillow raises on a bad file into RejectedPicture; no paths in it, so it is the same everywhere."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of oddities; what matters it raises
            yield
    except RejectedPicture:
        raise
    except UnidentifiedImageError:
        suffix = path.suffix.lower()
        what = f"{suffix[1:]} files cannot be read" if suffix in UNREADABLE else "not a picture, or an unknown format"
        raise RejectedPicture(what) from None
    except Image.DecompressionBombError:
        raise RejectedPicture(_TOO_LARGE) from None
    except MemoryError:
        raise RejectedPicture("does not fit in memory") from None
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.strerror:
            raise RejectedPicture(f"cannot be opened: {error.strerror}") from error
        raise RejectedPicture("truncated" if "truncated" in str(error).lower() else "damaged") from error


def _open(path: Path) -> Image.Image:
    """Opens the header and checks the picture's size."""
    Image.init()
    if path.stat().st_size == 0:
        raise RejectedPicture("empty file")
    image = Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN])
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise RejectedPicture(_TOO_LARGE)
    return image


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 if there is none or it makes no sense."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1  # damaged EXIF data in a good picture
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(square: Image.Image) -> Image.Image:
    """A picture of any mode as RGB."""
    if square.mode.startswith("I") or square.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(square))).convert("RGB")
    if square.has_transparency_data:
        rgba = square.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return square.convert("RGB")


def _to_8_bits(grey: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey levels of 16 or 32 bits, or floats, to 0..255. Floats up to 1 are taken as shares of white."""
    values = grey.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite")
    peak = values.max()
    if grey.dtype.kind == "f":
        white = 1.0 if peak <= 1 else 255.0 if peak <= 255 else peak
    else:
        white = 65535.0 if peak <= 65535 else peak
    return np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8)
