"""Square crops of any image file with the right pixels, or the reason why not."""

import io
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from tessera.curate.collect.crops import RejectedImage, image_size, square_crop
from tiny.images import BLOCKS, blocks, quarters, save


def reference(image: Image.Image, size: int) -> np.ndarray:
    """torchvision's Resize(size, BICUBIC) and CenterCrop(size), written out."""
    width, height = image.size
    new = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    scaled = np.asarray(image.convert("RGB").resize(new, Image.Resampling.BICUBIC))
    top, left = round((new[1] - size) / 2.0), round((new[0] - size) / 2.0)
    return scaled[top : top + size, left : left + size]


@settings(max_examples=60, deadline=None)
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
