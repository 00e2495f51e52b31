"""docs/python.md: every block of it, executed; and the notebook of the same blocks."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from tessera.images import read_rgb
from tessera.stages import read_manifest
from test_docs import FENCE

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = [text for kind, text in FENCE.findall(PAGE) if kind == "python"]
MOST_LINES = 40


def test_each_of_the_four_is_short_and_in_the_notebook():
    assert len(BLOCKS) == PAGE.count("\n## ") == 4
    assert max(block.count("\n") for block in BLOCKS) < MOST_LINES
    cells = json.loads((ROOT / "examples" / "python.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.rstrip("\n") for block in BLOCKS]
    assert all(cell.get("outputs", []) == [] for cell in cells)


@pytest.mark.slow
def test_all_blocks_run_in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    known, said = {}, io.StringIO()
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(said):
        for block in BLOCKS:
            exec(compile(block, "docs/python.md", "exec"), known)
    assert read_rgb(tmp_path / "circle.png").shape == (32, 32, 3)
    assert "my_captioner.py:MeanColor@" in read_manifest(tmp_path / "captions" / "own").config["captioner"]
    first, record, scored = said.getvalue().splitlines()
    assert first.startswith("24 cats/")
    assert record.startswith("An image of ")
    assert record.endswith("(48, 8, 8)")
    assert scored.startswith("Mean gap ")
    assert scored.endswith(" pixels:16")
