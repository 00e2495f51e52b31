"""Pixel-unshuffle is exact in float16 too, and agrees with torch's operator."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.config import UserError
from tessera.pretrained.vae import PixelUnshuffle, load_codec


def test_all_256_values_survive_float16():
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    codec = PixelUnshuffle(factor=4)
    mean, std = codec.encode(image)
    assert mean.dtype == std.dtype == np.float32
    assert (mean.min(), mean.max()) == (-1.0, 1.0)
    assert not std.any()
    assert len(np.unique(mean.astype(np.float16))) == 256
    for stored in (mean, mean.astype(np.float16), torch.from_numpy(mean)):
        assert np.array_equal(codec.decode(stored), image)


@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from([1, 2, 3, 4, 8]), st.integers(0, 2**31))
def test_round_trip_and_shape(count, blocks, factor, seed):
    side = blocks * factor
    images = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    codec = PixelUnshuffle(factor=factor)
    mean, _ = codec.encode(images)
    assert mean.shape == (count, *codec.latent_shape(side))
    assert np.array_equal(codec.decode(mean), images)


def test_same_order_as_torch():
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    mean, _ = PixelUnshuffle(factor=3).encode(images)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(torch.from_numpy(mean), torch.nn.functional.pixel_unshuffle(pixels, 3))


def test_decode_clamps_and_refuses_what_is_not_finite():
    codec = PixelUnshuffle(factor=1)
    assert codec.decode(np.array([-7.0, 0.0, 9.0]).reshape(1, 3, 1, 1)).tolist() == [[[[0, 128, 255]]]]
    with pytest.raises(ValueError, match="not finite"):
        codec.decode(np.full((1, 3, 1, 1), np.nan))
    with pytest.raises(ValueError, match=r"\(B, 3, h, w\), not \(1, 4, 1, 1\)"):
        codec.decode(np.zeros((1, 4, 1, 1)))


def test_load_by_id():
    assert load_codec("pixel-unshuffle:8") == PixelUnshuffle(factor=8)
    assert load_codec("pixel-unshuffle") == load_codec(PixelUnshuffle().id)
    for unknown in ("vae", "pixel-unshuffle:", "pixel-unshuffle:four", "pixel-unshuffle:-4"):
        with pytest.raises(UserError, match=r"unknown image codec.*pixel-unshuffle:<factor>"):
            load_codec(unknown)
    with pytest.raises(UserError, match="factor from 1 to 64, not 0"):
        load_codec("pixel-unshuffle:0")
    with pytest.raises(UserError, match="multiple of 4, not 30"):
        load_codec("pixel-unshuffle:4").latent_shape(30)


def test_images_of_the_wrong_kind():
    with pytest.raises(ValueError, match="uint8"):
        PixelUnshuffle().encode(np.zeros((1, 8, 8, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(1, 8, 4, 3\)"):
        PixelUnshuffle().encode(np.zeros((1, 8, 4, 3), np.uint8))
