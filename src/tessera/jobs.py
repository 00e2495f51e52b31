"""jobs: trainings in parallel, each a process with its own log and a share of one progress line.

A job's process ends by itself when this one is gone, whatever ended it. Ctrl-C reaches this process alone, which passes
it on once, so that every job saves its state.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
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

    `seconds`: after so long the running ones are asked to save and end; None = no limit. A job that fails is a
    UserError with the last line of its log: at once, after the others are stopped, or with `stop_at_failure` off when
    the others are done.
    """
    if not jobs:
        return []  # without a line of progress
    waiting = list(jobs)
    running: list[_Child] = []
    failures: list[str] = []
    failed: set[str] = set()
    end = None if seconds is None else time.monotonic() + seconds
    total = sum(job.images for job in jobs)
    done = sum(job.images for job in jobs if job.trained())
    try:
        with progress("train", total, completed=done) as bar:
            while waiting or running:
                if end is not None and time.monotonic() > end:
                    break
                while len(running) < parallel and (job := _next(waiting, running, failed)):
                    waiting.remove(job)
                    running.append(_Child(job))
                if not running:
                    break  # what is left waits for a job that failed
                time.sleep(POLL_SECONDS)
                counts = [child.count() for child in running]
                if before := sum(before for before, _ in counts):
                    bar.found(before)
                now = "; ".join(f"{child.job.name} {child.note}" for child in running if child.note)
                bar.advance(sum(since for _, since in counts), **({"now": now} if now else {}))
                for child in [child for child in running if child.process.poll() is not None]:
                    running.remove(child)
                    child.close()
                    if child.process.returncode != 0:
                        failed.add(child.job.name)
                        failures.append(child.why())
                        if stop_at_failure:
                            raise UserError(failures[0])
    finally:
        left = [*(child.job.name for child in running), *(job.name for job in waiting)]
        for child in running:
            child.ask_to_stop()
        for child in running:
            child.wait()
    if failures:
        others = f"; {len(failures) - 1} more failed" if len(failures) > 1 else ""
        raise UserError(f"{failures[0]}{others}; all others are done or saved")
    return left


def _next(waiting: Sequence[Job], running: Sequence["_Child"], failed: set[str]) -> Job | None:
    """Return the first job that waits for no other one."""
    busy = {job.name for job in waiting} | {child.job.name for child in running} | failed
    return next((job for job in waiting if job.after not in busy), None)


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
        with contextlib.suppress(FileNotFoundError):
            status = json.loads(self.status.read_bytes())
            trained = status["completed"] if status["description"] == "train" else self._trained()
            self.note = f"{status['description']} {status['completed']}/{status['total']}"
            before = max(status["before"] - self.counted, 0) if status["description"] == "train" else 0
            since, self.counted = trained - self.counted - before, trained
            return before, since
        return 0, 0

    def _trained(self) -> int:
        return self.job.images if self.job.trained() else 0

    def why(self) -> str:
        lines = self.log.read_bytes()[self.begins :].decode(errors="replace").strip().splitlines()
        if self.process.returncode < 0:  # it had no time to say anything
            why = f"was killed by signal {-self.process.returncode}"
            why += "; most often memory ran out" if self.process.returncode == -9 else ""
        else:
            why = lines[-1].removeprefix("error: ") if lines else f"ended with exit code {self.process.returncode}"
        return f"{self.job.what}: {why} (all it said: {self.log})"

    def ask_to_stop(self) -> None:
        if os.name == "posix":
            self.process.send_signal(signal.SIGINT)
        else:
            self.process.terminate()  # Windows: the last checkpoint is what is saved

    def wait(self) -> None:
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.close()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


def work(job: Callable[[], None]) -> int:
    """Call `job` in its process and return the exit code; the log's last line says what went wrong."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    try:
        job()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 2
    except Exception as error:
        traceback.print_exc()  # into the log; the last line is what the user sees
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _end_with_parent() -> None:
    """End this process at once when its standard input closes: the parent is gone."""

    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock would be held when this process ends
            pass
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()
