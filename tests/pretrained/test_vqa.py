"""Judges that answer questions: tiny random networks of their classes, and a server of the test's own."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tessera.config import UserError
from tessera.pretrained.vqa import identity, load_vqa
from tiny.chat_server import ChatServer, completion, question_of
from tiny.judges import save_blip, save_clip, save_qwen_vl

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
QUESTIONS = ["is there a dog ?", "is there a cat ?", "a cat"]


def test_blip_answers_each_question_about_the_image(tmp_path):
    folder = str(save_blip(tmp_path / "blip"))
    blip = load_vqa("blip", folder, None)
    together = blip.answer(IMAGE, QUESTIONS)
    assert together == [blip.answer(IMAGE, [question])[0] for question in QUESTIONS]
    assert together[0] != blip.answer(255 - IMAGE, QUESTIONS)[0] or together != blip.answer(IMAGE[:, ::-1], QUESTIONS)
    asked = {}
    blip.model.generate = lambda **inputs: asked.update(inputs) or torch.zeros(3, 1, dtype=torch.long)
    blip.answer(IMAGE, ["is there a dog ?", "is there a cat ?", "a dog is there ?"])
    assert asked["pixel_values"].shape == (3, 3, 16, 16)
    by_hand = np.asarray(Image.fromarray(IMAGE).resize((16, 16), Image.Resampling.BICUBIC))[3, 5] / 255
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    np.testing.assert_allclose(asked["pixel_values"][2, :, 3, 5], (by_hand - mean) / std, rtol=1e-5)
    assert identity("blip", folder)["model"] == f"blip@{identity('blip', folder)['sha256'][:12]}"
    assert len(identity("blip", folder)["sha256"]) == 64


@pytest.mark.parametrize("level", range(0, 256, 51))
def test_blip_answers_as_if_each_question_were_the_only_one(level, tmp_path):
    """transformers lets the decoder see padding, so that a padded question's answer would depend on the others."""
    blip = load_vqa("blip", str(save_blip(tmp_path / "blip")), None)
    plain = np.full((40, 56, 3), level, np.uint8)
    questions = ["dog", "is there a cat a dog a cat is there ?"]
    assert blip.answer(plain, questions) == [blip.answer(plain, [question])[0] for question in questions]
    assert blip.answer(plain, questions[::-1]) == blip.answer(plain, questions)[::-1]


def test_qwen_answers_each_question_about_the_image(tmp_path):
    qwen = load_vqa("qwen-vl", str(save_qwen_vl(tmp_path / "qwen")), None)
    together = qwen.answer(IMAGE, QUESTIONS)
    assert len(together) == 3
    asked = {}

    def generate(**inputs):
        asked.update(inputs)
        return torch.cat([inputs["input_ids"], inputs["input_ids"][:, :1]], 1)

    qwen.model.generate = generate
    qwen.answer(IMAGE, QUESTIONS)
    texts = qwen.tokenizer.batch_decode(asked["input_ids"])
    places = int(asked["image_grid_thw"][0].prod()) // 4
    assert (asked["mm_token_type_ids"].sum(1) == places).all()
    assert all(text.count("<|image_pad|>") == places for text in texts)
    assert texts[0].endswith(
        "<|vision_end|>is there a dog ? Answer with one word: yes or no.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert texts[2].startswith("<|endoftext|>")  # padded at the left
    assert asked["pixel_values"].shape[0] == 3 * 4 * places


def test_what_cannot_be_had(tmp_path):
    for call in (identity, lambda backend, model: load_vqa(backend, model, None)):
        with pytest.raises(UserError, match=r"^vqa-model: .*none: there is no such folder"):
            call("blip", str(tmp_path / "none"))
    with pytest.raises(UserError, match="is blip, wanted is a model for qwen-vl"):
        load_vqa("qwen-vl", str(save_blip(tmp_path / "blip")), None)
    with pytest.raises(UserError, match="needs the model's name on the server"):
        identity("openai", None)
    with pytest.raises(UserError, match="needs the server's address"):
        load_vqa("openai", "m", None)
    with pytest.raises(UserError, match="is no address"):
        load_vqa("openai", "m", "localhost:8000")
    with pytest.raises(UserError, match="needs the package modelscope"):
        load_vqa("mplug", None, None)
    with pytest.raises(UserError, match="is clip, wanted is a model for blip"):
        identity("blip", str(save_clip(tmp_path / "clip")))
    (tmp_path / "blip" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no safetensors weights"):
        identity("blip", str(tmp_path / "blip"))


def test_weights_without_a_part_are_refused(tmp_path):
    """transformers would fill the rest with random numbers and only warn: a captioner's file has no question half."""
    folder = save_blip(tmp_path / "blip")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("text_encoder")}
    assert 0 < len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"is missing weights required by its config\.json: text_encoder"):
        load_vqa("blip", str(folder), None)


def test_a_server_answers_in_the_order_of_the_questions():
    pytest.importorskip("openai")
    with ChatServer(lambda body, n: (200, completion(" Yes" if "dog" in question_of(body) else "no "))) as server:
        assert load_vqa("openai", "m", server.address).answer(IMAGE, QUESTIONS) == ["Yes", "no", "no"]
    path, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 8)
    assert body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert question_of(body).endswith("Answer with one word: yes or no.")
