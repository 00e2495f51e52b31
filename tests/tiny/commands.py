"""The command line: in this process, or in a process of its own as a user meets it."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tessera.cli import main


def call(*words: object) -> int:
    """Run `tessera WORDS` in this process; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def tessera(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `tessera WORDS` in a process of its own, in the folder `cwd`."""
    return subprocess.run(
        [sys.executable, "-m", "tessera.cli", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"TESSERA_QUIET": "1", "COLUMNS": "120"},
        timeout=300,
    )


def fails(*words: object, cwd: Path | None = None) -> str:
    """Return the one line that a wrong call of `tessera` in this process says."""
    said = io.StringIO()
    with contextlib.chdir(cwd or Path()), contextlib.redirect_stderr(said):
        assert call(*words) == 2
    (line,) = said.getvalue().splitlines()
    assert line.startswith("error: ")
    return line
