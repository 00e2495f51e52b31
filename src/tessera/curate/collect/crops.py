"""Square RGB crops of any image file, or the reason for rejecting it.

Images come from users, so every format trap is handled here once: truncated and empty files, other things named .jpg,
palettes, transparency, CMYK, 16 bits, rotation flags, animations, and files that unpack to gigabytes.
"""

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tessera.curate.collect.color_profiles import corrected, rgb_of_inks
from tessera.images import MAX_PIXELS, as_rgb, open_image

UNREADABLE = frozenset(
    f".{suffix}"
    for suffix in ("heic", "heif", "jxl", "svg", "psd", "tga", "eps", "raw", "dng", "cr2", "cr3", "nef", "arw")
)
"""Suffixes of image files that cannot be read, and are reported rather than skipped."""

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
    RuntimeError,  # of AVIF
    struct.error,
    zlib.error,
)

_LONGEST = 16  # times the shorter side: of a longer image only a part is scaled, or it would fill the memory

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


class RejectedImage(ValueError):
    """A file that gives no image. The message is the reason: a few words without the file's name."""


@dataclass(frozen=True)
class Crop:
    """A square crop and the size of the image it was cut from."""

    pixels: NDArray[np.uint8]
    """(S, S, 3) RGB."""
    width: int
    """The whole image's, upright, in pixels."""
    height: int


def square_crop(source: Path | bytes, size: int, *, upright: bool = True, fast: bool = False) -> Crop:
    """Return the image in a file (or its bytes) with its shorter side scaled to `size` px, and of that the central
    square.

    The recipe of the published ImageNet pipelines, pixel for pixel: to RGB, Pillow's bicubic filter over the whole
    image, the long side rounded down, the center rounded to even. Transparency goes over white, gray and 16-bit
    images become RGB, an animation gives its first frame.
    upright: as viewers show it, first turned by its EXIF flag (Pillow turns TIFF files in any case), its colors those
    of its ICC profile. fast: JPEG files go through simplejpeg, which decodes them at the smallest eighth that still has
    `size` px, and only the square is scaled; pixels then differ a little.
    Raises RejectedImage with the reason.
    """
    with _reasons(source), _open(source) as image:
        orientation = _orientation(image) if upright else 1
        width, height = image.size if orientation < 5 else image.size[::-1]
        if fast and image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            square = _fast_square(source if isinstance(source, bytes) else source.read_bytes(), size)
            if orientation in _UPRIGHT:
                square = square.transpose(_UPRIGHT[orientation])
        else:
            whole = rgb_of_inks(image) if upright else None
            whole = whole or as_rgb(image, over_white=True)
            if orientation in _UPRIGHT:
                whole = whole.transpose(_UPRIGHT[orientation])
            square = _exact_square(whole, size)
        if upright:
            square = corrected(square, image)
        return Crop(np.asarray(square), width, height)


def image_size(source: Path | bytes, *, upright: bool = True) -> tuple[int, int]:
    """Return width and height of an image, from its header. Raises RejectedImage."""
    with _reasons(source), _open(source) as image:
        turned = upright and _orientation(image) >= 5
        return (image.height, image.width) if turned else image.size


def _exact_square(image: Image.Image, size: int) -> Image.Image:
    shorter, longer = sorted(image.size)
    long_side = int(size * longer / shorter)
    across = image.width > image.height
    start = round((long_side - size) / 2)
    if longer > _LONGEST * shorter:  # a strip: only the part that the crop shows is scaled
        scale = longer / long_side
        part = (start * scale, (start + size) * scale)
        box = (part[0], 0, part[1], shorter) if across else (0, part[0], shorter, part[1])
        return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    scaled = image.resize((long_side, size) if across else (size, long_side), Image.Resampling.BICUBIC)
    left, top = (start, 0) if across else (0, start)
    return scaled.crop((left, top, left + size, top + size))


def _fast_square(data: bytes, size: int) -> Image.Image:
    import simplejpeg

    pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=size, min_width=size)
    height, width = pixels.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    return Image.fromarray(square).resize((size, size), Image.Resampling.BICUBIC)


@contextlib.contextmanager
def _reasons(source: Path | bytes) -> Iterator[None]:
    """Turn what Pillow raises on a bad file into RejectedImage; no paths in it, so it is the same everywhere."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of oddities; what matters it raises
            yield
    except RejectedImage:
        raise
    except UnidentifiedImageError:
        suffix = source.suffix.lower() if isinstance(source, Path) else ""
        what = f"{suffix[1:]} files cannot be read" if suffix in UNREADABLE else "not an image, or an unknown format"
        raise RejectedImage(what) from None
    except Image.DecompressionBombError:
        raise RejectedImage(f"more than {MAX_PIXELS // 10**6} megapixels") from None
    except MemoryError:
        raise RejectedImage("does not fit in memory") from None
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.strerror:
            raise RejectedImage(f"cannot be opened: {error.strerror}") from error
        text = str(error).lower()
        cut = "truncated" in text or "premature end" in text
        raise RejectedImage("truncated" if cut else "damaged") from error


def _open(source: Path | bytes) -> Image.Image:
    if (len(source) if isinstance(source, bytes) else source.stat().st_size) == 0:
        raise RejectedImage("empty file")
    return open_image(source)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is missing or senseless, or Pillow itself turns the image."""
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1  # damaged EXIF data in a good image
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
