"""Check the package as a stranger's machine without a GPU gets it; needs a package index, a minute or two, and 3 GB.

    python scripts/check_package.py [--torch-index ADDRESS]

Builds the wheel, installs it into a new environment with a new HOME, and there, in an empty folder, runs `tessera
doctor` and the smoke run. Then resolves every extra of pyproject.toml without installing it: all of it must be wheels,
none for CUDA. Exit code 1 where something fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CUDA = ("nvidia", "cuda", "cupy", "triton")
"""Beginnings of the names of packages that serve an NVIDIA GPU alone."""


def unfit(report: dict[str, Any]) -> list[str]:
    """List "name version: why" of what pip's `--report` has that a CPU machine without a compiler cannot use."""
    found = []
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        if name.lower().startswith(CUDA):
            found.append(f"{name} {version}: for CUDA")
        if not item["download_info"]["url"].endswith(".whl"):
            found.append(f"{name} {version}: no wheel, would be compiled")
    return found


def extras() -> list[str]:
    """List the extras of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return sorted(project["optional-dependencies"])


def pinned_torch() -> str:
    """Return the version of torch in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (found,) = [line.removeprefix("torch==").split()[0] for line in lines if line.startswith("torch==")]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--torch-index", help="address of a package index with CPU builds of torch")
    index = parser.parse_args().torch_index
    with tempfile.TemporaryDirectory(prefix="tessera-package-") as folder:
        return check(Path(folder), ["--extra-index-url", index] if index else [])


def check(folder: Path, index: list[str]) -> int:
    """Do all of it below `folder`; return 0, or 1 where an extra is unfit. A command that fails raises."""
    for name in ("home", "empty"):
        (folder / name).mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HOME": str(folder / "home"), "TESSERA_QUIET": "1"}

    def call(*words: str | Path, cwd: Path = folder) -> None:
        print("$", " ".join(Path(word).name if isinstance(word, Path) else word for word in words), flush=True)
        subprocess.run(words, check=True, cwd=cwd, env=environment)

    call(sys.executable, "-m", "venv", "venv")
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = (scripts / "python", "-m", "pip", "--disable-pip-version-check", "--quiet")
    constraints = ("--constraint", ROOT / "constraints.txt")
    call(*pip, "wheel", "--no-deps", "--wheel-dir", "wheels", ROOT)
    (wheel,) = (folder / "wheels").glob("*.whl")
    call(*pip, "install", *index, f"torch=={pinned_torch()}+cpu")
    call(*pip, "install", *constraints, wheel)
    call(scripts / "tessera", "doctor", cwd=folder / "empty")
    call(scripts / "tessera", "run", "miniature-smoke", cwd=folder / "empty")
    bad = 0
    for extra in extras():
        report = folder / f"{extra}.json"
        call(
            *(*pip, "install", "--dry-run", "--only-binary", ":all:"),
            *("--report", report, *constraints, f"{wheel}[{extra}]"),
        )
        read = json.loads(report.read_text(encoding="utf-8"))
        reasons = unfit(read)
        bad += bool(reasons)
        verdict = ", ".join(reasons) or "all of them wheels, none for CUDA"
        print(f"extra {extra}: {len(read['install'])} more packages, {verdict}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
