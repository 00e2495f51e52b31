"""Image files and pixel arrays: read back exactly, or refused with a reason."""

import base64
import io
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessera.config import UserError
from tessera.images import (
    as_rgb,
    data_uri,
    image_grid,
    is_complete_png,
    open_image,
    read_rgb,
    thumbnail,
    to_uint8,
    write_png,
)
from tiny.images import blocks


@pytest.mark.parametrize("fast", [False, True])
def test_png_is_written_whole(tmp_path, fast):
    pixels = np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    path = tmp_path / "class" / "a.png"
    assert not is_complete_png(path)
    write_png(path, pixels, fast=fast)
    first = path.read_bytes()
    assert is_complete_png(path)
    assert np.array_equal(read_rgb(path), pixels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(first))), pixels)
    write_png(path, pixels, fast=fast)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]
    for cut in (b"", first[:5], first[:-1]):
        path.write_bytes(cut)
        assert not is_complete_png(path)


def test_png_is_read_back_or_refused(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (33, 21, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    write_png(path, pixels, fast=True)
    whole = path.read_bytes()
    with Image.open(path) as image:  # Pillow checks the checksums too
        assert np.array_equal(np.asarray(image), pixels)
    Image.fromarray(pixels).save(path)  # another program's: other filters
    assert np.array_equal(read_rgb(path), pixels)
    rng = random.Random(0)
    for _ in range(200):
        damaged = bytearray(whole)
        if rng.random() < 0.5:
            damaged = damaged[: rng.randrange(len(damaged))]
        else:
            place = rng.randrange(41, len(damaged) - 16)  # the compressed pixels
            damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.png: is not a readable image \(.+\); collect it again"):
            read_rgb(path, fix="collect it again")
    with pytest.raises(UserError, match=r"gone\.png: there is no such image; make it again"):
        read_rgb(tmp_path / "gone.png")


def test_text_chunks_are_read_back(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    write_png(tmp_path / "a.png", pixels, text={"prompt": "a \u72d0\0 fox"})
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.info["prompt"] == "a \u72d0 fox"


def test_gray_of_16_bits_is_scaled_not_clipped(tmp_path):
    levels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode.startswith("I")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), np.repeat(levels[:, :, None] // 257, 3, axis=2))


def test_transparency_is_dropped_or_put_on_white():
    image = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert np.asarray(as_rgb(image))[0, 0].tolist() == [10, 20, 30]
    assert np.asarray(as_rgb(image, over_white=True))[0, 0].tolist() == [255, 255, 255]


def test_rounding_of_floats():
    values = np.array([[[0.0, 0.6 / 255, 1.0]]])
    assert to_uint8(values).tolist() == [[[0, 1, 255]]]
    assert to_uint8(values, "truncate").tolist() == [[[0, 0, 255]]]
    for bad in (values * 255, values - 1, values.astype(np.int64)):
        with pytest.raises(UserError, match="images"):
            to_uint8(bad)


@settings(max_examples=25)
@given(count=st.integers(1, 12), side=st.integers(1, 5), gap=st.integers(0, 3))
def test_grid_shows_every_image(count, side, gap):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(side, 1).repeat(side, 2).repeat(3, 3)
    sheet = image_grid(images, gap=gap)
    shown, areas = np.unique(sheet[..., 0][(sheet[..., 0] < count)], return_counts=True)
    assert shown.tolist() == list(range(count))
    assert set(areas.tolist()) == {side * side}
    assert sheet.shape[0] <= sheet.shape[1]


def test_grid_of_given_columns():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    sheet = image_grid(images, 4, gap=0, background=0)
    assert sheet.shape == (4, 8, 3)
    assert sheet[0, ::2, 0].tolist() == [0, 1, 2, 3]
    assert sheet[2, ::2, 0].tolist() == [4, 0, 0, 0]


@pytest.mark.parametrize(("limit", "kind"), [(math.inf, "png"), (40, "png"), (39, "jpeg")])
def test_data_uri_shows_the_image(limit, kind):
    pixels = np.asarray(blocks(40, 30))
    head, _, data = data_uri(pixels, limit).partition(",")
    assert head == f"data:image/{kind};base64"
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert np.abs(shown.astype(int) - pixels).mean() < (1e-9 if kind == "png" else 8)


def test_thumbnail_keeps_the_proportions():
    assert thumbnail(np.asarray(blocks(40, 30)), 40).shape == (30, 40, 3)
    assert thumbnail(np.asarray(blocks(400, 100)), 40).shape == (10, 40, 3)


@pytest.mark.parametrize(
    ("header", "pixels"),
    [
        ("ff0a814052dc080013080100", 9 * 8),
        ("0000000c4a584c200d0a870a00000014667479706a786c20000000006a786c200000004f6a786c63ff0a0f4152dc0800", 96 * 64),
        ("ff0aba5de87c80a4b81100130801006c40", 1000 * 3000),
        ("ff0a58093f9c0049712300130801006cc0", 20000 * 300),
        ("ff0aba210549712300130801006c401a64", 1920 * 1080),
    ],
)
def test_the_size_of_jpeg_xl_is_read_before_its_plugin_decodes_it(monkeypatch, header, pixels):
    data = bytes.fromhex(header) + bytes(20)
    monkeypatch.setattr("tessera.images.MAX_PIXELS", pixels - 1)
    with pytest.raises(Image.DecompressionBombError):
        open_image(data)
    monkeypatch.setattr("tessera.images.MAX_PIXELS", pixels)
    with pytest.raises((UserError, OSError, RuntimeError)):
        open_image(data)


def test_a_file_that_is_no_image_is_told_in_the_same_words_each_time(tmp_path):
    (tmp_path / "a.png").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"a\.png: is not a readable image \(cannot identify image file\); "):
        read_rgb(tmp_path / "a.png")
