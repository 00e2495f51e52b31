"""Training by several processes, and the comparison of what two runs left."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tessera.config import to_dict
from tessera.train.optim.config import OptimConfig
from tiny.runs import log_of, state_of
from tiny.training_sets import DIT, config_of

PATIENCE = 300  # seconds; tracing a RIN takes each process a dozen of a core of its own
SCRIPT = """
import functools, json, os, signal, sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from tessera.config import from_dict
from tessera.train import checkpoint, loop, step
from tessera.train.config import JudgeOptions, RuntimeOptions, TrainConfig
config = from_dict(TrainConfig, json.loads(sys.argv[1]))
stop, kill = int(sys.argv[2]), float(sys.argv[4])
judge = from_dict(JudgeOptions, json.loads(os.environ["JUDGE"])) if "JUDGE" in os.environ else None
runtime = RuntimeOptions(**json.loads(sys.argv[3]), judge=judge)
device = os.environ["DEVICE"]
if device == "cpu":  # traced as for a GPU, with gradients in the program, but without the compiler: it takes a minute
    torch.nn.Module.compile = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
if runtime.compile and device == "cpu":  # and with a GPU's few shapes: each further one costs seconds of tracing
    from tessera.diffusion import loss
    from tessera.models import network, rin
    for module in (loss, network, rin):
        module.few_shapes = lambda device: True
last = os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
original, steps = step.Stepper.step, iter(range(10**6))
def signalled(self, *args):
    if next(steps) == stop and last:
        os.kill(os.getpid(), signal.SIGUSR1)
    return original(self, *args)
step.Stepper.step = signalled
save, saves, usual = checkpoint.save, iter(range(10**6)), [0.1]
def killed(*args, **options):
    if args[0].name == "best":
        return save(*args, **options)
    if next(saves) == 1 and last and kill >= 0:
        threading.Thread(target=lambda: (time.sleep(kill * usual[0]), os.kill(os.getpid(), signal.SIGKILL))).start()
    began = time.monotonic()
    save(*args, **options)
    usual[0] = time.monotonic() - began
checkpoint.save = killed
for _ in range(2):
    try:
        out, plain, *rest = map(Path, sys.argv[5:])
        loop.train(out, plain, rest[0] if rest else None, config, device=device, runtime=runtime)
    except KeyboardInterrupt:
        sys.exit(7)
"""


def on_ranks(count, config, *paths, stop=-1, kill=-1.0, judge=None, device="cpu", **options) -> list[int]:
    """Exit codes of so many processes that train together, twice (the second time all is done). The last one is told to
    stop before its step number `stop`; then they end with 7. `kill`: it is killed while the second checkpoint is saved,
    after this share of the time that the first one took. judge, options: of `RuntimeOptions`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [json.dumps(to_dict(config)), str(stop), json.dumps(options), str(kill), *map(str, paths)]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "DEVICE": device}
    common |= {"JUDGE": json.dumps(to_dict(judge))} if judge is not None else {}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments], env=os.environ | common | {"RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in map(str, range(count))
    ]
    try:
        return [process.wait(PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def assert_same(one: Path, other: Path, atol: float = 1e-6) -> None:
    """Checkpoints within `atol`, logs within 1e-6 relatively."""
    a, b = state_of(one), state_of(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.allclose(value, b[name], atol=atol, rtol=0), (name, float((value - b[name]).abs().max()))
    for line, again in zip(log_of(one), log_of(other), strict=True):
        assert line.keys() == again.keys()
        for name in ("loss", "grad_norm", "augmented_share", "loss_by_t"):
            assert again[name] == pytest.approx(line[name], rel=1e-5), name
        assert again["validation"]["loss"] == pytest.approx(line["validation"]["loss"], rel=1e-5)


def config(model, **changes):
    """Six steps of twelve. Epsilon of AdamW and LAMB magnifies rounding where a gradient is near 0: a low rate."""
    optim = OptimConfig(name="adamw" if model is DIT else "lamb", lr=1e-4, decay="constant")
    return config_of(
        model=model,
        num_images=72,
        batch_size=12,
        log_every_images=24,
        validate_every_images=24,
        validation_records=5,
        optim=optim,
        **changes,
    )
