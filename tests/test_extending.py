"""docs/extending.md: every example and every command of the page, executed as a user does."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiny.encoders import save_dino

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def call(folder: Path, words: list[str]) -> subprocess.CompletedProcess:
    env = os.environ | {"TESSERA_QUIET": "1", "PYTHONPATH": os.pathsep.join(sys.path), "TESSERA_MODELS": str(folder)}
    command = [sys.executable, "-m", "tessera.cli", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which all commands of the page have succeeded."""
    folder = tmp_path_factory.mktemp("extending")
    save_dino(folder / "models" / "dinov2")
    (folder / "my_parts.py").write_text("\n\n".join(blocks("python")), encoding="utf-8")
    for line in "".join(blocks("sh")).splitlines():
        if "photos" in line and not (folder / "photos").exists():
            (folder / "photos").mkdir()
            for path in sorted((folder / "out" / "miniature-smoke" / "images").glob("*/*.png"))[::9]:
                shutil.copy(path, folder / "photos" / f"{path.parent.name}__{path.name}")
        done = call(folder, shlex.split(line)[1:])
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    return folder


def manifest(directory: Path) -> dict:
    return json.loads((directory / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("directory", "part"),
    [
        ("recipe-stripe", "STRIPE"),
        ("captions/mine", "MyCaptioner"),
        ("captions/mixed", "MyCaptioner"),
        ("encoded/letters", "MyEncoder"),
        ("samples/heun", "heun"),
        ("images-by-name", "ByName"),
        ("scores/gap", "mean_gap"),
    ],
)
def test_the_manifest_names_the_part_with_the_hash_of_its_file(folder, directory, part):
    assert re.search(rf'"my_parts\.py:{part}@[0-9a-f]{{12}}"', json.dumps(manifest(folder / directory)))


def test_the_parts_did_the_work(folder):
    import pyarrow.parquet as pq

    from tessera.encoded import open_encoded
    from tessera.evaluate.scores import read_scores

    recipe = pq.read_table(folder / "recipe-stripe" / "recipe.parquet").to_pylist()
    assert {row["pattern"] for row in recipe} == {"stripe"}
    captions = pq.read_table(folder / "captions" / "mixed" / "captions.parquet").to_pylist()
    assert all(
        re.fullmatch(r"An image of .*, mean color \d+, \d+, \d+, with .* in \(.*\)", row["text"]) for row in captions
    )
    record = open_encoded(folder / "encoded" / "letters")[0]
    letters = [c for c in record.caption.lower() if "a" <= c <= "z"]
    assert len(letters) > 10
    (number,) = read_scores(folder / "scores" / "gap").numbers
    assert "mean_gap" in number.metric
    assert number.value > 0
    assert manifest(folder / "images-by-name")["counts"]["images"] == len(list((folder / "photos").glob("*.png")))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("augment out/miniature-smoke/images --pattern my_parts.py:STRIPES --out o", "did you mean 'STRIPE'"),
        ("caption out/miniature-smoke/images --captioner none.py:Mine --out o", "there is no file none.py"),
        (
            "caption out/miniature-smoke/images --captioner bad.py:Raises --out o",
            r"bad\.py:Raises: line 4: ZeroDivision",
        ),
        ("caption out/miniature-smoke/images --captioner bad.py:Empty --out o", r"has no method describe"),
        ("encode out/miniature-smoke/images captions/mine --text bad.py:Empty --out o", "has no"),
        ("generate out/miniature-smoke/export/ta fox --sampler bad.py:broken --out o", r"bad\.py:broken: line \d+: "),
        ("collect photos --layout bad.py:Empty --out o", "has no method open"),
        ("evaluate quality --samples samples/heun --reference photos --metrics bad.py:Empty --out o", "network"),
    ],
)
def test_a_bad_part_is_one_line(folder, command, message):
    (folder / "bad.py").write_text(
        "class Raises:\n"
        "    def describe(self, requests):\n"
        "        requests = list(requests)\n"
        "        return 1 / 0\n\n\n"
        "class Empty:\n"
        "    pass\n\n\n"
        "def broken(denoise, noise, schedule, steps, *, generator=None, callback=None):\n"
        "    raise KeyError('x')\n",
        encoding="utf-8",
    )
    shutil.rmtree(folder / "o", ignore_errors=True)
    done = call(folder, shlex.split(command))
    assert done.returncode == 2, done.stderr
    assert re.search(message, done.stderr)
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
