"""docs/extending.md: every example and every command of the page, executed."""

import contextlib
import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiny import commands
from tiny.encoders import save_dino

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def call(folder: Path, words: list[str]) -> tuple[int, str]:
    """Run a command in the folder; return its exit code and what it wrote to stderr."""
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()) as said:
        return commands.call(*words), said.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, smoke) -> Iterator[Path]:
    """A folder in which all commands of the page have succeeded."""
    folder = tmp_path_factory.mktemp("extending")
    save_dino(folder / "models" / "dinov2")
    (folder / "my_parts.py").write_text("\n\n".join(blocks("python")), encoding="utf-8")
    first, *lines = "".join(blocks("sh")).splitlines()
    assert first == "tessera run miniature-smoke"
    shutil.copytree(smoke, folder / "out" / "miniature-smoke")
    (folder / "photos").mkdir()
    for path in sorted((folder / "out" / "miniature-smoke" / "images").glob("*/*.png"))[::9]:
        shutil.copy(path, folder / "photos" / f"{path.parent.name}__{path.name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESSERA_MODELS", str(folder))
        for line in lines:
            code, said = call(folder, shlex.split(line)[1:])
            assert code == 0, f"{line}\n{said}"
        yield folder


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
        ("runs/half-null", "HalfNull"),
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
        (
            'generate out/miniature-smoke/export/ta "a red circle" --sampler bad.py:broken --out o',
            r"bad\.py:broken: line \d+: ",
        ),
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
    code, said = call(folder, shlex.split(command))
    assert code == 2, said
    assert re.search(message, said)
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
