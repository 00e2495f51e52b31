"""Files that are there whole or not at all."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pyarrow as pa
import pytest

from tessera.config import UserError
from tessera.files import (
    LOCK,
    atomic_path,
    exclusive_lock,
    read_json,
    read_table,
    remove_unfinished,
    sha256_file,
    write_json,
    write_table,
    write_text,
)


def test_atomic_path_replaces_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for durable in (True, False):
        with atomic_path(path, durable) as temporary:
            assert temporary.parent == path.parent
            assert temporary.name.startswith(".")
            assert temporary.suffix == ".txt"
            temporary.write_text(str(durable))
        assert path.read_text() == str(durable)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_path_keeps_the_old_file_when_the_body_fails(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_or_quota_names_the_file_that_was_being_written(tmp_path):
    def fill():
        with atomic_path(tmp_path / "a.txt"):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with pytest.raises(OSError, match=r"Disk quota exceeded: '.*a\.txt'"):
        fill()


@pytest.mark.parametrize("durable", [True, False])
def test_a_second_call_in_the_same_directory_is_said(tmp_path, durable):
    def write():
        with atomic_path(tmp_path / "a.txt", durable) as temporary:
            temporary.write_text("mine")
            remove_unfinished(tmp_path)  # as open_stage does

    with pytest.raises(UserError, match=r"a\.txt: was removed while it was written: another call works in"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_lines_end_alike_on_every_system(tmp_path):
    write_text(tmp_path / "page.html", "a\u2212b\nc\n")
    assert (tmp_path / "page.html").read_bytes() == b"a\xe2\x88\x92b\nc\n"


def test_json(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5, None], "a": "é"})
    assert path.read_bytes() == '{\n "a": "é",\n "b": [\n  1,\n  2.5,\n  null\n ]\n}\n'.encode()
    assert read_json(path) == {"b": [1, 2.5, None], "a": "é"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path)["a"] == "é"


def test_json_errors_name_the_file(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=r"a\.json: there is no such file$"):
        read_json(path)
    path.write_bytes(b'{"a": ')
    with pytest.raises(UserError, match=r"a\.json: is not JSON"):
        read_json(path)
    path.write_bytes(b'"\xff"')
    with pytest.raises(UserError, match=r"a\.json: is not JSON"):
        read_json(path)
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(UserError, match=r"a\.json: is not JSON"):
        read_json(path)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_json(tmp_path)


def test_table(tmp_path):
    path = tmp_path / "a.parquet"
    columns = {"key": ["a", "b"], "left": [1, 2], "names": [["x"], []]}
    write_table(path, columns)
    first = path.read_bytes()
    assert read_table(path).to_pydict() == columns
    assert read_table(path, ["left", "key"]).column_names == ["left", "key"]
    write_table(path, pa.table(columns))
    assert path.read_bytes() == first
    write_table(path, {"key": []}, schema=pa.schema([("key", pa.string())]))
    assert read_table(path).schema.field("key").type == pa.string()


def test_table_errors_name_the_file(tmp_path):
    path = tmp_path / "a.parquet"
    with pytest.raises(UserError, match=r"a\.parquet: there is no such file"):
        read_table(path)
    write_table(path, {"key": ["a"]})
    with pytest.raises(UserError, match=r"a\.parquet: has no column 'text'; it has key"):
        read_table(path, ["key", "text"])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"a\.parquet: is not a Parquet file or is damaged"):
        read_table(path)


def test_sha256_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc" * 100_000)
    assert sha256_file(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    code = (
        "import os, signal, sys\n"
        "from tessera.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('{')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    source = str(Path(__file__).parents[1] / "src")
    done = subprocess.run([sys.executable, "-c", code, path], env={**os.environ, "PYTHONPATH": source}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert read_json(path) == {"a": 1}


def take(directory):
    with exclusive_lock(directory, "another call works here"):
        return sorted(entry.name for entry in directory.iterdir())


def test_a_folder_is_locked_for_one_at_a_time(tmp_path):
    with exclusive_lock(tmp_path, "this"), pytest.raises(UserError, match="another call works here; wait for it or"):
        take(tmp_path)
    assert take(tmp_path) == []  # and nothing of the lock is left
    assert take(tmp_path / "new" / "folder") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is a file; give a directory"):
        take(tmp_path / "file")
    with pytest.raises(UserError, match="below: cannot be made: Not a directory"):
        take(tmp_path / "file" / "below")


def test_a_lock_ends_with_its_process_even_a_killed_one(tmp_path):
    code = (
        "import sys, time, pathlib\n"
        "from tessera.files import exclusive_lock\n"
        "with exclusive_lock(pathlib.Path(sys.argv[1]), ''):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(UserError, match="another call works here"):
        take(tmp_path)
    other.kill()
    other.communicate()
    assert take(tmp_path) == []


def test_where_folders_cannot_be_locked_a_file_in_them_is(tmp_path, monkeypatch):
    import fcntl

    def flock(descriptor, operation, lock=fcntl.flock):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError("Bad file descriptor")  # as NFS answers
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive_lock(tmp_path, "this"), pytest.raises(UserError, match="another call works here"):
        take(tmp_path)
    assert take(tmp_path) == [LOCK]


def test_windows_locks_the_file_by_its_own_module(tmp_path, monkeypatch):
    import fcntl

    def locking(descriptor, mode, number):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError("Windows opens no folders")
        assert (mode, number) == (2, 1)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError("Permission denied") from None

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(LK_NBLCK=2, locking=locking))  # type: ignore
    with exclusive_lock(tmp_path, "this"), pytest.raises(UserError, match="another call works here"):
        take(tmp_path)
    assert take(tmp_path) == [LOCK]


def test_files_are_synced_as_windows_allows_it(tmp_path, monkeypatch):
    import fcntl

    def fsync(descriptor, sync=os.fsync):
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        if not os.path.isdir(f"/proc/self/fd/{descriptor}") and flags & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_the_verbs_can_be_imported_where_python_has_no_posix_modules():
    code = (
        "import os, signal, sys\n"
        "for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios'):\n"
        "    sys.modules[name] = None\n"
        "import multiprocessing, subprocess, torch.distributed.checkpoint\n"  # they look which system it is
        "for name in ('SIGKILL', 'SIGUSR1', 'SIGHUP'):\n"
        "    delattr(signal, name)\n"
        "for name in ('sched_getaffinity', 'fork', 'killpg'):\n"
        "    delattr(os, name)\n"
        "import tessera.run, tessera.study.runner, tessera.cli, tessera.train.loop, tessera.workers, tessera.jobs\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
