"""Two machines, played by two processes here: runs/slurm.sh as Slurm would run it, and torchrun on each; both preempted
and put back into the queue."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tessera.stages import read_manifest
from tessera.train import checkpoint
from tiny.training_sets import make_records, write_set

ROOT = Path(__file__).parents[2]
PRESET = """
from dataclasses import replace
from tiny.training_sets import config_of

def small():
    return config_of(num_images=8 * 40, log_every_images=40)
"""
SRUN = """
import os, subprocess, sys
from pathlib import Path
words = [word for word in sys.argv[1:]]
while words[0].startswith("--"):
    del words[0]
tasks = [
    subprocess.Popen(words, env=os.environ | {"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)})
    for n in range(int(os.environ["SLURM_NTASKS"]))
]
Path("tasks.tmp").write_text(" ".join(str(task.pid) for task in tasks))
os.rename("tasks.tmp", "tasks")
sys.exit(max(task.wait() for task in tasks))
"""
"""Slurm's: a process for each task, their largest exit code."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory as runs/slurm.sh expects it, with stand-ins for Slurm's commands on the path."""
    write_set(tmp_path / "encoded" / "ta", make_records(37))
    write_set(tmp_path / "encoded" / "ta_ia", make_records(23, seed=1))
    (tmp_path / "mine.py").write_text(PRESET)
    (tmp_path / "srun.py").write_text(SRUN)
    scripts = {
        "srun": f'exec {sys.executable} {tmp_path / "srun.py"} "$@"',
        "scontrol": 'if [ "$1" = show ]; then printf "127.0.0.1\\nother\\n"; else echo "$@" >> requeued; fi',
        "tessera": f'exec {sys.executable} -m tessera.cli "$@" --device cpu',
    }
    for name, text in scripts.items():
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    paths = [str(ROOT / "src"), str(ROOT / "tests")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def free_port(low: int) -> int:
    """A free one from `low` on."""
    for port in range(low + os.getpid() % 5000, 65536):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def carried_out(commands: Sequence[Sequence[str]], run: Path, preempted: bool, env: dict[str, str]) -> list[int]:
    """Exit codes of the commands, run side by side. preempted: their training processes get SIGUSR1 after a first line
    of this call's log."""
    before = (run / "log.jsonl").read_text() if (run / "log.jsonl").exists() else ""
    started = [subprocess.Popen(command, env=os.environ | env) for command in commands]
    try:
        if preempted:
            last = time.monotonic() + 500
            while not (run / "log.jsonl").exists() or len((run / "log.jsonl").read_text()) <= len(before):
                assert time.monotonic() < last
                assert all(process.poll() is None for process in started)
                time.sleep(0.02)
            for pid in trainers(run):
                os.kill(pid, signal.SIGUSR1)
        return [process.wait(180) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


def trainers(run: Path) -> list[int]:
    """The processes that train into this run's directory: not their launchers."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0") if entry.name.isdecimal() else []
        except OSError:
            continue
        if str(run) in words and "tessera.cli" in words and "torch.distributed.run" not in words:
            found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the processes in Linux's /proc")
def test_slurm_and_torchrun_on_two_nodes_with_preemption(folder):
    run = folder / "runs" / "slurm"
    job = {"SLURM_JOB_ID": str(free_port(20000) - 20000), "SLURM_JOB_NODELIST": "n[1-2]"}
    job |= {"SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "8"}
    script = ["bash", str(ROOT / "runs" / "slurm.sh"), "mine.py:small", str(run)]
    (code,) = carried_out([script], run, True, job)
    assert code != 0
    assert (folder / "requeued").read_text() == f"requeue {job['SLURM_JOB_ID']}\n"
    newest = checkpoint.latest(run)
    assert newest is not None
    assert not read_manifest(run, must_be_complete=False).complete
    assert carried_out([script], run, False, job | {"SLURM_RESTART_COUNT": "1"}) == [0]
    assert read_manifest(run).counts["num_images"] == 320
    assert (folder / "requeued").read_text().count("\n") == 1

    other = folder / "runs" / "torchrun"
    where = ["--nnodes", "2", "--nproc-per-node", "1", "--local-addr", "127.0.0.1", "--rdzv-backend", "c10d"]
    sets = ["--plain", "encoded/ta", "--augmented", "encoded/ta_ia", "--device", "cpu"]
    for preempted in (True, False):
        meet = ["--rdzv-endpoint", f"127.0.0.1:{free_port(40000)}", "--rdzv-id", str(preempted)]
        words = [*where, *meet, "-m", "tessera.cli", "train", "mine.py:small", *sets, "--out", str(other)]
        node = [sys.executable, "-m", "torch.distributed.run", *words]
        codes = carried_out([node, node], other, preempted, {})
        assert [code != 0 for code in codes] == [preempted] * 2
        assert read_manifest(other, must_be_complete=False).complete == (not preempted)
    # Stopped at different steps, and the same weights.
    ends = [checkpoint.load(checkpoint.found(r)[-1]) for r in (run, other)]
    assert [end.num_images for end in ends] == [320, 320]
    assert ends[0].tensors.keys() == ends[1].tensors.keys()
    for name, tensor in ends[0].tensors.items():
        torch.testing.assert_close(
            tensor, ends[1].tensors[name], rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
