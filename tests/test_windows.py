"""`run` and `study` start where there is none of what only Unix has: those modules, functions of os, and signals."""

import os
import subprocess
import sys

import pytest

from study.test_runner import TOY

# Read by every Python process, before anything else. For tessera alone: the libraries ask for the platform themselves.
PRELUDE = """
import builtins, importlib.metadata, importlib.resources, multiprocessing, os, signal, sys, types
UNIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"}
MISSING = {"os": {"sched_getaffinity", "fork", "forkpty", "killpg", "setsid", "getuid", "geteuid", "getgid", "uname",
                  "nice", "getpgid", "getpgrp", "setpgid", "statvfs", "sync", "chown", "mkfifo", "WNOHANG"},
           "signal": {"SIGKILL", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "SIGQUIT", "SIGCHLD", "alarm"}}
LESS = {name: types.ModuleType(name) for name in MISSING}
for name, module in LESS.items():
    vars(module).update((key, value) for key, value in vars(sys.modules[name]).items() if key not in MISSING[name])
LESS["os"].name = "nt"
def locking(descriptor, mode, count):
    if os.path.isdir(f"/proc/self/fd/{descriptor}"):
        raise OSError("folders cannot be opened")
msvcrt = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
LESS["importlib"] = types.ModuleType("importlib")
vars(LESS["importlib"]).update(vars(importlib))
LESS["importlib"].import_module = lambda name: msvcrt if name == "msvcrt" else importlib.import_module(name)
original = builtins.__import__
def without(name, globals=None, *rest, **named):
    if str((globals or {}).get("__name__")).partition(".")[0] == "tessera":
        if name.partition(".")[0] in UNIX:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name in LESS:
            return LESS[name]
    return original(name, globals, *rest, **named)
builtins.__import__ = without
multiprocessing.get_all_start_methods = lambda: ["spawn"]
"""


@pytest.fixture
def on_windows(tmp_path):
    """Call a verb in a process that has only what Windows has."""
    (tmp_path / "prelude").mkdir()
    (tmp_path / "prelude" / "sitecustomize.py").write_text(PRELUDE)
    path = os.pathsep.join([str(tmp_path / "prelude"), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "TESSERA_QUIET": "1"}

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tessera.cli", *map(str, words)]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=500)

    return call


@pytest.mark.slow
def test_a_run_and_a_study_end_without_what_only_unix_has(on_windows, tmp_path):
    done = on_windows("run", "miniature-smoke", "--out", "smoke")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "smoke" / "report" / "index.html").is_file()
    (tmp_path / "toy.py").write_text(TOY)
    done = on_windows("study", "toy.py:straight", "--out", "studied")
    assert done.returncode == 0, done.stderr
