"""Judges that answer questions: tiny random networks of their classes, and a server of the test's own."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tessera.config import UserError
from tessera.pretrained.chat import ChatClient
from tessera.pretrained.vqa import identity, load_vqa
from tiny.judges import save_blip, save_clip, save_qwen_vl

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
QUESTIONS = ["is there a dog ?", "is there a cat ?", "a cat"]


def test_blip_answers_each_question_about_the_picture(tmp_path):
    folder = str(save_blip(tmp_path / "blip"))
    blip = load_vqa("blip", folder, None)
    together = blip.answer(IMAGE, QUESTIONS)
    assert together == [blip.answer(IMAGE, [question])[0] for question in QUESTIONS]
    assert together[0] != blip.answer(255 - IMAGE, QUESTIONS)[0] or together != blip.answer(IMAGE[:, ::-1], QUESTIONS)
    pixels = blip._pixels(IMAGE)
    assert pixels.shape == (3, 16, 16)
    by_hand = np.asarray(Image.fromarray(IMAGE).resize((16, 16), Image.Resampling.BICUBIC))[3, 5] / 255
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    np.testing.assert_allclose(pixels[:, 3, 5], (by_hand - mean) / std, rtol=1e-5)
    assert identity("blip", folder)["model"] == f"blip@{identity('blip', folder)['sha256'][:12]}"
    assert len(identity("blip", folder)["sha256"]) == 64


def test_qwen_answers_each_question_about_the_picture(tmp_path):
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


def test_weights_that_lack_a_part_are_refused(tmp_path):
    """transformers would fill the rest with random numbers and only warn: a captioner's file has no question half."""
    folder = save_blip(tmp_path / "blip")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("text_encoder")}
    assert 0 < len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"is missing weights required by its config\.json: text_encoder"):
        load_vqa("blip", str(folder), None)


class Server:
    """Speaks OpenAI's protocol on 127.0.0.1; `reply(request body)` gives (status, body)."""

    def __init__(self, reply):
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, body))
                status, data = reply(body, len(outer.requests))
                data = data if isinstance(data, bytes) else json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def completion(text):
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


@pytest.fixture
def serve():
    servers = []

    def start(reply):
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def question_of(body):
    return body["messages"][0]["content"][1]["text"]


def test_a_server_answers_in_the_order_of_the_questions(serve):
    server = serve(lambda body, n: (200, completion(" Yes" if "dog" in question_of(body) else "no ")))
    assert load_vqa("openai", "m", server.url).answer(IMAGE, QUESTIONS) == ["Yes", "no", "no"]
    path, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 8)
    assert body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert question_of(body).endswith("Answer with one word: yes or no.")


def test_a_busy_server_is_asked_again(serve):
    server = serve(lambda body, n: (503, {"error": {"message": "busy"}}) if n < 3 else (200, completion("yes")))
    client = ChatClient(server.url, "m", retries=3)
    assert client.ask("dog", max_tokens=1, temperature=0) == "yes"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((200, {"nonsense": 1}), "is no chat completion of text"),
        ((200, {"choices": []}), "is no chat completion of text"),
        ((200, completion(None)), "is no chat completion of text"),
        ((200, b"<html>"), r"server http://127\.0\.0\.1.*: its answer is not JSON .* up to /v1"),
        ((404, {"error": {"message": "no such model m"}}), "no such model m; what is done is kept"),
        ((503, {"error": {"message": "busy"}}), "busy"),
    ],
)
def test_a_server_that_answers_nonsense(serve, reply, message):
    server = serve(lambda body, n: reply)
    with pytest.raises(UserError, match=message):
        ChatClient(server.url, "m", retries=0).ask("dog", max_tokens=1, temperature=0)


def test_no_server(serve):
    server = serve(lambda body, n: (200, {}))
    server.close()
    with pytest.raises(UserError, match="what is done is kept"):
        ChatClient(server.url, "m", retries=0).ask_all(["dog"] * 3, max_tokens=1, temperature=0)
