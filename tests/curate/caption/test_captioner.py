"""A captioner of the user's own, FILE.py:NAME, through the command line; and what captioners are given."""

import subprocess
import sys

import numpy as np
import pytest

from tessera import cli
from tessera.curate.caption.captioner import iter_requests
from tessera.curate.caption.table import read_captions
from tessera.curate.index import read_images, read_recipe
from tessera.cutmix import compose
from tessera.files import read_table
from tessera.images import read_rgb
from tessera.stages import read_manifest

OWN = """
class MyCaptioner:
    def describe(self, requests):
        return [self.one(request) for request in requests]

    def one(self, request):
        words = f"{request.class_name} {request.image.shape} {request.image.mean():.3f}"
        if request.placement is not None:
            words += f" with {request.partner_class_name} in {request.placement.box}"
        return words

class Silent:
    pass

class Raises(MyCaptioner):
    def one(self, request):
        return request.nothing

class Short(MyCaptioner):
    def describe(self, requests):
        return super().describe(requests)[1:]

class Numbers(MyCaptioner):
    def one(self, request):
        return 7
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["caption", *[str(arg) for arg in args]])
    return ended.value.code  # type: ignore[return-value]


def test_the_images_and_facts_that_a_captioner_gets(images, recipe):
    files = {row.key: read_rgb(images / str(row.file)) for row in read_images(images)}
    plain = list(iter_requests(images, None))
    assert [request.key for request in plain] == list(files)
    assert all(np.array_equal(request.image, files[request.key]) for request in plain)
    assert {request.partner_class_name for request in plain} == {None}
    mixed = read_recipe(recipe)
    for request, mix in zip(iter_requests(images, mixed), mixed.rows, strict=True):
        assert (request.key, request.placement) == (mix.key, mix.placement)
        assert (request.class_name, request.partner_class_name) == (mix.base.split("/")[0], mix.partner.split("/")[0])
        expected = compose(files[mix.base], files[mix.partner], mix.placement, "centre")
        assert np.array_equal(request.image, expected)


def test_a_users_class_captions_images_and_mixes_on_any_engine(images, recipe, own, capsys):
    assert run(images, "--captioner", "my_parts.py:MyCaptioner", "--out", "plain") == 0
    texts = read_captions(own / "plain")
    assert list(texts) == [row.key for row in read_images(images)]
    assert all(text.startswith(f"{key.split('/')[0]} (") for key, text in texts.items())
    stored = read_manifest(own / "plain").config["captioner"]
    assert stored.startswith("my_parts.py:MyCaptioner@")
    row = read_table(own / "plain" / "captions.parquet").to_pylist()[0]
    assert (row["captioner"], row["revision"], row["prompt"]) == (stored, stored[-12:], "")
    assert sorted(path.name for path in (own / "plain").iterdir()) == ["captions.parquet", "manifest.json"]
    mixed = [images, "--recipe", recipe, "--captioner", "my_parts.py:MyCaptioner"]
    assert run(*mixed, "--out", "here") == 0
    command = [sys.executable, "-m", "tessera.cli", "caption", *map(str, mixed)]
    subprocess.run([*command, "--out", "spread", "--engine", "processes", "--workers", "2"], check=True)
    assert all(" with " in text for text in read_captions(own / "here").values())
    for name in ("captions.parquet", "manifest.json"):
        assert (own / "here" / name).read_bytes() == (own / "spread" / name).read_bytes()
    (own / "my_parts.py").write_text(OWN.replace("with", "and"))
    assert run(*mixed, "--out", "here") == 2
    assert "was made otherwise: captioner: the directory has" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("nowhere.py:MyCaptioner", "captioner nowhere.py:MyCaptioner: there is no file nowhere.py"),
        ("my_parts.py:MyCaptoiner", "has no function 'MyCaptoiner'"),
        ("my_parts.py:Silent", "has no method describe()"),
        ("my_parts.py:Raises", "captioner my_parts.py:Raises: line 17: AttributeError: "),
        ("my_parts.py:Short", "describe() must return a list of 24 captions, one for each request"),
        ("my_parts.py:Numbers", "describe() must return texts, not 7 (for circle/000000)"),
        (
            "aoi",
            "unknown captioner 'aoi'; did you mean 'aio'? "
            "known: aio, scene, import, join, shorten, summarize, llava, openai",
        ),
    ],
)
def test_a_part_that_cannot_be_used_is_one_line(images, own, capsys, part, message):
    assert run(images, "--captioner", part, "--out", "out") == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
