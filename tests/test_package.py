"""The wheel holds everything that the package needs, and works without the sources next to it.

`make package` goes further, with a package index: scripts/check_package.py.
"""

import importlib.util
import os
import re
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


FAKE_PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in *+cpu*)
  case "$ANSWER $*" in
    own*|index*--extra-index-url*) exit 0;;
    full*) echo "ERROR: no space left" >&2;;
    *) echo "ERROR: No matching distribution found" >&2;;
  esac
  exit 1;;
esac
"""
"""Python that notes how it is called; pip's own indexes have torch for the CPU, or TORCH_INDEX, or nobody."""


@pytest.mark.parametrize(
    ("answer", "settings", "installs", "says"),
    [
        ("own", [], ["torch==V+cpu"], "for the CPU, about 0.2 GB"),
        ("index", [], ["torch==V+cpu", "torch==V+cpu --extra-index-url URL"], "for the CPU, about 0.2 GB"),
        ("none", [], ["torch==V+cpu", "torch==V+cpu --extra-index-url URL", "torch"], "with CUDA, about 2.7 GB"),
        ("none", ["TORCH_INDEX="], ["torch==V+cpu", "torch"], "with CUDA, about 2.7 GB"),
        ("full", [], ["torch==V+cpu"], "no space left"),
        ("own", ["GPU=1"], ["torch"], "with CUDA, about 2.7 GB"),
        ("own", ["SYSTEM=Linux aarch64"], [], "Installing tessera"),
        ("own", ["SYSTEM=Darwin arm64", "GPU="], [], "Installing tessera"),
    ],
)
def test_make_installs_the_build_of_torch_that_the_machine_can_use(tmp_path, answer, settings, installs, says):
    binary = tmp_path / "venv" / "bin" / "python"
    binary.parent.mkdir(parents=True)
    binary.write_text(FAKE_PYTHON)
    binary.chmod(0o755)
    calls = tmp_path / "calls"
    variables = {"GPU": "", "SYSTEM": "Linux x86_64", "TORCH_INDEX": "https://example.org/cpu"}
    variables |= dict(setting.split("=") for setting in settings)
    words = [f"{name}={value}" for name, value in variables.items()]
    environment = os.environ | {"CALLS": str(calls), "ANSWER": answer}
    done = subprocess.run(
        ["make", "--no-print-directory", f"VENV={tmp_path / 'venv'}", *words, str(tmp_path / "venv" / ".installed")],
        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    assert says in done.stdout
    made = [line.partition(" install ")[2] for line in calls.read_text().splitlines()]
    version = load_script().pinned_torch()
    index = "--extra-index-url https://example.org/cpu --timeout 10 --retries 1"
    wanted = [words.replace("V+", f"{version}+").replace("--extra-index-url URL", index) for words in installs]
    wanted = [f"--constraint constraints.txt {words}" if words == "torch" else words for words in wanted]
    if answer == "full":
        assert (done.returncode, made) == (2, wanted)
        return
    assert (done.returncode, made) == (0, [*wanted, "--constraint constraints.txt --quiet --quiet --editable ."])
    assert "--quiet" not in "".join(made[:-1])  # progress is shown


def test_the_dockerfile_builds_from_what_is_there_as_a_user_without_rights():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "SHELL", "RUN", "WORKDIR", "COPY", "ARG", "USER", "ENV", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in steps} <= known
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", steps[0][1])  # a named release, not whatever is the latest
    for name, rest in steps:
        if name == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1])
        if "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest
        if "pip install" in rest:
            assert "--no-cache-dir --constraint constraints.txt" in rest
            asked = re.findall(r'"\.\[(.*)\]"', rest)[0].split(",")
            assert set(asked) <= set(load_script().extras())
    assert [rest for name, rest in steps if name == "USER"] == ["1000"]
    assert [rest for name, rest in steps if name == "ENTRYPOINT"] == ['["tessera"]']
    index = dict(rest.split("=") for name, rest in steps if name == "ARG")["TORCH_INDEX"]
    assert f"TORCH_INDEX ?= {index}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    build = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(name in text for name in ("pyproject.toml", "README.md", "LICENSE"))  # hatchling reads them
    assert 'readme = "README.md"' in build


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
