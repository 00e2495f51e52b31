"""collect, augment and caption killed at any moment, or out of disk, and run again: the same bytes as undisturbed."""

import contextlib
import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tessera import images as pictures
from tessera.files import atomic_path
from tiny.commands import call
from tiny.folders import tree

CHILD = """
import sys
from pathlib import Path
import tessera.workers as engine
from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.collect.collect import CollectConfig, collect

def work(source, out):
    images, recipe = out / "images", out / "recipe"
    print("collect", flush=True)
    collect(images, CollectConfig(source="my-pictures", size=24), source)
    print("augment", flush=True)
    augment(recipe, images, AugmentConfig(), write_images=True)
    print("caption", flush=True)
    caption(out / "captions", images, CaptionConfig(), recipe=recipe)
    print("end", flush=True)

if __name__ == "__main__":
    engine.usable_cores = lambda: int(sys.argv[3])
    work(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("job") / "job.py"
    path.write_text(CHILD)
    return path


def start(job, source, out, cores) -> subprocess.Popen:
    env = os.environ | {"TESSERA_QUIET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(job), str(source), str(out), str(cores)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(child, stage: str) -> float:
    """Reads what the job says until it is at that stage; the time then."""
    for line in child.stdout:
        if line == f"{stage}\n":
            break
    return time.monotonic()


def finish(child) -> list[float]:
    """Waits for the end; the seconds that each stage took."""
    with child:
        times = [wait_for(child, stage) for stage in STAGES]
        assert child.wait(timeout=120) == 0
    return [end - begin for begin, end in itertools.pairwise(times)]


def kill(child) -> None:
    """The process and all that it started, with no chance to tidy up."""
    with child:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def kill_rounds(rounds, job, source, tmp_path, cores, stages):
    """Kills at random moments of the stages; each time the job then ends as an undisturbed one."""
    expected = tmp_path / "expected"
    seconds = dict(zip(STAGES, finish(start(job, source, expected, cores))))
    rng, stopped = random.Random(f"{stages} {cores}"), 0
    for number, stage in itertools.product(range(rounds), stages):
        out = tmp_path / f"{stage}-{number}"
        for _ in range(1 + number % 2):  # some are killed a second time
            child = start(job, source, out, cores)
            wait_for(child, stage)
            time.sleep(rng.uniform(0, seconds[stage]))
            stopped += child.poll() is None
            kill(child)
        finish(start(job, source, out, cores))
        assert tree(out) == tree(expected)
    assert stopped > 0


STAGES = ["collect", "augment", "caption", "end"]


def test_killed_and_run_again(job, messy, tmp_path):
    for name in ("red_fox", "grey-cat"):
        shutil.copytree(messy / name, tmp_path / "source" / name)
    kill_rounds(1, job, tmp_path / "source", tmp_path, 1, STAGES[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("stage", STAGES[:-1])
def test_killed_thirty_times(job, messy, tmp_path, cores, stage):
    kill_rounds(30, job, messy, tmp_path, cores, [stage])


def test_a_full_disk_is_said_and_loses_nothing(messy, tmp_path, monkeypatch, capsys):
    written = []

    @contextlib.contextmanager
    def full(path, durable=True):
        if len(written) == 20:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        with atomic_path(path, durable) as temporary:
            yield temporary

    args = ("collect", messy / "red_fox", "--single-class", "red fox", "--size", 16, "--out", tmp_path / "images")
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "atomic_path", full)
        assert call(*args) == 2
    said = capsys.readouterr().err
    assert "error: no space left on the disk" in said
    assert "Traceback" not in said
    kept = {path: path.stat().st_mtime_ns for path in written}
    assert call(*args) == 0
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert call(*args[:-1], tmp_path / "whole") == 0
    assert tree(tmp_path / "images") == tree(tmp_path / "whole")
