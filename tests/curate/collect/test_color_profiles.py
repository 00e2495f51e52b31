"""Colors as the profile of an image means them."""

import struct

import numpy as np
import pytest
from PIL import Image

from tessera.curate.collect.crops import square_crop
from tiny.images import BLOCKS, blocks, quarters, save


def icc_profile(space: bytes, gamma: float, primaries=()) -> bytes:
    """A matrix profile by the rules of ICC.1: numbers are in 1/65536, colors relative to D50."""

    def fixed(*values):
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    def xyz(*values):
        return b"XYZ \0\0\0\0" + fixed(*values)

    curve = b"para" + bytes(8) + fixed(gamma)
    tags = {b"desc": b"desc\0\0\0\0\0\0\0\x05mine" + bytes(79), b"wtpt": xyz(0.9642, 1, 0.8249)}
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


SRGB_GAMUT = icc_profile(b"RGB ", 1.0, [(0.436, 0.222, 0.014), (0.385, 0.717, 0.097), (0.143, 0.061, 0.714)])


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
