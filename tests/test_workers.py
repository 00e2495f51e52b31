"""The same work in this process, in processes and on Ray; what stops it is said; a dead worker costs nothing on Ray."""

import contextlib
import functools
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tessera import workers as engines
from tessera.config import UserError
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.encode import EncodeConfig, encode
from tessera.workers import Engine, draw_ahead, parse_part, run_shards
from tiny.folders import tree
from tiny.shard_work import dying, prepare


@pytest.fixture(scope="module")
def cluster():
    """A local Ray cluster with logical CPUs."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
        ray.init(num_cpus=6, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    yield
    ray.shutdown()


def run(make, shards, engine) -> list:
    with run_shards(make, shards, engine) as results:
        return list(results)


@pytest.mark.parametrize("kind", ["here", "processes"])
def test_every_shard_is_worked_on_once(tmp_path, kind):
    engine = Engine(kind=kind, workers=None if kind == "here" else 2)
    done = run(functools.partial(prepare, tmp_path), range(7), engine)
    assert sorted(shard for shard, *_ in done) == list(range(7))
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == list(range(7))
    workers = {pid for *_, pid in done}
    assert {int(prepared) for _, prepared, _ in done} == workers
    assert len(workers) <= 2
    assert (os.getpid() in workers) == (kind == "here")
    assert run(functools.partial(prepare, tmp_path), [], engine) == []


@pytest.mark.parametrize("kind", ["here", "processes"])
def test_errors_of_the_work_arrive(tmp_path, kind):
    with pytest.raises(UserError, match=r"^shard -1 is bad$"):
        run(functools.partial(prepare, tmp_path), [1, -1], Engine(kind=kind))


def test_a_killed_process_is_said(tmp_path):
    with pytest.raises(UserError, match=r"a worker process was killed.*run again to resume"):
        run(functools.partial(dying, tmp_path), range(6), Engine(kind="processes", workers=2))
    assert sorted(run(functools.partial(dying, tmp_path), range(6), Engine(kind="processes", workers=2))) == [*range(6)]


def test_on_ray(tmp_path, cluster):
    engine = Engine(kind="ray", workers=2)
    done = run(functools.partial(prepare, tmp_path), range(7), engine)
    assert sorted(shard for shard, *_ in done) == list(range(7))
    assert os.getpid() not in {pid for *_, pid in done}
    with pytest.raises(UserError, match=r"^shard -1 is bad$"):
        run(functools.partial(prepare, tmp_path), [1, -1], engine)
    assert sorted(run(functools.partial(dying, tmp_path), range(6), engine)) == [*range(6)]
    assert (tmp_path / "died").exists()


def workers_on_ray() -> list[int]:
    found = subprocess.run(["pgrep", "-f", "^ray::_Actor"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.slow
def test_a_stage_ends_as_an_undisturbed_one_when_rays_workers_are_killed(tmp_path, cluster, images):
    kills = 30
    captions, whole, out = tmp_path / "captions", tmp_path / "whole", tmp_path / "out"
    caption(captions, images, CaptionConfig(captioner="scene"))
    config = EncodeConfig(shard_size=1)
    encode(whole, images, captions, config)
    rng, hits, over = random.Random(kills), 0, threading.Event()

    def kill() -> None:
        nonlocal hits
        while hits < kills and not over.is_set():
            for pid in rng.sample(found := workers_on_ray(), min(1, len(found))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    hits += 1
            time.sleep(0.05 + 0.3 * rng.random())

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        while hits < kills:
            encode(out, images, captions, config, engine=Engine(kind="ray", workers=2))
            assert tree(out) == tree(whole)
            shutil.rmtree(out)
    finally:
        over.set()
        killer.join()
    assert hits >= kills


def test_workers_end_with_their_parent(tmp_path):
    code = (
        "import functools, sys, time\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from tiny.shard_work import slow\n"
        "from tessera.workers import Engine, run_shards\n"
        "if __name__ == '__main__':\n"
        f"    make = functools.partial(slow, Path({str(tmp_path)!r}))\n"
        "    with run_shards(make, range(4), Engine(kind='processes', workers=2)) as results:\n"
        "        list(results)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script)])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("pid-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.kill()
    process.wait()
    workers = [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]
    assert len(workers) == 2
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


@pytest.mark.parametrize("there", ["/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd"])
def test_gpus_are_counted_wherever_there_is_a_driver(there, monkeypatch):
    """WSL's GPUs have no /proc/driver: a process for each core would have loaded its networks onto one GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(engines.os.path, "exists", lambda path: path == there)
    assert engines._gpus() == 2
    monkeypatch.setattr(engines.os.path, "exists", lambda path: False)
    assert engines._gpus() == 0


def test_bad_engines():
    assert parse_part("3/8") == (3, 8)
    assert parse_part(None) is None
    for text in ("8", "1/2/3", "-1/4", "a/b"):
        with pytest.raises(UserError, match=r"shard is .*: give i/n"):
            parse_part(text)
    for bad, message in (
        ({"kind": "slurm"}, "engine must be here, processes, ray"),
        ({"kind": "processes", "workers": 0}, "workers is 0"),
        ({"workers": 2}, "workers is 2: give 1 or more, with the engine processes or ray"),
        ({"address": "auto"}, "the engine is here: make it ray"),
        ({"part": (4, 4)}, r"shard is 4/4: give i/n"),
    ):
        with pytest.raises(UserError, match=message):
            Engine(**bad)


ORPHANS = """
import os, sys, time
from pathlib import Path
import tessera.workers as engine

def work(items):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    engine.usable_cores = lambda: 2
    with engine.map_chunks(work, range(2), chunk=1, parallel_from=1) as results:
        list(results)
"""


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_chunks_processes_end_with_a_killed_parent(tmp_path):
    (tmp_path / "job.py").write_text(ORPHANS.replace("sys.argv[1]", repr(str(tmp_path / "pids"))))
    (tmp_path / "pids").mkdir()
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "job.py")], env=env)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "pids").iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    parent.kill()
    parent.wait()
    assert len(pids) == 2
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in pids if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def test_items_are_drawn_ahead_in_order():
    drawn = []

    def items():
        for number in range(6):
            drawn.append((number, threading.current_thread() is threading.main_thread()))
            yield number

    ahead = draw_ahead(items(), 3)
    assert next(ahead) == 0
    deadline = time.monotonic() + 30
    while len(drawn) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert drawn == [(number, False) for number in range(4)]  # the one given, and three ahead
    assert list(ahead) == [1, 2, 3, 4, 5]


def test_what_is_drawn_ahead_raises_its_errors_and_is_closed():
    closed = []

    def items():
        try:
            yield 1
            yield 2
            raise UserError("no third")
        finally:
            closed.append(True)

    ahead = draw_ahead(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(UserError, match="no third"):
        next(ahead)
    endless = (number for number in itertools.count())
    ahead = draw_ahead(endless)
    assert next(ahead) == 0
    ahead.close()
    assert list(endless) == []
    assert closed == [True]
