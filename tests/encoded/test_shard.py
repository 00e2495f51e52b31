"""Shards: what Arrow reads, what does not fit, and damage."""

import hashlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tessera.config import UserError
from tessera.encoded.record import EncodedText
from tessera.encoded.shard import write_shard
from tessera.encoded.store import open_encoded, shard_name
from tiny.records import SHAPE, WIDTH, make_records, write


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


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("int8", "75013be113528ea0"),
        ("fp16", "bfa2afdcda4e5d19"),
        ("none", "cd775fcf5f92a2a2"),
    ],
)
def test_the_bytes_of_one_caption_an_image_are_those_of_ever(tmp_path, kind, digest):
    (path,) = write(tmp_path, make_records(70, kind), kind)
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("kind", ["int8", "fp16", "none"])
def test_levels_are_read_back_and_equal_texts_are_stored_once(tmp_path, kind):
    levels, made = ("long", "medium", "short"), []
    for i, (record, other, third) in enumerate(zip(*(make_records(70, kind, seed=seed) for seed in range(3)))):
        record = replace(record, caption=f"long {i}")
        medium = EncodedText(f"medium {i}", other.text_codes, other.text_scale)
        short = EncodedText(f"short {i}", third.text_codes, third.text_scale)
        same = EncodedText(record.caption, record.text_codes, record.text_scale)
        made.append(
            (
                replace(record, more=(medium, short)),
                replace(record, more=(medium, medium)),
                replace(record, more=(same, short)),
                replace(record, caption="", text_codes=None, text_scale=None, more=(None, short)),
            )[i % 4]
        )
    (path,) = write(tmp_path, made, kind, levels=levels)
    store = open_encoded(tmp_path)
    assert store.levels == levels
    for i, record in enumerate(made):
        told = {"long": record.caption} | {k: text.caption for k, text in zip(levels[1:], record.more) if text}
        assert store.captions(i) == {level: text for level, text in told.items() if text}
        wanted = [EncodedText(record.caption, record.text_codes, record.text_scale), *record.more]
        wanted = [wanted[2]] * 3 if i % 4 == 3 else wanted
        for level, text in enumerate(wanted):
            found = store.read(i, level)
            assert (found.key, found.caption) == (record.key, text.caption)
            for name in ("text_codes", "text_scale"):
                np.testing.assert_array_equal(getattr(found, name), getattr(text, name))
            np.testing.assert_array_equal(found.latent_mean, record.latent_mean)
    if kind != "none":
        with pa.ipc.open_file(path) as reader:
            table = reader.read_all()
        for i in range(70):
            tokens = [len(table[name][i]) for name in ("text", "text/medium", "text/short")]
            assert [count > 0 for count in tokens] == [i % 4 != 3, i % 4 < 2, i % 4 != 1]


def test_captions_of_other_levels_than_said_are_refused(tmp_path):
    (record,) = make_records(1)
    for wrong in (replace(record, more=(None,)), replace(record, caption="", more=(None, None))):
        with pytest.raises(ValueError, match="give captions of long, a, b, None where there is none"):
            write(tmp_path, [wrong], levels=("long", "a", "b"))
    with pytest.raises(ValueError, match="give captions of long"):
        write(tmp_path, [replace(record, more=(None,))])
