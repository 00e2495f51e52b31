"""Word vectors: equal in every process, nearly orthogonal. T5: what transformers gives text by text; clear errors."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.config import UserError
from tessera.encoded.record import quantize
from tessera.pretrained.text_encoders import END, PretrainedText, Words, load_text_encoder, split_words
from tiny.models import save_t5, save_text_encoder

CAPTION = "A red circle, left of a large blue star."


def test_words_of_a_text():
    assert split_words("An image of Golden-Retriever_2's!") == ["an", "image", "of", "golden", "retriever", "2's"]
    assert split_words("l\u2019\u00e9t\u00e9  e\u0301te\u0301") == ["l'\u00e9t\u00e9", "\u00e9t\u00e9"]
    assert split_words("\u732b \U0001f600 'quoted'") == ["\u732b", "quoted"]
    assert split_words(" ... ") == []


def test_encoding_is_one_vector_per_word_and_the_end():
    encoder = Words(width=48)
    long, short, empty = encoder.encode([CAPTION, "red star", ""])
    assert [array.dtype for array in (long, short, empty)] == [np.float32] * 3
    assert long.shape == (len(split_words(CAPTION)) + 1, 48)
    assert short.shape == (3, 48)
    assert np.array_equal(short[0], long[1])
    assert np.array_equal(short[1], long[-2])
    assert np.array_equal(empty, encoder.null_condition)
    assert np.array_equal(empty[0], long[-1])


@given(st.text(max_size=40), st.sampled_from([1, 7, 64]))
def test_entries_have_unit_variance(text, width):
    for row in Words(width).encode([text])[0]:
        assert np.square(row, dtype=np.float64).mean() == pytest.approx(1, rel=1e-5)


def test_different_words_are_nearly_orthogonal_and_entries_centred():
    vectors = np.concatenate([rows[:-1] for rows in Words(64).encode([f"word{i}" for i in range(400)])])
    cosines = (vectors @ vectors.T / 64)[np.triu_indices(400, 1)]
    assert abs(cosines.mean()) < 0.002
    assert cosines.std() == pytest.approx(1 / 8, rel=0.05)
    assert np.abs(cosines).max() < 0.75
    assert abs(vectors.mean()) < 0.02


def test_known_values():
    # Pinned: encoded sets and exported models made earlier must keep their meaning.
    digest = hashlib.sha256(np.concatenate(Words(64).encode([CAPTION, ""])).round(4).tobytes()).hexdigest()
    assert digest[:16] == "dc16923e94e5a9af"


def test_same_in_another_process_and_in_any_order():
    source = "from tessera.pretrained.text_encoders import Words"
    code = f"{source}; print(Words(64).encode(['zebra {CAPTION}'])[0].tobytes().hex())"
    other = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    here = Words(64)
    here.encode(["something met earlier"])
    assert here.encode([f"zebra {CAPTION}"])[0].tobytes().hex() == other.stdout.strip()


def test_cut_keeps_the_end_and_is_counted():
    encoder = Words(8, max_tokens=4)
    text = "one two three four five"
    assert encoder.count_tokens([text, ""]) == [6, 1]
    cut = encoder.encode([text])[0]
    assert cut.shape == (4, 8)
    assert np.array_equal(cut, encoder.encode(["one two three"])[0])


def test_end_token_is_no_word():
    assert END not in split_words(f"a {END} b")


def test_load_by_id():
    encoder = load_text_encoder("words:32")
    assert (encoder.id, encoder.width, encoder.null_condition.shape) == ("words:32", 32, (1, 32))
    assert load_text_encoder("words").id == "words:64"
    for unknown in ("t5", "words:", "words:x"):
        with pytest.raises(UserError, match=r"unknown text encoder.*words:<width>"):
            load_text_encoder(unknown)
    with pytest.raises(UserError, match="width from 1 to 4096, not 0"):
        load_text_encoder("words:0")


# ---- T5

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


def test_neither_padding_nor_batch_matter(encoder, t5_folder, monkeypatch):
    encoded = encoder.encode(TEXTS)
    encoder = PretrainedText(str(t5_folder), "cpu", batch_tokens=300)
    calls = []
    forward = encoder.network.forward

    def counting(**inputs):
        calls.append(tuple(inputs["input_ids"].shape))
        return forward(**inputs)

    monkeypatch.setattr(encoder.network, "forward", counting)
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

    encoder = PretrainedText(str(t5_folder), "cpu", max_tokens=5)
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
    with pytest.raises(UserError, match="a text encoder computes in float32 or bfloat16, not float16"):
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
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "bart"}))
    fails(copy, "is bart, wanted is a text encoder of transformers: t5, umt5, clip")
    (copy / "config.json").write_text(json.dumps(config | {"num_layers": 3}))
    fails(copy, "is missing weights required by its config.json: .*block.2")
    (copy / "config.json").write_text(json.dumps(config | {"d_model": 32}))
    fails(copy, r"is missing weights required by its config.json")
    (copy / "config.json").write_text(json.dumps(config))
    for path in copy.glob("*tokenizer*"):
        path.unlink()
    fails(copy, r"has no tokenizer.json and no spiece.model")


OTHERS = {"umt5": "UMT5EncoderModel", "clip": "CLIPTextModel", "bert": "BertModel", "qwen3": "Qwen3Model"}


@pytest.mark.parametrize("kind", OTHERS)
@torch.inference_mode()
def test_encoders_of_every_kind_are_transformers(kind, tmp_path):
    """Each text alone, by hand; qwen3's tokenizer ends no text, so that its end token is added."""
    import transformers

    folder = save_text_encoder(tmp_path / kind, kind)
    encoder, tokenizer = load_text_encoder(str(folder), "cpu"), transformers.AutoTokenizer.from_pretrained(folder)
    network = getattr(transformers, OTHERS[kind]).from_pretrained(folder).eval()
    limit = 256 if kind == "umt5" else 16
    assert (encoder.width, encoder.max_tokens) == (24, limit)
    texts = ["a red cat", "dog", "", "left of a dog " * (limit // 4 + 1), "dog"]
    encoded, counts = encoder.encode(texts), encoder.count_tokens(texts)
    for text, array, count in zip(texts, encoded, counts):
        ids = tokenizer(text)["input_ids"] + ([2] if kind == "qwen3" else [])
        assert count == len(ids)
        ids = ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]
        expected = network(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(array, expected, atol=2e-5)
    assert counts[3] > limit == len(encoded[3])
    np.testing.assert_allclose(encoder.null_condition, encoded[2][-1:], atol=1e-6)
    near = load_text_encoder(str(folder), "cpu", torch.bfloat16).encode(texts[:1])[0]
    assert 1e-4 < np.linalg.norm(near - encoded[0]) / np.linalg.norm(encoded[0]) < 0.05


def test_an_encoder_without_an_end_token_or_a_tokenizer(tmp_path):
    folder = save_text_encoder(tmp_path / "qwen3", "qwen3")
    for path in folder.glob("*token*_config.json"):
        path.write_text(path.read_text().replace('"eos_token": "[SEP]",', ""))
    for path in folder.glob("special_tokens*"):
        path.unlink()
    with pytest.raises(UserError, match=r"the tokenizer of qwen3@.* has no end token \(eos_token\)"):
        load_text_encoder(str(folder), "cpu")
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        load_text_encoder(str(folder), "cpu")


def test_t5_without_the_libraries(t5_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r'pip install .*"diffusers>='):
        load_text_encoder(str(t5_folder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [64, 40, 136])
def test_codes_of_the_device_are_those_of_the_record(dtype, width, tmp_path):
    encoder = PretrainedText(str(save_t5(tmp_path / "t5", width=width)), "cpu", dtype, batch_tokens=64)
    found, expected = encoder.quantize(TEXTS), [quantize(array) for array in encoder.encode(TEXTS)]
    assert len(found) == len(TEXTS)
    for ours, theirs in zip(found, expected):
        for one, other in zip(ours, theirs):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    with torch.no_grad():
        encoder.network.encoder.final_layer_norm.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="must be finite and below 8e6"):
        encoder.quantize(["a"])
