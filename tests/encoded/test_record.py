"""Numbers of a record: int8 groups and packed floats."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.encoded.record import dequantize, pack_floats, quantize, unpack_floats
from tiny.records import make_records


def test_text_property():
    quantized = make_records(1)[0]
    np.testing.assert_array_equal(quantized.text, dequantize(quantized.text_codes, quantized.text_scale))
    half = make_records(1, "fp16")[0]
    np.testing.assert_array_equal(half.text, half.text_codes.astype(np.float32))
    assert half.text.dtype == quantized.text.dtype == np.float32
    assert make_records(1, "none")[0].text is None


@given(st.integers(0, 9), st.integers(1, 200), st.floats(1e-9, 1e6), st.integers(0, 2**32))
def test_quantisation_error_is_a_fraction_of_the_scale(length, width, magnitude, seed):
    text = (np.random.default_rng(seed).standard_normal((length, width)) * magnitude).astype(np.float32)
    codes, scale = quantize(text)
    assert (codes.dtype, codes.shape) == (np.int8, (length, width))
    assert (scale.dtype, scale.shape) == (np.float16, (length, -(-width // 64)))
    back = dequantize(codes, scale)
    assert back.dtype == np.float32
    # Below fp16's normal range (a peak of 127 * 6e-5) scales are coarse: the bound is then absolute.
    bound = np.maximum(0.57 * np.repeat(scale.astype(np.float32), 64, axis=1)[:, :width], 8e-6)
    assert (abs(back - text) <= bound).all()


def test_quantise_is_exact_on_its_own_grid():
    codes = np.random.default_rng(0).integers(-127, 128, (5, 128)).astype(np.int8)
    codes[:, ::64] = 127  # each group uses its whole range, so that the scale is found again
    scale = np.full((5, 2), 0.25, dtype=np.float16)
    again = quantize(dequantize(codes, scale))
    np.testing.assert_array_equal(again[0], codes)
    np.testing.assert_array_equal(again[1], scale)
    assert (dequantize(*quantize(np.zeros((2, 64)))) == 0).all()


def test_groups_are_along_the_width():
    text = np.zeros((2, 130), dtype=np.float32)
    text[0, 63], text[0, 64], text[1, 129] = 127, 12.7, 1.27
    codes, scale = quantize(text)
    np.testing.assert_allclose(scale, [[1, 0.1, 0], [0, 0, 0.01]], rtol=1e-3)
    assert (codes[0, 63], codes[0, 64], codes[1, 129]) == (127, 127, 127)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e7])
def test_quantise_refuses_what_it_cannot_hold(value):
    with pytest.raises(ValueError, match="finite"):
        quantize(np.full((1, 64), value))


def test_pack_floats():
    array = np.random.default_rng(0).standard_normal((1, 5)).astype(np.float32)
    packed = pack_floats(array)
    assert packed["shape"] == [1, 5]
    np.testing.assert_array_equal(unpack_floats(packed), array)
    assert unpack_floats(packed).flags.writeable
