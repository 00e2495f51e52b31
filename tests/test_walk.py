"""docs/own_data.md, followed to the letter: at toy size with what it prints, at full size with tiny networks."""

import json
import re
import shlex
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest

from tessera import cli

PAGE = (Path(__file__).parent.parent / "docs" / "own_data.md").read_text(encoding="utf-8")

TINY = """
from tessera.models.dit import DiTConfig
from tessera.train.config import TrainConfig

def tiny():
    model = DiTConfig(latent_size=8, width=32, depth=1, heads=2, text_width=64, refiner_depth=1)
    return TrainConfig(model=model, num_images=64, batch_size=16, latent_scale=(0.2,), noise_schedule="linear",
                       augment_prob=0.5, augment_min_t=0.4)
"""


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each code block."""
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


def call(command: str) -> None:
    words = shlex.split(command)
    assert words[0] == "tessera"
    cli.parse.app(cli.VERBS, cli.GROUPS).cli(args=words[1:], prog="tessera")


@pytest.mark.slow
def test_the_way_at_toy_size_prints_what_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = blocks(section("The whole system at toy size"))
    pairs = [(told, printed) for (kind, told), (next_kind, printed) in pairwise(found) if next_kind == "text"]
    assert len(pairs) >= 7
    for commands, printed in pairs:
        for command in commands.splitlines():
            call(command)
        assert capsys.readouterr().out == printed


class Told(BaseHTTPRequestHandler):
    """A server that has one model, and one caption."""

    def do_GET(self):
        self.answer({"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "us"}]})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": "A red circle in front of white snow."}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        self.answer({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})

    def answer(self, data):
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Told) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/v1"
        running.shutdown()
        thread.join()


@pytest.mark.slow
def test_the_way_at_full_size_with_tiny_networks(tmp_path, monkeypatch, vae_folder, t5_folder, llava_folder, server):
    """Every command of the page's second half; only names of networks, sizes and numbers of steps are others."""
    for extra in ("diffusers", "transformers", "openai"):
        pytest.importorskip(extra, reason=f"{extra} is not installed")
    from tiny.encoders import save_clip, save_dino

    monkeypatch.chdir(tmp_path)
    models = tmp_path / "models"  # where networks in folders are looked for by their names
    models.mkdir()
    monkeypatch.setenv("TESSERA_MODELS", str(models))
    for folder in (vae_folder, t5_folder, llava_folder):
        (models / folder.name).symlink_to(folder)
    vae, t5, llava = (models / folder.name for folder in (vae_folder, t5_folder, llava_folder))
    save_dino(tmp_path / "dino")
    save_clip(tmp_path / "clip")
    Path("tiny.py").write_text(TINY, encoding="utf-8")
    for name, seed in (("photos", 0), ("held_out", 1)):
        call(f"tessera collect miniature --num-images 24 --size 40 --seed {seed} --out {name}")
    call("tessera caption photos --captioner aio --out aio")
    rows = [
        "file_name,text",
        *(f"{path.relative_to('photos').as_posix()},a red cat" for path in Path("photos").rglob("*.png")),
    ]
    Path("captions.csv").write_text("\n".join(rows), encoding="utf-8")
    others = {
        "tessera collect": "tessera collect --size 32",
        "--captioner llava": f"--captioner llava --device cpu --model {llava}",
        f"--model {llava} --model llava-hf/llava-v1.6-mistral-7b-hf": f"--model {llava}",
        "llava-hf/llava-v1.6-mistral-7b-hf": str(llava),
        "stabilityai/sd-vae-ft-ema": str(vae),
        "google/flan-t5-xl": str(t5),
        "cad-i-l-tune:ta_ia": "tiny.py:tiny",
        "--per-prompt 1": "--per-prompt 1 --steps 2 --device cpu",
        "--metrics": f"--dinov2 {tmp_path / 'dino'} --clip {tmp_path / 'clip'} --device cpu --metrics",
        "http://127.0.0.1:8000/v1": server,
    }
    lines = []
    for title in ("At full size, on one GPU", "Captions, four ways", "Several captions of an image"):
        lines += [line for kind, text in blocks(section(title)) if kind == "sh" for line in text.splitlines()]
    done = 0
    for line in lines:
        if line.startswith(("tessera import-published", "tessera export-captioner", "vllm")):
            continue  # tests of their own; here the weights to start from are those of a tiny training
        for theirs, ours in others.items():
            line = line.replace(theirs, ours)
        if "--init export/published" in line and line.startswith("tessera train"):
            call(line.replace("--init export/published", "").replace("runs/mine", "runs/published"))
            call("tessera export runs/published --steps 2 --out export/published")
        call(line)
        done += 1
    assert done >= 20
    page = Path("report/index.html").read_text(encoding="utf-8")
    assert "mine" in page
    assert "published" in page
