"""The encoded store gives back what was written, fast paths included, and names damaged shards."""

import numpy as np
import pytest

from tessera.config import UserError
from tessera.encoded.record import pack_floats
from tessera.encoded.shard import write_shard
from tessera.encoded.store import open_encoded, shard_name
from tessera.stages import open_stage
from tiny.records import SHAPE, WIDTH, assert_same, make_records, write


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


def test_latents_alone_come_in_the_order_of_the_records(tmp_path):
    records = make_records(150)
    write(tmp_path, records, shard_size=70)
    means, stds = (np.concatenate(kind) for kind in zip(*open_encoded(tmp_path).latents()))
    assert np.array_equal(means, np.stack([record.latent_mean for record in records]))
    assert np.array_equal(stds, np.stack([record.latent_std for record in records]))
