"""Writers: a tiny chat model in this process, and one behind a server."""

import pytest
import torch

from tessera.config import UserError
from tessera.pretrained.llm import load_writer, writer_id
from tiny.chat_server import ChatServer, completion, question_of
from tiny.judges import save_llama


def test_a_local_text_is_a_function_of_instruction_and_seed(tmp_path):
    folder = str(save_llama(tmp_path / "llama"))
    writer = load_writer(folder, None)
    state = torch.random.get_rng_state()
    first = writer("describe a cat", 3, 12)
    assert first == writer("describe a cat", 3, 12) == load_writer(folder, None)("describe a cat", 3, 12)
    assert len({writer("describe a cat", seed, 12) for seed in range(5)}) > 2
    assert torch.equal(state, torch.random.get_rng_state())  # nobody else's draws are touched
    name, _, revision = writer_id(folder, None).partition("@")
    assert name == "llama"
    assert len(revision) == 12


def test_a_servers_text(tmp_path):
    pytest.importorskip("openai")
    with ChatServer(lambda body, n: (200, completion(question_of(body).upper()))) as server:
        assert load_writer("m", server.address)("a cat", 2**40 + 5, 99) == ("A CAT", False)
    body = server.requests[0][1]
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("m", 99, 0.7, 5)
    assert writer_id("m", server.address) == "m"


def test_what_cannot_be_had(tmp_path):
    with pytest.raises(UserError, match="needs the model's name on the server"):
        writer_id(None, "http://127.0.0.1:1/v1")
    with pytest.raises(UserError, match="has no chat template; give an instruction-tuned model"):
        load_writer(str(save_llama(tmp_path / "base", chat=False)), None)
    with pytest.raises(UserError, match=r"^model: .*none: there is no such folder"):
        load_writer(str(tmp_path / "none"), None)
