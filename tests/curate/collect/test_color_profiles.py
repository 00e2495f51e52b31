"""Colors as the profile of an image means them."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from tessera.curate.collect.crops import square_crop
from tessera.images import as_rgb
from tiny.images import BLOCKS, blocks, quarters, raw_png, save, saved


def icc_profile(space: bytes, gamma: float, primaries=(), name: bytes = b"mine") -> bytes:
    """A matrix profile by the rules of ICC.1: numbers are in 1/65536, colors relative to D50."""

    def fixed(*values):
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    def xyz(*values):
        return b"XYZ \0\0\0\0" + fixed(*values)

    curve = b"para" + bytes(8) + fixed(gamma)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + bytes(79),
        b"wtpt": xyz(0.9642, 1, 0.8249),
    }
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    for name, primary in zip((b"r", b"g", b"b"), primaries):
        tags |= {name + b"XYZ": xyz(*primary), name + b"TRC": curve}
    start = 132 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02400000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head + bytes(128 - len(head)) + table + body


DISPLAY_P3 = icc_profile(b"RGB ", 2.2, [(0.515, 0.241, -0.001), (0.292, 0.692, 0.042), (0.157, 0.067, 0.784)])


SRGB_PRIMARIES = [(0.436, 0.222, 0.014), (0.385, 0.717, 0.097), (0.143, 0.061, 0.714)]
SRGB_GAMUT = icc_profile(b"RGB ", 1.0, SRGB_PRIMARIES)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_colors_are_those_of_the_profile(tmp_path, name, fast):
    quality = {"quality": 98} if name in ("a.jpg", "a.webp") else {}
    linear = ((BLOCKS / 255 + 0.055) / 1.055) ** 2.4  # of sRGB, whose levels here are all above its straight part
    stored = Image.fromarray(np.rint(linear * 255).astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST)
    path = save(tmp_path / name, stored, icc_profile=SRGB_GAMUT, **quality)
    # A level of 255 of light is up to 13 of sRGB in the dark.
    assert np.abs(quarters(square_crop(path, 32, fast=fast).pixels) - BLOCKS).max() < 14
    ignored = quarters(square_crop(path, 32, fast=fast, upright=False).pixels)
    assert np.abs(ignored - linear * 255).max() < 6
    path = save(tmp_path / name, blocks(), icc_profile=DISPLAY_P3, **quality)
    red = quarters(square_crop(path, 32, fast=fast).pixels)[0, 0]
    assert red[0] > 230  # beyond the reddest of sRGB
    assert red[1] < 20


def test_profiles_of_grey_pictures_and_those_that_make_no_sense(tmp_path):
    grey = Image.new("L", (20, 20), 55)
    path = save(tmp_path / "a.png", grey, icc_profile=icc_profile(b"GRAY", 1.0))
    assert np.abs(square_crop(path, 16).pixels.astype(int) - 128).max() < 2  # 0.216 of the light
    for profile in (b"none", DISPLAY_P3[:200], icc_profile(b"RGB ", 1.0)):
        for image in (grey, grey.convert("RGB")):
            path = save(tmp_path / "a.png", image, icc_profile=profile)
            assert (square_crop(path, 16).pixels == 55).all()
    path = save(tmp_path / "a.png", grey, icc_profile=SRGB_GAMUT)  # of another kind of image
    assert (square_crop(path, 16).pixels == 55).all()


@pytest.mark.parametrize("name", [b"GIMP built-in Linear sRGB", b"sRGB", b"linear-sRGB-elle-V2", b"mine"])
def test_profiles_are_compared_by_what_they_do_not_by_name(name):
    profile = icc_profile(b"RGB ", 1.0, SRGB_PRIMARIES, name)
    data = saved(Image.new("RGB", (20, 20), (55, 55, 55)), "PNG", icc_profile=profile)
    assert np.abs(square_crop(data, 16).pixels.astype(int) - 128).max() < 2  # 0.216 of the light


def test_what_srgb_does_is_left_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for data in (saved(Image.fromarray(pixels), "PNG", icc_profile=profile) for profile in (srgb, None)):
        assert np.array_equal(square_crop(data, 16).pixels, pixels)


@pytest.mark.parametrize("space", [b"GRAY", b"RGB "])
def test_a_gray_profile_holds_for_every_kind_of_gray(space):
    linear = icc_profile(space, 1.0, SRGB_PRIMARIES if space == b"RGB " else ())
    kinds = {
        "L": saved(Image.new("L", (20, 20), 55), "PNG", icc_profile=linear),
        "JPEG": saved(Image.new("L", (20, 20), 55), "JPEG", icc_profile=linear),
        "LA": saved(Image.new("LA", (20, 20), (55, 255)), "PNG", icc_profile=linear),
        "16 bits": saved(Image.fromarray(np.full((20, 20), 55 * 257, np.uint16)), "PNG", icc_profile=linear),
        "TIFF": saved(Image.fromarray(np.full((20, 20), 55 * 257, np.uint16)), "TIFF", icc_profile=linear),
    }
    for bits, level in ((2, 1), (4, 5)):  # both 85 of 255: at 55 nothing lies
        data = raw_png(np.full((20, 20), level), bits, profile=linear)
        assert np.abs(square_crop(data, 16).pixels.astype(int) - (156 if space == b"GRAY" else 85)).max() < 2, bits
    deep = np.stack([np.full((20, 20), 55 * 257), np.full((20, 20), 65535)], -1)
    kinds["LA, 16 bits"] = raw_png(deep, 16, profile=linear)
    wanted = 128 if space == b"GRAY" else 55  # a profile for colors says nothing of gray
    for name, data in kinds.items():
        assert np.abs(square_crop(data, 16).pixels.astype(int) - wanted).max() < 2, name
        assert (square_crop(data, 16, upright=False).pixels == 55).all(), name


def test_gray_with_a_profile_lies_over_white_where_it_is_transparent():
    linear = icc_profile(b"GRAY", 1.0)
    half = Image.new("LA", (20, 20), (55, 255))
    half.paste((55, 0), (0, 0, 10, 20))
    level = Image.new("L", (20, 20), 55)
    level.paste(99, (0, 0, 10, 20))
    deep = Image.fromarray(np.asarray(level).astype(np.uint16) * 257)
    for image, clear in ((half, None), (level, 99), (deep, 99 * 257)):
        more = {} if clear is None else {"transparency": clear}
        crop = square_crop(saved(image, "PNG", icc_profile=linear, **more), 20).pixels.astype(int)
        assert (crop[5, 3] == 255).all(), image.mode
        assert np.abs(crop[5, 15] - 128).max() < 2, image.mode


def test_a_ramp_colors_gray_of_16_bits():
    ramp = np.repeat(np.linspace(255, 0, 65536).round().astype(np.uint8)[:, None], 3, axis=1)
    image = Image.open(io.BytesIO(raw_png(np.array([[0, 65535]]), 16)))
    assert np.asarray(as_rgb(image, gray_ramp=ramp))[0, :, 0].tolist() == [255, 0]
