"""fetch-captions: the texts of tars on a hub, without the bytes of the images."""

import io
import re
import tarfile

import numpy as np
import pytest

from tessera.config import UserError
from tessera.curate.caption import file
from tessera.files import read_table
from tessera.stages import read_manifest
from tiny.commands import tessera
from tiny.hub import COMMIT, Hub

TEXTS = {f"n0144{i % 3}/n0144_{i:03d}": f"a fish, number {i}: {'long ' * (i % 7)}é".strip() for i in range(90)}


def tar_of(entries):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in entries:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def files_of(texts, count=3, **more):
    """Tars of images of 60 kB, with a text and other entries next to each."""
    rng, named = np.random.default_rng(0), list(texts.items())
    tars = {}
    for number in range(count):
        entries = []
        for key, text in named[number::count]:
            raw = text if isinstance(text, bytes) else text.encode()
            entries += [(f"{key}.jpg", rng.bytes(60_000)), (f"./{key}.txt", raw), (f"{key}.npy", rng.bytes(20_000))]
        tars[f"data/{number:05d}.tar"] = tar_of(entries)
    return {"README.md": b"# a set", **tars, **more}


@pytest.fixture
def serve(monkeypatch):
    def start(*args, **options):
        hub = Hub(*args, **options)
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_TOKEN", "secret")
        return hub

    return start


def fetch(folder, code=0, dataset="lab/set"):
    done = tessera("fetch-captions", dataset, "--out", "told", cwd=folder)
    assert done.returncode == code, done.stderr
    return done.stderr


def captions_of(folder):
    table = read_table(folder / "told" / "captions.parquet").to_pydict()
    return dict(zip(table["key"], table["text"]))


def test_entries_of_one_name_are_told_apart_by_their_tars(serve, tmp_path):
    tars = {f"data/{number}.tar": tar_of([("0.txt", f"fish {number}".encode())]) for number in range(2)}
    with serve(tars):
        fetch(tmp_path)
    assert captions_of(tmp_path) == {"data/0.tar/0": "fish 0", "data/1.tar/0": "fish 1"}


def test_reads_the_texts_alone_and_says_so_before(serve, tmp_path):
    files = files_of(TEXTS)
    with serve(files) as hub:
        said = fetch(tmp_path)
    assert captions_of(tmp_path) == TEXTS
    whole = sum(map(len, files.values()))
    assert hub.sent < whole / 5
    assert re.search(r"reads about \S+ GB of 0\.00\d+ GB in 3 tars", said)
    estimate = float(said.split("reads about ")[1].split(" GB")[0]) * 1e9
    assert hub.sent / 1.6 < estimate < hub.sent  # those that were read for the estimate are not in it
    assert read_manifest(tmp_path / "told").config == {"dataset": "lab/set", "commit": COMMIT}
    assert read_manifest(tmp_path / "told").counts == {"captions": 90, "tars": 3}


def test_a_first_tar_without_entries_is_passed_over(serve, tmp_path):
    with serve(files_of(TEXTS) | {"data/.00000.tar": tar_of([])}):
        fetch(tmp_path)
    assert captions_of(tmp_path) == TEXTS


@pytest.mark.slow
def test_a_stopped_call_resumes_with_the_tars_that_are_missing(serve, tmp_path):
    with serve(files_of(TEXTS)) as hub:
        hub.broken = "data/00001.tar"
        assert "lab/set/data/00001.tar: cannot be read" in fetch(tmp_path, code=2)
        assert not (tmp_path / "told" / "captions.parquet").exists()
        parts = {path.name for path in (tmp_path / "told" / "parts").iterdir() if path.suffix == ".parquet"}
        assert "000001.parquet" not in parts
        hub.broken, hub.asked = "", []
        fetch(tmp_path)
        done = {f"data/{name[1:6]}.tar" for name in parts}
        assert not done & set(hub.asked)
        asked = len(hub.asked)
        fetch(tmp_path)
        assert len(hub.asked) == asked
    assert captions_of(tmp_path) == TEXTS


def test_texts_that_are_not_utf_8_are_rejected_by_name(serve, tmp_path):
    with serve(files_of({**TEXTS, "n0/bad": b"caf\xe9"})):
        fetch(tmp_path)
    assert captions_of(tmp_path) == TEXTS
    assert list(read_manifest(tmp_path / "told").rejects.values()) == ["its text is not UTF-8"]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"README.md": b""}, {}, "lab/set: has no tars; its tables: tessera caption --captioner import --file lab/set"),
        ({"a.tar": tar_of([("a.jpg", b"x")])}, {}, "lab/set: its 1 tars have no .txt entries"),
        (files_of(TEXTS, 1), {"gives_ranges": False}, "the server gives no parts of a file"),
        ({"a.tar": files_of(TEXTS, 1)["data/00000.tar"][:-20_000]}, {}, "lab/set/a.tar: is not a whole tar file"),
        ({"a.tar": b"no tar" * 200}, {}, "lab/set/a.tar: is not a whole tar file"),
    ],
)
def test_what_cannot_be_read(serve, tmp_path, files, options, message):
    with serve(files, **options):
        said = fetch(tmp_path, code=2)
    assert message in said
    assert "Traceback" not in said


def test_a_hub_that_is_not_there(serve, tmp_path):
    with serve({}):
        pass
    said = fetch(tmp_path, code=2)
    assert "lab/set: cannot be listed" in said
    assert "named owner/name" in fetch(tmp_path, code=2, dataset="set")


def test_import_of_a_set_without_tables_says_what_reads_tars(monkeypatch, tmp_path):
    (tmp_path / "README.md").write_text("# a set")
    monkeypatch.setattr(file, "fetch_repository", lambda *_, **__: tmp_path)
    with pytest.raises(UserError, match=r"lab/set: has no tables; for texts in tars: tessera fetch-captions lab/set"):
        file.find_captions("lab/set")
