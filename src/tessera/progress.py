"""Progress bars, plain progress lines, and status files for a parent process."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tessera.devices import rank

SETTLED = 15.0
"""Seconds after the first units during which no time left is shown: the start says little about the rest."""
STATUS_VARIABLE = "TESSERA_STATUS"  # environment: a file that progress() writes to instead, for a parent that shows it


class Progress:
    """Counter of a loop; this one shows nothing, its subclasses do."""

    interval = float("inf")
    """Seconds between two calls of `show`."""

    def __init__(self, description: str, total: int, unit: str = "images", completed: int = 0) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.before = self.completed = completed
        self.fields: dict[str, Any] = {}
        self.began = self.shown = time.monotonic()
        self._first: tuple[float, int] | None = None

    def advance(self, n: int = 1, **fields: Any) -> None:
        """Count n more units; fields such as loss=0.12 are shown after the count."""
        self.completed += n
        if n and self._first is None:
            self._first = time.monotonic(), self.completed
        self.fields.update(fields)
        if time.monotonic() - self.shown >= self.interval:
            self.show()
            self.shown = time.monotonic()

    def found(self, n: int) -> None:
        """Count n units that turn out to have been done before; they do not count in the rate."""
        self.before += n
        if self._first is not None:
            self._first = self._first[0], self._first[1] + n
        self.completed += n
        self.advance(0)

    def show(self) -> None:
        """Show the state; called at most every `interval` seconds, and at the end."""

    def rate(self) -> float:
        """Return the units per second that this process does."""
        return (self.completed - self.before) / max(time.monotonic() - self.began, 1e-9)

    def left(self) -> float | None:
        """Return the seconds left, by the rate since the first units; None until that has settled."""
        if self._first is None or time.monotonic() - self._first[0] < SETTLED or self.completed == self._first[1]:
            return None
        per_unit = (time.monotonic() - self._first[0]) / (self.completed - self._first[1])
        return per_unit * (self.total - self.completed)

    def notes(self) -> list[str]:
        """List the fields as text."""
        return [f"{name} {v:.4g}" if isinstance(v, float) else f"{name} {v}" for name, v in self.fields.items()]


@contextlib.contextmanager
def progress(description: str, total: int, unit: str = "images", completed: int = 0) -> Iterator[Progress]:
    """Show on stderr how far a loop over `total` units is, its rate and the time left.

    A bar on a terminal; elsewhere a line at most every 10 s and one at the end; nothing if the environment has
    TESSERA_QUIET=1 or on ranks above 0; a small JSON file if it has TESSERA_STATUS=FILE. `completed` units were done
    before (they do not count in the rate).
    """
    loop = (description, total, unit, completed)
    if rank() == 0 and STATUS_VARIABLE in os.environ:
        shown = _StatusFile(*loop)
        shown.show()
    elif rank() > 0 or os.environ.get("TESSERA_QUIET") == "1":
        shown = Progress(*loop)
    elif sys.stderr.isatty():
        with _bar(*loop) as bar:
            yield bar
        return
    else:
        shown = _Lines(*loop)
    yield shown
    shown.show()


class _StatusFile(Progress):
    """File for another process to read: {"description", "total", "completed", "before"}.

    "before" is the part of "completed" that this process did not do.
    """

    interval = 0.3

    def show(self) -> None:
        status = {name: getattr(self, name) for name in ("description", "total", "completed", "before")}
        path = Path(os.environ[STATUS_VARIABLE])
        new = path.with_name(f"{path.name}.new")
        new.write_text(json.dumps(status), encoding="utf-8")
        with contextlib.suppress(PermissionError):  # Windows, while the reader has it open; the next one gets there
            new.replace(path)  # the reader sees a whole file or none


class _Lines(Progress):
    """Plain lines for log files: "encode 1200/2048 images, 350/s, 3 s left"."""

    interval = 10.0

    def show(self) -> None:
        parts = [f"{self.description} {self.completed}/{self.total} {self.unit}"]
        if (rate := self.rate()) > 0:
            parts.append(f"{_number(rate)}/s")
            if self.completed >= self.total:
                parts.append(f"{duration_text(time.monotonic() - self.began)} in all")
            elif (left := self.left()) is not None:
                parts.append(f"{duration_text(left)} left")
        print(", ".join(parts + self.notes()), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bar(description: str, total: int, unit: str, completed: int) -> Iterator[Progress]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    count = TextColumn("{task.completed}/{task.total} {task.fields[unit]}")
    rate, note = TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[note]}")
    left = TextColumn("{task.fields[left]}")
    columns = (TextColumn("{task.description}"), BarColumn(), count, rate, left, note)
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(
            escape(description), total=total, completed=completed, unit=escape(unit), rate="", left="", note=""
        )

        class Bar(Progress):
            interval = 0.0

            def show(self) -> None:
                note = escape(", ".join(self.notes()))
                seconds = self.left()
                left = "" if seconds is None else f"{duration_text(seconds)} left"
                rate = f"{_number(self.rate())}/s"
                bar.update(task, completed=self.completed, rate=rate, left=left, note=note)

        yield Bar(description, total, unit, completed)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def duration_text(seconds: float) -> str:
    """Return a duration for people: "8.1 s", "34 s", "9.5 min", "42 min", "3.0 h"."""
    value, unit = max(seconds, 0.0), "s"
    if value >= 99.5:
        value, unit = value / 60, "min"
    if value >= 119.5:
        return f"{value / 60:.1f} h"
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
