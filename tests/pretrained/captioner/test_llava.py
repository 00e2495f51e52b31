"""Pruned LLaVA-NeXT gives what LLaVA-NeXT itself gives of the whole image's tokens and its own crops' tokens."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tessera.config import UserError
from tessera.pretrained.answers import Answer
from tessera.pretrained.captioner.llava import (
    BATCH,
    QUESTION_TOKENS,
    Llava,
    compile_decoder,
    fitting_batch,
    pruned_config,
)
from tessera.pretrained.captioner.prompt import quarter
from tessera.pretrained.chat import Question

IMAGE = np.asarray(
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((64, 64), 3)
)


PLAIN = Question("describe this image", (IMAGE,))


@pytest.fixture(scope="module")
def llava(llava_folder):
    return Llava(str(llava_folder), "cpu", torch.float32)


@pytest.fixture(scope="module")
def whole(llava_folder):
    """The same weights in transformers' LLaVA-NeXT class."""
    from transformers import LlavaNextForConditionalGeneration

    return LlavaNextForConditionalGeneration.from_pretrained(llava_folder).eval()


@pytest.fixture(scope="module")
def processor():
    """LLaVA-NeXT's own image processor."""
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    return LlavaNextImageProcessorPil(
        size={"shortest_edge": 24},
        crop_size={"height": 24, "width": 24},
        image_grid_pinpoints=[[48, 48]],
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.2, 0.25, 0.3],
    )


@torch.inference_mode()
def test_pruned_logits_are_those_of_llava_next_with_the_base_image_alone(llava, whole, processor):
    crops = processor(Image.fromarray(IMAGE), return_tensors="pt")["pixel_values"]  # (1, 1 + 4, 3, 24, 24)
    assert crops.shape == (1, 5, 3, 24, 24)
    ids = torch.tensor([llava.tokenize(PLAIN)])
    assert (ids == 4).sum() == llava.image_tokens == 9
    # LLaVA-NeXT's own parts, with the grid's tokens and image_newline left away.
    vision = whole.model.vision_tower(crops[:, 0], output_hidden_states=True).hidden_states[-2][:, 1:]
    embeddings = whole.get_input_embeddings()(ids)
    embeddings[ids == 4] = whole.model.multi_modal_projector(vision)[0]
    expected = whole(inputs_embeds=embeddings).logits
    pruned = llava.model(input_ids=ids, pixel_values=llava.pixels([IMAGE])).logits
    torch.testing.assert_close(pruned, expected, rtol=0, atol=1e-5)
    other = llava.model(input_ids=ids, pixel_values=llava.pixels([IMAGE[::-1].copy()])).logits
    assert (other - expected).abs().max() > 1e-3


@torch.inference_mode()
def test_quarter_tokens_are_those_of_llava_nexts_own_crop(llava, whole, processor):
    crops = processor(Image.fromarray(IMAGE), return_tensors="pt")["pixel_values"][0]
    for number, at in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        own = llava.pixels([quarter(IMAGE, at, 24)])
        torch.testing.assert_close(own[0], crops[1 + number], rtol=0, atol=1e-5)
        expected = whole.model.vision_tower(crops[None, 1 + number], output_hidden_states=True).hidden_states[-2]
        expected = whole.model.multi_modal_projector(expected[:, 1:])
        found = llava.model.get_image_features(own).pooler_output
        torch.testing.assert_close(torch.stack(list(found)), expected, rtol=0, atol=1e-5)
    assert (crops[1] - crops[4]).abs().max() > 0.1


@pytest.fixture(scope="module")
def questions():
    """Questions of two lengths."""
    images = [np.roll(IMAGE, 9 * i, axis=1) for i in range(4)]
    made = [Question("describe this image", (image,)) for image in images]
    made.insert(2, Question("describe word3", (images[0], images[1])))
    return made


def test_answers_do_not_depend_on_the_batch(llava, questions):
    together = [text for text, _ in llava.describe(questions, 6)]
    assert together == [llava.describe([question], 6)[0][0] for question in questions]
    assert len(set(together)) > 1
    assert all(len(text.split()) <= 6 for text in together)
    assert "<" not in "".join(together)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_static_cache_and_a_compiled_decoder_give_the_same_answers(llava_folder, questions, dtype, compiled):
    """Uncompiled, as transformers does on a CPU unless it is told otherwise, and compiled."""
    plain, static = (Llava(str(llava_folder), "cpu", dtype) for _ in range(2))
    compile_decoder(static.model)
    static.model.generation_config.compile_config._compile_all_devices = compiled
    for length in (6, 12):
        for plain.batch in (1, 3):
            static.batch = plain.batch
            for seed in (0, 1):
                assert static.describe(questions, length, seed) == plain.describe(questions, length, seed)
    assert hasattr(static.model, "_compiled_call") == compiled
    assert static.model._previous_max_cache_length > plain.image_tokens  # the cache was one of fixed size


@pytest.mark.parametrize(
    ("device", "fault", "cache"), [("cuda:1", None, "static"), ("cuda:1", "no compiler", None), ("cpu", None, None)]
)
def test_on_cuda_the_decoder_is_compiled_if_that_is_possible(llava_folder, monkeypatch, device, fault, cache):
    from transformers import GenerationConfig

    loaded = SimpleNamespace(generation_config=GenerationConfig())
    memory = SimpleNamespace(total_memory=10**6)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    monkeypatch.setattr("tessera.pretrained.captioner.llava.load_network", lambda *_, **options: loaded)
    monkeypatch.setattr("tessera.models.build.compiler_fault", lambda *_: fault)
    config = Llava(str(llava_folder), torch.device(device)).model.generation_config
    assert config.cache_implementation == cache


def test_generation_is_greedy_of_the_pruned_model(llava):
    ids = llava.tokenize(PLAIN)
    for _ in range(4):
        with torch.inference_mode():
            logits = llava.model(input_ids=torch.tensor([ids]), pixel_values=llava.pixels([IMAGE])).logits
        ids.append(int(logits[0, -1].argmax()))
    expected = llava._tokenizer.decode(ids[-4:], skip_special_tokens=True).strip()
    assert llava.describe([PLAIN], 4) == [(expected, True)]


def test_a_llava_15_folder_is_taken_as_it_is(llava, llava_folder, tmp_path):
    copy = shutil.copytree(llava_folder, tmp_path / "pruned")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(pruned_config(config)))
    assert Llava(str(copy), "cpu", torch.float32).describe([PLAIN], 5) == llava.describe([PLAIN], 5)


def test_what_is_no_llava(llava_folder, t5_folder, tmp_path):
    def opened(name):
        return Llava(str(name), "cpu", torch.float32)

    def fails(name, message, look=False):
        with pytest.raises(UserError, match=message) as error:
            opened(name).describe([PLAIN], 1) if look else opened(name)
        assert "\n" not in str(error.value)

    fails(t5_folder, "is not a LlavaNextForConditionalGeneration or")
    fails(tmp_path, "has no config.json")
    copy = shutil.copytree(llava_folder, tmp_path / "copy")
    (copy / "chat_template.jinja").unlink()
    fails(copy, "has no chat template")
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": "{{ 'hello' }}"}))
    fails(copy, "needs one image token for each image", look=True)
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (copy / "config.json").write_text(json.dumps(config))
    shutil.copy(llava_folder / "chat_template.jinja", copy)
    fails(copy, "is missing weights required by its config.json", look=True)
    with pytest.raises(UserError, match="float32 or bfloat16, not float16"):
        Llava(str(llava_folder), "cpu", torch.float16)


def test_an_answer_without_a_caption_is_drawn_again_and_set_aside_at_last(llava, monkeypatch):
    told = {0: [("", False), ("I'm sorry, I can't", False), ("A fox. It ru", True)], 1: [("A cat.", False)] * 2,
            2: [("<think>no", True)] * 2}  # fmt: skip
    asked = []

    def describe(questions, max_new_tokens, seed):
        asked.append((len(questions), seed))
        return [told[seed][-len(questions) + i] for i in range(len(questions))]

    monkeypatch.setattr(llava, "describe", describe)
    told[1][1] = ("", False)
    assert llava.caption([PLAIN] * 3, 5) == [
        Answer("A cat."),
        Answer(None, "it is only reasoning, without an end (--max-tokens is its limit)"),
        Answer("A fox.", "cut"),
    ]
    assert asked == [(3, 0), (2, 1), (1, 2)]


def test_drawn_answers_are_a_function_of_question_and_seed(llava):
    state = torch.random.get_rng_state()
    drawn = [llava.describe([PLAIN, PLAIN], 6, seed) for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2]
    assert drawn[0][0] == drawn[0][1]
    assert drawn[0] != drawn[1]
    assert torch.equal(state, torch.random.get_rng_state())


def test_as_many_questions_are_answered_together_as_fit(llava, monkeypatch):
    """On an 80 GB GPU 256 questions are two calls, of nothing but tokens."""
    calls, generate = [], llava.model.generate

    def counted(**inputs):
        calls.append(len(inputs["input_ids"]))
        assert inputs["attention_mask"].all()
        return generate(**inputs)

    monkeypatch.setattr(llava.model, "generate", counted)
    monkeypatch.setattr(llava, "batch", 128)
    assert len(set(llava.describe([PLAIN] * 256, 1))) == 1
    assert calls == [128, 128]


def test_the_batch_is_of_the_memory(llava, llava_folder, monkeypatch):
    assert llava.batch == BATCH  # on a CPU
    question = 1.5 * 2 * 2 * 32 * 8 * 128 * QUESTION_TOKENS  # bytes, of llama3-llava-next-8b-hf
    found = {gb: fitting_batch(0.9e9 * gb - 16.7e9, question) for gb in (16, 24, 40, 48, 80, 141)}
    assert found == {16: 1, 24: 16, 40: 64, 48: 64, 80: 128, 141: 128}
    asked = []
    about = SimpleNamespace(total_memory=10**6)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: asked.append(device) or about)
    assert Llava(str(llava_folder), torch.device("cuda:1")).batch < BATCH
    assert asked == [torch.device("cuda:1")]


def test_a_batch_that_is_too_large_is_halved_and_one_image_that_is_names_the_fix(llava, monkeypatch):
    expected, generate, most = llava.describe([PLAIN] * 7, 3), llava.model.generate, 2

    def small(**inputs):
        if len(inputs["input_ids"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(**inputs)

    monkeypatch.setattr(llava.model, "generate", small)
    monkeypatch.setattr(llava, "batch", 8)
    assert llava.describe([PLAIN] * 7, 3) == expected
    assert llava.batch == 2
    most = 0
    with pytest.raises(UserError, match=r"too little memory for .*; free some, give a smaller --model"):
        llava.describe([PLAIN], 3)
