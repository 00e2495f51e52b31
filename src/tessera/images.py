"""Image files and pixel arrays: read, write, convert, tile, embed in a page.

Pixels are uint8 (H, W, 3) RGB everywhere. Square crops of arbitrary images are in `tessera.curate.collect.crops`.
"""

import base64
import contextlib
import functools
import importlib
import io
import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from tessera import damage
from tessera.config import UserError
from tessera.files import atomic_path

MAX_PIXELS = 100_000_000
"""Larger images are refused from their header, before anything is decoded."""

_SUFFIXES = "jpg jpeg jpe jfif mpo png apng webp gif bmp dib tif tiff ppm pgm pbm pnm ico avif jp2 heic heif hif jxl"
READABLE = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""Suffixes of image files that can be read; HEIC and JPEG XL where their plugins for Pillow are installed."""
_OTHER_SUFFIXES = "svg psd tga eps raw dng cr2 cr3 nef arw"
UNREADABLE = frozenset(f".{suffix}" for suffix in _OTHER_SUFFIXES.split())
"""Suffixes of image files that cannot be read, and are reported rather than skipped."""

JPEG_COLORS = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
"""Pillow's modes of JPEG files -> simplejpeg's colors."""

_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_GRAY_ALPHA, _RGB_ALPHA = 4, 6  # color types of a PNG file
_ALPHA: Any = ("alpha",)  # key of `image.info` of 16-bit gray; no text in a PNG file has such a name
_MAX_METADATA = 16 * 2**20  # bytes of one color profile or XMP of a PNG file
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags

# No EPS and the like: opening one starts an interpreter.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000", "HEIF", "JXL")

# Pillow 12.3 knows gray of 16 bits in which white is 0 in files of the other byte order alone.
TiffImagePlugin.OPEN_INFO.setdefault((TiffImagePlugin.MM, 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))

_HEIF = re.compile(rb"....ftyp(hei[cxms]|hev[cmxs]|mif1|msf1)", re.DOTALL)
_JXL = re.compile(rb"\xff\x0a|\0\0\0\x0cJXL ")


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
                    jpeg = damage.decode_jpeg(data, JPEG_COLORS[image.mode]) if is_jpeg(image) else None
                    pixels = jpeg if jpeg is not None and image.mode == "RGB" else np.asarray(as_rgb(image))
            return pixels
        array = np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such image; {fix}") from None
    except Exception as error:  # decoders raise many types on damaged files
        said = str(error).partition(" <_io.")[0]  # without the object in memory that Pillow names
        reason = getattr(error, "strerror", None) or said or type(error).__name__
        raise UserError(f"{path}: is not a readable image ({reason}); {fix}") from error
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UserError(f"{path}: must be an image (H, W, 3), not of shape {array.shape}")
    try:
        return to_uint8(array, rounding)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def is_jpeg(image: Image.Image) -> bool:
    """Return whether an opened image is of a kind that `damage.decode_jpeg` reads, as `JPEG_COLORS[image.mode]`."""
    return image.format in ("JPEG", "MPO") and image.mode in JPEG_COLORS


def open_image(source: Path | bytes) -> Image.Image:
    """Open an image file, or its bytes. PNG files are decoded at once, others when their pixels are asked for.

    Raises what Pillow raises for bad files, OSError for a PNG file whose pixels do not have their checksum and for what
    `tessera.damage.check` finds, DecompressionBombError for more than `MAX_PIXELS`, and UserError for HEIC and JPEG XL
    without their plugin.
    """
    Image.init()
    head = source[:12] if isinstance(source, bytes) else b""
    if isinstance(source, Path):
        with open(source, "rb", buffering=0) as file:
            head = file.read(12)
            if head.startswith((_PNG_HEAD, b"\xff\xd8")) or _JXL.match(head):
                file.seek(0)
                source = file.read()
    if isinstance(source, bytes) and head.startswith(_PNG_HEAD):
        return _decode_png(source)
    if isinstance(source, bytes) and _JXL.match(head) and _jxl_pixels(source) > MAX_PIXELS:
        raise _too_large()  # its plugin decodes as it opens
    package = "pillow-heif" if _HEIF.match(head) else "pillow-jxl-plugin" if _JXL.match(head) else ""
    there = _register(package)
    try:
        return _open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except UnidentifiedImageError:
        if there:
            raise
        what = "HEIC" if package == "pillow-heif" else "JPEG XL"
        raise UserError(f"{what} files need one more library: pip install {package}") from None


@functools.cache
def _register(package: str) -> bool:
    """Register a plugin for Pillow; return False if it is not installed."""
    try:
        if package == "pillow-heif":
            importlib.import_module("pillow_heif").register_heif_opener()
        elif package:
            importlib.import_module("pillow_jxl")
    except ImportError:
        return False
    return True


def _jxl_pixels(data: bytes) -> int:
    """Return the number of pixels that the header of a JPEG XL file states, 0 where it cannot be found (ISO 18181)."""
    place = 0
    while data[:1] == b"\0" and place + 16 <= len(data):  # boxes; the first jxlc or jxlp begins with the codestream
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        if kind in (b"jxlc", b"jxlp"):
            place = data.find(b"\xff\x0a", place + 8, place + 22)
            break
        place += size if size > 1 else len(data)
    bits = int.from_bytes(data[place + 2 : place + 18], "little") if data[place : place + 2] == b"\xff\x0a" else 0

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & (1 << count) - 1, bits >> count
        return value

    small = take(1)
    height = 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1
    ratio = take(3)
    if ratio:
        return height * (height * (1, 12, 4, 3, 16, 5, 2)[ratio - 1] // (1, 10, 3, 2, 9, 4, 1)[ratio - 1])
    return height * (8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1)


def _open(file: Path | io.BytesIO) -> Image.Image:
    image = Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _too_large()
    damage.check(image)
    return image


def _too_large() -> Exception:
    return Image.DecompressionBombError(f"more than {MAX_PIXELS // 10**6} megapixels")


def _decode_png(data: bytes) -> Image.Image:
    """Decode a PNG file.

    Pillow 12.3 checks no checksum of pixels, and leaves what it decoded before an error in the image, where the next
    call finds it. It refuses a whole file for metadata that unpack to more than 1 MB or are damaged: without them the
    pixels are as good. It leaves the transparent level as it is stored while it scales gray levels of 2 and 4 bits
    to 0..255, and colors of 16 bits to their upper 8. And it makes colors of 8 bits of 16-bit gray with alpha, which no
    profile for gray fits and which have lost their range: here they become gray levels, with the alpha apart.
    """
    deep = data[24:26] == bytes([16, _GRAY_ALPHA]) and zlib.crc32(data[12:29]) == int.from_bytes(data[29:33])
    if deep:  # four bytes a pixel, as RGBA of 8 bits has
        head = data[12:24] + bytes([8, _RGB_ALPHA]) + data[26:29]
        data = data[:12] + head + zlib.crc32(head).to_bytes(4) + data[33:]
    try:
        image = _open(io.BytesIO(data))
        image.load()
        if any(isinstance(image.info.get(name), str) for name in ("transparency", "icc_profile")):
            raise ValueError("a text has the name under which Pillow keeps something else")
    except (MemoryError, Image.DecompressionBombError):
        raise
    except Exception:
        bare, metadata = _without_metadata(data)
        image = _open(io.BytesIO(bare))
        image.load()
        image.info |= metadata
    if not all(right for kind, _, right in _png_chunks(data) if kind == b"IDAT"):
        raise OSError("its pixels do not have their checksum")
    clear, bits = image.info.get("transparency"), data[24]
    if deep:
        bytes_of, info, kind = np.asarray(image), image.info, image.format  # (H, W, 4): gray's two bytes, alpha's two
        image = Image.fromarray(bytes_of[..., 0] * np.uint16(256) + bytes_of[..., 1])
        image.info, image.format = info | {_ALPHA: bytes_of[..., 2]}, kind
    if image.mode == "L" and isinstance(clear, int) and bits in (2, 4):
        image.info["transparency"] = (clear & 2**bits - 1) * 255 // (2**bits - 1)
    elif image.mode == "RGB" and isinstance(clear, tuple) and bits == 16:
        image.info["transparency"] = tuple(level >> 8 for level in clear)
    return image


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Yield type, data and "its checksum is right" of each whole chunk of a PNG file."""
    place, kind = len(_PNG_HEAD), b""
    while place + 12 <= len(data) and kind != b"IEND":
        end = place + 8 + int.from_bytes(data[place : place + 4])
        chunk = memoryview(data)[place + 4 : end]
        kind, place = bytes(chunk[:4]), end + 4
        if place <= len(data):
            yield kind, chunk[4:], zlib.crc32(chunk) == int.from_bytes(data[end:place])


def _without_metadata(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return a PNG file with what its pixels need, and its color profile, EXIF and XMP as Pillow names them."""
    kept, metadata, last = [_PNG_HEAD], {}, len(_PNG_HEAD)
    for kind, body, right in _png_chunks(data):
        first, last = last, last + 12 + len(body)
        name = bytes(body[:80]).partition(b"\0")[0]
        key = {b"eXIf": "exif", b"iCCP": "icc_profile"}.get(kind, "xmp" if name == b"XML:com.adobe.xmp" else "")
        if kind == b"tRNS" or kind[:1].isupper():
            kept.append(data[first:last])
        elif right and key and key not in metadata:
            packed = bytes(body[len(name) + 1 :])
            if kind == b"eXIf":
                metadata[key] = b"Exif\0\0" + body
            elif kind == b"iCCP":
                metadata[key] = _unpacked(packed[1:])
            elif kind == b"iTXt":
                text = packed[2:].split(b"\0", 2)[-1]
                metadata[key] = _unpacked(text) if packed[:1] == b"\1" else text
    return b"".join([*kept, data[last:]]), metadata


def _unpacked(data: bytes) -> bytes:
    """Decompress metadata of a PNG file; b"" for damaged ones, and more than `_MAX_METADATA`."""
    unpack = zlib.decompressobj()
    with contextlib.suppress(zlib.error):
        found = unpack.decompress(data, _MAX_METADATA)
        return found if unpack.eof else b""
    return b""


def as_rgb(
    image: Image.Image,
    *,
    over_white: bool = False,
    gray_range: bool = False,
    gray_ramp: NDArray[np.uint8] | None = None,
) -> Image.Image:
    """Convert an image of any mode to RGB; gray levels of more than 8 bits are scaled to 0..255, not clipped.

    over_white: put transparent images on white; else transparency is dropped. gray_range: the lowest and highest of
    these levels become black and white, instead of 0 and the highest that the file's bits can say. gray_ramp: colors
    (65536, 3) of such levels from black to white, None = gray.
    """
    if image.mode.startswith("I") or image.mode == "F":
        stored, alpha = np.asarray(image), image.info.get(_ALPHA)
        if (clear := image.info.get("transparency")) is not None:
            alpha = np.where(stored == clear, 0, 255).astype(np.uint8)
        levels = np.clip(_levels(image, stored, gray_range, alpha), 0, 1)
        ramp = levels * 255 if gray_ramp is None else gray_ramp[np.rint(levels * 65535).astype(np.uint16)]
        image = Image.fromarray(np.rint(ramp).astype(np.uint8)).convert("RGB")
        if alpha is not None:
            image.putalpha(Image.fromarray(alpha))
    if over_white and image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _levels(
    image: Image.Image, stored: NDArray[Any], by_range: bool, alpha: NDArray[np.uint8] | None
) -> NDArray[np.float64]:
    """Return the gray levels of 16 or 32 bits, or floats, as fractions of white; the range leaves out those that
    `alpha` hides.

    Pillow 12.3 gives the numbers of a TIFF file of 12 bits as they are, and does not invert those of 16 bits in which
    white is 0. Floats up to 1 are fractions, others up to 255 levels, integers of 32 bits up to 65535.
    """
    levels, low = stored.astype(np.float64), 0.0
    if not np.isfinite(levels).all():
        raise ValueError("values that are not finite")
    tags: Any = getattr(image, "tag_v2", {})
    peak = levels.max()
    usual = [1, 255] if image.mode == "F" else [65535]
    if image.mode.startswith("I;16"):
        usual = [2 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1]
    white = next((level for level in usual if peak <= level), peak)
    if by_range and (seen := levels if alpha is None else levels[alpha > 0]).size and seen.min() < seen.max():
        low, white = seen.min(), seen.max()
    levels = (levels - low) / (white - low)
    return 1 - levels if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0 else levels


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
