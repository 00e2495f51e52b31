"""Language models that write a text for an instruction: in this process, or behind an OpenAI-compatible server."""

from typing import Any, Protocol

import torch

from tessera.config import UserError
from tessera.hub import ModelFolder, find_model
from tessera.pretrained.chat import ChatClient, Question
from tessera.pretrained.load import load_network, load_tokenizer

DEFAULT = "meta-llama/Llama-3.1-8B-Instruct"
"""The paper extends prompts by Llama-3.1, and does not say which."""
TEMPERATURE = 0.7


class Writer(Protocol):
    """A language model as prompt extension needs it."""

    def write(self, instruction: str, seed: int, max_tokens: int) -> str:
        """Write a text for the instruction, drawn by `seed`."""
        ...


class LocalWriter:
    """A chat model of transformers. One text at a time, so that each is a function of (instruction, seed) alone."""

    def __init__(self, model: Any, tokenizer: Any, device: torch.device | str = "cpu"):
        self.model, self.tokenizer, self.device = model, tokenizer, torch.device(device)

    @torch.inference_mode()
    def write(self, instruction: str, seed: int, max_tokens: int) -> str:
        """Sample a text at temperature 0.7: the same bytes on the same device and library versions."""
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
    """A chat model behind a server. It gets the seed, but may ignore it."""

    def __init__(self, client: ChatClient):
        self.client = client

    def write(self, instruction: str, seed: int, max_tokens: int) -> str:
        """Return the server's text at temperature 0.7."""
        question = Question(instruction)
        return self.client.ask(question, max_tokens=max_tokens, temperature=TEMPERATURE, seed=seed % 2**31)


def writer_id(model: str | None, server: str | None) -> str:
    """Return what manifests call the model: its name on the server, or NAME@ its commit or content hash."""
    if server is not None:
        if model is None:
            raise UserError("model: --server needs the model's name on the server")
        return model
    found = _find(model)
    return f"{found.id.partition('@')[0]}@{found.revision}"


def load_writer(model: str | None, server: str | None, device: torch.device | str = "cpu") -> Writer:
    """Load a chat model of the Hub or a folder (None = Llama-3.1), or of a server. Raises UserError."""
    if server is not None:
        return ServerWriter(ChatClient(server, writer_id(model, server)))
    found = _find(model)
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    tokenizer = load_tokenizer(found, "model")
    network = load_network(
        "transformers.AutoModelForCausalLM", found, "model", dtype=dtype, device=device, trust_remote_code=False
    )
    if not tokenizer.chat_template:
        raise UserError(f"model: {found.id} has no chat template; give an instruction-tuned model")
    return LocalWriter(network, tokenizer, device)


def _find(model: str | None) -> ModelFolder:
    patterns = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model"]
    return find_model(model or DEFAULT, patterns, "model")
