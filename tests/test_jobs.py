"""Jobs in parallel: order, failures, time limits."""

import contextlib
import functools
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tessera.config import UserError
from tessera.jobs import Job, run_jobs

SCRIPT = """
import os, pathlib, signal, sys, time
from tessera.config import UserError
from tessera.jobs import work
from tessera.progress import progress

def job():
    place, name, seconds = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    with open(place / "order", "a") as file:
        file.write(name + " starts\\n")
    if seconds == -9:
        os.kill(os.getpid(), signal.SIGKILL)
    if seconds == -2:
        while not (place / "long.begun").exists():
            time.sleep(0.01)
    if seconds < 0:
        raise UserError("bad input here")
    end = time.monotonic() + seconds
    if len(sys.argv) > 4:
        with progress("train", 10, completed=int(sys.argv[4])) as bar:
            bar.advance(3)
    try:
        (place / (name + ".begun")).touch()
        while time.monotonic() < end:
            time.sleep(0.01)
    except KeyboardInterrupt:
        time.sleep(float(os.environ.get("SAVING", 0)))
        (place / (name + ".saved")).touch()
        raise
    (place / name).touch()

sys.exit(work(job))
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    (tmp_path / "a_job_of_the_test.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    def job(name: str, seconds: float, after: str | None = None) -> Job:
        return Job(
            name=name,
            what=f"cell {name}",
            module="a_job_of_the_test",
            args=(str(tmp_path), name, str(seconds)),
            logs=tmp_path / "logs",
            images=10,
            trained=functools.partial(Path.exists, tmp_path / name),
            after=after,
        )

    return job


def order(folder: Path) -> list[str]:
    return [line.split()[0] for line in (folder / "order").read_text().splitlines()]


def test_all_are_done_in_their_order_and_after_what_they_wait_for(make, tmp_path):
    jobs = [make("late", 0, after="first"), make("first", 0.2), make("last", 0)]
    assert run_jobs(jobs, 1) == []
    assert order(tmp_path) == ["first", "late", "last"]


def test_a_failure_is_said_with_the_last_line_of_its_log_and_stops_the_others(make, tmp_path):
    with pytest.raises(UserError, match=r"cell bad: bad input here \(all it said: .*bad\.log\)"):
        run_jobs([make("bad", -2), make("long", 60)], 2)
    assert (tmp_path / "long.saved").exists()
    assert not (tmp_path / "long").exists()


def test_a_killed_one_is_not_said_to_have_ended_as_an_earlier_call_did(make, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "big.log").write_text("stopped\n")
    with pytest.raises(UserError, match=r"cell big: was killed by signal 9; most often memory ran out \(all"):
        run_jobs([make("big", -9)], 1)


def test_images_of_an_earlier_call_are_no_speed(make, tmp_path, monkeypatch):
    """A job that resumes at image 7 of 10."""
    seen = {"found": 0, "advance": 0}

    @contextlib.contextmanager
    def progress(*_args, **_kwargs):
        class Bar:
            def found(self, n):
                seen["found"] += n

            def advance(self, n=1, **_fields):
                seen["advance"] += n

        yield Bar()

    monkeypatch.setattr("tessera.jobs.progress", progress)
    resumed = make("resumed", 1.5)
    run_jobs([replace(resumed, args=(*resumed.args, "7"))], 1)
    assert seen == {"found": 7, "advance": 3}


def test_nothing_is_said_where_there_is_nothing_to_do(capsys, monkeypatch):
    monkeypatch.delenv("TESSERA_QUIET", raising=False)
    assert run_jobs([], 2) == []
    assert capsys.readouterr().err == ""


def test_or_lets_them_finish_but_not_those_that_wait_for_it(make, tmp_path):
    jobs = [make("bad", -1), make("follows", 0, after="bad"), make("other", 0.2), make("worse", -1)]
    with pytest.raises(UserError, match=r"bad input here.*; 1 more failed"):
        run_jobs(jobs, 1, stop_at_failure=False)
    assert (tmp_path / "other").exists()
    assert "follows" not in order(tmp_path)


def test_when_the_time_is_over_the_running_ones_save_and_the_rest_is_left(make, tmp_path):
    began = time.monotonic()
    left = run_jobs([make("short", 0), make("long", 60), make("never", 0)], 1, seconds=3)
    assert left[-1] == "never"
    assert set(left) <= {"long", "never"}
    assert time.monotonic() - began < 40  # it was not waited for
    assert not (tmp_path / "never").exists()


def test_saving_is_waited_for_as_long_as_it_takes(make, tmp_path, monkeypatch, capsys):
    wait = subprocess.Popen.wait

    def no_time_is_enough(self, timeout=None):
        return wait(self, None if timeout is None else 0.01)

    monkeypatch.setenv("SAVING", "1")
    monkeypatch.setattr(subprocess.Popen, "wait", no_time_is_enough)
    with pytest.raises(UserError, match="cell bad: bad input here"):
        run_jobs([make("bad", -2), make("long", 60)], 2)
    assert (tmp_path / "long.saved").exists()
    assert "waits for cell long to save; Ctrl-C ends that at once" in capsys.readouterr().err


def test_ctrl_c_while_they_save_ends_them_at_once(make, tmp_path, monkeypatch):
    wait, pressed = subprocess.Popen.wait, []

    def ctrl_c(self, timeout=None):
        if not pressed:
            pressed.append(True)
            raise KeyboardInterrupt
        return wait(self, timeout)

    monkeypatch.setenv("SAVING", "60")
    began = time.monotonic()
    monkeypatch.setattr(subprocess.Popen, "wait", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run_jobs([make("long", 60)], 1, seconds=3)
    assert time.monotonic() - began < 40
    assert not (tmp_path / "long.saved").exists()
