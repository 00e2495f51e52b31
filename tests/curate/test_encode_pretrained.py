"""encode with pretrained networks: what diffusers and transformers give by hand, and equal bytes on every engine."""

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tessera.config import UserError
from tessera.curate import encode as encode_module
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.table import read_captions
from tessera.curate.encode import EncodeConfig, encode
from tessera.encoded.store import open_encoded
from tessera.images import read_rgb
from tessera.presets.lookup import load_train_preset
from tessera.pretrained.text_encoders import PretrainedText
from tessera.stages import read_manifest
from tessera.workers import Engine
from tiny.folders import tree


@pytest.fixture(scope="module")
def captions(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("captions") / "captions"
    caption(out, images, CaptionConfig(captioner="scene"))
    return out


@pytest.fixture(scope="module")
def config(vae_folder, t5_folder):
    return EncodeConfig(latents=str(vae_folder), text=str(t5_folder), shard_size=7)


@pytest.fixture(scope="module")
def encoded(images, captions, config, tmp_path_factory):
    out = tmp_path_factory.mktemp("encoded") / "encoded"
    encode(out, images, captions, config, device="cpu")
    return out


@torch.inference_mode()
def test_records_are_what_the_libraries_give_by_hand(images, captions, encoded, vae_folder, t5_folder):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import AutoTokenizer, T5EncoderModel

    vae, tokenizer = AutoencoderKL.from_pretrained(vae_folder).eval(), AutoTokenizer.from_pretrained(t5_folder)
    t5 = T5EncoderModel.from_pretrained(t5_folder).eval()
    store, texts = open_encoded(encoded), read_captions(captions)
    assert len(store) == 24
    for i in range(len(store)):
        record = store[i]
        pixels = torch.from_numpy(read_rgb(images / f"{record.key}.png").copy()).permute(2, 0, 1)[None] / 127.5 - 1
        coded: Any = vae.encode(pixels)
        posterior = coded.latent_dist
        np.testing.assert_allclose(record.latent_mean, posterior.mean[0], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(record.latent_std, posterior.std[0], rtol=2e-3, atol=1e-6)
        states = t5(**tokenizer(texts[record.key], return_tensors="pt")).last_hidden_state[0].numpy()
        assert record.text is not None
        assert record.text.shape == states.shape
        assert np.linalg.norm(record.text - states) / np.linalg.norm(states) < 1e-2
    null = t5(**tokenizer("", return_tensors="pt")).last_hidden_state[0].numpy()
    np.testing.assert_allclose(store.null_condition, null, atol=1e-6)


def test_moments_of_the_latents_are_measured_and_normalize_where_the_vae_says_nothing(
    encoded, images, captions, config, vae_folder, tmp_path
):
    store = open_encoded(encoded)
    means, stds = (np.stack([getattr(r, n) for r in store]).astype(float) for n in ("latent_mean", "latent_std"))
    mean = means.mean((0, 2, 3))
    std = np.sqrt((means**2 + stds**2).mean((0, 2, 3)) - mean**2)
    np.testing.assert_allclose(store.facts["latent_mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(store.facts["latent_std"], std, rtol=1e-5)
    assert (store.facts["latent_shift"], store.facts["latent_scale"]) == ([0.0], [0.18215])  # its config's
    silent = shutil.copytree(vae_folder, tmp_path / "silent")
    said = json.loads((silent / "config.json").read_text())
    (silent / "config.json").write_text(json.dumps(said | {"scaling_factor": None}))
    encode(tmp_path / "out", images, captions, replace(config, latents=str(silent)), device="cpu")
    facts = open_encoded(tmp_path / "out").facts
    assert facts["latent_shift"] == facts["latent_mean"] == store.facts["latent_mean"]
    np.testing.assert_allclose(facts["latent_scale"], 1 / std, rtol=1e-5)
    fitted = load_train_preset("dit-i-l2:ta", fit=tmp_path / "out")
    model = fitted.model
    assert (model.latent_channels, model.latent_size, model.text_width) == (4, 4, 64)
    assert (list(fitted.latent_shift), list(fitted.latent_scale)) == (facts["latent_shift"], facts["latent_scale"])
    assert load_train_preset("dit-i-l2:ta").model.latent_size == 32


def test_facts_name_the_models_and_their_contents(encoded, vae_folder, t5_folder):
    manifest = read_manifest(encoded, "encode")
    codec, encoder = manifest.facts["latent_codec"], manifest.facts["text_encoder"]
    assert codec == f"tiny-vae@{manifest.facts['latent_codec_sha256'][:12]}"
    assert encoder == f"tiny-t5@{manifest.facts['text_encoder_sha256'][:12]}"
    assert (manifest.config["latents"], manifest.config["text"]) == (codec, encoder)
    assert str(vae_folder.parent) not in (encoded / "manifest.json").read_text()
    assert manifest.facts["text"]["share_cut"] == 0
    lengths = PretrainedText(str(t5_folder), "cpu").count_tokens([open_encoded(encoded)[i].caption for i in range(24)])
    assert manifest.facts["text"]["longest"] == max(lengths)
    assert manifest.facts["text"]["mean_tokens"] == pytest.approx(np.mean(lengths), abs=1e-3)


def test_the_share_of_cut_captions_is_told(images, captions, config, t5_folder, tmp_path, monkeypatch):
    short = PretrainedText(str(t5_folder), "cpu", max_tokens=60)
    monkeypatch.setattr(encode_module, "load_text_encoder", lambda *_, **__: short)
    encode(tmp_path / "encoded", images, captions, config, device="cpu")
    texts = list(read_captions(captions).values())
    share = np.mean([length > 60 for length in short.count_tokens(texts)])
    assert share > 0
    assert read_manifest(tmp_path / "encoded").facts["text"]["share_cut"] == pytest.approx(share, abs=1e-6)
    store = open_encoded(tmp_path / "encoded")
    assert max(len(np.asarray(store[i].text)) for i in range(24)) == 60


@pytest.mark.slow
def test_processes_and_parts_give_the_same_bytes(images, captions, config, encoded, tmp_path):
    encode(tmp_path / "two", images, captions, config, device="cpu", engine=Engine(kind="processes", workers=2))
    assert tree(tmp_path / "two") == tree(encoded)
    for part in range(3):
        encode(tmp_path / "parts", images, captions, config, device="cpu", engine=Engine(part=(part, 3)))
    assert tree(tmp_path / "parts") == tree(encoded)


def test_bf16_and_no_text(images, captions, config, encoded, tmp_path):
    low = replace(config, compute="bf16", text_encoding="none")
    encode(tmp_path / "low", images, captions, low, device="cpu")
    one, other = open_encoded(tmp_path / "low")[0], open_encoded(encoded)[0]
    assert one.text is None
    assert one.key == other.key
    difference = np.abs(one.latent_mean.astype(float) - other.latent_mean).mean() / other.latent_mean.std()
    assert 1e-4 < difference < 0.05
    with pytest.raises(UserError, match="compute is 'fp16'; give one of 'fp32', 'bf16'"):
        EncodeConfig(compute="fp16")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="made otherwise: compute"):
        encode(tmp_path / "low", images, captions, replace(low, compute="fp32"), device="cpu")
