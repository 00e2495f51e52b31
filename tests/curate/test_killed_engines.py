"""kill -9 at random moments: run again, a stage ends with the bytes of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.encode import EncodeConfig, encode
from tiny.caption_server import CaptionServer
from tiny.folders import tree

SCRIPT = """
import sys
from pathlib import Path

from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.encode import EncodeConfig, encode
from tessera.workers import Engine

if __name__ == "__main__":
    stage, out, images, extra, kind = sys.argv[1:]
    engine = Engine(kind=kind, workers=2 if kind == "processes" else None)
    if stage == "encode":
        encode(Path(out), Path(images), Path(extra), EncodeConfig(shard_size=1), engine=engine)
    elif stage == "llava":
        import torch

        torch.set_num_threads(1)
        config = CaptionConfig(captioner="llava", model=extra)
        caption(Path(out), Path(images), config, device="cpu", engine=engine, shard=2)
    else:
        config = CaptionConfig(captioner="openai")
        caption(Path(out), Path(images), config, server=extra, concurrency=2, engine=engine, shard=2)
"""


def kill_often(script: Path, stage: str, out: Path, images: Path, extra: str, kind: str, rounds: int) -> int:
    """Runs the stage and kills it and its workers, `rounds` times, then lets it end. Returns how many kills hit."""
    rng, hits = random.Random(stage + kind), 0
    command = [sys.executable, str(script), stage, str(out), str(images), extra, kind]
    for _ in range(rounds):
        process = subprocess.Popen(command, start_new_session=True)
        before = len(list(out.rglob("*"))) if out.exists() else 0
        target = before + rng.randrange(3)
        while process.poll() is None and (not out.exists() or len(list(out.rglob("*"))) <= target):
            time.sleep(0.002)
        time.sleep(rng.random() * 0.04)
        try:
            if rng.random() < 0.5:
                os.kill(process.pid, signal.SIGKILL)  # the workers end by themselves
            else:
                os.killpg(process.pid, signal.SIGKILL)
            hits += 1
        except ProcessLookupError:
            pass
        process.wait()
    subprocess.run(command, check=True)
    return hits


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("stage", "kind", "rounds"),
    [
        pytest.param("encode", "processes", 2, marks=pytest.mark.slow),
        pytest.param("llava", "here", 1, marks=pytest.mark.slow),
        pytest.param("openai", "processes", 2, marks=pytest.mark.slow),
    ],
)
def test_killed_stages_end_as_undisturbed_ones(images, llava_folder, tmp_path, stage, kind, rounds, many):
    script = tmp_path / "stage.py"
    script.write_text(SCRIPT)
    whole, out = tmp_path / "whole", tmp_path / "out"
    with CaptionServer() as stub:
        if stage == "encode":
            captions = tmp_path / "captions"
            caption(captions, images, CaptionConfig(captioner="scene"))
            encode(whole, images, captions, EncodeConfig(shard_size=1))
            extra = str(captions)
        elif stage == "llava":
            extra = str(llava_folder)
            caption(whole, images, CaptionConfig(captioner="llava", model=extra), device="cpu", shard=2)
        else:
            pytest.importorskip("openai")
            extra = stub.address
            caption(whole, images, CaptionConfig(captioner="openai"), server=extra, concurrency=2, shard=2)
        hits = kill_often(script, stage, out, images, extra, kind, 30 if many else rounds)
    assert hits > 0
    deadline = time.monotonic() + 10  # of a worker that outlived its parent for a moment
    while tree(out) != tree(whole) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert tree(out) == tree(whole)
