"""Images of every kind that users have, and a small miniature set."""

import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

from tessera.miniature import WorldConfig

WORLD = WorldConfig(num_images=24, size=16, shapes=("circle", "square", "star"), seed=5)

BLOCKS = np.array([[[220, 30, 30], [30, 200, 40]], [[40, 60, 210], [230, 210, 50]]], np.uint8)


def blocks(width=64, height=64) -> Image.Image:
    """Return red, green / blue, yellow quarters."""
    return Image.fromarray(BLOCKS).resize((width, height), Image.Resampling.NEAREST)


def save(path, image, **options):
    image.save(path, **options)
    return path


def quarters(crop: np.ndarray) -> np.ndarray:
    """Return the colors in the middle of the four quarters (2, 2, 3)."""
    size = len(crop)
    return crop[size // 4 :: size // 2, size // 4 :: size // 2].astype(int)


def scenery(seed: int, width: int, height: int) -> Image.Image:
    """A smooth random image: it survives JPEG and scaling."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rotated_jpeg(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, "JPEG", exif=exif, quality=95)


def alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def transparent_palette(image: Image.Image) -> bytes:
    return saved(image.convert("P", palette=Image.Palette.ADAPTIVE, colors=16), "PNG", transparency=3)


def gray_16(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def good_image(kind: int, seed: int) -> tuple[str, bytes]:
    """(suffix, bytes) of one of 14 kinds of readable images."""
    rng = random.Random(seed)
    image = scenery(seed, rng.choice([3, 17, 40, 90, 200]), rng.choice([2, 30, 64, 150]))
    frames = [scenery(seed + i, *image.size) for i in range(3)]
    makers = [
        lambda: (".jpg", saved(image, "JPEG")),
        lambda: (".JPEG", saved(image.convert("L"), "JPEG")),
        lambda: (".jpeg", saved(image.convert("CMYK"), "JPEG")),
        lambda: (".jpg", rotated_jpeg(image, 1 + seed % 8)),
        lambda: (".png", saved(image, "PNG")),
        lambda: (".png", saved(alpha(image), "PNG")),
        lambda: (".PNG", saved(gray_16(image), "PNG")),
        lambda: (".png", transparent_palette(image)),
        lambda: (".png", saved(image.convert("1"), "PNG")),
        lambda: (".webp", saved(alpha(image), "WEBP")),
        lambda: (".gif", saved(frames[0], "GIF", save_all=True, append_images=frames[1:])),
        lambda: (".tif", saved(image.convert("F"), "TIFF")),
        lambda: (".bmp", saved(image, "BMP")),
        lambda: (".jpg", saved(image, "PNG")),
    ]
    return makers[kind % len(makers)]()


def damaged(data: bytes, start: int, stop: int) -> bytes:
    """Return the bytes with zeros from `start` to `stop`."""
    return data[:start] + bytes(stop - start) + data[stop:]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def with_chunks(png: bytes, *chunks: bytes, last: bool = False) -> bytes:
    """Put chunks into a PNG file: before its first pixels, or after all of them."""
    place = len(png) - 12 if last else png.index(b"IDAT") - 4
    return png[:place] + b"".join(chunks) + png[place:]


def raw_png(samples: np.ndarray, bits: int, clear: list[int] | None = None, profile: bytes = b"") -> bytes:
    """Write gray (H, W), gray with alpha (H, W, 2) or RGB (H, W, 3) samples of `bits` bits as PNG, with a transparent
    level or color, and a color profile."""
    height, width = samples.shape[:2]
    color = {1: 0, 2: 4, 3: 2}[samples[0, 0].size]
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    rows = samples.reshape(height, -1)
    if bits == 16:
        packed = rows.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        digits = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        packed = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in packed)
    chunks = [png_chunk(b"IHDR", header)]
    if profile:
        chunks.append(png_chunk(b"iCCP", b"mine\0\0" + zlib.compress(profile)))
    if clear is not None:
        chunks.append(png_chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)))
    chunks += [png_chunk(b"IDAT", zlib.compress(lines)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def raw_tiff(rows: bytes, width: int, height: int, bits: int, photometric: int = 1, order: str = "<") -> bytes:
    """Write an uncompressed gray TIFF file of one strip."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(rows)))
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(rows))
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    return head + rows + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def bomb() -> bytes:
    """A small PNG file that says it is 12,000 x 12,000."""
    data = bytearray(saved(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = (12000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


BAD_IMAGES = {
    "half.jpg": (saved(scenery(1, 300, 300), "JPEG")[:-4000], "truncated"),
    "half.png": (saved(Image.effect_noise((90, 90), 50), "PNG")[:-3000], "truncated"),
    "letter.jpg": (b"Dear reader, this is no picture.\n" * 40, "not an image, or an unknown format"),
    "nothing.png": (b"", "empty file"),
    "bomb.png": (bomb(), "more than 100 megapixels"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg files cannot be read"),
    "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image, or an unknown format"),
}
NOT_IMAGES = ["notes.txt", ".DS_Store", "labels.csv", ".hidden.jpg", "noextension"]
