"""jobs: trainings in parallel, each a process with its own log and a share of one progress line.

A job's process ends by itself when this one is gone, whatever ended it. Ctrl-C reaches this process alone, which asks
every job once, by SIGTERM, to save its state and end.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tessera.config import UserError
from tessera.progress import STATUS_VARIABLE, progress

POLL_SECONDS = 0.3


@dataclass(frozen=True, kw_only=True)
class Job:
    """Process `python -m MODULE ARGS...`, whose progress counts the images that it trains on."""

    name: str
    what: str
    """Name in messages, e.g. "arm ta"."""
    module: str
    args: tuple[str, ...]
    logs: Path
    """Folder of NAME.log and NAME.status.json."""
    images: int
    """Number of images that it trains on."""
    trained: Callable[[], bool] = field(repr=False)
    """Returns True once its training is over."""
    after: str | None = None
    """Name of the job that has to be done before this one starts; None = starts at once."""


def run_jobs(
    jobs: Sequence[Job], parallel: int, *, seconds: float | None = None, stop_at_failure: bool = True
) -> list[str]:
    """Run the jobs in their order, `parallel` at a time; return the names of those that are not done.

    `seconds`: after so long the running ones are asked to save and end, and waited for; None = no limit. A job that
    fails is a UserError with the last line of its log: at once, after the others are stopped, or with `stop_at_failure`
    off when the others are done.
    """
    if not jobs:
        return []  # without a line of progress
    waiting = list(jobs)
    running: list[_Child] = []
    failures: dict[str, str] = {}
    end = time.monotonic() + (math.inf if seconds is None else seconds)
    done = sum(job.images for job in jobs if job.trained())
    try:
        with progress("train", sum(job.images for job in jobs), completed=done) as bar:
            while (waiting or running) and time.monotonic() <= end:
                while len(running) < parallel and (job := _next(waiting, running, failures)):
                    waiting.remove(job)
                    running.append(_Child(job))
                if not running:
                    break  # the rest waits for a job that failed
                time.sleep(POLL_SECONDS)
                found, since = (sum(counts) for counts in zip(*(child.count() for child in running)))
                if found:
                    bar.found(found)
                now = "; ".join(f"{child.job.name} {child.note}" for child in running if child.note)
                bar.advance(since, **({"now": now} if now else {}))
                for child in [child for child in running if child.process.poll() is not None]:
                    running.remove(child)
                    child.end()
                    if child.process.returncode != 0:
                        failures[child.job.name] = child.why()
                        if stop_at_failure:
                            raise UserError(child.why())
    finally:
        left = [*(child.job.name for child in running), *(job.name for job in waiting)]
        _stop(running)
    if failures:
        first, *others = failures.values()
        more = f"; {len(others)} more failed" if others else ""
        raise UserError(f"{first}{more}; all others are done or saved")
    return left


def _next(waiting: Sequence[Job], running: Sequence["_Child"], failures: Collection[str]) -> Job | None:
    """Return the first job that waits for no other one."""
    busy = {job.name for job in waiting} | {child.job.name for child in running} | {*failures}
    return next((job for job in waiting if job.after not in busy), None)


def _stop(running: Sequence["_Child"]) -> None:
    """Ask the jobs to save and end, and wait as long as that takes: a validation or a grid of images may come first.
    Ctrl-C meanwhile ends them at once."""
    try:
        for child in running:
            child.process.terminate()  # on Windows at once; the last checkpoint stays there
        if running:
            names = ", ".join(child.job.what for child in running)
            print(
                f"waits for {names} to save; Ctrl-C ends that at once, and the last checkpoint stays", file=sys.stderr
            )
        for child in running:
            child.end()
    except KeyboardInterrupt:
        for child in running:
            child.process.kill()
            child.end()
        raise


class _Child:
    """Process of a job."""

    def __init__(self, job: Job):
        self.job = job
        self.log, self.status = (job.logs / f"{job.name}.{suffix}" for suffix in ("log", "status.json"))
        self.counted = job.images if job.trained() else 0
        self.note = ""
        job.logs.mkdir(parents=True, exist_ok=True)
        self.status.unlink(missing_ok=True)
        with open(self.log, "ab") as log:
            self.begins = log.tell()  # earlier calls may have written to it
            self.process = subprocess.Popen(
                [sys.executable, "-m", job.module, *job.args],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | {STATUS_VARIABLE: str(self.status)},
                start_new_session=True,
            )

    def count(self) -> tuple[int, int]:
        """Return the images that an earlier call turns out to have trained on, and those since the last count."""
        with contextlib.suppress(FileNotFoundError, PermissionError):  # Windows, while it is replaced
            status = json.loads(self.status.read_bytes())
            self.note = f"{status['description']} {status['completed']}/{status['total']}"
            if status["description"] == "train":
                trained, before = status["completed"], max(status["before"] - self.counted, 0)
            else:
                trained, before = self.job.images if self.job.trained() else 0, 0
            since, self.counted = trained - self.counted - before, trained
            return before, since
        return 0, 0

    def why(self) -> str:
        lines = self.log.read_bytes()[self.begins :].decode(errors="replace").strip().splitlines()
        code = self.process.returncode
        why = lines[-1].removeprefix("error: ") if lines else f"ended with exit code {code}"
        if code < 0:  # it had no time to say anything
            why = f"was killed by signal {-code}" + ("; most often memory ran out" if code == -9 else "")
        return f"{self.job.what}: {why} (all it said: {self.log})"

    def end(self) -> None:
        self.process.wait()
        self.process.communicate()  # closes its input


def work(job: Callable[[], None]) -> int:
    """Call `job` in its process and return the exit code; the log's last line says what went wrong."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):  # the first one, background jobs of a shell ignore
        signal.signal(number, signal.default_int_handler)
    try:
        job()
    except (UserError, KeyboardInterrupt) as error:
        print(f"error: {error}" if isinstance(error, UserError) else "stopped", file=sys.stderr)
        return 2
    except Exception as error:
        traceback.print_exc()  # into the log; the last line is what the user sees
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _end_with_parent() -> None:
    """End this process at once when its standard input closes: the parent is gone."""
    while os.read(0, 1):  # not sys.stdin, whose lock would be held when this process ends
        pass
    os._exit(3)
