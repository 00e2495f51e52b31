"""encode: records hold what the images and captions say, in shuffled order, and survive a stop."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tessera import files as files_module
from tessera.config import UserError
from tessera.curate import encode as encode_module
from tessera.curate import index as index_module
from tessera.curate import shard_encoder
from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.table import read_captions, read_levels
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.encode import EncodeConfig, default_compute, encode
from tessera.curate.index import read_images, read_recipe
from tessera.cutmix import compose
from tessera.encoded.store import open_encoded
from tessera.files import sha256_file
from tessera.images import read_rgb
from tessera.pretrained.text_encoders import Words, split_words
from tessera.pretrained.vae import PixelUnshuffle
from tessera.stages import read_manifest
from tessera.workers import Engine
from tiny.folders import tree

CONFIG = EncodeConfig(shard_size=10, text="words:32", latents="pixel-unshuffle:2")


@pytest.fixture(scope="module")
def recipe(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe") / "recipe"
    augment(out, images, AugmentConfig(half_view="centre", seed=1))
    return out


@pytest.fixture(scope="module")
def captions(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("captions") / "captions"
    caption(out, images, CaptionConfig(captioner="scene"))
    return out


@pytest.fixture(scope="module")
def mixed_captions(images, recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("captions") / "captions"
    caption(out, images, CaptionConfig(), recipe=recipe)
    return out


def test_records_of_pictures(images, captions, tmp_path):
    encode(tmp_path / "encoded", images, captions, CONFIG)
    store = open_encoded(tmp_path / "encoded")
    rows = {row.key: row for row in read_images(images)}
    texts = read_captions(captions)
    codec, words = PixelUnshuffle(factor=2), Words(32)
    keys = [store[i].key for i in range(len(store))]
    assert sorted(keys) == sorted(rows)
    assert keys != sorted(rows)
    for i in range(len(store)):
        record = store[i]
        assert record.class_name == rows[record.key].class_name
        assert record.caption == texts[record.key]
        assert np.abs(record.text - words.encode([record.caption])[0]).max() < 0.02
        pixels = read_rgb(images / f"{record.key}.png")
        assert np.array_equal(codec.decode(record.latent_mean[None])[0], pixels)
        assert not record.latent_std.any()
    assert np.array_equal(store.null_condition, words.null_condition)
    manifest = read_manifest(tmp_path / "encoded", "encode")
    assert manifest.counts == {"records": 24, "shards": 3}
    assert {**manifest.facts, "null_condition": None, "text": None, "levels": None, "vocabulary": None} == {
        "captioner": "scene",
        "latent_codec": "pixel-unshuffle:2",
        "text_encoder": "words:32",
        "null_condition": None,
        "latent_shape": [12, 8, 8],
        "text_width": 32,
        "image_size": 16,
        "shard_sha256": {path.name: sha256_file(path) for path in sorted((tmp_path / "encoded").glob("*.arrow"))},
        "text": None,
        "levels": None,
        "vocabulary": None,
    }
    lengths = words.count_tokens(list(texts.values()))
    assert manifest.facts["text"]["mean_tokens"] == pytest.approx(np.mean(lengths), abs=1e-3)
    assert manifest.facts["text"]["longest"] == max(lengths)
    assert manifest.facts["text"]["share_cut"] == 0
    assert manifest.facts["text"]["usual_tokens"] == [min(lengths), max(lengths)]  # of 24
    told = " ".join(text for of_level in read_levels(captions).values() for text in of_level.values())
    assert manifest.facts["vocabulary"] == sorted(set(split_words(told)))


def test_records_of_mixes_are_composed_from_their_row(images, recipe, mixed_captions, tmp_path):
    encode(tmp_path / "encoded", images, mixed_captions, CONFIG, recipe=recipe)
    store = open_encoded(tmp_path / "encoded")
    rows = {row.key: row for row in read_recipe(recipe).rows}
    assert {store[i].key for i in range(len(store))} == set(rows)
    for i in range(len(store)):
        record = store[i]
        row = rows[record.key]
        base, partner = (read_rgb(images / f"{key}.png") for key in (row.base, row.partner))
        expected = compose(base, partner, row.placement, "centre")
        assert np.array_equal(PixelUnshuffle(factor=2).decode(record.latent_mean[None])[0], expected)
        assert record.class_name == f"{row.base.split('/')[0]} + {row.partner.split('/')[0]}"


def test_each_text_is_encoded_and_each_picture_decoded_once(images, recipe, mixed_captions, tmp_path, monkeypatch):
    seen, read = [], []

    class Counting(Words):
        def encode(self, texts):
            seen.extend(texts)
            return super().encode(texts)

    monkeypatch.setattr(encode_module, "load_text_encoder", lambda *_, **__: Counting(32))
    monkeypatch.setattr(index_module, "read_rgb", lambda path, **how: (read.append(path), read_rgb(path))[1])
    encode(tmp_path / "encoded", images, mixed_captions, replace(CONFIG, shard_size=100), recipe=recipe)
    seen.remove("")  # of the null condition
    assert sorted(seen) == sorted(set(read_captions(mixed_captions).values()))
    assert len(read) == len(set(read)) == 24


def test_a_small_memory_gives_the_same(images, recipe, mixed_captions, tmp_path):
    encode(tmp_path / "large", images, mixed_captions, CONFIG, recipe=recipe)
    encode(tmp_path / "small", images, mixed_captions, CONFIG, recipe=recipe, cache_bytes=3 * 3 * 16 * 16)
    assert tree(tmp_path / "small") == tree(tmp_path / "large")


def test_again_and_after_a_stop(images, captions, tmp_path, monkeypatch):
    encode(tmp_path / "whole", images, captions, CONFIG)
    out = tmp_path / "out"
    written = []

    def stop_at_two(path, records, **options):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write_shard(path, records, **options)

    write_shard = shard_encoder.write_shard
    with monkeypatch.context() as patch:
        patch.setattr(shard_encoder, "write_shard", stop_at_two)
        with pytest.raises(KeyboardInterrupt):
            encode(out, images, captions, CONFIG)
        written.remove("shard-00000.arrow")
        (out / "shard-00000.arrow").unlink()
        with pytest.raises(KeyboardInterrupt):
            encode(out, images, captions, CONFIG)
    assert written == ["shard-00001.arrow", "shard-00000.arrow"]
    encode(out, images, captions, CONFIG)
    assert tree(out) == tree(tmp_path / "whole")
    (out / "shard-00000.arrow").unlink()
    encode(out, images, captions, CONFIG)
    assert not (out / "shard-00000.arrow").exists()


def test_order_is_of_the_seed(images, captions, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        encode(tmp_path / name, images, captions, replace(CONFIG, seed=seed))
    one, other = (open_encoded(tmp_path / name) for name in ("a", "b"))
    assert [one[i].key for i in range(24)] != [other[i].key for i in range(24)]


def test_images_without_a_caption_stop_it_or_are_left_out(images, tmp_path, capsys):
    keys = [row.key for row in read_images(images)]
    (tmp_path / "few.csv").write_text("key,text\n" + "".join(f"{key},a caption of {key}\n" for key in keys[4:]))
    config, few = CaptionConfig(captioner="import"), tmp_path / "few.csv"
    with pytest.raises(UserError, match=r"no caption for 4 of 24 images.*captions-missing\.csv.*--skip-missing"):
        caption(tmp_path / "captions", images, config, captions_file=few)
    assert not (tmp_path / "captions").exists()
    caption(tmp_path / "captions", images, config, captions_file=few, skip_missing=True)
    assert read_manifest(tmp_path / "captions").rejects == dict.fromkeys(keys[:4], "")
    listed = (tmp_path / "captions-missing.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in listed] == ["key", *keys[:4]]
    with pytest.raises(UserError, match="has no caption for 4 of 24 images: 'circle/000000'"):
        encode(tmp_path / "encoded", images, tmp_path / "captions", CONFIG)
    assert not (tmp_path / "encoded").exists()
    encode(tmp_path / "encoded", images, tmp_path / "captions", CONFIG, skip_missing=True)
    store, manifest = open_encoded(tmp_path / "encoded"), read_manifest(tmp_path / "encoded")
    assert sorted(store[i].key for i in range(len(store))) == keys[4:]
    assert manifest.counts == {"records": 20, "shards": 2, "missing": 4}
    assert list(manifest.rejects) == keys[:4]
    assert "cut off" not in capsys.readouterr().err


def test_the_share_of_cut_captions_is_said(images, tmp_path, capsys):
    keys = [row.key for row in read_images(images)]
    lines = (f"{key},{'word ' * (300 if n < 6 else 3)}\n" for n, key in enumerate(keys))
    (tmp_path / "long.csv").write_text("key,text\n" + "".join(lines))
    file = tmp_path / "long.csv"
    caption(tmp_path / "captions", images, CaptionConfig(captioner="import"), captions_file=file)
    encode(tmp_path / "encoded", images, tmp_path / "captions", CONFIG)
    assert "25.00% of the captions are longer than the text encoder's 256 tokens" in capsys.readouterr().err


def test_the_share_of_cut_captions_is_said_of_each_level(images, tmp_path, capsys):
    keys = [row.key for row in read_images(images)]
    texts = (
        {"file_name": key, "captions": [f"word {n}", "word " * (300 if n < 6 else 3)]} for n, key in enumerate(keys)
    )
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    file = tmp_path / "two.jsonl"
    caption(tmp_path / "captions", images, CaptionConfig(captioner="import"), captions_file=file)
    encode(tmp_path / "encoded", images, tmp_path / "captions", CONFIG)
    said = capsys.readouterr().err
    assert "25.00% of the long-2 captions are longer than the text encoder's 256 tokens" in said
    assert "of the long captions" not in said


def test_errors_name_the_culprit(images, captions, mixed_captions, recipe, tmp_path):
    with pytest.raises(UserError, match=r"captions: was made without --recipe .*; run `tessera caption` again"):
        encode(tmp_path / "a", images, captions, CONFIG, recipe=recipe)
    with pytest.raises(UserError, match=r"was made by `tessera collect`; give a directory made by `tessera augment`"):
        encode(tmp_path / "a", images, captions, CONFIG, recipe=images)
    with pytest.raises(UserError, match=r"was made by `tessera caption`; give a directory made by `tessera collect`"):
        encode(tmp_path / "a", captions, images, CONFIG)
    with pytest.raises(UserError, match="multiple of 5, not 16"):
        encode(tmp_path / "a", images, captions, replace(CONFIG, latents="pixel-unshuffle:5"))
    with pytest.raises(UserError, match="holds captions of augmented images; give the --recipe that they were made"):
        encode(tmp_path / "a", images, mixed_captions, CONFIG)
    copy = shutil.copytree(images, tmp_path / "images")
    bad = copy / "star" / "000005.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(UserError, match=r"star/000005\.png: is not a readable image"):
        encode(tmp_path / "b", copy, captions, CONFIG)
    shutil.copy(copy / "star" / "000002.png", bad)
    encode(tmp_path / "b", copy, captions, CONFIG)
    with pytest.raises(UserError, match="made otherwise: shard_size"):
        encode(tmp_path / "b", copy, captions, replace(CONFIG, shard_size=7))


def test_bad_configs():
    for bad, message in (
        ({"text_encoding": "fp8"}, "text_encoding is 'fp8'; give one of 'int8', 'fp16', 'none'"),
        ({"shard_size": 0}, "shard_size is 0; give at least 1"),
        ({"seed": -1}, "seed is -1; give at least 0"),
    ):
        with pytest.raises(UserError, match=message):
            EncodeConfig(**bad)


def test_a_users_messy_folder_goes_the_whole_way(messy, tmp_path):
    images, recipe = tmp_path / "images", tmp_path / "recipe"
    collect(images, CollectConfig(source="mine", size=16), messy)
    augment(recipe, images, AugmentConfig())
    for name, rows in (("plain", None), ("mixed", recipe)):
        caption(tmp_path / name / "captions", images, CaptionConfig(), recipe=rows)
        encode(tmp_path / name / "encoded", images, tmp_path / name / "captions", EncodeConfig(), recipe=rows)
        store = open_encoded(tmp_path / name / "encoded")
        assert len(store) == 293
    classes = {store[i].class_name for i in range(293)}
    assert classes >= {"red fox + \u732b", "Caf\u00e9 noir + grey cat"}


def test_two_tasks_that_see_the_end_at_once(images, captions, tmp_path, monkeypatch):
    whole, out, task = tmp_path / "whole", tmp_path / "out", Engine(part=(0, 1))
    encode(whole, images, captions, CONFIG)
    sync, others = files_module.sync, []

    def sync_while_another_ends(path):
        if path.name.endswith("manifest.json") and (out / "shard-00002.arrow").exists() and not others:
            others.append(None)
            encode(out, images, captions, CONFIG, engine=task)
        sync(path)

    monkeypatch.setattr(files_module, "sync", sync_while_another_ends)
    encode(out, images, captions, CONFIG, engine=task)
    assert others
    assert tree(out) == tree(whole)


@pytest.mark.parametrize(
    ("latents", "text", "device", "fast", "expected"),
    [
        ("stabilityai/sd-vae-ft-ema", "google/flan-t5-xl", "cuda", True, "bf16"),
        ("pixel-unshuffle:4", "google/flan-t5-xl", "cuda", True, "bf16"),
        ("pixel-unshuffle:4", "words:64", "cuda", True, "fp32"),
        ("stabilityai/sd-vae-ft-ema", "google/flan-t5-xl", "cuda", False, "fp32"),
        ("pixel-unshuffle:4", "minilm", "cpu", True, "bf16"),
        ("pixel-unshuffle:4", "minilm", "cpu", False, "fp32"),
        ("pixel-unshuffle:4", "minilm", "mps", True, "fp32"),
    ],
)
def test_networks_compute_in_bf16_where_that_is_fast_unless_begun_otherwise(
    latents, text, device, fast, expected, images, captions, tmp_path, monkeypatch
):
    monkeypatch.setattr(encode_module, "pick_device", lambda name: torch.device(device))
    monkeypatch.setattr(encode_module, "is_fast_in_bf16", lambda device: fast)
    assert default_compute(tmp_path / "new", latents, text, None) == expected
    encode(tmp_path / "begun", images, captions, replace(CONFIG, compute="fp32"))
    assert default_compute(tmp_path / "begun", latents, text, None) == "fp32"
