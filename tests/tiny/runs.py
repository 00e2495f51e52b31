"""What a training run left, read back, and ways to stop it."""

import json
import os
import signal
from pathlib import Path

import torch

from tessera.train import checkpoint
from tessera.train.logs import MEASURED
from tessera.train.step import Stepper

STATE = "shard-00001-model-00001-of-00001.safetensors"  # a checkpoint's file, of one process


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


def contents(run: Path) -> dict[str, object]:
    """Return every file's bytes; of the log the numbers that are not timings."""
    found: dict[str, object] = {}
    for path in sorted(p for p in run.rglob("*") if p.is_file() and "tensorboard" not in p.relative_to(run).parts):
        name = str(path.relative_to(run))
        found[name] = log_of(run) if name == "log.jsonl" else path.read_bytes()
    return found


def log_of(run: Path) -> list[dict]:
    """Return the log's lines without timings."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if k not in MEASURED} for x in lines]


def state_of(run: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of the newest checkpoint."""
    newest = checkpoint.latest(run)
    assert newest is not None
    return checkpoint.load(newest).tensors


def before_step(monkeypatch, action) -> None:
    """Call action(number) before each step; the first is 0."""
    original, count = Stepper.step, iter(range(10**6))

    def counted(self, *args):
        action(next(count))
        return original(self, *args)

    monkeypatch.setattr(Stepper, "step", counted)


def stop_at(monkeypatch, step, number=signal.SIGTERM) -> None:
    """Send this process a signal before the step number `step`."""
    before_step(monkeypatch, lambda n: os.kill(os.getpid(), number) if n == step else None)
