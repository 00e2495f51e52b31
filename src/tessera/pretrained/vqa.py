"""Networks that answer questions about an image, in words or by probabilities (DPG-Bench, Soft-TIFA, VQAScore)."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tessera.config import UserError
from tessera.hub import ModelFolder, find_model
from tessera.pretrained.chat import ChatClient, Question
from tessera.pretrained.features.encoder import CLIP_MEAN, CLIP_STD, normalized
from tessera.pretrained.load import load_network, load_tokenizer

Backend = Literal["blip", "qwen-vl", "openai", "mplug"]
DEFAULTS = {
    "blip": "Salesforce/blip-vqa-capfilt-large",
    "qwen-vl": "Qwen/Qwen2.5-VL-7B-Instruct",
    "mplug": "damo/mplug_visual-question-answering_coco_large_en",
}
"""The model of each backend that has one by default."""
INSTRUCTION = "{question} Answer with one word: yes or no."
"""The prompt of chat models."""
FIELD = "vqa-model"
"""The flag that errors about a model begin with."""
QWEN = {
    "qwen2_5_vl": ("Qwen2_5_VL", "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"),
    "qwen3_vl": ("Qwen3VL", ""),
}
"""model_type -> (the beginning of its class in transformers, what its chat template puts before the question)."""
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_MAX_TOKENS = 8


def spellings(answer: str) -> list[str]:
    """Return the forms of a one-word answer that GenEval 2 counts, each once: four of the word, two of digits."""
    word = answer.lower()
    word = NUMBERS[int(word) - 1] if word in map(str, range(1, 11)) else word
    forms = [word, word.capitalize()]
    forms += [str(NUMBERS.index(word) + 1)] if word in NUMBERS else []
    return list(dict.fromkeys(forms + [f" {form}" for form in forms]))  # "12" has no capital


def of_one_length(tokens: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield groups of rows that have equally many tokens: batches without padding."""
    for length in sorted(set(map(len, tokens))):
        yield [row for row, ids in enumerate(tokens) if len(ids) == length]


class Vqa(Protocol):
    """A network as DPG-Bench needs it."""

    def answer(self, image: NDArray[np.uint8], questions: Sequence[str]) -> list[str]:
        """Answer each question about the image, uint8 (H, W, 3)."""
        ...


class ChatVqa(Vqa, Protocol):
    """A chat model, which gives the probabilities of its answers too."""

    def answer(self, image: NDArray[np.uint8], questions: Sequence[str], instruction: str = INSTRUCTION) -> list[str]:
        """Answer each question, put into the instruction's place {question}."""
        ...

    def probabilities(self, image: NDArray[np.uint8], prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Return for each prompt about the image the probability, 0..1, that the reply begins with its answer.

        It is summed over the first tokens of the answer's `spellings`, each of which counts once.
        """
        ...


class BlipVqa:
    """BLIP fine-tuned on VQA 2 (transformers). Its short answers are taken as they are.

    Its decoder sees every token of the question, padding too, so only questions of one length share a batch.
    """

    def __init__(self, model: Any, tokenizer: Any, device: torch.device | str = "cpu"):
        self.model, self.tokenizer, self.device = model, tokenizer, torch.device(device)

    @torch.inference_mode()
    def answer(self, image: NDArray[np.uint8], questions: Sequence[str]) -> list[str]:
        """Answer greedily; the questions of one image that have the same number of tokens are one batch."""
        tokens: list[list[int]] = self.tokenizer(list(questions), truncation=True)["input_ids"]
        size: int = self.model.config.vision_config.image_size
        scaled = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)  # squashed to a square
        pixels = normalized(scaled, CLIP_MEAN, CLIP_STD).to(self.device)
        answers = [""] * len(questions)
        for rows in of_one_length(tokens):
            ids = torch.tensor([tokens[row] for row in rows], device=self.device)  # (n, length)
            out = self.model.generate(
                pixel_values=pixels.expand(len(rows), -1, -1, -1),
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=_MAX_TOKENS,
                num_beams=1,
                do_sample=False,
            )
            for row, text in zip(rows, self.tokenizer.batch_decode(out, skip_special_tokens=True)):
                answers[row] = text.strip()
        return answers


class QwenVqa:
    """Qwen2.5-VL or Qwen3-VL (transformers), asked by its chat template.

    The questions of one image that have the same number of tokens are one batch.
    """

    def __init__(self, model: Any, tokenizer: Any, processor: Any, device: torch.device | str = "cpu"):
        self.model, self.tokenizer, self.processor = model, tokenizer, processor
        self.device = torch.device(device)

    def _batches(
        self, image: NDArray[np.uint8], prompts: Sequence[str]
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Yield (rows of the prompts, the network's inputs)."""
        seen = self.processor(images=[Image.fromarray(image)], return_tensors="pt")
        pixels, grid = seen["pixel_values"], seen["image_grid_thw"]  # (patches, values), (1, 3)
        places = "<|image_pad|>" * (int(grid.prod()) // self.processor.merge_size**2)
        begin = QWEN[self.model.config.model_type][1]
        texts = [
            f"{begin}<|im_start|>user\n<|vision_start|>{places}<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"
            for prompt in prompts
        ]
        tokens: list[list[int]] = self.tokenizer(texts)["input_ids"]
        image_token = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        for rows in of_one_length(tokens):
            ids = torch.tensor([tokens[row] for row in rows], device=self.device)  # (n, length)
            yield (
                rows,
                {
                    "input_ids": ids,
                    "attention_mask": torch.ones_like(ids),
                    "mm_token_type_ids": (ids == image_token).int(),
                    "pixel_values": pixels.repeat(len(rows), 1).to(self.device),
                    "image_grid_thw": grid.repeat(len(rows), 1).to(self.device),
                },
            )

    @torch.inference_mode()
    def answer(self, image: NDArray[np.uint8], questions: Sequence[str], instruction: str = INSTRUCTION) -> list[str]:
        """Answer greedily."""
        answers = [""] * len(questions)
        for rows, inputs in self._batches(image, [instruction.format(question=question) for question in questions]):
            out = self.model.generate(**inputs, max_new_tokens=_MAX_TOKENS, do_sample=False)
            new = out[:, inputs["input_ids"].shape[1] :]
            for row, text in zip(rows, self.tokenizer.batch_decode(new, skip_special_tokens=True)):
                answers[row] = text.strip()
        return answers

    @torch.inference_mode()
    def probabilities(self, image: NDArray[np.uint8], prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Return the probability of each answer, over the whole vocabulary."""
        found = [0.0] * len(prompts)
        for rows, inputs in self._batches(image, prompts):
            logits = self.model(**inputs, logits_to_keep=1).logits[:, -1]  # (n, vocabulary)
            for row, shares in zip(rows, logits.double().softmax(-1).cpu()):
                forms = self.tokenizer(spellings(answers[row]), add_special_tokens=False)["input_ids"]
                found[row] = min(float(shares[list({form[0] for form in forms})].sum()), 1.0)
        return found


class ServerVqa:
    """A vision-language model behind an OpenAI-compatible server; several questions are asked at once."""

    def __init__(self, client: ChatClient):
        self.client = client

    def answer(self, image: NDArray[np.uint8], questions: Sequence[str], instruction: str = INSTRUCTION) -> list[str]:
        """Return the server's answers at temperature 0."""
        asked = [Question(instruction.format(question=question), (image,)) for question in questions]
        told = dict(self.client.ask_all(enumerate(asked), max_tokens=_MAX_TOKENS, temperature=0, seed=0))
        return [told[i] for i in range(len(asked))]

    def probabilities(self, image: NDArray[np.uint8], prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Return the probability of each answer among the tokens that the server tells; 0 if it is not among them.

        Raises UserError for a server without log-probabilities, and for one none of whose tokens is an answer.
        """
        told = dict(self.client.first_tokens(enumerate(Question(prompt, (image,)) for prompt in prompts)))
        known = {form for word in ("yes", "no", *NUMBERS, *answers) for form in spellings(word)}
        if told and not any(known & tokens.keys() for tokens in told.values()):
            first = max(told[0], key=lambda token: told[0][token])
            raise UserError(
                f"server: its replies begin with no answer but with {first!r}; choose a model that answers at once"
            )
        return [min(sum(told[i].get(form, 0.0) for form in spellings(answer)), 1.0) for i, answer in enumerate(answers)]


class MplugVqa:
    """mPLUG-large of ModelScope, DPG-Bench's reference judge; its package is installed by the user."""

    def __init__(self, model: str, device: torch.device | str = "cpu"):
        try:
            from modelscope.pipelines import pipeline  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(
                "mplug needs the package modelscope with its multi-modal extra; install it, or choose --vqa blip"
            ) from error
        self._pipeline = pipeline("visual-question-answering", model=model, device=str(device))

    def answer(self, image: NDArray[np.uint8], questions: Sequence[str]) -> list[str]:
        """Answer one question at a time."""
        shown = Image.fromarray(image)
        return [str(self._pipeline({"image": shown, "question": question})["text"]) for question in questions]


def load_vqa(backend: Backend, model: str | None, server: str | None, device: torch.device | str = "cpu") -> Vqa:
    """Load the judge of a backend; model: of the Hub, a folder, or the server's name. Raises UserError."""
    name, folder = _find(backend, model)
    if backend == "openai":
        if server is None:
            raise UserError("server: --vqa openai needs the server's address, such as http://127.0.0.1:8000/v1")
        return ServerVqa(ChatClient(server, name))
    if folder is None:
        return MplugVqa(name, device)
    tokenizer = load_tokenizer(folder, FIELD)
    if backend == "blip":
        network = load_network("transformers.BlipForQuestionAnswering", folder, FIELD, device=device)
        return BlipVqa(network, tokenizer, device)
    from transformers import Qwen2VLImageProcessorPil

    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    kind, _ = QWEN[folder.config(FIELD, "model_type", QWEN, "a model for qwen-vl")["model_type"]]
    cls = f"transformers.{kind}ForConditionalGeneration"
    network = load_network(cls, folder, FIELD, dtype=dtype, device=device)
    return QwenVqa(network, tokenizer, Qwen2VLImageProcessorPil.from_pretrained(folder.path), device)


def _find(backend: Backend, model: str | None) -> tuple[str, ModelFolder | None]:
    """Return the name of the model that is meant, and its files for a network of transformers."""
    if model is None and backend not in DEFAULTS:
        raise UserError(f"{FIELD}: --vqa {backend} needs the model's name on the server")
    name = model or DEFAULTS[backend]
    if backend in ("openai", "mplug"):
        return name, None
    folder = find_model(name, ["*.safetensors", "*.json", "*.txt", "*.jinja"], FIELD)
    folder.config(FIELD, "model_type", "blip" if backend == "blip" else QWEN, f"a model for {backend}")
    return folder.id, folder


def identity(backend: Backend, model: str | None) -> dict[str, str | None]:
    """Return what protocols say: the backend, its model, and the hash of weights that are on this machine."""
    name, folder = _find(backend, model)
    return {"backend": backend, "model": name, "sha256": folder and folder.sha256}
