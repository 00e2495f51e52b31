"""Records and stores of random numbers."""

import numpy as np

from tessera.encoded.record import EncodedRecord, quantize
from tessera.encoded.store import write_encoded

SHAPE = (3, 4, 2)


WIDTH = 70  # not a multiple of 64: the last group is short


def make_records(number, text_encoding="int8", width=WIDTH, seed=0):
    generator = np.random.default_rng(seed)
    records = []
    for index in range(number):
        text = generator.standard_normal((1 + index % 5, width))
        codes, scale = quantize(text) if text_encoding == "int8" else (text.astype(np.float16), None)
        mean, std = generator.standard_normal((2, *SHAPE)).astype(np.float16)
        records.append(
            EncodedRecord(
                key=f"étoile/{index}",
                class_name="étoile",
                caption="" if index % 7 == 0 else f"star {index} " * (index % 4),
                text_codes=None if text_encoding == "none" else codes,
                text_scale=scale if text_encoding == "int8" else None,
                latent_mean=mean,
                latent_std=abs(std),
            )
        )
    return records


def write(directory, records, text_encoding="int8", shard_size=100, **changes):
    layout = {"latent_shape": SHAPE, "text_width": WIDTH, "text_encoding": text_encoding, **changes}
    return write_encoded(directory, records, shard_size=shard_size, **layout)


def assert_same(got, expected):
    assert (got.key, got.class_name, got.caption) == (expected.key, expected.class_name, expected.caption)
    for name in ("text_codes", "text_scale", "latent_mean", "latent_std"):
        a, b = getattr(got, name), getattr(expected, name)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            assert a.flags.writeable
            np.testing.assert_array_equal(a, b)
