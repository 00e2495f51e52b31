"""The work on a shard: texts in each form and of each level, latents, and images of their bucket's size."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.curate import encode as encode_module
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.table import read_levels
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.encode import EncodeConfig, encode
from tessera.encoded.record import quantize
from tessera.encoded.store import open_encoded
from tessera.pretrained.text_encoders import PretrainedText, Words
from tessera.pretrained.vae import PixelUnshuffle
from tessera.stages import read_manifest

CONFIG = EncodeConfig(shard_size=10, text="words:32", latents="pixel-unshuffle:2")


@pytest.fixture(scope="module")
def captions(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("captions") / "captions"
    caption(out, images, CaptionConfig(captioner="scene"))
    return out


def test_text_as_fp16_or_not_at_all(images, captions, tmp_path):
    encode(tmp_path / "fp16", images, captions, replace(CONFIG, text_encoding="fp16"))
    record = open_encoded(tmp_path / "fp16")[0]
    assert np.array_equal(record.text, Words(32).encode([record.caption])[0].astype(np.float16).astype(np.float32))
    encode(tmp_path / "none", images, captions, replace(CONFIG, text_encoding="none"))
    assert open_encoded(tmp_path / "none")[0].text is None


def test_every_level_is_stored_and_none_changes_another(images, tmp_path):
    caption(tmp_path / "captions", images, CaptionConfig(captioner="scene"))
    encode(tmp_path / "encoded", images, tmp_path / "captions", CONFIG)
    store, levels = open_encoded(tmp_path / "encoded"), read_levels(tmp_path / "captions")
    assert store.levels == tuple(levels) == ("long", "medium", "short")
    words = Words(32)
    for i in range(len(store)):
        for number, texts in enumerate(levels.values()):
            record = store.read(i, number)
            assert record.caption == texts[record.key]
            assert np.array_equal(record.text_codes, quantize(words.encode([record.caption])[0])[0])
    facts = read_manifest(tmp_path / "encoded").facts["levels"]
    for name, texts in levels.items():
        tokens = words.count_tokens(list(texts.values()))
        assert facts[name]["captions"] == 24
        assert facts[name]["longest"] == max(tokens)
        assert facts[name]["mean_tokens"] == pytest.approx(np.mean(tokens), abs=1e-3)


def test_a_text_that_repeats_is_encoded_once_in_the_set(images, vae_folder, t5_folder, tmp_path, monkeypatch):
    config = EncodeConfig(latents=str(vae_folder), text=str(t5_folder), shard_size=7)
    caption(tmp_path / "aio", images, CaptionConfig())
    seen = []

    class Counting(PretrainedText):
        def _batches(self, texts):
            seen.append(list(texts))
            return super()._batches(texts)

    encoder = Counting(str(t5_folder), "cpu")
    monkeypatch.setattr(encode_module, "load_text_encoder", lambda *_, **__: encoder)
    encode(tmp_path / "encoded", images, tmp_path / "aio", config, device="cpu")
    assert sorted(seen) == [[""], *[[f"An image of {name}"] for name in ("circle", "square", "star")]]


@pytest.mark.parametrize("value", [1e5, np.nan])
def test_latents_that_float16_cannot_hold_are_named(images, captions, tmp_path, monkeypatch, value):
    def broken(codec, pixels):
        return (np.full((len(pixels), *codec.latent_shape(pixels.shape[1])), value, np.float32),) * 2

    monkeypatch.setattr(PixelUnshuffle, "encode", broken)
    with pytest.raises(UserError, match=r"/\d+: pixel-unshuffle:4 gives latents that are not finite in float16"):
        encode(tmp_path / "encoded", images, captions, EncodeConfig())


def test_a_crop_that_is_not_of_its_buckets_size_is_named(tmp_path):
    images, photos = tmp_path / "images", tmp_path / "photos"
    (photos / "cat").mkdir(parents=True)
    for name, size in (("square", (64, 64)), ("wide", (96, 48))):
        Image.new("RGB", size, "red").save(photos / "cat" / f"{name}.png")
    collect(images, CollectConfig(source="mine", size=64, buckets=True), photos)
    caption(tmp_path / "captions", images, CaptionConfig())
    Image.new("RGB", (64, 64)).save(images / "cat" / "wide.png")
    with pytest.raises(UserError, match=r"cat/wide\.png: is not 80 x 48; delete its directory and collect again"):
        encode(tmp_path / "encoded", images, tmp_path / "captions", EncodeConfig())
