"""The wheel holds everything that the package needs, and works without the sources beside it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "src" / "tessera"


@pytest.mark.slow
def test_the_wheel_is_whole_and_passes_the_smoke_path(tmp_path):
    build = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(ROOT)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    for path in SOURCES.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(SOURCES.parent).as_posix() in names
    assert not any(name.startswith(("tests/", "docs/")) for name in names)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "TESSERA_QUIET": "1"}
    command = [sys.executable, "-m", "tessera.cli", "run", "miniature-smoke", "--out", "smoke"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=600
    )
    assert done.stdout == "Report: smoke/report/index.html\n"
    assert (tmp_path / "smoke" / "report" / "index.html").is_file()
