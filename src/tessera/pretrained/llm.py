"""Language models that write a text for an instruction: in this process, or behind an OpenAI-compatible server."""

from collections.abc import Callable
from typing import Any

import torch

from tessera.config import UserError
from tessera.hub import ModelFolder, find_model
from tessera.pretrained.chat import ChatClient, Question
from tessera.pretrained.load import load_network, load_tokenizer

DEFAULT = "meta-llama/Llama-3.1-8B-Instruct"
"""The paper extends prompts by Llama-3.1, and does not say which."""
TEMPERATURE = 0.7
Writer = Callable[[str, int, int], tuple[str, bool]]
"""write(instruction, seed, max_tokens) -> (text, True if the limit cut it): a model as prompt extension needs it."""


def writer_id(model: str | None, server: str | None) -> str:
    """Return what manifests call the model: its name on the server, or NAME@ its commit or content hash."""
    if server is not None:
        if model is None:
            raise UserError("model: --server needs the model's name on the server")
        return model
    found = _find(model)
    return f"{found.id.partition('@')[0]}@{found.revision}"


def load_writer(model: str | None, server: str | None, device: torch.device | str = "cpu") -> Writer:
    """Load a chat model of the Hub or a folder (None = Llama-3.1), or of a server. Texts are drawn at temperature 0.7.

    A server gets the seed, but may ignore it. Raises UserError.
    """
    if server is not None:
        ask = ChatClient(server, writer_id(model, server)).ask
        return lambda instruction, seed, max_tokens: ask(
            Question(instruction), max_tokens=max_tokens, temperature=TEMPERATURE, seed=seed % 2**31
        )
    found = _find(model)
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    tokenizer = load_tokenizer(found, "model")
    network = load_network(
        "transformers.AutoModelForCausalLM", found, "model", dtype=dtype, device=device, trust_remote_code=False
    )
    if not tokenizer.chat_template:
        raise UserError(f"model: {found.id} has no chat template; give an instruction-tuned model")
    return _local_writer(network, tokenizer, torch.device(device))


def _local_writer(model: Any, tokenizer: Any, device: torch.device) -> Writer:
    """Return the writer of a chat model of transformers: one text at a time, a function of (instruction, seed)."""

    @torch.inference_mode()
    def write(instruction: str, seed: int, max_tokens: int) -> tuple[str, bool]:
        messages = [{"role": "user", "content": instruction}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            out = model.generate(
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                max_new_tokens=max_tokens,
                do_sample=True,
                temperature=TEMPERATURE,
                top_p=1.0,
                top_k=0,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )
        new, end = out[0, tokens.input_ids.shape[1] :].tolist(), model.generation_config.eos_token_id
        ended = set(new) & set(end if isinstance(end, list) else [end])
        return tokenizer.decode(new, skip_special_tokens=True), len(new) >= max_tokens and not ended

    return write


def _find(model: str | None) -> ModelFolder:
    patterns = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model"]
    return find_model(model or DEFAULT, patterns, "model")
