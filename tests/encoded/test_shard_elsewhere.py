"""The store outside tessera: other libraries open its files as they are; int8 is good enough for real embeddings."""

import csv
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tessera.encoded.record import GROUP, EncodedRecord, dequantize, quantize
from tessera.encoded.store import open_encoded, write_encoded

ROOT = Path(__file__).parents[2]
REAL = next((path for up in (ROOT, ROOT.parent) if (path := up / "shared/data/flan_t5_xl").is_dir()), None)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """100 records in two files, and the store of them."""
    folder = tmp_path_factory.mktemp("encoded")
    rng = np.random.default_rng(0)

    def records():
        for number in range(100):
            codes, scale = quantize(rng.standard_normal((1 + number % 9, 128)).astype(np.float32))
            mean, std = rng.standard_normal((2, 4, 2, 2)).astype(np.float16)
            texts = {"key": f"a/{number}", "class_name": "a", "caption": f'caption "{number}"\n\u732b'}
            yield EncodedRecord(**texts, text_codes=codes, text_scale=scale, latent_mean=mean, latent_std=std)

    write_encoded(folder, records(), latent_shape=(4, 2, 2), text_width=128, shard_size=70)
    return folder, open_encoded(folder)


def same(record: EncodedRecord, row: dict) -> bool:
    arrays = {"text": record.text_codes, "text_scale": record.text_scale}
    arrays |= {"latent_mean": record.latent_mean.reshape(-1), "latent_std": record.latent_std.reshape(-1)}
    texts = (row["key"], row["class"], row["caption"]) == (record.key, record.class_name, record.caption)
    return texts and all(np.array_equal(np.asarray(row[name], array.dtype), array) for name, array in arrays.items())


@pytest.mark.filterwarnings("ignore")
def test_datasets_opens_the_files(shards, tmp_path):
    datasets = pytest.importorskip("datasets")
    folder, store = shards
    files = sorted(map(str, folder.glob("*.arrow")))
    opened = datasets.load_dataset("arrow", data_files=files, split="train", cache_dir=str(tmp_path))
    assert len(opened) == 100
    assert all(same(store[i], opened[i]) for i in range(100))


def test_polars_opens_the_files(shards):
    polars = pytest.importorskip("polars")
    folder, store = shards
    frame = polars.read_ipc(folder / "shard-*.arrow")
    assert frame.height == 100
    assert all(same(store[i], row) for i, row in enumerate(frame.iter_rows(named=True)))


def test_duckdb_opens_the_files(shards):
    """All but the half floats, which DuckDB has no type for."""
    duckdb = pytest.importorskip("duckdb")
    import pyarrow.dataset

    folder, store = shards
    files = pyarrow.dataset.dataset(sorted(map(str, folder.glob("*.arrow"))), format="ipc")
    with duckdb.connect() as connection:
        connection.register("encoded", files.scanner(columns=["key", "class", "caption", "text"]))
        query = "select key, caption, text from encoded where class = 'a' order by cast(key[3:] as int)"
        rows = connection.execute(query).fetchall()
    assert [row[:2] for row in rows] == [(store[i].key, store[i].caption) for i in range(100)]
    assert all(np.array_equal(row[2], store[i].text_codes) for i, row in enumerate(rows))


def check_int8(array: np.ndarray) -> None:
    codes, scale = quantize(array)
    error = np.linalg.norm(dequantize(codes, scale) - array, axis=1)  # (L,)
    if len(array) > 1:  # one token alone is judged as the worst one
        assert np.linalg.norm(error) / np.linalg.norm(array) <= 7e-3
    assert (error / np.linalg.norm(array, axis=1)).max() <= 2e-2
    assert codes.nbytes + scale.nbytes == 2112 * len(array)


def test_int8_of_a_real_caption():
    excerpt = load_file(ROOT / "tests/golden/flan_t5_xl_excerpt.safetensors")
    assert excerpt["avocado"].shape[1] == excerpt["null"].shape[1] == 2048 == 32 * GROUP
    for array in excerpt.values():
        check_int8(array)


@pytest.mark.skipif(REAL is None, reason="shared/data/flan_t5_xl is not beside the repository or in it")
def test_int8_of_all_real_captions():
    assert REAL is not None
    with open(REAL / "captions.csv", encoding="utf-8") as file:
        names = [row["file_name"] for row in csv.DictReader(file)]
    assert len(names) >= 10
    for name in [*names, "null.npy"]:
        check_int8(np.load(REAL / name).reshape(-1, 2048))
