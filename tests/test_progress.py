"""Progress on a terminal, in log files and for a parent process."""

import io
import json

import pytest

from tessera import progress as progress_module
from tessera.progress import duration_text, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_progress_lines(monkeypatch, clock):
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setenv("TESSERA_QUIET", "0")
    with progress("encode", 2048, completed=48) as bar:
        for _ in range(4):
            clock[0] += 5
            bar.advance(250, loss=0.12345678)
        assert stderr.getvalue().splitlines() == [
            "encode 548/2048 images, 50/s, loss 0.1235",  # 5 s after the first ones the rate has not settled
            "encode 1048/2048 images, 50/s, 20 s left, loss 0.1235",
        ]
        clock[0] += 1
        bar.advance(1000)
    assert stderr.getvalue().splitlines()[2] == "encode 2048/2048 images, 95/s, 21 s in all, loss 0.1235"
    assert len(stderr.getvalue().splitlines()) == 3


def test_what_was_found_done_counts_in_no_rate(monkeypatch, clock):
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setenv("TESSERA_QUIET", "0")
    with progress("train", 2000) as bar:
        bar.found(1000)
        clock[0] += 20
        bar.advance(200)
        assert stderr.getvalue() == "train 1200/2000 images, 10/s\n"
        bar.found(100)
        clock[0] += 20
        bar.advance(100)
        assert stderr.getvalue().splitlines()[1] == "train 1400/2000 images, 7.5/s, 2.0 min left"
        assert bar.left() == 120  # 600 images at the 5/s of the last 20 s, where the start was slower or faster


def test_the_start_says_nothing_about_the_time_left(monkeypatch, clock):
    monkeypatch.setenv("TESSERA_QUIET", "1")
    with progress("train", 1000) as bar:
        for seconds, images, left in ((300, 10, None), (14, 140, None), (1, 10, 84.0), (100, 1000, None)):
            clock[0] += seconds
            bar.advance(images)
            assert bar.left() == (pytest.approx(left) if left else None) or bar.completed > 1000


def test_progress_lines_say_no_end_that_did_not_come(monkeypatch, clock):
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setenv("TESSERA_QUIET", "0")

    def body():
        with progress("train", 10) as bar:
            bar.advance()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        body()
    assert stderr.getvalue() == ""


def test_progress_in_a_file_for_a_parent_process(monkeypatch, clock, tmp_path):
    path = tmp_path / "status.json"
    monkeypatch.setenv(progress_module.STATUS_VARIABLE, str(path))

    def completed():
        return json.loads(path.read_text())["completed"]

    with progress("train", 10, completed=2) as bar:
        assert json.loads(path.read_text()) == {
            "description": "train",
            "total": 10,
            "completed": 2,
            "before": 2,
        }
        bar.advance(3, loss=1.0)
        assert completed() == 2  # written at most every 0.3 s
        clock[0] += 0.4
        bar.advance(1)
        assert completed() == 6
        bar.advance(4)
    assert completed() == 10
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]

    monkeypatch.setenv("RANK", "1")  # only the first rank writes
    with progress("other", 10) as bar:
        bar.advance(10)
    assert completed() == 10
    assert json.loads(path.read_text())["description"] == "train"


@pytest.mark.parametrize(("name", "value"), [("TESSERA_QUIET", "1"), ("RANK", "1")])
def test_progress_is_quiet(monkeypatch, clock, name, value):
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setenv("TESSERA_QUIET", "0")
    monkeypatch.setenv(name, value)
    with progress("encode", 10) as bar:
        clock[0] += 100
        bar.advance(10, loss=1.0)
    assert stderr.getvalue() == ""


def test_progress_bar_on_a_terminal(monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setenv("TESSERA_QUIET", "0")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with progress("encode [x]", 20, "records", completed=5) as bar:
        bar.found(5)
        bar.advance(10, loss=0.5)
    shown = stderr.getvalue()
    assert "encode [x]" in shown
    assert "20/20 records" in shown
    assert "loss 0.5" in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-1, "0.0 s"), (0.44, "0.4 s"), (9.94, "9.9 s"), (9.96, "10 s"), (99.4, "99 s"), (99.6, "1.7 min")),
        *((590, "9.8 min"), (3599, "60 min"), (7169, "119 min"), (7171, "2.0 h"), (1e6, "277.8 h")),
    ],
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text
