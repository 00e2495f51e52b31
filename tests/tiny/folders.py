"""Contents of folders, to compare them byte by byte; ranks that end in one folder at the same time."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest


def tree(directory: Path) -> dict[str, bytes]:
    """Return the bytes of every file below `directory`, by its path there."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def end_together(monkeypatch: pytest.MonkeyPatch, evaluate: Callable[[], bool]) -> tuple[bool, bool]:
    """Let rank 0 of two do its part, and later see all parts and end while rank 1 is writing scores.json; return what
    rank 0 and rank 1 then return."""
    ended: list[bool] = []

    def run(rank: int) -> bool:
        monkeypatch.setenv("RANK", str(rank))
        return evaluate()

    def replace(source: Path, target: Path, plain: Callable[..., None] = os.replace) -> None:
        if Path(target).name == "scores.json" and not ended:
            ended.append(False)
            ended[0] = run(0)
            monkeypatch.setenv("RANK", "1")
        plain(source, target)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("tessera.files.os.replace", replace)
    assert not run(0)
    assert not ended
    last = run(1)
    return ended[0], last
