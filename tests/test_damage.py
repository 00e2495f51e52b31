"""Damage that decoders leave untold is found, and sound files are not taken for damaged ones."""

import io
import random

import numpy as np
import pytest
from PIL import Image, features

from tessera import damage
from tessera.config import UserError
from tessera.images import open_image, read_rgb
from tiny.images import damaged, saved, scenery


def photo(width: int = 320, height: int = 240) -> Image.Image:
    """A smooth image with the noise of a camera."""
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(scenery(1, width, height)) + noise, 0, 255).astype(np.uint8))


def half_white() -> Image.Image:
    image = photo(640, 480)
    image.paste((255, 255, 255), (0, 0, 640, 280))
    return image


def decode(data: bytes) -> None:
    if data[:2] == b"\xff\xd8":
        with open_image(data) as image:
            damage.decode_jpeg(data, {"RGB": "RGB", "L": "GRAY"}[image.mode])
            return
    with open_image(data) as image:
        image.load()


KINDS = {
    "JPEG": {"quality": 90},
    "JPEG, 4:4:4": {"quality": 95, "subsampling": 0},
    "JPEG, restarts": {"quality": 90, "restart_marker_rows": 1},
    "WEBP": {"quality": 90},
    "AVIF": {"quality": 80, "speed": 9},
    "TIFF, JPEG": {"compression": "jpeg"},
    "TIFF, deflate": {"compression": "tiff_adobe_deflate"},
}
PARTS = [
    pytest.param(kind, marks=pytest.mark.skipif(kind == "AVIF" and not features.check("avif"), reason="no AVIF"))
    for kind in KINDS
]


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_stretch_of_zeros_is_found(kind, mode):
    """Pillow 12.3 reads most of these without a word, and half of the image has other colors or other pixels then."""
    data, rng = saved(photo().convert(mode), kind.split(",")[0], **KINDS[kind]), random.Random(kind)
    decode(data)
    for _ in range(30):
        start = rng.randrange(len(data) // 5, len(data) * 4 // 5)
        with pytest.raises((OSError, ValueError), match=r"zeros|orrupt|Truncat|nsupported|decod|incorrect|invalid"):
            decode(damaged(data, start, start + 200))


@pytest.mark.parametrize(
    ("kind", "least"), [("JPEG", 28), ("JPEG, restarts", 28), ("TIFF, JPEG", 27), ("TIFF, deflate", 30)]
)
def test_other_bytes_in_the_pixels_are_found(kind, least):
    data, rng, found = saved(photo(), kind.split(",")[0], **KINDS[kind]), random.Random(kind), 0
    for _ in range(30):
        start = rng.randrange(len(data) // 5, len(data) * 4 // 5)
        try:
            decode(data[:start] + rng.randbytes(200) + data[start + 200 :])
        except (OSError, SyntaxError):
            found += 1
    assert found >= least


def test_each_flipped_bit_of_deflate_in_a_tiff_is_found():
    """libtiff 4.7 stops before the checksum when a strip is full."""
    data, rng = saved(photo(), "TIFF", compression="tiff_adobe_deflate"), random.Random(0)
    with Image.open(io.BytesIO(data)) as image:
        starts, lengths = image.tag_v2[273], image.tag_v2[279]  # type: ignore[attr-defined]
    for start, length in zip(starts, lengths):
        for place in (start + 2, start + length - 1, *(start + rng.randrange(2, length) for _ in range(8))):
            with pytest.raises(OSError, match=r"decod|incorrect|invalid"):
                decode(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])


@pytest.mark.parametrize("image", [photo(), half_white(), Image.new("RGB", (1500, 1000), "white"), scenery(3, 90, 60)])
def test_sound_files_pass(image):
    """Flat parts are coded as zeros where their codes are the shortest, as encoders that optimize them choose."""
    for quality in (5, 75, 100):
        for more in ({}, {"optimize": True}, {"progressive": True}, {"subsampling": 0, "optimize": True}):
            for mode in ("RGB", "L"):
                decode(saved(image.convert(mode), "JPEG", quality=quality, **more))
    for method in (0, 4):
        for lossless in (False, True):
            decode(saved(image, "WEBP", method=method, lossless=lossless))
    if features.check("avif"):
        decode(saved(image, "AVIF", speed=10))
    for compression in ("jpeg", "tiff_adobe_deflate", "tiff_deflate", "tiff_lzw", "packbits", "raw"):
        for mode in ("RGB", "L", "CMYK"):
            decode(saved(image.convert(mode), "TIFF", compression=compression))


def test_zeros_in_metadata_are_none_of_the_pixels():
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif[0x927C] = bytes(20_000)
    image = photo()
    for kind in ("JPEG", "WEBP", *(["AVIF"] if features.check("avif") else []), "TIFF"):
        decode(saved(image, kind, exif=exif))
    data = saved(image, "JPEG", quality=90)
    end = data.rindex(b"\xff\xd9")
    for odd in (data + bytes(5000), data[:end] + bytes(500) + data[end:], data + saved(image, "JPEG") + bytes(5000)):
        decode(odd)


def test_a_judge_reads_no_damaged_image(tmp_path):
    path, image = tmp_path / "a.jpg", photo()
    data = saved(image, "JPEG", quality=90)
    path.write_bytes(data)
    with Image.open(path) as stored:
        assert np.array_equal(read_rgb(path), np.asarray(stored))
    for bad in (damaged(data, 9000, 9200), data[: len(data) // 2], data[:9000] + data[9300:]):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"a.jpg: is not a readable image .*; take it out"):
            read_rgb(path, fix="take it out")
    for mode in ("L", "CMYK"):
        path.write_bytes(saved(image.convert(mode), "JPEG", quality=90))
        with Image.open(path) as stored:
            assert np.array_equal(read_rgb(path), np.asarray(stored.convert("RGB")))
