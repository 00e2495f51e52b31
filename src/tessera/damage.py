"""Damage in image files that their decoders leave untold, as far as the files themselves show it.

A changed byte in what has no checksum, such as the pixels of a JPEG, WebP, AVIF, GIF or BMP file, may be another image.
"""

import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# What libjpeg says of damage to the coded pixels; and of bytes within them that were not needed.
_DAMAGE = re.compile(
    r"bad (Huffman|arithmetic) code|premature end|instead of RST|before marker 0x[0-9ab]|unsupported marker|SOF type",
    re.IGNORECASE,
)
_UNREAD = re.compile(r"(\d+) extraneous bytes before marker 0x(?:d\d|c4|da)")
_STRAY = 16  # of these, not more
_ZEROS = 32  # bytes in a row
_END_OF_SCAN = re.compile(rb"\xff[^\0\xff\xd0-\xd7]")

_COMPRESSION, _JPEG_TABLES = 259, 347  # TIFF tags
_SEGMENTS = ((273, 279), (324, 325))  # offsets and lengths of strips, of tiles
_JPEG_IN_TIFF, _DEFLATE = 7, (8, 32946)


def decode_jpeg(
    data: bytes, color: str, *, lenient: bool = False, stray: int = _STRAY, smallest: Mapping[str, Any] | None = None
) -> NDArray[np.uint8] | None:
    """Decode a JPEG file by simplejpeg to pixels (H, W, C); None where it refuses and Pillow is to read it.

    color: RGB, GRAY or CMYK, the file's own: then the pixels are Pillow's. smallest: min_height and min_width, decoded
    by the smallest eighth that still has them.
    libjpeg only warns of damage, and Pillow 12.3 does not tell: here it raises OSError, unless lenient. simplejpeg 1.9
    refuses stray bytes before a marker too, even with strict=False: up to `stray` of them, or padding before the end,
    are no damage.
    """
    import simplejpeg

    if not lenient and _zeros_in_jpeg(data):
        raise OSError("zeros in place of its pixels")
    try:
        return simplejpeg.decode_jpeg(data, color, **smallest or {})
    except ValueError as error:
        said = str(error)
        unread = _UNREAD.search(said)
        if unread and re.search(rb"[\0\xff]{%d}\xff\xd9" % min(int(unread[1]), 2**16), data):
            unread = None
        if not lenient and (_DAMAGE.search(said) or (unread and int(unread[1]) > stray)):
            raise OSError(said) from error
        return None


def check(image: Image.Image) -> None:
    """Raise OSError for an opened WebP, AVIF or TIFF file that Pillow 12.3 would decode to another image without a
    word: zeros in place of coded pixels, and strips of JPEG or deflate whose errors or checksums are not looked at."""
    file: Any = image.fp  # type: ignore[attr-defined]
    if file is None or image.format not in ("WEBP", "AVIF", "TIFF"):
        return
    place = file.tell()
    if image.format == "TIFF":
        for segment in _segments(image, file):
            _check_segment(image, segment)
    else:
        file.seek(0)
        data = file.read()
        coded = _coded_webp(data) if image.format == "WEBP" else _coded_avif(data, image)
        # A flat image is coded as zeros: with libwebp 1.6 as 1 byte for 8,400 pixels.
        most = max(_ZEROS, image.width * image.height // 2000)
        if bytes(_ZEROS) in coded and bytes(most) in coded:
            raise OSError("zeros in place of its pixels")
    file.seek(place)


def _zeros_in_jpeg(data: bytes) -> bool:
    """Return whether the first scan of a baseline JPEG file holds a stretch of zeros that is no pixels.

    libjpeg reads zeros as the first code of each table, and may meet the right end all the same. Where the first code
    of the coefficients does not end a block, no image has it that often.
    """
    place, first = 2, {}
    if bytes(_ZEROS) not in data:
        return False
    while data[place : place + 1] == b"\xff" and place + 8 < len(data):
        kind, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        segment = data[place + 4 : place + 2 + length]
        if kind == 0xFF:  # fills up
            place += 1
            continue
        if 0xC2 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return False
        while kind == 0xC4 and len(segment) > 17:
            first[segment[0]] = segment[17]
            segment = segment[17 + sum(segment[1:17]) :]
        place += 2 + length
        if kind == 0xDA and len(segment) > 2:
            end = _END_OF_SCAN.search(data, place)
            scan = data[place : end.start() if end else len(data)].rstrip(b"\0\xff")
            return bytes(_ZEROS) in scan and first.get(0x10 | segment[2] & 15, 0) != 0
    return False


def _coded_webp(data: bytes) -> bytes:
    """Return the coded pixels of a WebP file; b"" for a lossless one, which may hold zeros, and an animation."""
    place = 12
    while place + 8 <= len(data):
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if kind == b"VP8 ":
            return data[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
    return b""


def _coded_avif(data: bytes, image: Image.Image) -> bytes:
    """Return what an AVIF file holds besides its boxes and metadata."""
    coded = data[data.find(b"mdat") + 4 :]
    for name in ("exif", "xmp", "icc_profile"):
        coded = coded.replace(image.info.get(name) or b"mdat", b"")
    return coded


def _segments(image: Image.Image, file: Any) -> Iterator[bytes]:
    """Yield the coded strips or tiles of a TIFF file's image, where they are of a kind that `_check_segment` knows."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    if tags.get(_COMPRESSION) not in (_JPEG_IN_TIFF, *_DEFLATE):
        return
    for offsets, lengths in _SEGMENTS:
        for offset, length in zip(tags.get(offsets, ()), tags.get(lengths, ())):
            file.seek(offset)
            yield file.read(length)


def _check_segment(image: Image.Image, segment: bytes) -> None:
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    if tags[_COMPRESSION] == _JPEG_IN_TIFF:
        tables = bytes(tags.get(_JPEG_TABLES, b""))
        whole = tables[:-2] + segment[2:] if tables else segment
        decode_jpeg(whole + b"\xff\xd9", "GRAY", stray=0)
        return
    unpack, left = zlib.decompressobj(), 32 * image.width * image.height  # bytes, of the largest pixels
    try:
        while segment and left > 0 and not unpack.eof:
            left -= len(unpack.decompress(segment, 2**20))
            segment = unpack.unconsumed_tail
    except zlib.error as error:
        raise OSError(str(error)) from error
