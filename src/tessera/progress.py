"""Progress bars, plain progress lines, and status files for a parent process."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

from tessera.devices import rank

PLAIN_INTERVAL = 10.0  # seconds between two progress lines where stderr is not a terminal
STATUS_VARIABLE = "TESSERA_STATUS"  # environment: a file that progress() writes to instead, for a parent that shows it
STATUS_INTERVAL = 0.3  # seconds between two writes of that file


class Progress(Protocol):
    """Counter of a loop: `advance(n)` counts n more units; fields such as loss=0.12 are shown after the count.

    `found(n)`: n more units turn out to have been done before; like `completed`, they do not count in the rate.
    """

    def advance(self, n: int = 1, **fields: Any) -> None: ...

    def found(self, n: int) -> None: ...


@contextlib.contextmanager
def progress(description: str, total: int, unit: str = "images", completed: int = 0) -> Iterator[Progress]:
    """Show on stderr how far a loop over `total` units is, its rate and the time left.

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
    """File for another process to read: {"description", "total", "completed", "before"}.

    "before" is the part of "completed" that this process did not do.
    """

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
    """Plain lines for log files: "encode 1200/2048 images, 350/s, 3 s left"."""

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
            parts.append(f"{duration_text(left / rate)} left" if left > 0 else f"{duration_text(seconds)} in all")
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


def duration_text(seconds: float) -> str:
    """Return a duration for people: "8.1 s", "34 s", "9.5 min", "42 min", "3.0 h"."""
    seconds = max(seconds, 0.0)
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 119.5:
        return f"{minutes:.1f} min" if minutes < 9.95 else f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"
