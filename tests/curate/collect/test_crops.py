"""Square crops of any image file with the right pixels, or the reason why not."""

import io
import random
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from tessera.curate.collect.crops import RejectedImage, image_size, square_crop
from tiny.images import (
    BLOCKS,
    blocks,
    damaged,
    png_chunk,
    quarters,
    raw_png,
    raw_tiff,
    save,
    saved,
    scenery,
    with_chunks,
)


def reference(image: Image.Image, size: int) -> np.ndarray:
    """torchvision's Resize(size, BICUBIC) and CenterCrop(size), written out."""
    width, height = image.size
    new = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    scaled = np.asarray(image.convert("RGB").resize(new, Image.Resampling.BICUBIC))
    top, left = round((new[1] - size) / 2.0), round((new[0] - size) / 2.0)
    return scaled[top : top + size, left : left + size]


@settings(max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 32, 47]), st.sampled_from(["JPEG", "PNG"]))
def test_the_recipe_is_that_of_imagenet_pipelines(width, height, size, kind):
    image = Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))
    file = io.BytesIO()
    image.save(file, kind, quality=90)
    with Image.open(file) as stored:
        expected = reference(stored, size)
    crop = square_crop(file.getvalue(), size)
    assert (crop.width, crop.height) == (width, height) == image_size(file.getvalue())
    if max(width, height) <= 16 * min(width, height):
        assert np.array_equal(crop.pixels, expected)
    else:  # a strip is scaled in part, with a box that Pillow keeps in 32 bits
        assert np.abs(crop.pixels.astype(int) - expected).max() <= 2


def test_a_picture_of_the_right_size_stays(tmp_path):
    same = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(square_crop(save(tmp_path / "b.png", Image.fromarray(same)), 32).pixels, same)


@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK", "rotated", "png"])
def test_fast_crops_look_the_same(tmp_path, kind):
    coarse = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((704, 512), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6 if kind == "rotated" else 1
    mode = kind if kind in ("L", "CMYK") else "RGB"
    path = save(tmp_path / ("a.png" if kind == "png" else "a.jpg"), image.convert(mode), exif=exif, quality=95)
    exact, fast = square_crop(path, 64), square_crop(path, 64, fast=True)
    assert (exact.width, exact.height) == (fast.width, fast.height) == ((512, 704) if kind == "rotated" else (704, 512))
    assert np.abs(exact.pixels.astype(int) - fast.pixels).mean() < 2
    if kind in ("CMYK", "png"):
        assert np.array_equal(exact.pixels, fast.pixels)


def test_fast_crops_reject_what_exact_ones_do(tmp_path, bad_images):
    for name, (data, reason) in bad_images.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RejectedImage) as caught:
            square_crop(tmp_path / name, 32, fast=True)
        assert str(caught.value) == reason, name


def test_exif_rotation_is_ignored_when_asked(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.jpg", blocks(96, 64), exif=exif, quality=95)
    crop = square_crop(path, 32, upright=False)
    assert np.abs(quarters(crop.pixels) - BLOCKS).max() < 12
    assert (crop.width, crop.height) == (96, 64) == image_size(path, upright=False)


@pytest.mark.parametrize("size", [(3, 2), (1, 1), (1, 3000), (2000, 5)])
def test_tiny_and_thin_pictures(tmp_path, size):
    crop = square_crop(save(tmp_path / "a.png", blocks(*size)), 48)
    assert crop.pixels.shape == (48, 48, 3)
    assert (crop.width, crop.height) == size


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path, orientation, name):
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = blocks(96, 64) if stored is None else blocks(96, 64).transpose(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / name, image, exif=exif, **({"quality": 95} if name in ("a.jpg", "a.webp") else {}))
    crop = square_crop(path, 32)
    assert np.abs(quarters(crop.pixels) - BLOCKS).max() < 12
    assert (crop.width, crop.height) == (96, 64) == image_size(path)


def test_damaged_exif_does_not_matter(tmp_path):
    exif = b"Exif\0\0II*\0" + bytes(range(200, 230))
    crop = square_crop(save(tmp_path / "a.jpg", blocks(), exif=exif, quality=95), 32)
    assert np.abs(quarters(crop.pixels) - BLOCKS).max() < 12


def test_transparency_is_over_white(tmp_path):
    clear = blocks().convert("RGBA")
    clear.putalpha(Image.fromarray(np.repeat([[255, 128]], 64, 0).repeat(32, 1).astype(np.uint8)))
    half = np.rint(BLOCKS[:, 1] * (128 / 255) + 255 * (127 / 255))
    for name in ("a.png", "a.webp"):
        found = quarters(
            square_crop(save(tmp_path / name, clear, **({"lossless": True} if "webp" in name else {})), 32).pixels
        )
        assert np.abs(found[:, 0] - BLOCKS[:, 0]).max() <= 1
        assert np.abs(found[:, 1] - half).max() <= 2
    palette = blocks().quantize(4)
    path = save(tmp_path / "p.png", palette, transparency=palette.getpixel((0, 0)))
    found = quarters(square_crop(path, 32).pixels)
    assert found[0, 0].tolist() == [255, 255, 255]
    assert np.abs(found[1] - BLOCKS[1]).max() <= 3
    path = save(tmp_path / "c.png", blocks(), transparency=tuple(BLOCKS[0, 1].tolist()))
    assert quarters(square_crop(path, 32).pixels)[0, 1].tolist() == [255, 255, 255]
    path = save(tmp_path / "l.png", blocks().convert("L"), transparency=blocks().convert("L").getpixel((0, 0)))
    assert quarters(square_crop(path, 32).pixels)[0, 0].tolist() == [255, 255, 255]


def test_grey_of_every_depth(tmp_path):
    grey = np.array([[0, 80], [160, 255]], np.uint8).repeat(16, 0).repeat(16, 1)
    stored = {
        "8.png": Image.fromarray(grey),
        "16.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "16.tif": Image.fromarray(grey.astype(np.uint16) * 257),
        "32.tif": Image.fromarray(grey.astype(np.int32) * 257),
        "float.tif": Image.fromarray(grey.astype(np.float32) / 255),
        "255.tif": Image.fromarray(grey.astype(np.float32)),
        "alpha.png": Image.fromarray(grey).convert("LA"),
    }
    for name, image in stored.items():
        crop = square_crop(save(tmp_path / name, image), 32)
        assert np.array_equal(crop.pixels, grey[..., None].repeat(3, 2)), name
    two = square_crop(save(tmp_path / "1.png", Image.fromarray(grey).point(lambda v: 255 * (v > 100)).convert("1")), 32)
    assert np.array_equal(two.pixels[:, :, 0], np.where(grey > 100, 255, 0))


def test_cmyk(tmp_path):
    path = save(tmp_path / "a.jpg", blocks().convert("CMYK"), quality=95)
    assert np.abs(quarters(square_crop(path, 32).pixels) - BLOCKS).max() < 20


def test_first_frame_of_an_animation(tmp_path):
    frames = [blocks(), Image.new("RGB", (64, 64))]
    for name in ("a.gif", "a.webp", "a.png"):
        path = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
        assert np.abs(quarters(square_crop(path, 32).pixels) - BLOCKS).max() < 12, name


def test_every_bad_picture_has_its_reason(tmp_path, bad_images):
    for name, (data, reason) in bad_images.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RejectedImage) as caught:
            square_crop(tmp_path / name, 32)
        assert str(caught.value) == reason, name
    with pytest.raises(RejectedImage, match=r"^cannot be opened: No such file or directory$"):
        square_crop(tmp_path / "gone.jpg", 32)


@pytest.mark.parametrize("kind", range(14))
def test_damage_anywhere_is_a_reject_or_a_picture(tmp_path, kind, good_image):
    rng = random.Random(kind)
    suffix, data = good_image(kind, 7)
    path = tmp_path / f"a{suffix}"
    for _ in range(25):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.randint(1, len(damaged))] if rng.random() < 0.5 else damaged)
        reason = ""
        try:
            shape = square_crop(path, 16).pixels.shape
        except RejectedImage as reject:
            reason = str(reject)
        assert str(tmp_path) not in reason
        assert reason or shape == (16, 16, 3)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_avif_file_is_rejected_and_stops_nothing(tmp_path):
    whole = save(tmp_path / "a.avif", blocks()).read_bytes()
    reasons = set()
    for place in range(0, min(len(whole), 320), 2):
        try:
            square_crop(whole[:place] + b"\x55" + whole[place + 1 :], 16)
        except RejectedImage as reason:
            reasons.add(str(reason))
    assert "damaged" in reasons


NOISE = Image.effect_noise((60, 50), 60).convert("RGB")
FORMATS = {
    "PNG": {},
    "PNG of levels": {"compress_level": 0},
    "WEBP": {},
    "GIF": {},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
    "JPEG": {},
    "JPEG2000": {},
    "ICO": {},
    "PPM": {},
}


def pillow_reads(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception:
        return False
    return True


def rejects(data: bytes, **how) -> str:
    try:
        square_crop(data, 32, **how)
    except RejectedImage as reason:
        return str(reason)
    return ""


@pytest.mark.parametrize("kind", FORMATS)
def test_what_pillow_alone_refuses_is_rejected(kind, capfd):
    """img2dataset #224: a PNG file with a damaged stretch came out partly black."""
    data, rng = saved(NOISE, kind.split()[0], **FORMATS[kind]), random.Random(kind)
    assert not rejects(data)
    for _ in range(30):
        start = rng.randrange(40, len(data) - 20)
        bad = damaged(data, start, min(start + rng.randrange(1, 300), len(data)))
        if not pillow_reads(bad):
            assert rejects(bad)
            assert rejects(bad, upright=False)
            assert rejects(bad, fast=True)


@pytest.mark.parametrize("image", [NOISE, blocks(60, 50), NOISE.convert("L"), NOISE.quantize(16)])
def test_each_flipped_bit_of_a_pngs_pixels_is_seen(image):
    """Pillow 12.3 reads no checksum of them: some leave half of the image as another one."""
    data, rng = saved(image, "PNG"), random.Random(0)
    first, last = data.index(b"IDAT") + 4, data.index(b"IEND") - 8
    for _ in range(60):
        place = rng.randrange(first, last)
        assert rejects(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])


LARGE = zlib.compress(bytes(3_000_000))
ODDITIES = {
    "a text of a name of Pillow's": png_chunk(b"tEXt", b"transparency\0none"),
    "the same of a profile": png_chunk(b"iTXt", b"icc_profile\0\0\0\0\0sRGB"),
    "compressed text": png_chunk(b"zTXt", b"workflow\0\0" + LARGE),
    "compressed XMP": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
    "international text": png_chunk(b"iTXt", b"prompt\0\1\0en\0prompt\0" + LARGE),
    "a profile": png_chunk(b"iCCP", b"printer\0\0" + LARGE),
    "a bomb": png_chunk(b"iCCP", b"printer\0\0" + zlib.compress(bytes(50_000_000))),
    "many texts": b"".join(png_chunk(b"zTXt", b"%d\0\0" % i + zlib.compress(bytes(10**6))) for i in range(70)),
    "a damaged text": png_chunk(b"tEXt", b"a\0b")[:-1] + b"!",
    "an unknown compression": png_chunk(b"zTXt", b"a\0\5xx"),
    "a short chunk": png_chunk(b"pHYs", b"\0"),
    "half a profile": png_chunk(b"iCCP", b"x"),
    "no EXIF": png_chunk(b"eXIf", b"x"),
}


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize("last", [False, True])
def test_metadata_do_not_cost_the_image(oddity, last):
    """Pillow 12.3 refuses the file for what unpacks to more than 1 MB, or is damaged (Pillow #2445, #8363)."""
    data = saved(NOISE, "PNG")
    odd = with_chunks(data, ODDITIES[oddity], last=last)
    assert np.array_equal(square_crop(odd, 32).pixels, square_crop(data, 32).pixels)
    assert image_size(odd) == NOISE.size
    assert rejects(damaged(odd, len(data) // 2 + 40, len(data) // 2 + 90) if last else odd[:-3000])


def test_metadata_that_matter_are_read_even_there():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(blocks(96, 64).transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    crop = square_crop(with_chunks(turned, ODDITIES["a profile"]), 32)
    assert np.abs(quarters(crop.pixels) - BLOCKS).max() < 12
    xmp = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b'<x tiff:Orientation="6"/>' + bytes(3_000_000))
    plain = saved(blocks(96, 64).transpose(Image.Transpose.ROTATE_90), "PNG")
    crop = square_crop(with_chunks(plain, png_chunk(b"iTXt", xmp)), 32)
    assert np.abs(quarters(crop.pixels) - BLOCKS).max() < 12
    assert (crop.width, crop.height) == (96, 64)
    clear = saved(blocks(), "PNG", transparency=tuple(BLOCKS[0, 1].tolist()))
    for last, oddity in ((False, ODDITIES["compressed text"]), (True, ODDITIES["a text of a name of Pillow's"])):
        pixels = square_crop(with_chunks(clear, oddity, last=last), 32).pixels
        assert quarters(pixels)[0, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("bits", "level"), [(1, 0), (1, 1), (2, 1), (2, 2), (4, 3), (4, 12), (8, 51), (16, 13107)])
def test_the_transparent_level_of_gray_is_white_at_any_depth(bits, level):
    """Pillow 12.3 scales levels of 2 and 4 bits, and not the transparent one: it came out 85 and 51."""
    other = 0 if level else 2**bits - 1
    samples = np.full((20, 20), level)
    samples[:, 10:] = other
    pixels = square_crop(raw_png(samples, bits, [level]), 20).pixels
    assert pixels[5, 3].tolist() == [255] * 3
    assert pixels[5, 15].tolist() == [255 if other else 0] * 3
    assert square_crop(raw_png(samples, bits), 20).pixels[5, 3, 0] == round(255 * level / (2**bits - 1))


def test_the_transparent_color_of_16_bits_is_white():
    samples = np.empty((20, 20, 3), int)
    samples[:, :10], samples[:, 10:] = (513, 4000, 60000), (65535, 0, 0)
    pixels = square_crop(raw_png(samples, 16, [513, 4000, 60000]), 20).pixels
    assert pixels[5, [3, 15]].tolist() == [[255, 255, 255], [255, 0, 0]]


def levels_of_12_bits() -> np.ndarray:
    levels = np.zeros((20, 20), int)
    levels[:, 10:], levels[10:, :10] = 4095, 2048
    return levels


def test_gray_is_scaled_by_the_bits_of_its_file():
    """Pillow 12.3 gives 12-bit TIFF files as they are, 0 to 4095, in a mode of 16 bits: white came out 16."""
    pairs = levels_of_12_bits().reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    pixels = square_crop(raw_tiff(packed.astype(np.uint8).tobytes(), 20, 20, 12), 20).pixels
    assert pixels[[5, 5, 15], [3, 15, 3], 0].tolist() == [0, 255, 128]


@pytest.mark.parametrize("order", "<>")
def test_gray_is_scaled_by_its_own_range_where_asked(order):
    rows = levels_of_12_bits().astype(f"{order}u2").tobytes()
    tiff = raw_tiff(rows, 20, 20, 16, order=order)
    assert square_crop(tiff, 20).pixels[[5, 5, 15], [3, 15, 3], 0].tolist() == [0, 16, 8]
    assert square_crop(tiff, 20, gray_range=True).pixels[[5, 5, 15], [3, 15, 3], 0].tolist() == [0, 255, 128]
    png = raw_png(levels_of_12_bits(), 16)
    assert square_crop(png, 20, gray_range=True).pixels[[5, 5, 15], [3, 15, 3], 0].tolist() == [0, 255, 128]
    unknown = np.where(np.arange(20)[:, None] < 2, 65535, levels_of_12_bits() // 2 + 1000)
    seen = square_crop(raw_png(unknown, 16, [65535]), 20, gray_range=True).pixels[..., 0]
    assert seen[[0, 5, 5, 15], [3, 3, 15, 3]].tolist() == [255, 0, 255, 128]  # the transparent level is none of them
    alpha = np.where(np.arange(20)[:, None] < 2, 0, 65535) + np.zeros((1, 20), int)
    pair = raw_png(np.stack([np.where(alpha, levels_of_12_bits(), 65535), alpha], -1), 16)
    assert square_crop(pair, 20).pixels[[0, 5, 5, 15], [3, 3, 15, 3], 0].tolist() == [255, 0, 16, 8]
    seen = square_crop(pair, 20, gray_range=True).pixels
    assert seen[[0, 5, 5, 15], [3, 3, 15, 3], 1].tolist() == [255, 0, 255, 128]  # Pillow leaves 16 levels of 4096
    assert rejects(pair[:17] + b"\1" + pair[18:])  # its header's checksum is compared as everywhere
    half = raw_png(np.stack([np.zeros((20, 20), int), np.full((20, 20), 32768)], -1), 16)
    assert np.abs(square_crop(half, 20).pixels.astype(int) - 127).max() <= 1  # black, half transparent, on white
    flat = raw_png(np.full((20, 20), 32768), 16)
    assert (square_crop(flat, 20, gray_range=True).pixels == 128).all()


def test_gray_in_which_white_is_0_is_inverted():
    """Pillow 12.3 inverts it at 8 bits, leaves it at 16, and refuses it at 16 where the high byte comes first."""
    levels = levels_of_12_bits() * 65535 // 4095
    for order, bits, rows in (
        ("<", 8, (levels >> 8).astype(np.uint8)),
        (">", 8, (levels >> 8).astype(np.uint8)),
        ("<", 16, levels.astype("<u2")),
        (">", 16, levels.astype(">u2")),
    ):
        pixels = square_crop(raw_tiff(rows.tobytes(), 20, 20, bits, photometric=0, order=order), 20).pixels
        assert pixels[[5, 5, 15], [3, 15, 3], 0].tolist() == [255, 0, 127], (order, bits)


def test_a_jpeg_that_simplejpeg_refuses_is_read_by_pillow():
    """Stray bytes before a marker, as some cameras and editors leave them; and what its strict reading calls damage."""
    data = saved(blocks(300, 200), "JPEG", quality=95)
    place = data.index(b"\xff\xdb")
    for odd in (data[:place] + b"\0\0\0" + data[place:], data[:-2] + b"\0\0" + data[-2:], data + b"tail"):
        exact, fast = square_crop(odd, 32), square_crop(odd, 32, fast=True)
        if fast.by_pillow:
            assert np.array_equal(exact.pixels, fast.pixels)
        assert np.abs(quarters(fast.pixels) - BLOCKS).max() < 12
    assert square_crop(data[:place] + b"\0\0\0" + data[place:], 32, fast=True).by_pillow
    assert not square_crop(data, 32, fast=True).by_pillow
    assert not square_crop(data[:place] + b"\0\0\0" + data[place:], 32).by_pillow
    for bad in (data[: len(data) // 2], data[:-2]):
        assert rejects(bad, fast=True) == rejects(bad) == "truncated"


def test_fast_crops_reject_no_damaged_jpeg_that_exact_ones_read():
    data, rng = saved(NOISE, "JPEG", quality=95), random.Random(1)
    for _ in range(60):
        start = rng.randrange(2, len(data))
        bad = damaged(data, start, min(start + rng.randrange(1, 40), len(data)))
        assert not rejects(bad, fast=True) or rejects(bad)


JPEGS = {
    "plain": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 8},
    "4:4:4": {"subsampling": 0},
    "4:1:1": {"subsampling": "4:1:1"},
    "RGB": {"keep_rgb": True},
}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", JPEGS)
def test_pixels_of_a_jpeg_are_pillow_s(kind, mode):
    """What is not turned upright is decoded by Pillow, as the published pipelines do."""
    for width, height in ((97, 64), (64, 33), (1, 9), (20, 1)):
        image = scenery(1, width, height).convert(mode)
        data = saved(image, "JPEG", quality=90, **JPEGS[kind] if mode == "RGB" or kind != "RGB" else {})
        size = min(width, height)
        exact, published = square_crop(data, size), square_crop(data, size, upright=False)
        assert np.array_equal(exact.pixels, published.pixels)


def spoil(data: bytes, kind: str, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) // 4, len(data) - 400)
    if kind == "dropped":
        return data[:place] + data[place + 150 :]
    return data[:place] + (bytes(200) if kind == "zeroed" else rng.randbytes(200)) + data[place + 200 :]


@pytest.mark.parametrize("kind", ["zeroed", "dropped", "random"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_damaged_jpeg_is_rejected_where_libjpeg_tells(kind, mode):
    """Pillow 12.3 reads all of these without a word, as the published pipelines do; crops of most were wrong."""
    data, rng = saved(NOISE.convert(mode), "JPEG", quality=90), random.Random(3)
    files = [spoil(data, kind, rng) for _ in range(40)]
    said = [rejects(bad) for bad in files]
    assert sum(map(bool, said)) >= (38 if kind == "random" else 16)
    assert set(filter(None, said)) <= {"damaged", "truncated"}
    if kind == "zeroed":  # no marker in them
        assert not any(rejects(bad, upright=False) for bad in files)
    for bad, reason in zip(files, said):
        assert mode == "CMYK" or rejects(bad, fast=True) == reason


def test_sound_jpegs_of_odd_cameras_are_no_damaged_ones():
    """Padding before the end, bytes between the headers, images appended to the file."""
    data = saved(scenery(2, 96, 64), "JPEG", quality=90, restart_marker_blocks=4)
    table, end = data.index(b"\xff\xdb"), data.rindex(b"\xff\xd9")
    odd = [data[:end] + pad * 500 + data[end:] for pad in (b"\0", b"\xff")]
    odd += [data[:table] + b"\1" * count + data[table:] for count in (1, 3, 200)]
    odd += [data + data, data + b"tail" * 100, data[:end] + b"\1\2\3" + data[end:]]
    for each in odd:
        assert np.array_equal(square_crop(each, 32).pixels, square_crop(data, 32, upright=False).pixels)


def plugin(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    else:
        pytest.importorskip("pillow_jxl")


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_heic_and_jpeg_xl_are_read_by_their_plugins(tmp_path, monkeypatch, kind):
    plugin(kind)
    image = blocks(96, 64)
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(saved(image, kind, quality=95))
    for source in (path, path.read_bytes()):
        crop = square_crop(source, 32)
        assert np.abs(quarters(crop.pixels) - BLOCKS).max() < 16
        assert (crop.width, crop.height) == (96, 64) == image_size(source)
    assert rejects(path.read_bytes()[:-60])
    monkeypatch.setattr("tessera.images.MAX_PIXELS", 96 * 64 - 1)
    assert rejects(path.read_bytes()).startswith("more than")


def test_heic_is_turned_upright_once(tmp_path):
    plugin("HEIF")
    exif = Image.Exif()
    exif[0x0112] = 6
    crop = square_crop(saved(blocks(96, 64).transpose(Image.Transpose.ROTATE_90), "HEIF", exif=exif.tobytes()), 32)
    assert np.abs(quarters(crop.pixels) - BLOCKS).max() < 16
    assert (crop.width, crop.height) == (96, 64)


def test_exif_turns_a_jpeg_packed_as_jpeg_xl_alone(tmp_path):
    plugin("JXL")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = blocks(96, 64).transpose(Image.Transpose.ROTATE_90)
    save(tmp_path / "a.jpg", turned, exif=exif, quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.jxl", lossless_jpeg=True)
    assert np.abs(quarters(square_crop(tmp_path / "a.jxl", 32).pixels) - BLOCKS).max() < 16
    crop = square_crop(saved(blocks(96, 64), "JXL", exif=exif.tobytes()), 32)
    assert np.abs(quarters(crop.pixels) - BLOCKS).max() < 16
    assert (crop.width, crop.height) == (96, 64)


HEIC = bytes.fromhex("0000001c66747970") + b"heic" + bytes(4) + b"mif1heicmiaf" + bytes(200)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HEIC, "HEIC files need one more library: pip install pillow-heif"),
        (b"\xff\x0a" + bytes(40), "JPEG XL files need one more library: pip install pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL files need one more library: pip install pillow-jxl-plugin"),
    ],
)
def test_without_its_plugin_a_file_is_rejected_with_the_command(tmp_path, monkeypatch, data, reason):
    monkeypatch.setattr("tessera.images._register", lambda package: not package)
    for name in ("HEIF", "JXL"):
        monkeypatch.delitem(Image.OPEN, name, raising=False)
    assert rejects(data) == reason
    (tmp_path / "a.heic").write_bytes(data)
    with pytest.raises(RejectedImage, match=reason):
        square_crop(tmp_path / "a.heic", 32)
