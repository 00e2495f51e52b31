"""What a process runs with: addressed randomness, ranks, device, threads, signals and progress.

Randomness has an address. A stream is named by (seed, purpose, counter) and does not depend on what else was drawn, so
any image or training sample can be made again alone, in any order, on any number of processes.
"""

import contextlib
import functools
import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from tessera.config import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

PLAIN_INTERVAL = 10.0  # seconds between two progress lines where stderr is not a terminal
STATUS_VARIABLE = "TESSERA_STATUS"  # environment: a file that progress() writes to instead, for a parent that shows it
STATUS_INTERVAL = 0.3  # seconds between two writes of that file
DISTRIBUTION = "tessera-t2i"
"""What the package is called where it is installed from."""


def philox(seed: int, purpose: str, counter: int = 0) -> "np.random.Generator":
    """The random generator at the address (seed, purpose, counter), all in [0, 2**64).

    Philox4x64 (Salmon et al. 2011): the key is (seed, hash of purpose), `counter` the third of the four counter words.
    So a stream has 2**128 blocks of its own, and no two addresses overlap.
    """
    import numpy as np  # here, so that the command's help answers without it

    if not (0 <= seed < 2**64 and 0 <= counter < 2**64):
        raise UserError(f"seed and counter must be in [0, 2**64), not {seed} and {counter}")
    key = np.array([seed, _purpose_key(purpose)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, counter, 0], dtype=np.uint64)))


@functools.lru_cache(maxsize=1024)
def _purpose_key(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")


def address(*parts: str | int) -> int:
    """A stable integer in [0, 2**63) for a list of strings and integers, e.g. the seed of one image: (seed, key)."""
    digest = hashlib.sha256()
    for part in parts:
        # Type and length go in too, so that ("a", "b"), ("ab",) and (1,), ("1",) are different addresses.
        kind, text = ("i", str(int(part))) if not isinstance(part, str) else ("s", part)
        data = text.encode()
        digest.update(f"{kind}{len(data)}:".encode() + data)
    return int.from_bytes(digest.digest()[:8], "little") >> 1


def rank() -> int:
    """This process's number among those of torchrun, 0 without it."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of processes started by torchrun, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def pick_device(name: str | None = None) -> "torch.device":
    """The torch device called `name`, or the best there is (cuda, mps, cpu). Under torchrun, this rank's own GPU."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        name = next(kind for kind, there in available.items() if there)
    kind, colon, index = name.partition(":")
    if kind not in available or (colon and not index.isdecimal()):
        raise UserError(f"unknown device {name!r}; known: cuda, cuda:N, mps, cpu")
    if not available[kind]:
        others = ", ".join(other for other, there in available.items() if there)
        raise UserError(f"device {name!r} is not available here; available: {others}")
    if kind == "cuda" and colon and int(index) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not available here; this machine has {torch.cuda.device_count()} GPUs")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise UserError(
                f"rank {local} of this machine finds {torch.cuda.device_count()} GPUs; start no more processes than "
                f"there are GPUs in sight (torchrun --nproc-per-node, CUDA_VISIBLE_DEVICES)"
            )
        name = f"cuda:{local}"
    return torch.device(name)


def set_threads(threads: int | None) -> None:
    """Sets the number of CPU threads of torch's operations; None leaves torch's own choice."""
    if threads is None:
        return
    if threads < 1:
        raise UserError(f"threads must be at least 1, not {threads}")
    import torch

    torch.set_num_threads(threads)


def install_command(extra: str) -> str:
    """The command that brings what an extra of the package asks for.

    It names those packages, which pip finds wherever tessera itself came from (a clone, a wheel, a package index).
    """
    import importlib.metadata

    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # a folder on the path alone
        lines = []
    parts = [line.partition(";") for line in lines]
    markers = (f"extra == '{extra}'", f'extra == "{extra}"')
    names = [name.strip() for name, _, marker in parts if marker.strip() in markers]
    return "pip install " + (" ".join(f'"{name}"' for name in names) or f'"{DISTRIBUTION}[{extra}]"')


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Turns SIGTERM into KeyboardInterrupt, so that a stopped job cleans up as it does at Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def interrupt(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


class Progress(Protocol):
    """What `progress` gives: `advance(n)` counts n more units; fields such as loss=0.12 are shown beside the count.

    `found(n)`: n more units turn out to have been done before; like `completed`, they do not count in the rate.
    """

    def advance(self, n: int = 1, **fields: Any) -> None: ...

    def found(self, n: int) -> None: ...


@contextlib.contextmanager
def progress(description: str, total: int, unit: str = "images", completed: int = 0) -> Iterator[Progress]:
    """Shows how far a loop over `total` units is, its rate and the time left, on stderr.

    A bar on a terminal; elsewhere a line at most every 10 s and one at the end; nothing if the environment has
    TESSERA_QUIET=1 or on ranks above 0; a small JSON file if it has TESSERA_STATUS=FILE. `completed` units were done
    before (they do not count in the rate).
    """
    if rank() > 0:
        yield _Quiet()
    elif path := os.environ.get(STATUS_VARIABLE):
        status = _StatusFile(path, description, total, completed)
        yield status
        status.write()
    elif os.environ.get("TESSERA_QUIET") == "1":
        yield _Quiet()
    elif sys.stderr.isatty():
        with _bar(description, total, unit, completed) as bar:
            yield bar
    else:
        lines = _Lines(description, total, unit, completed)
        yield lines
        lines.write()


class _Quiet:
    def advance(self, n: int = 1, **fields: Any) -> None:
        pass

    def found(self, n: int) -> None:
        pass


class _StatusFile:
    """Progress for another process to read: {"description", "total", "completed", "before"}; "before" is the part of
    "completed" that this process did not do."""

    def __init__(self, path: str, description: str, total: int, completed: int):
        self.path, self.description, self.total, self.completed = path, description, total, completed
        self.before = completed
        self.write()

    def advance(self, n: int = 1, **fields: Any) -> None:
        self.completed += n
        if time.monotonic() - self.written >= STATUS_INTERVAL:
            self.write()

    def found(self, n: int) -> None:
        self.before += n
        self.advance(n)

    def write(self) -> None:
        self.written = time.monotonic()
        status = {name: getattr(self, name) for name in ("description", "total", "completed", "before")}
        with open(f"{self.path}.new", "w", encoding="utf-8") as file:
            json.dump(status, file)
        os.replace(f"{self.path}.new", self.path)  # the reader sees a whole file or none


class _Lines:
    """Progress as plain lines, for log files: "encode 1200/2048 images, 350/s, 3 s left"."""

    def __init__(self, description: str, total: int, unit: str, completed: int):
        self.description, self.total, self.unit = description, total, unit
        self.start, self.count = completed, completed
        self.began = self.written = time.monotonic()
        self.fields: dict[str, Any] = {}

    def advance(self, n: int = 1, **fields: Any) -> None:
        self.count += n
        self.fields.update(fields)
        if time.monotonic() - self.written >= PLAIN_INTERVAL:
            self.write()

    def found(self, n: int) -> None:
        self.start += n
        self.count += n

    def write(self) -> None:
        self.written = time.monotonic()
        seconds = self.written - self.began
        done = self.count - self.start
        parts = [f"{self.description} {self.count}/{self.total} {self.unit}"]
        if done and seconds > 0:
            rate = done / seconds
            parts.append(f"{_number(rate)}/s")
            left = self.total - self.count
            parts.append(f"{_duration(left / rate)} left" if left > 0 else f"{_duration(seconds)} in all")
        parts += _shown(self.fields)
        print(", ".join(parts), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bar(description: str, total: int, unit: str, completed: int) -> Iterator[Progress]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} {task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(escape(description), total=total, completed=completed, unit=escape(unit), rate="", note="")
        began = time.monotonic()
        count = 0

        class Bar:
            def advance(self, n: int = 1, **fields: Any) -> None:
                nonlocal count
                count += n
                rate = count / max(time.monotonic() - began, 1e-9)
                bar.update(task, advance=n, rate=f"{_number(rate)}/s", note=escape(", ".join(_shown(fields))))

            def found(self, n: int) -> None:
                bar.reset(task, completed=int(bar.tasks[0].completed) + n)  # or the time left would be of this leap

        yield Bar()


def _shown(fields: dict[str, Any]) -> list[str]:
    return [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in fields.items()]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
