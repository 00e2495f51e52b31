"""The wheel holds everything that the package needs, and works without the sources next to it.

`make package` goes further, with a package index: scripts/check_package.py.
"""

import importlib.util
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


def load_script():
    spec = importlib.util.spec_from_file_location("check_package", ROOT / "scripts" / "check_package.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_package_check_finds_cuda_and_what_is_no_wheel():
    def item(name, file):
        return {"metadata": {"name": name, "version": "1"}, "download_info": {"url": f"https://example.org/{file}"}}

    script = load_script()
    fit = [item("ray", "ray-1-cp311-manylinux.whl"), item("torch", "torch-1-cp311.whl")]
    assert script.unfit({"install": fit}) == []
    bad = [item("nvidia-cublas-cu12", "n.whl"), item("triton", "t.whl"), item("prdc", "prdc-1.tar.gz")]
    assert script.unfit({"install": fit + bad}) == [
        "nvidia-cublas-cu12 1: for CUDA",
        "triton 1: for CUDA",
        "prdc 1: no wheel, would be compiled",
    ]


def test_the_package_check_knows_every_extra_and_the_pinned_torch():
    script = load_script()
    assert {"hub", "demo", "cluster", "serve", "dev"} <= set(script.extras())
    assert f"torch=={script.pinned_torch()}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
