"""Addressed randomness is stable and independent; progress speaks as the place it is shown in needs."""

import io
import json
import os
import signal
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera import runtime
from tessera.config import UserError
from tessera.runtime import address, philox, pick_device, progress, set_threads, stopping


def test_philox_values_never_change():
    """These numbers are in every data set and run made so far: a change would make other ones."""
    assert philox(0, "noise").integers(0, 1000, 5).tolist() == [906, 544, 828, 198, 508]
    assert philox(7, "draws", 3).random() == pytest.approx(0.31434978217051357, abs=1e-15)
    assert address("a", 1) == 8386438613850442696


@given(st.integers(0, 2**64 - 1), st.text(max_size=5), st.integers(0, 2**64 - 1))
def test_philox_is_a_function_of_its_address(seed, purpose, counter):
    expected = philox(seed, purpose, counter).random(4)
    assert (philox(seed, purpose, counter).random(4) == expected).all()
    assert (philox(seed ^ 1, purpose, counter).random(4) != expected).all()
    assert (philox(seed, purpose + "x", counter).random(4) != expected).all()
    assert (philox(seed, purpose, counter ^ 1).random(4) != expected).all()


def test_philox_streams_of_neighbouring_counters_share_nothing():
    streams = np.stack([philox(1, "noise", counter).integers(0, 2**63, 1000) for counter in range(20)])
    assert len(np.unique(streams)) == streams.size


def test_philox_is_standard_normal():
    values = np.concatenate([philox(3, "noise", counter).standard_normal(100) for counter in range(1000)])
    assert abs(values.mean()) < 0.015
    assert abs(values.var() - 1) < 0.025


@pytest.mark.parametrize(("seed", "counter"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**64)])
def test_philox_range(seed, counter):
    with pytest.raises(UserError, match="must be in"):
        philox(seed, "x", counter)


def test_address_tells_parts_apart():
    parts = [
        (),
        ("",),
        ("", ""),
        ("ab",),
        ("a", "b"),
        ("b", "a"),
        ("1",),
        (1,),
        (-1,),
        ("i1:1",),
        (1, "1"),
        ("1", 1),
        (11,),
    ]
    addresses = [address(*part) for part in parts]
    assert len(set(addresses)) == len(parts)
    assert all(0 <= value < 2**63 for value in addresses)
    assert address(np.int64(1)) == address(1)


def test_rank_and_world_size(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (runtime.rank(), runtime.world_size()) == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (runtime.rank(), runtime.world_size()) == (3, 8)


def test_pick_device(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="unknown device 'tpu'"):
        pick_device("tpu")
    with pytest.raises(UserError, match="unknown device 'cuda:x'"):
        pick_device("cuda:x")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
    with pytest.raises(UserError, match="device 'cuda' is not available here; available: cpu"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert pick_device() == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert pick_device() == torch.device("cuda:2")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="this machine has 4 GPUs"):
        pick_device("cuda:4")
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(UserError, match="rank 4 of this machine finds 4 GPUs"):
        pick_device()


def test_set_threads(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    set_threads(None)
    set_threads(2)
    assert asked == [2]
    with pytest.raises(UserError, match="threads must be at least 1"):
        set_threads(0)


def test_stopping_turns_sigterm_into_keyboard_interrupt():
    before = signal.getsignal(signal.SIGTERM)

    def body():
        with stopping():
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()  # never returns: the handler raises

    with pytest.raises(KeyboardInterrupt):
        body()
    assert signal.getsignal(signal.SIGTERM) is before


def test_stopping_outside_the_main_thread_does_nothing():
    seen = []

    def body():
        with stopping():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr(runtime.time, "monotonic", lambda: now[0])
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
            "encode 548/2048 images, 50/s, 30 s left, loss 0.1235",
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
        assert stderr.getvalue() == "train 1200/2000 images, 10/s, 1 min left\n"


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
    monkeypatch.setenv(runtime.STATUS_VARIABLE, str(path))

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
    [(0.4, "0 s"), (59, "59 s"), (90, "2 min"), (3599, "1 h 0 min"), (3 * 3600 + 60 * 5, "3 h 5 min")],
)
def test_durations(seconds, text):
    assert runtime._duration(seconds) == text
