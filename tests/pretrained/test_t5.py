"""The pretrained text encoder: what transformers gives when called by hand, text by text, and clear errors."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

from tessera.config import UserError
from tessera.pretrained import text_encoders as module
from tessera.pretrained.text_encoders import T5, load_text_encoder
from tiny.models import save_t5

TEXTS = ["an image of a red cat", "a dog", "", "left of a cat, resting. " * 9, "a dog", "\u732b and more", "cat"]


@pytest.fixture(scope="module")
def encoder(t5_folder):
    return load_text_encoder(str(t5_folder), "cpu")


@torch.inference_mode()
def by_hand(folder, text):
    from transformers import AutoTokenizer, T5EncoderModel

    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    return T5EncoderModel.from_pretrained(folder).eval()(**inputs).last_hidden_state[0].numpy()


def test_encoding_is_transformers_of_each_text_alone(encoder, t5_folder):
    encoded = encoder.encode(TEXTS)
    for text, array in zip(TEXTS, encoded):
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, by_hand(t5_folder, text), atol=2e-5)
    assert [len(array) for array in encoded] == encoder.count_tokens(TEXTS)
    assert encoder.width == 64
    assert np.abs(encoded[0] - encoded[0][0]).max() > 0.1


def test_neither_padding_nor_batch_matter(encoder, monkeypatch):
    encoded = encoder.encode(TEXTS)
    monkeypatch.setattr(module, "BATCH_TOKENS", 300)
    calls = []
    forward = encoder._model.forward

    def counting(**inputs):
        calls.append(tuple(inputs["input_ids"].shape))
        return forward(**inputs)

    monkeypatch.setattr(encoder._model, "forward", counting)
    for one, other in zip(encoded, encoder.encode(TEXTS)):
        np.testing.assert_allclose(one, other, atol=2e-5)
    assert len(calls) > 1
    assert [length for _, length in calls] == sorted((length for _, length in calls), reverse=True)


def test_null_condition_is_the_end_token(encoder, t5_folder):
    assert encoder.null_condition.shape == (1, 64)
    np.testing.assert_allclose(encoder.null_condition, by_hand(t5_folder, ""), atol=1e-6)
    assert encoder.encode([]) == []


def test_cut_at_the_limit_keeps_the_end_and_is_counted(t5_folder):
    from transformers import AutoTokenizer, T5EncoderModel

    encoder = T5(str(t5_folder), "cpu", max_tokens=5)
    text = "a red cat left of a dog"
    assert encoder.count_tokens([text, ""]) == [8, 1]
    ids = AutoTokenizer.from_pretrained(t5_folder)(text, max_length=5, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        expected = T5EncoderModel.from_pretrained(t5_folder).eval()(**ids).last_hidden_state[0]
    cut = encoder.encode([text])[0]
    assert cut.shape == (5, 64)
    np.testing.assert_allclose(cut, expected.numpy(), atol=1e-5)
    assert load_text_encoder(str(t5_folder), "cpu").max_tokens == 256


def test_bfloat16_is_near_and_float16_refused(encoder, t5_folder):
    low = load_text_encoder(str(t5_folder), "cpu", torch.bfloat16)
    exact, near = encoder.encode(TEXTS[:1])[0], low.encode(TEXTS[:1])[0]
    assert near.dtype == np.float32
    assert 1e-4 < np.linalg.norm(near - exact) / np.linalg.norm(exact) < 0.05
    with pytest.raises(UserError, match="T5 computes in float32 or bfloat16, not float16"):
        load_text_encoder(str(t5_folder), "cpu", torch.float16)


def test_id_and_hash(encoder, t5_folder, tmp_path, monkeypatch):
    assert encoder.id == f"tiny-t5@{encoder.sha256[:12]}"
    copy = shutil.copytree(t5_folder, tmp_path / "tiny-t5")
    monkeypatch.setenv("TESSERA_MODELS", str(tmp_path))
    assert load_text_encoder(encoder.id, "cpu").sha256 == encoder.sha256
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"][5][1] = -9.5
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_text_encoder(str(copy), "cpu").sha256 != encoder.sha256  # the tokenizer is a part of it


def test_an_encoder_without_decoder(tmp_path):
    folder = save_t5(tmp_path / "encoder", encoder_only=True)
    encoder = load_text_encoder(str(folder), "cpu")
    np.testing.assert_allclose(encoder.encode(["a cat"])[0], by_hand(folder, "a cat"), atol=1e-5)


def test_what_is_no_t5(t5_folder, vae_folder, tmp_path):
    def fails(name, message):
        with pytest.raises(UserError, match=message) as error:
            load_text_encoder(str(name), "cpu")
        assert "\n" not in str(error.value)

    fails(vae_folder, "has no safetensors weights")
    fails("no-such-folder", "unknown text encoder.*words:<width>, a Hugging Face repository")
    copy = shutil.copytree(t5_folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    fails(copy, "is bert, wanted is a T5 of transformers")
    (copy / "config.json").write_text(json.dumps(config | {"num_layers": 3}))
    fails(copy, "is missing weights required by its config.json: .*block.2")
    (copy / "config.json").write_text(json.dumps(config | {"d_model": 32}))
    fails(copy, r"is missing weights required by its config.json")
    (copy / "config.json").write_text(json.dumps(config))
    for path in copy.glob("*tokenizer*"):
        path.unlink()
    fails(copy, r"has no tokenizer.json and no spiece.model")


def test_without_the_libraries(t5_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r'pip install .*"diffusers>='):
        load_text_encoder(str(t5_folder))
