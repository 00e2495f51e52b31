"""LLaVA-NeXT with pruned image tokens, the paper's captioner (appendix B).

A LLaVA-NeXT checkpoint loaded with transformers' LLaVA-1.5 class sees whole images alone: only the weight
`image_newline` is left over, and a quarter of the image is a second image of the prompt (`prompt.make_question`).
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tessera.config import UserError
from tessera.files import read_json
from tessera.hub import CONFIG_FILE, ModelFolder, find_model
from tessera.pretrained.answers import RETRIES, TEMPERATURE, Answer, NoCaption, caption_of
from tessera.pretrained.captioner.prompt import MAX_NEW_TOKENS
from tessera.pretrained.chat import Question
from tessera.pretrained.load import check_float, load_network, load_tokenizer

if TYPE_CHECKING:
    import torch

LLAVA_FILES = ("model*.safetensors", "model.safetensors.index.json", "tokenizer*.json", "tokenizer.model",
               "*tokens*.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
               "chat_template.*")  # fmt: skip
LLAVA_TYPES = {"llava_next": "LlavaNextForConditionalGeneration", "llava": "LlavaForConditionalGeneration"}
NEWLINE = "image_newline"  # the one weight of LLaVA-NeXT that LLaVA-1.5's class does not have
BATCH = 16
"""Questions that are answered together where the device tells no memory."""
MOST = 128
"""Questions that are answered together at most: with more, each token waits for memory, not for the host."""
QUESTION_TOKENS = 2 * 576 + 100 + MAX_NEW_TOKENS
"""Tokens of a question and its answer, about the most that there are."""
WORKSPACE = 1.5
"""Memory that a question takes, in terms of its keys and values: those, and what its prefill computes with."""


def pruned_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a LLaVA-NeXT config.json into that of the LLaVA-1.5 class with the same weights but `image_newline`."""
    names = ("vision_config", "text_config", "image_token_index", "image_token_id", "projector_hidden_act", "dtype",
            "vision_feature_select_strategy", "vision_feature_layer", "multimodal_projector_bias", "torch_dtype",
            "pad_token_id", "eos_token_id", "bos_token_id", "tie_word_embeddings", "transformers_version")  # fmt: skip
    side = config["vision_config"]["image_size"] // config["vision_config"]["patch_size"]
    told = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "image_seq_length": side**2}
    return {name: config[name] for name in names if name in config} | told


def read_config(folder: ModelFolder) -> dict[str, Any]:
    """Return the config.json of a LLaVA; UserError if it is another model."""
    config = read_json(folder.path / CONFIG_FILE)
    if not isinstance(config, dict) or config.get("model_type") not in LLAVA_TYPES:
        raise UserError(f"captioner: {folder.id} is not a {' or '.join(LLAVA_TYPES.values())} of transformers")
    return config


def fitting_batch(free: float, each: float) -> int:
    """Return the largest power of two, at most `MOST` and at least 1, of which as many times `each` bytes are free."""
    return 2 ** int(math.log2(min(max(free / each, 1), MOST)))


def compile_decoder(model: Any) -> None:
    """Let a model of transformers generate with a cache of fixed size and a compiled step, which it does on GPUs.

    Numbers are rounded where they are without. No CUDA graphs: each number of questions would take one of its own.
    """
    from transformers import CompileConfig

    options = {"emulate_precision_casts": True}
    model.generation_config.cache_implementation = "static"
    model.generation_config.compile_config = CompileConfig(mode=None, options=options)  # type: ignore[arg-type]


class Llava:
    """A LLaVA-NeXT (or LLaVA-1.5) checkpoint that sees whole images alone. Greedy: a caption has no randomness.

    name: a repository, a folder, or the id of one. device: None = the best there is. dtype: torch.bfloat16 (None) or
    torch.float32.
    """

    def __init__(
        self, name: str, device: "str | torch.device | None" = None, dtype: "torch.dtype | None" = None
    ) -> None:
        import torch

        from tessera.devices import pick_device
        from tessera.pretrained.features.encoder import CLIP_MEAN, CLIP_STD

        self._dtype = check_float(dtype or torch.bfloat16, "captioner", "LLaVA")
        self._device = pick_device(device)
        self.folder = find_model(name, LLAVA_FILES, "captioner")
        self._config = pruned_config(read_config(self.folder))
        self.side: int = self._config["vision_config"]["image_size"]
        """Side of the images that it sees, in pixels; 336 for llama3-llava-next-8b-hf."""
        self.batch = self._choose_batch()
        """Questions that are answered together; halved where they turn out to be too many for the memory."""
        self.image_tokens: int = self._config["image_seq_length"]
        """Tokens of one image of a prompt; 576 for llama3-llava-next-8b-hf."""
        self._image_token = int(self._config.get("image_token_id", self._config.get("image_token_index", 32000)))
        self._tokenizer = load_tokenizer(self.folder, "captioner")
        self.revision = self.folder.revision
        """Commit, or the start of the content hash."""
        template = self._tokenizer.chat_template or self._read("chat_template.json").get("chat_template")
        template = template or self._read("processor_config.json").get("chat_template")
        if not isinstance(template, str):
            raise UserError(f"captioner: {self.folder.id} has no chat template; add its chat_template.jinja")
        self.template = template
        """The Jinja chat template of a question."""
        told = self._read("preprocessor_config.json")
        told = told.get("image_processor", told)
        self.mean = [float(value) for value in told.get("image_mean", CLIP_MEAN)]
        self.std = [float(value) for value in told.get("image_std", CLIP_STD)]

    def _choose_batch(self) -> int:
        if self._device.type != "cuda":
            return BATCH
        import torch

        memory = torch.cuda.get_device_properties(self._device).total_memory
        weights = sum((self.folder.path / name).stat().st_size for name in self.folder.files if "safetensors" in name)
        text = self._config["text_config"]
        heads = text["num_attention_heads"]
        width = text.get("head_dim") or text["hidden_size"] // heads
        values = 2 * text["num_hidden_layers"] * text.get("num_key_value_heads", heads) * width * QUESTION_TOKENS
        return fitting_batch(0.9 * memory - weights, WORKSPACE * self._dtype.itemsize * values)

    @functools.cached_property
    def model(self) -> Any:
        """transformers' LlavaForConditionalGeneration, loaded when it is first needed."""
        from transformers import LlavaConfig

        from tessera.models.build import compiler_fault

        model = load_network(
            "transformers.LlavaForConditionalGeneration",
            self.folder,
            "captioner",
            dtype=self._dtype,
            device=self._device,
            may_be_unused=rf"(.*\.)?{NEWLINE}",
            config=LlavaConfig.from_dict(self._config),
        )
        model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
        if self._device.type == "cuda" and compiler_fault(self._device, self._dtype) is None:
            compile_decoder(model)
        return model

    def caption(self, questions: Sequence[Question], max_new_tokens: int = MAX_NEW_TOKENS) -> list[Answer]:
        """Answer each question by a caption (`caption_of`). What is none is asked for again, with another seed."""
        found = [Answer(None)] * len(questions)
        asked = list(range(len(questions)))
        for seed in range(1 + RETRIES):
            told = self.describe([questions[i] for i in asked], max_new_tokens, seed)
            for i, (text, cut) in zip(asked, told):
                try:
                    found[i] = caption_of(text, cut)
                except NoCaption as error:
                    found[i] = Answer(None, str(error))
            asked = [i for i in asked if found[i].text is None]
        return found

    def describe(
        self, questions: Sequence[Question], max_new_tokens: int = MAX_NEW_TOKENS, seed: int = 0
    ) -> list[tuple[str, bool]]:
        """Answer each question; return its text, and True if the limit of tokens cut it. seed: 0 = greedy, else drawn.

        Questions of one length are answered together, so nothing is padded; drawn answers one by one, so that each is a
        function of (question, seed).
        """
        import torch

        try:
            return self._describe(questions, max_new_tokens, seed)
        except torch.OutOfMemoryError as error:
            if self.batch == 1:
                raise UserError(
                    f"captioner: {self._device} has too little memory for {self.folder.id} and one image; free some, "
                    "give a smaller --model, or use a server (--captioner openai)"
                ) from error
        torch.cuda.empty_cache()  # outside of the handler, whose error holds tensors
        self.batch //= 2
        return self.describe(questions, max_new_tokens, seed)

    def _describe(self, questions: Sequence[Question], max_new_tokens: int, seed: int) -> list[tuple[str, bool]]:
        import torch

        tokens = [self.tokenize(question) for question in questions]
        pad = next((n for n in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id) if n is not None), 0)
        order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
        answers, end = [("", False)] * len(questions), self.model.generation_config.eos_token_id
        ends = set(end if isinstance(end, list) else [end])
        own = [self._device] if self._device.type == "cuda" else []
        for _, members in itertools.groupby(order, lambda i: len(tokens[i])):
            for batch in iter(lambda: list(itertools.islice(members, 1 if seed else self.batch)), []):  # noqa: B023
                ids = torch.tensor([tokens[i] for i in batch], device=self._device)  # (b, L)
                pixels = self.pixels([image for i in batch for image in questions[i].images])
                drawn = {"do_sample": True, "temperature": TEMPERATURE, "top_p": 1.0, "top_k": 0} if seed else {}
                with torch.inference_mode(), torch.random.fork_rng(own):
                    torch.manual_seed(seed)
                    out = self.model.generate(
                        input_ids=ids,
                        attention_mask=torch.ones_like(ids),
                        pixel_values=pixels,
                        max_new_tokens=max_new_tokens,
                        pad_token_id=pad,
                        **drawn,
                    )
                new = out[:, ids.shape[1] :]
                texts = self._tokenizer.batch_decode(new, skip_special_tokens=True)
                for i, text, row in zip(batch, texts, new.tolist()):
                    answers[i] = (text.strip(), len(row) >= max_new_tokens and not ends & set(row))
        return answers

    def tokenize(self, question: Question) -> list[int]:
        """Return a question's token ids in the model's own chat form, each image's tokens in its place."""
        images = [{"type": "image"}] * len(question.images)
        messages = [{"role": "user", "content": [*images, {"type": "text", "text": question.prompt}]}]
        text = self._tokenizer.apply_chat_template(
            messages, chat_template=self.template, add_generation_prompt=True, tokenize=False
        )
        bos = self._tokenizer.bos_token
        ids = self._tokenizer(text, add_special_tokens=not (bos and text.startswith(bos)))["input_ids"]
        if ids.count(self._image_token) != len(question.images):
            raise UserError(f"captioner: the chat template of {self.folder.id} needs one image token for each image")
        return [token for i in ids for token in ([i] * self.image_tokens if i == self._image_token else [i])]

    def pixels(self, images: Sequence[NDArray[np.uint8]]) -> "torch.Tensor":
        """Turn n images, uint8 (S, S, 3), into (n, 3, side, side) as CLIP wants them: bicubic, standardized."""
        import torch

        from tessera.pretrained.features.encoder import normalized

        scaled = [Image.fromarray(image).resize((self.side, self.side), Image.Resampling.BICUBIC) for image in images]
        values = torch.stack([normalized(image, self.mean, self.std) for image in scaled])
        return values.contiguous().to(self._device, self._dtype)

    @property
    def image_token(self) -> str:
        """The image placeholder in a prompt's text."""
        return str(self._tokenizer.convert_ids_to_tokens(self._image_token))

    def _read(self, name: str) -> dict[str, Any]:
        return read_json(self.folder.path / name) if (self.folder.path / name).is_file() else {}
