"""Captions by models: a pruned LLaVA on any engine, and a server that fails, stalls and babbles."""

import base64
import hashlib
import io
import json
import shutil
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.caption import model as captioning
from tessera.curate.caption.caption import CaptionConfig, caption, read_captions
from tessera.curate.index import read_images, read_recipe
from tessera.files import read_table
from tessera.images import read_rgb
from tessera.pretrained.captioner import server as server_module
from tessera.pretrained.captioner.llava import MIX_PROMPT, PROMPT, Llava, make_question
from tessera.stages import read_manifest
from tessera.workers import Engine

OPENAI = CaptionConfig(captioner="openai")


@pytest.fixture(scope="module")
def recipe(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe") / "recipe"
    augment(out, images, AugmentConfig(half_view="centre"))
    return out


class Stub:
    """A server on loopback that tells each picture's hash, after it has failed at some of its first tries."""

    def __init__(self, fail=0.0, stall=0.0, junk=0.0, down_after=None, more=""):
        self.asked, self.answered, self.at_once, self.most = [], Counter(), 0, 0
        self.prompts, self.images = {}, {}
        lock, stub, draw = threading.Lock(), self, np.random.default_rng(0)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def send(self, code, body, kind="application/json"):
                data = body.encode()
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                model = {"id": "stub-llava", "object": "model", "created": 1, "owned_by": "us", "root": "lab/llava"}
                self.send(200, json.dumps({"object": "list", "data": [model]}))

            def do_POST(self):
                data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert data["model"] == "stub-llava"
                assert (data["temperature"], data["max_tokens"]) == (0, 200)
                *pictures, text = data["messages"][0]["content"]
                decoded = [base64.b64decode(part["image_url"]["url"].split(",")[1]) for part in pictures]
                name = digest(np.asarray(Image.open(io.BytesIO(decoded[0]))))
                with lock:
                    stub.asked.append(name)
                    stub.prompts[name], stub.images[name] = text["text"], len(decoded)
                    stub.at_once += 1
                    stub.most = max(stub.most, stub.at_once)
                    luck = draw.random()
                    down = down_after is not None and len(stub.answered) >= down_after
                try:
                    if down or luck < fail:
                        self.send(503, '{"error": {"message": "overloaded"}}')
                    elif luck < fail + stall:
                        time.sleep(1.5)
                        self.close_connection = True
                    elif luck < fail + stall + junk:
                        junk_bodies = ["<html>no</html>", "{}", '{"choices": []}', '{"choices": [{"message": {}}]}']
                        kind = "text/html" if luck * 1000 % 4 < 1 else "application/json"
                        self.send(200, junk_bodies[int(luck * 1000) % 4], kind)
                    else:
                        time.sleep(0.02)
                        answer = {"role": "assistant", "content": f'  told "{name}",\n\tassistant <b>{more}\n'}
                        choice = {"index": 0, "message": answer, "finish_reason": "stop"}
                        with lock:
                            stub.answered[name] += 1
                        self.send(200, json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]}))
                except OSError:
                    pass
                finally:
                    with lock:
                        stub.at_once -= 1

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def digest(pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:12]


@pytest.fixture
def hasty(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(server_module, "TIMEOUT", 0.7)
    monkeypatch.setattr(captioning, "SHARD", 10)


def pixels_of(images) -> dict:
    return {row.key: read_rgb(images / f"{row.key}.png") for row in read_images(images)}


def test_a_bad_server_gives_all_captions_none_twice(images, tmp_path, hasty):
    out = tmp_path / "captions"
    with Stub(fail=0.2, stall=0.05, junk=0.1) as stub:
        caption(out, images, OPENAI, server=stub.address, concurrency=4)
    expected = {key: f'told "{digest(pixels)}",\n\tassistant <b>' for key, pixels in pixels_of(images).items()}
    assert read_captions(out) == expected
    assert len(stub.asked) > 24
    assert set(stub.answered.values()) == {1}
    assert stub.most <= 4
    assert set(stub.prompts.values()) == {PROMPT}
    row = read_table(out / "captions.parquet").to_pylist()[0]
    assert row["captioner"] == "openai"
    assert row["prompt"] == PROMPT
    assert row["revision"] == "lab/llava"
    config = read_manifest(out).config
    assert (config["model"], config["revision"]) == ("stub-llava", "lab/llava")
    assert sorted(path.name for path in out.iterdir()) == ["captions.parquet", "manifest.json"]


def test_mixes_show_the_quarter_with_the_pasted_picture(images, recipe, tmp_path, hasty):
    with Stub() as stub:
        caption(tmp_path / "captions", images, OPENAI, recipe=recipe, server=stub.address)
    assert set(stub.prompts.values()) == {MIX_PROMPT}
    patterns = Counter(row.placement.pattern for row in read_recipe(recipe).rows)
    assert Counter(stub.images.values()) == {1: patterns["half"], 2: 24 - patterns["half"]}
    assert list(read_captions(tmp_path / "captions")) == [row.key for row in read_recipe(recipe).rows]


def test_a_server_that_goes_down_loses_nothing(images, tmp_path, hasty):
    whole, out = tmp_path / "whole", tmp_path / "out"
    with Stub() as stub:
        caption(whole, images, OPENAI, server=stub.address, concurrency=3)
    with Stub(down_after=14) as stub:
        with pytest.raises(UserError, match=r"does not answer as it should .*overloaded.*; start it and run") as error:
            caption(out, images, OPENAI, server=stub.address, concurrency=3)
        assert "\n" not in str(error.value)
        first = Counter(stub.answered)
    assert sum(first.values()) >= 14
    with open(next((out / "parts").glob("*.journal")), "ab") as file:
        file.write(b'["circle/0000')  # a line cut by a kill
    with Stub() as stub:
        caption(out, images, OPENAI, server=stub.address, concurrency=3)
        assert set((first + stub.answered).values()) == {1}
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


def test_server_errors(images, tmp_path, hasty):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="does not answer as it should") as error:
        caption(out, images, OPENAI, server="http://127.0.0.1:9/v1")
    assert "\n" not in str(error.value)
    with Stub() as stub, pytest.raises(UserError, match="has no model 'other'; it has stub-llava"):
        caption(out, images, CaptionConfig(captioner="openai", model="other"), server=stub.address)
    with pytest.raises(UserError, match="needs a server: its base URL"):
        caption(out, images, OPENAI)
    with pytest.raises(UserError, match="is no address"):
        caption(out, images, OPENAI, server="localhost:8000")
    with pytest.raises(UserError, match="concurrency must be 1"):
        caption(out, images, OPENAI, server="http://127.0.0.1:9/v1", concurrency=0)
    assert not out.exists()


def test_llava_here_and_in_parts_of_an_array_job(images, recipe, llava_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(captioning, "SHARD", 7)
    monkeypatch.setattr("tessera.curate.caption.caption.MAX_NEW_TOKENS", 4)
    config = CaptionConfig(captioner="llava", model=str(llava_folder))
    out = tmp_path / "whole"
    caption(out, images, config, recipe=recipe, device="cpu")
    row = read_recipe(recipe).rows[1]
    told = read_table(out / "captions.parquet").to_pylist()
    llava = Llava(str(llava_folder), "cpu")
    assert told[1]["prompt"] == MIX_PROMPT
    assert told[1]["revision"] == llava.revision == llava.folder.sha256[:12]
    from tessera.cutmix import compose

    pictures = pixels_of(images)
    mixed = compose(pictures[row.base], pictures[row.partner], row.placement, "centre")
    assert told[1]["text"] == llava.describe([make_question(mixed, row.placement, llava.side)], 4)[0]
    assert "/" not in read_manifest(out).config["model"]
    for part in (2, 0):
        caption(tmp_path / "parts", images, config, recipe, device="cpu", engine=Engine(part=(part, 3)))
        assert not read_manifest(tmp_path / "parts", must_be_complete=False).complete
    caption(tmp_path / "parts", images, config, recipe, device="cpu", engine=Engine(part=(1, 3)))
    assert (tmp_path / "parts" / "manifest.json").read_bytes() == (out / "manifest.json").read_bytes()
    assert (tmp_path / "parts" / "captions.parquet").read_bytes() == (out / "captions.parquet").read_bytes()
    shutil.rmtree(tmp_path / "parts")


def test_two_tasks_that_see_the_end_at_once(images, tmp_path, hasty, monkeypatch):
    whole, out, task = tmp_path / "whole", tmp_path / "out", Engine(part=(0, 1))
    read, others = captioning.read_table, []

    def read_while_another_ends(*args):
        if not others:
            others.append(None)
            caption(out, images, OPENAI, server=stub.address, engine=task)
        return read(*args)

    with Stub() as stub:
        caption(whole, images, OPENAI, server=stub.address)
        monkeypatch.setattr(captioning, "read_table", read_while_another_ends)
        caption(out, images, OPENAI, server=stub.address, engine=task)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


def test_half_a_character_of_an_answer_is_not_stored(images, tmp_path, hasty):
    with Stub(more="\ud83d") as stub:
        caption(tmp_path / "captions", images, OPENAI, server=stub.address)
    assert all(text.endswith("<b>?") for text in read_captions(tmp_path / "captions").values())
