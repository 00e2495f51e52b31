"""Whole shards of an earlier directory are links, the records in the order of a set made at once."""

import functools
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from curate.test_grown import COLLECT, ENCODE, captioner, draw, kill_rounds, make, noting, records  # noqa: F401
from tessera.config import UserError
from tessera.curate import encode as encode_module
from tessera.curate import linked, shard_encoder
from tessera.curate.caption.caption import caption
from tessera.curate.collect.collect import collect
from tessera.curate.encode import encode
from tessera.curate.linked import SHARD_SUMS
from tessera.encoded.store import ORDER, SHARD_SHA256, open_encoded
from tessera.files import sha256_file
from tessera.pretrained.text_encoders import Words
from tessera.pretrained.vae import PixelUnshuffle
from tessera.stages import read_manifest
from tiny.folders import tree

OLD = [f"shard-{number:05d}.arrow" for number in range(3)]


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes of seven images: three shards of four records, and one of two."""
    for number in range(14):
        draw(tmp_path / "photos" / ("fox", "wolf")[number % 2] / f"{number}.bmp", 10 * number)
    return tmp_path / "photos"


def add(photos: Path) -> None:
    for number in range(20, 25):
        draw(photos / ("fox", "wolf")[number % 2] / f"{number}.bmp", 10 * number)


@pytest.fixture
def grown(photos, captioner, tmp_path) -> Path:  # noqa: F811
    """The folder with images and captions of the set `old`, of its growth, and of that set made at once."""
    make(tmp_path / "old", photos, captioner)
    add(photos)
    collect(tmp_path / "images", COLLECT, photos, reuse=tmp_path / "old/images")
    caption(tmp_path / "captions", tmp_path / "images", captioner, reuse=tmp_path / "old/captions")
    encode(tmp_path / "once", tmp_path / "images", tmp_path / "captions", ENCODE)
    return tmp_path


def grow(folder: Path, out: str, config=ENCODE, reuse: Path | None = None) -> None:
    encode(folder / out, folder / "images", folder / "captions", config, reuse=reuse or folder / "old/encoded")


def same(one: Path, other: Path) -> bool:
    return list(records(one).items()) == list(records(other).items())


def test_whole_shards_are_links_and_the_order_is_that_of_a_set_made_at_once(grown, monkeypatch):
    old, encoded, texts, hashed = tree(grown / "old"), [], [], []
    monkeypatch.setattr(PixelUnshuffle, "encode", noting(PixelUnshuffle.encode, encoded, lambda _self, x: list(x)))
    monkeypatch.setattr(Words, "encode", noting(Words.encode, texts, lambda _self, told: filter(None, told)))
    monkeypatch.setattr(linked, "sha256_file", noting(sha256_file, hashed, lambda path: [path.name]))
    grow(grown, "new")
    assert (len(encoded), len(texts)) == (5, 5)
    assert hashed == ["shard-00003.arrow", "shard-00004.arrow", ORDER]
    assert all((grown / "new" / name).samefile(grown / "old/encoded" / name) for name in OLD)
    assert not (grown / "new/shard-00003.arrow").samefile(grown / "old/encoded/shard-00003.arrow")
    assert tree(grown / "old") == old
    assert same(grown / "new", grown / "once")
    new, once = (open_encoded(grown / name) for name in ("new", "once"))
    assert [new.keys(start) for start in (0, 5, 17)] == [once.keys(start) for start in (0, 5, 17)]
    assert [new.length(i) for i in range(19)] == [once.length(i) for i in range(19)]
    assert [new.captions(i) for i in range(19)] == [once.captions(i) for i in range(19)]
    facts = [dict(store.facts) for store in (new, once)]
    assert facts[0].pop(SHARD_SHA256) != facts[1].pop(SHARD_SHA256)
    assert facts[0] == facts[1]
    new.verify()


def test_a_set_that_grows_twice_and_loses_an_image(grown, photos, captioner):  # noqa: F811
    """The shard of the image that is gone is made anew, so that nothing of it stays."""
    grow(grown, "new")
    gone = open_encoded(grown / "new").keys()[3]
    (photos / f"{gone}.bmp").unlink()
    collect(grown / "images2", COLLECT, photos, reuse=grown / "images")
    caption(grown / "captions2", grown / "images2", captioner, reuse=grown / "captions")
    for out, reuse in (("less", grown / "new"), ("less at once", None)):
        encode(grown / out, grown / "images2", grown / "captions2", ENCODE, reuse=reuse)
    assert same(grown / "less", grown / "less at once")
    assert not any(gone.encode() in path.read_bytes() for path in (grown / "less").glob("*.arrow"))
    links = [path.name for path in sorted((grown / "less").glob("*.arrow")) if path.stat().st_nlink > 1]
    assert links == ["shard-00000.arrow", "shard-00001.arrow", "shard-00002.arrow"]  # of four with all their records


def stopped(monkeypatch, module, name: str, after: int, work) -> None:
    """Do `work` until `name` of the module was called so many times."""
    original, calls = getattr(module, name), []

    def counted(*args, **kwargs):
        calls.append(name)
        if len(calls) > after:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, counted)
        with pytest.raises(KeyboardInterrupt):
            work()


def test_a_stopped_call_is_resumed_with_and_without_reuse(grown, monkeypatch):
    for reuse in (grown / "old/encoded", None):
        out = grown / f"stopped {reuse is None}"
        stopped(monkeypatch, encode_module, "link_or_copy", 2, lambda: grow(grown, out.name))  # noqa: B023
        encode(out, grown / "images", grown / "captions", ENCODE, reuse=reuse)
        assert same(out, grown / "once")
        assert (out / ORDER).exists()
    # Begun without: the records stay where they are.
    begin = functools.partial(encode, grown / "b", grown / "images", grown / "captions", ENCODE)
    stopped(monkeypatch, shard_encoder, "write_shard", 1, begin)
    grow(grown, "b")
    assert same(grown / "b", grown / "once")
    assert not (grown / "b" / ORDER).exists()


def test_where_no_links_can_be_made_shards_are_copied(grown, monkeypatch):
    def refuse(*_):
        raise OSError("no links")

    monkeypatch.setattr(os, "link", refuse)
    grow(grown, "new")
    assert same(grown / "new", grown / "once")
    hashes = read_manifest(grown / "new").facts[SHARD_SHA256]
    assert hashes == {name: sha256_file(grown / "new" / name) for name in hashes}


def test_the_mean_of_the_latents_takes_the_sums_of_old_shards_over(grown, monkeypatch):
    """By a codec whose latents are measured."""
    monkeypatch.setattr(PixelUnshuffle, "normalization", None)
    monkeypatch.setattr(encode_module, "PixelUnshuffle", int)  # which alone is not measured
    encode(grown / "measured", grown / "old/images", grown / "old/captions", replace(ENCODE, seed=1))
    summed = []
    monkeypatch.setattr(
        encode_module, "latent_sums", noting(encode_module.latent_sums, summed, lambda s: [s.path.name])
    )
    config = replace(ENCODE, seed=1)
    grow(grown, "new", config, grown / "measured")
    assert summed == ["shard-00003.arrow", "shard-00004.arrow"]
    store = open_encoded(grown / "new")
    values = torch.stack([torch.from_numpy(store[i].latent_mean).double() for i in range(len(store))])
    mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3), correction=0)
    torch.testing.assert_close(torch.tensor(store.facts["latent_mean"]).double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.tensor(store.facts["latent_std"]).double(), std, rtol=1e-3, atol=1e-6)
    assert set(store.facts[SHARD_SUMS]) == {f"shard-{n:05d}.arrow" for n in range(5)}


def test_a_damaged_order_is_told(grown):
    grow(grown, "new")
    path = grown / "new" / ORDER
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match=r"order.parquet: there is no such file"):
        open_encoded(grown / "new")
    linked.write_table(path, {"place": [*range(18), 17]})
    with pytest.raises(UserError, match=r"order.parquet: is not an order of the 19 records; delete the directory and"):
        open_encoded(grown / "new")
    linked.write_table(path, {"place": list(range(19))})
    with pytest.raises(UserError, match=r"order.parquet: is damaged \(its SHA-256 is .*, its manifest says .*\)"):
        open_encoded(grown / "new").verify()
    path.write_bytes(data)
    open_encoded(grown / "new").verify()


@pytest.mark.slow
def test_killed_while_linking(photos, captioner, tmp_path):  # noqa: F811
    kill_rounds(30, photos, captioner, tmp_path, add)
