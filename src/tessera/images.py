"""Any picture file to a square RGB crop, or the reason why not; and PNG files written so that none is ever half there.

Pictures come from users, so every format trap is met here once: truncated and empty files, other things named .jpg,
palettes, transparency, CMYK, 16 bits, rotation flags, animations, and files that unpack to gigabytes.
"""

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tessera.color_profiles import corrected, rgb_of_inks
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
    RuntimeError,  # of AVIF
    struct.error,
    zlib.error,
)

_LONGEST = 16  # times the shorter side: a longer picture is scaled in part only, or it would fill the memory

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


def square_crop(source: Path | bytes, size: int, *, upright: bool = True, fast: bool = False) -> Crop:
    """The picture in a file (or its bytes) with its shorter side scaled to `size` px, and of that the central square.

    The recipe of the published ImageNet pipelines, pixel for pixel: to RGB, Pillow's bicubic filter over the whole
    picture, the long side rounded down, the centre rounded to even. Transparency goes over white, grey and 16-bit
    pictures become RGB, an animation gives its first frame.
    upright: as viewers show it, first turned by its EXIF flag (Pillow turns TIFF files in any case), its colours those
    of its ICC profile. fast: JPEG files go through simplejpeg, which decodes them at the smallest eighth that still has
    `size` px, and only the square is scaled; pixels then differ a little.
    Raises RejectedPicture with the reason.
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
            whole = whole or _to_rgb(image)
            if orientation in _UPRIGHT:
                whole = whole.transpose(_UPRIGHT[orientation])
            square = _exact_square(whole, size)
        if upright:
            square = corrected(square, image)
        return Crop(np.asarray(square), width, height)


def picture_size(source: Path | bytes, *, upright: bool = True) -> tuple[int, int]:
    """Width and height of a picture, from its header. Raises RejectedPicture."""
    with _reasons(source), _open(source) as image:
        turned = upright and _orientation(image) >= 5
        return (image.height, image.width) if turned else image.size


def _exact_square(image: Image.Image, size: int) -> Image.Image:
    shorter, longer = sorted(image.size)
    long_side = int(size * longer / shorter)
    across = image.width > image.height
    start = round((long_side - size) / 2)
    if longer > _LONGEST * shorter:  # a strip: only the part that is kept is scaled
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


_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_PNG_UP = 2  # the filter that stores each row less the one above


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Writes uint8 (H, W, 3) as a PNG file, whole or not at all; equal pixels give equal bytes.

    Every row has the filter "up", which `read_png` undoes with one numpy call: a photograph of 256 px is read three
    times as fast as Pillow reads it, and takes no more room.
    """
    height, width = pixels.shape[:2]
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    flat = pixels.reshape(height, 3 * width)
    rows[:, 0] = _PNG_UP
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    data = deflate.compress(rows.data) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    with atomic_path(path, durable=False) as temporary:
        temporary.write_bytes(_PNG_HEAD + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", data) + _PNG_END)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def read_png(path: Path) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) of a PNG file written by `write_png`. Raises OSError or SyntaxError if it is damaged."""
    data = Path(path).read_bytes()
    width, height = struct.unpack(">II", data[16:24]) if len(data) > 45 else (0, 0)
    body = len(data) - 57  # of the one IDAT chunk: 8 + 25 bytes before it, 12 of its own, 12 after it
    if data[33:41] != struct.pack(">I", max(body, 0)) + b"IDAT" or data[24:29] != b"\x08\x02\x00\x00\x00":
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:  # another program's
            return np.asarray(image.convert("RGB"))
    if width * height > MAX_PIXELS:
        raise OSError(f"{path}: {_TOO_LARGE}")
    inflate = zlib.decompressobj()
    expected = height * (1 + 3 * width)
    try:
        raw = inflate.decompress(memoryview(data)[41 : 41 + body], expected)
    except zlib.error as error:
        raise OSError(f"{path}: is damaged ({error})") from error
    rows = np.frombuffer(raw, np.uint8)
    if len(rows) != expected or not (inflate.eof or inflate.decompress(inflate.unconsumed_tail, 1) == b""):
        raise OSError(f"{path}: is damaged (of another length than its header says)")
    rows = rows.reshape(height, 1 + 3 * width)
    if not (rows[:, 0] == _PNG_UP).all():
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return np.asarray(image.convert("RGB"))
    return np.add.accumulate(rows[:, 1:], axis=0, dtype=np.uint8).reshape(height, width, 3)


def is_whole_png(path: Path) -> bool:
    """Whether `path` is a PNG file with its end: even a file renamed into place can lose its bytes in a crash."""
    try:
        with open(path, "rb") as file:
            file.seek(-12, 2)
            return file.read() == _PNG_END
    except OSError:
        return False


_TOO_LARGE = f"more than {MAX_PIXELS // 10**6} megapixels"


@contextlib.contextmanager
def _reasons(source: Path | bytes) -> Iterator[None]:
    """Turns what Pillow raises on a bad file into RejectedPicture; no paths in it, so it is the same everywhere."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of oddities; what matters it raises
            yield
    except RejectedPicture:
        raise
    except UnidentifiedImageError:
        suffix = source.suffix.lower() if isinstance(source, Path) else ""
        what = f"{suffix[1:]} files cannot be read" if suffix in UNREADABLE else "not a picture, or an unknown format"
        raise RejectedPicture(what) from None
    except Image.DecompressionBombError:
        raise RejectedPicture(_TOO_LARGE) from None
    except MemoryError:
        raise RejectedPicture("does not fit in memory") from None
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.strerror:
            raise RejectedPicture(f"cannot be opened: {error.strerror}") from error
        text = str(error).lower()
        cut = "truncated" in text or "premature end" in text
        raise RejectedPicture("truncated" if cut else "damaged") from error


def _open(source: Path | bytes) -> Image.Image:
    """Opens the header and checks the picture's size."""
    Image.init()
    if (len(source) if isinstance(source, bytes) else source.stat().st_size) == 0:
        raise RejectedPicture("empty file")
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    image = Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise RejectedPicture(_TOO_LARGE)
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 if there is none or it makes no sense, or Pillow itself turns the picture."""
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1  # damaged EXIF data in a good picture
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


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
