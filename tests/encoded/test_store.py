"""The encoded store gives back what was written, fast paths included, and names damaged shards."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.config import UserError
from tessera.encoded.record import EncodedRecord, dequantize, pack_floats, quantize, unpack_floats
from tessera.encoded.shard import write_shard
from tessera.encoded.store import open_encoded, shard_name, write_encoded
from tessera.stages import open_stage

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


@pytest.mark.parametrize("text_encoding", ["int8", "fp16", "none"])
@pytest.mark.parametrize(("number", "shard_size"), [(1, 100), (64, 64), (230, 100), (200, 100), (130, 1000), (5, 1)])
def test_round_trip(tmp_path, text_encoding, number, shard_size):
    records = make_records(number, text_encoding)
    paths = write(tmp_path, iter(records), text_encoding, shard_size)
    assert [path.name for path in paths] == [shard_name(i) for i in range(-(-number // shard_size))]
    store = open_encoded(tmp_path)
    assert (len(store), store.latent_shape, store.text_width) == (number, SHAPE, WIDTH)
    assert store.text_encoding == text_encoding
    order = np.random.default_rng(0).permutation(number)
    for index in order:
        assert_same(store[index], records[index])
    assert store.records_read == number
    for start in {0, number // 2, number - 1}:
        assert open_encoded(tmp_path).keys(start) == [record.key for record in records[start:]]
    assert_same(store[-1], records[-1])
    with pytest.raises(IndexError):
        store[number]
    with pytest.raises(IndexError):
        store[-number - 1]
    assert store.records_read == number + 1


def test_a_store_is_iterable(tmp_path):
    records = make_records(70)
    write(tmp_path, records, shard_size=32)
    assert [record.key for record in open_encoded(tmp_path)] == [record.key for record in records]


def test_text_property():
    quantized = make_records(1)[0]
    np.testing.assert_array_equal(quantized.text, dequantize(quantized.text_codes, quantized.text_scale))
    half = make_records(1, "fp16")[0]
    np.testing.assert_array_equal(half.text, half.text_codes.astype(np.float32))
    assert half.text.dtype == quantized.text.dtype == np.float32
    assert make_records(1, "none")[0].text is None


def test_records_outlive_the_store(tmp_path):
    records = make_records(3)
    write(tmp_path, records)
    store = open_encoded(tmp_path)
    kept = [store[index] for index in range(3)]
    del store
    for got, expected in zip(kept, records):
        assert_same(got, expected)


def test_bytes_are_deterministic_and_leave_nothing_else(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, make_records(130))
    for entry in (tmp_path / "a").iterdir():
        assert entry.read_bytes() == (tmp_path / "b" / entry.name).read_bytes()
    assert sorted(entry.name for entry in (tmp_path / "a").iterdir()) == [shard_name(0), shard_name(1)]


def test_arrow_reads_the_file_as_it_is(tmp_path):
    records = make_records(70)
    path = tmp_path / "a.arrow"
    write_shard(path, records, latent_shape=SHAPE, text_width=WIDTH, metadata={"encoder": "words:70"})
    with pa.ipc.open_file(path) as reader:
        assert reader.num_record_batches == 2
        table = reader.read_all()
    assert table.column_names == ["key", "class", "caption", "text", "text_scale", "latent_mean", "latent_std"]
    assert table["caption"].to_pylist() == [record.caption for record in records]
    assert table["text"][69].as_py() == records[69].text_codes.tolist()
    np.testing.assert_array_equal(table["latent_std"][3].as_py(), records[3].latent_std.reshape(-1))
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["latent_shape"] == "[3, 4, 2]"
    assert metadata["text_encoding"] == "int8"
    assert metadata["encoder"] == "words:70"


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_shape": (3, 2, 4)}, r"record 'étoile/0': latent_mean must be float16 \(3, 2, 4\)"),
        ({"text_width": 64}, r"text_codes must be int8 \(1, 64\), not int8 \(1, 70\)"),
        ({"text_encoding": "fp16"}, "text_codes must be float16"),
        ({"text_encoding": "none"}, "text_codes must be None"),
        ({"text_encoding": "int4"}, "text_encoding must be int8, fp16 or none, not 'int4'"),
    ],
)
def test_records_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, make_records(2), **changes)
    assert list(tmp_path.iterdir()) == []


def test_empty_and_bad_sizes(tmp_path):
    assert write(tmp_path, []) == []
    with pytest.raises(ValueError, match="at least one record"):
        write_shard(tmp_path / "a.arrow", [], latent_shape=SHAPE, text_width=WIDTH)
    with pytest.raises(UserError, match="shard_size must be at least 1"):
        write(tmp_path, make_records(1), shard_size=0)
    with pytest.raises(UserError, match="has no shards"):
        open_encoded(tmp_path)
    with pytest.raises(UserError, match="has no shards"):
        open_encoded(tmp_path / "absent")


def test_missing_and_unequal_shards_are_named(tmp_path):
    paths = write(tmp_path, make_records(30), shard_size=10)
    paths[1].rename(tmp_path / "kept")
    with pytest.raises(UserError, match=r"shard-00001\.arrow: is missing"):
        open_encoded(tmp_path)
    write_shard(paths[1], make_records(9), latent_shape=SHAPE, text_width=WIDTH)
    with pytest.raises(UserError, match=r"shard-00001\.arrow: has 9 records, but shard-00000\.arrow has 10"):
        open_encoded(tmp_path)
    write_shard(paths[1], make_records(10, "none"), latent_shape=SHAPE, text_width=WIDTH, text_encoding="none")
    with pytest.raises(UserError, match=r"shard-00001\.arrow: has other shapes or encodings"):
        open_encoded(tmp_path)
    (tmp_path / "kept").replace(paths[1])
    write_shard(paths[2], make_records(11), latent_shape=SHAPE, text_width=WIDTH)
    with pytest.raises(UserError, match=r"shard-00002\.arrow: has 11 records"):
        open_encoded(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_a_shard_cut_short_is_named(tmp_path, keep):
    paths = write(tmp_path, make_records(30), shard_size=10)
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=r"shard-00001\.arrow: is damaged or cut short .*delete the directory and run"):
        open_encoded(tmp_path)


def test_another_arrow_file_is_named(tmp_path):
    table = pa.table({"a": [1]})
    with pa.OSFile(str(tmp_path / shard_name(0)), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    with pytest.raises(UserError, match="is not a shard of tessera"):
        open_encoded(tmp_path)


def test_overwritten_bytes_are_an_error_or_other_values_but_never_a_crash(tmp_path):
    """Bits that changed on the disk: offsets and lengths are checked, so reading stays inside the file."""
    path = write(tmp_path, make_records(70))[0]
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    messages = []
    for start in generator.integers(8, len(whole) - 64, 60):
        path.write_bytes(whole[:start] + generator.bytes(48) + whole[start + 48 :])
        try:
            store = open_encoded(tmp_path)
            for index in range(len(store)):
                assert store[index].latent_mean.shape == SHAPE
        except UserError as error:
            messages.append(str(error))
    assert messages
    assert all(message.startswith(str(path)) for message in messages)


def test_manifest_facts(tmp_path):
    null = np.arange(WIDTH, dtype=np.float32)[None]
    work = open_stage(tmp_path, stage="encode", config={})
    write(tmp_path, make_records(5))
    with pytest.raises(UserError, match="is unfinished"):
        open_encoded(tmp_path)
    work.finish({"records": 5}, facts={"null_condition": pack_floats(null)})
    store = open_encoded(tmp_path)
    np.testing.assert_array_equal(store.null_condition, null)
    assert store.facts.keys() == {"null_condition"}
    write(tmp_path, make_records(4))
    with pytest.raises(UserError, match="has 4 records, its manifest says 5"):
        open_encoded(tmp_path)


def test_without_a_manifest_there_is_no_null_condition(tmp_path):
    write(tmp_path, make_records(2))
    store = open_encoded(tmp_path)
    assert store.facts == {}
    with pytest.raises(UserError, match="no manifest with a null condition"):
        _ = store.null_condition
