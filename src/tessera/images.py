"""Image files and pixel arrays: read, write, convert, tile, embed in a page.

Pixels are uint8 (H, W, 3) RGB everywhere. Square crops of arbitrary images are in `tessera.curate.collect.crops`.
"""

import base64
import io
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tessera.config import UserError
from tessera.files import atomic_path

MAX_PIXELS = 100_000_000
"""Larger images are refused from their header, before anything is decoded."""

_SUFFIXES = "jpg jpeg jpe jfif mpo png apng webp gif bmp dib tif tiff ppm pgm pbm pnm ico avif jp2"
READABLE = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""Suffixes of image files that can be read."""

# No EPS and the like: opening one starts an interpreter.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000")


def read_rgb(
    path: Path, *, rounding: Literal["round", "truncate"] = "round", fix: str = "make it again"
) -> NDArray[np.uint8]:
    """Return the pixels of an image file, or of a .npy file with bytes or floats 0..1, (H, W, 3).

    Transparency is dropped. `rounding`: of floats, see `to_uint8`. Raises UserError with the path, the reason and
    `fix`, which says what the user can do.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if path.suffix.lower() != ".npy":
            pixels = _read_fast_png(data)
            if pixels is None:
                with open_image(data) as image:
                    pixels = np.asarray(as_rgb(image))
            return pixels
        array = np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such image; {fix}") from None
    except Exception as error:  # decoders raise many types on damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path}: is not a readable image ({reason}); {fix}") from error
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UserError(f"{path}: must be an image (H, W, 3), not of shape {array.shape}")
    try:
        return to_uint8(array, rounding)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def open_image(source: Path | bytes) -> Image.Image:
    """Open an image file, or its bytes, without decoding it.

    Raises what Pillow raises for bad files, and DecompressionBombError for more than `MAX_PIXELS`.
    """
    Image.init()
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    image = Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise Image.DecompressionBombError(f"more than {MAX_PIXELS // 10**6} megapixels")
    return image


def as_rgb(image: Image.Image, *, over_white: bool = False) -> Image.Image:
    """Convert an image of any mode to RGB; gray levels of 16 or 32 bits are scaled to 0..255, not clipped.

    over_white: put transparent images on white; else transparency is dropped.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_gray_to_uint8(np.asarray(image))).convert("RGB")
    if over_white and image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def to_uint8(image: NDArray[Any], rounding: Literal["round", "truncate"] = "round") -> NDArray[np.uint8]:
    """Convert floats 0..1 to bytes; bytes stay as they are. Raises UserError for other values.

    `truncate` drops fractions, as the paper's evaluation did.
    """
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise UserError(f"images must be uint8 or floats 0..1, not {image.dtype}")
    if not (image.min() >= 0 and image.max() <= 1):  # NaN is neither
        raise UserError(f"images of floats must lie in 0..1, not {image.min():g}..{image.max():g}")
    scaled = image * 255.0
    return (scaled if rounding == "truncate" else np.rint(scaled)).astype(np.uint8)


def write_png(
    path: Path, pixels: NDArray[np.uint8], *, text: Mapping[str, str] | None = None, fast: bool = False
) -> None:
    """Write uint8 (H, W, 3) as a PNG file atomically; equal pixels give equal bytes.

    text: keyword -> text chunk of the file. fast: for files that are read many times, see `png_bytes`; without text.
    """
    with atomic_path(path, durable=False) as temporary:
        if fast:
            temporary.write_bytes(png_bytes(pixels))
            return
        info = PngInfo()
        for keyword, value in (text or {}).items():
            info.add_text(keyword, value.replace("\0", ""))
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info)


_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_PNG_UP = 2  # the filter that stores each row minus the one above


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 (H, W, 3) as PNG with the filter "up" on every row, which `read_rgb` undoes with one numpy call.

    A photograph of 256 px is read three times as fast as Pillow reads it, and takes no more room.
    """
    height, width = pixels.shape[:2]
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    flat = pixels.reshape(height, 3 * width)
    rows[:, 0] = _PNG_UP
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)}
    chunks[b"IDAT"] = deflate.compress(rows.data) + deflate.flush()
    words = [(struct.pack(">I", len(data)), kind + data) for kind, data in chunks.items()]
    return _PNG_HEAD + b"".join(n + body + struct.pack(">I", zlib.crc32(body)) for n, body in words) + _PNG_END


def _read_fast_png(data: bytes) -> NDArray[np.uint8] | None:
    """Decode a file of `png_bytes`; None for any other file. Raises OSError or zlib.error if it is damaged."""
    width, height = struct.unpack(">II", data[16:24]) if data[:8] == _PNG_HEAD and len(data) > 57 else (0, 0)
    body = len(data) - 57  # of the only IDAT chunk: 8 + 25 bytes before it, 12 of its own, 12 after it
    if data[33:41] != struct.pack(">I", max(body, 0)) + b"IDAT" or data[24:29] != b"\x08\x02\x00\x00\x00":
        return None
    if width * height > MAX_PIXELS:
        raise OSError(f"more than {MAX_PIXELS // 10**6} megapixels")
    inflate = zlib.decompressobj()
    expected = height * (1 + 3 * width)
    raw = inflate.decompress(memoryview(data)[41 : 41 + body], expected)
    rows = np.frombuffer(raw, np.uint8)
    if len(rows) != expected or not (inflate.eof or inflate.decompress(inflate.unconsumed_tail, 1) == b""):
        raise OSError("its length is not that of its header")
    rows = rows.reshape(height, 1 + 3 * width)
    if not (rows[:, 0] == _PNG_UP).all():
        return None
    return np.add.accumulate(rows[:, 1:], axis=0, dtype=np.uint8).reshape(height, width, 3)


def is_complete_png(path: Path) -> bool:
    """Return whether `path` is a PNG file with its end: even a renamed file can lose its bytes in a crash."""
    try:
        with open(path, "rb") as file:
            file.seek(-12, 2)
            return file.read() == _PNG_END
    except OSError:
        return False


def image_grid(
    images: NDArray[np.uint8], columns: int | None = None, *, gap: int = 2, background: int = 255
) -> NDArray[np.uint8]:
    """Tile images (N, H, W, 3) row by row, `gap` pixels apart, into one image (h, w, 3).

    columns: None = as square as whole columns allow. background: gray level between them and in empty places.
    """
    count, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), background, np.uint8)
    for n, image in enumerate(images):
        top, left = n // columns * (height + gap), n % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def thumbnail(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Shrink an image (H, W, 3) so that neither side is longer than `side` px; smaller ones stay as they are."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    return np.asarray(image)


def data_uri(pixels: NDArray[np.uint8], jpeg_above: float = math.inf) -> str:
    """Return an image (H, W, 3) as a data: URI: PNG, or JPEG where a side is longer than `jpeg_above` px."""
    if max(pixels.shape[:2]) <= jpeg_above:
        return f"data:image/png;base64,{base64.b64encode(png_bytes(pixels)).decode()}"
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _gray_to_uint8(gray: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Convert gray levels of 16 or 32 bits, or floats, to 0..255. Floats up to 1 are taken as fractions of white."""
    values = gray.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite")
    peak = values.max()
    white = next((level for level in ((1, 255) if gray.dtype.kind == "f" else (65535,)) if peak <= level), peak)
    return np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8)
