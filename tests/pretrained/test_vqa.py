"""Judges that answer questions: tiny random networks of their classes, and a server of the test's own."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tessera.config import UserError
from tessera.pretrained.vqa import identity, load_vqa, spellings
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


@pytest.mark.parametrize("three", [False, True])
def test_qwen_answers_each_question_about_the_image(three, tmp_path):
    qwen = load_vqa("qwen-vl", str(save_qwen_vl(tmp_path / "qwen", three)), None)
    together = qwen.answer(IMAGE, QUESTIONS)
    assert together == [qwen.answer(IMAGE, [question])[0] for question in QUESTIONS]
    asked = []

    def generate(**inputs):
        asked.append(inputs)
        return torch.cat([inputs["input_ids"], inputs["input_ids"][:, :1]], 1)

    qwen.model.generate = generate
    qwen.answer(IMAGE, QUESTIONS)
    assert [len(batch["input_ids"]) for batch in asked] == [1, 2]  # "a cat", and two of one length
    for batch in asked:
        places = int(batch["image_grid_thw"][0].prod()) // 4
        assert (batch["mm_token_type_ids"].sum(1) == places).all()
        assert batch["pixel_values"].shape[0] == len(batch["input_ids"]) * 4 * places
        assert batch["attention_mask"].all()
    system = "" if three else "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    (text, _) = qwen.tokenizer.batch_decode(asked[1]["input_ids"])
    assert text == (
        f"{system}<|im_start|>user\n<|vision_start|>{'<|image_pad|>' * places}<|vision_end|>is there a dog ? "
        "Answer with one word: yes or no.<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("three", [False, True])
def test_qwen_s_probabilities_are_those_of_geneval_2_s_script(three, tmp_path):
    """The sum over the first tokens of the answer's forms, of the softmax of the scores that `generate` gives."""
    qwen = load_vqa("qwen-vl", str(save_qwen_vl(tmp_path / "qwen", three)), None)
    prompts, answers = ["How many dogs? Answer in one word.", "A cat?", "How many cats? Answer in one word."], []
    for answer, forms in {
        "four": ["four", "Four", " four", " Four", "4", " 4"],
        "Yes": ["Yes", "yes", " yes", " Yes"],
        "ten": ["ten", "Ten", " ten", " Ten", "10", " 10"],
    }.items():
        (inputs,) = [batch for _, batch in qwen._batches(IMAGE, [prompts[len(answers)]])]
        out = qwen.model.generate(
            **inputs, max_new_tokens=1, do_sample=False, output_scores=True, return_dict_in_generate=True
        )
        probs = torch.nn.functional.softmax(out.scores[0], dim=-1)
        first = {qwen.tokenizer.encode(form)[0] for form in forms}  # the forms with a space share theirs
        answers.append((answer, sum(probs[0, token].item() for token in first)))
    found = qwen.probabilities(IMAGE, prompts, [answer for answer, _ in answers])
    assert found == pytest.approx([expected for _, expected in answers], rel=1e-4)
    assert len({round(value, 6) for value in found}) == 3
    assert found != pytest.approx(qwen.probabilities(255 - IMAGE, prompts, [answer for answer, _ in answers]), rel=1e-4)


@pytest.mark.parametrize(
    ("answer", "forms"),
    [
        ("Yes", {"yes", "Yes", " yes", " Yes"}),
        ("seven", {"seven", "Seven", " seven", " Seven", "7", " 7"}),
        ("3", {"three", "Three", " three", " Three", "3", " 3"}),
        ("12", {"12", " 12"}),
        ("\u662f", {"\u662f", " \u662f"}),
    ],
)
def test_spellings_of_an_answer(answer, forms):
    assert len(spellings(answer)) == len(forms)
    assert set(spellings(answer)) == forms


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


def test_a_server_s_probabilities():
    pytest.importorskip("openai")
    tokens = {"Yes": -0.5, " yes": -2.0, "No": -1.5, "yes!": -3.0, "4": -1.0, "Four": -2.5, "12": -1.2}
    with ChatServer(lambda body, n: (200, completion("Yes", tokens))) as server:
        judge = load_vqa("openai", "m", server.address)
        found = judge.probabilities(
            IMAGE, ["A dog? Answer in one word.", "How many?", "How many?"], ["yes", "four", "12"]
        )
    assert found == pytest.approx([np.exp(-0.5) + np.exp(-2.0), np.exp(-1.0) + np.exp(-2.5), np.exp(-1.2)])
    (_, body), *_ = server.requests
    assert (body["max_tokens"], body["temperature"], body["logprobs"], body["top_logprobs"]) == (1, 0, True, 20)
    assert question_of(body) in ("A dog? Answer in one word.", "How many?")


@pytest.mark.parametrize(
    "reply",
    [(200, completion("Yes")), (400, {"error": {"message": "logprobs are not supported by this model"}})],
)
def test_a_server_without_log_probabilities(reply):
    pytest.importorskip("openai")
    with ChatServer(lambda body, n: reply) as server:
        judge = load_vqa("openai", "m", server.address)
        with pytest.raises(UserError, match=rf"^server {server.address}: gives no log-probabilities; .*--words"):
            judge.probabilities(IMAGE, ["A dog?"], ["yes"])
    assert len(server.requests) == 1  # not asked again


def test_a_server_that_thinks_first():
    pytest.importorskip("openai")
    with ChatServer(lambda body, n: (200, completion("<think>", {"<think>": -0.01, "Hm": -5.0}))) as server:
        judge = load_vqa("openai", "m", server.address)
        with pytest.raises(UserError, match=r"begin with no answer but with '<think>'; choose a model that answers"):
            judge.probabilities(IMAGE, ["A dog?", "A cat?"], ["yes", "yes"])
    with ChatServer(lambda body, n: (200, completion("No", {"No": -0.01}))) as server:
        assert load_vqa("openai", "m", server.address).probabilities(IMAGE, ["A dog?"], ["yes"]) == [0.0]
