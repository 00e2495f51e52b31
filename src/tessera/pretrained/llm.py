"""Language models that write a text for an instruction: in this process, or behind an OpenAI-compatible server."""

from typing import Any, Protocol

import torch

from tessera.config import UserError
from tessera.hub import ModelFolder, find_model
from tessera.pretrained.chat import ChatClient
from tessera.pretrained.load import load_network, load_tokenizer

DEFAULT = "meta-llama/Llama-3.1-8B-Instruct"
"""The paper extends prompts by Llama-3.1, and does not say which."""
TEMPERATURE = 0.7


class Writer(Protocol):
    """What prompt extension needs of a language model."""

    @property
    def id(self) -> str:
        """Its name and, where its weights are at hand, their commit or the start of their hash."""
        ...

    def write(self, instruction: str, seed: int, max_tokens: int) -> str:
        """A text for the instruction, drawn by `seed`."""
        ...


class LocalWriter:
    """A chat model of transformers. One text at a time, so that each is a function of (instruction, seed) alone."""

    def __init__(self, model: Any, tokenizer: Any, id: str, device: torch.device | str = "cpu"):
        self.model = model
        self.tokenizer, self.device = tokenizer, torch.device(device)
        self._id = id

    @property
    def id(self) -> str:
        """Name@commit of the Hub, or a folder's NAME@HASH."""
        return self._id

    @torch.inference_mode()
    def write(self, instruction: str, seed: int, max_tokens: int) -> str:
        """A text sampled at temperature 0.7; the same bytes on the same device and library versions."""
        messages = [{"role": "user", "content": instruction}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").to(self.device)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            out = self.model.generate(
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                max_new_tokens=max_tokens,
                do_sample=True,
                temperature=TEMPERATURE,
                top_p=1.0,
                top_k=0,
                pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
            )
        return self.tokenizer.decode(out[0, tokens.input_ids.shape[1] :], skip_special_tokens=True)


class ServerWriter:
    """A chat model behind a server; the seed is handed on, and what the server makes of it is its own affair."""

    def __init__(self, client: ChatClient):
        self.client = client

    @property
    def id(self) -> str:
        """The model's name on the server."""
        return self.client.model

    def write(self, instruction: str, seed: int, max_tokens: int) -> str:
        """A text at temperature 0.7."""
        return self.client.ask(instruction, max_tokens=max_tokens, temperature=TEMPERATURE, seed=seed % 2**31)


def writer_id(model: str | None, server: str | None) -> str:
    """The `id` that `load_writer` gives the model, without loading it."""
    if server is not None:
        if model is None:
            raise UserError("model: --server needs the model's name on the server")
        return model
    found = _find(model)
    return f"{found.id.partition('@')[0]}@{found.revision}"


def load_writer(model: str | None, server: str | None, device: torch.device | str = "cpu") -> Writer:
    """A chat model of the Hub or a folder (None = Llama-3.1), or of a server. UserError if it cannot be had."""
    name = writer_id(model, server)
    if server is not None:
        return ServerWriter(ChatClient(server, name))
    found = _find(model)
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    tokenizer = load_tokenizer(found, "model")
    network = load_network(
        "transformers.AutoModelForCausalLM", found, "model", dtype=dtype, device=device, trust_remote_code=False
    )
    if not tokenizer.chat_template:
        raise UserError(f"model: {found.id} has no chat template; give an instruction-tuned model")
    return LocalWriter(network, tokenizer, name, device)


def _find(model: str | None) -> ModelFolder:
    patterns = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model"]
    return find_model(model or DEFAULT, patterns, "model")
