"""Pinned packages: what is fetched, checked, left by stopped calls, and said."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tessera import packages
from tessera.config import UserError
from tessera.packages import Package, fetch, read_archive, unpack
from tiny.emoji import cache_in, make_archive, pinned

NPM = Package(index="npm", name="@some/thing", version="1.2.0", sha256="0" * 64, license="MIT", credit="somebody")
PYPI = replace(NPM, index="pypi", name="some-thing")
FILES = {"package/a.txt": b"a", "package/deep/b.txt": b"bb"}


def client(tmp_path, monkeypatch, package, files, code=0):
    """Put a program of the client's name first on the path, which makes the archive and ends with `code`."""
    made = tmp_path / package.file
    digest = make_archive(made, files)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    program = tmp_path / "bin" / package.client
    program.parent.mkdir(exist_ok=True)
    target = "for a; do last=$a; done"
    program.write_text(
        f'#!/bin/sh\n{target}\necho "$@" >> {tmp_path}/called\ncp {made} "$last"\necho no network >&2\nexit {code}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return replace(package, sha256=digest)


@pytest.mark.parametrize("package", [NPM, PYPI])
def test_an_archive_is_fetched_once_by_its_client(tmp_path, monkeypatch, package):
    place = cache_in(tmp_path / "cache", monkeypatch)
    package = client(tmp_path, monkeypatch, package, FILES)
    path = fetch(package)
    assert path == place / package.file
    assert fetch(package) == path
    called = (tmp_path / "called").read_text().splitlines()
    assert len(called) == 1
    assert f"{package.name}{'@' if package is not PYPI and package.index == 'npm' else '=='}1.2.0" in called[0]
    assert dict(read_archive(path, lambda name: name.endswith("b.txt"))) == {"package/deep/b.txt": b"bb"}


def test_nothing_is_kept_of_what_stopped_or_is_not_the_pinned_bytes(tmp_path, monkeypatch):
    place = cache_in(tmp_path / "cache", monkeypatch)
    package = client(tmp_path, monkeypatch, NPM, FILES, code=1)
    fix = rf"`npm pack @some/thing@1\.2\.0 .*`, and put some-thing-1\.2\.0\.tgz into {place}$"
    with pytest.raises(UserError, match=rf"^@some/thing: npm cannot fetch it \(no network\); fetch it by hand.*{fix}"):
        fetch(package)
    package = client(tmp_path, monkeypatch, NPM, FILES)
    with pytest.raises(UserError, match=r"is not the pinned @some/thing 1\.2\.0 .*gives other bytes"):
        fetch(NPM)
    assert [path.name for path in place.iterdir() if path.name != ".lock"] == []
    (place / ".tmp-left").mkdir()  # by a call that was killed
    (place / ".tmp-left" / package.file).write_bytes(b"half")
    fetch(package)
    assert [path.name for path in place.iterdir() if path.name != ".lock"] == [package.file]


def test_without_a_client_one_line_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    place = cache_in(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^some-thing: pip is not installed; install it, or fetch it by hand") as error:
        fetch(PYPI)
    assert "`pip download some-thing==1.2.0 --no-deps" in str(error.value)
    digest = make_archive(place / PYPI.file, FILES)
    assert fetch(replace(PYPI, sha256=digest)) == place / PYPI.file  # put there by hand
    with pytest.raises(UserError, match=r"whl: is not the pinned some-thing 1\.2\.0 .*; delete it, to fetch it again$"):
        fetch(PYPI)


def test_a_folder_of_an_archive_appears_whole(tmp_path, monkeypatch):
    place = cache_in(tmp_path, monkeypatch)
    files = {"x/config.json": b"{}", "x/more/config.json": b"other", "../x/weights": b"w", "x/weights": b"w"}
    package = pinned(PYPI, files)
    folder = unpack(package, "x", ("config.json", "weights"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"config.json": b"{}", "weights": b"w"}
    (place / package.file).unlink()
    assert unpack(package, "x", ()) == folder  # the archive is not needed again


def test_large_files_and_links_of_an_archive_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "MOST_BYTES", 1)
    for name in ("a.tgz", "a.whl"):
        make_archive(tmp_path / name, FILES)
        with pytest.raises(UserError, match=rf"{name}: package/deep/b\.txt has 2 bytes, more than 1; delete it"):
            list(read_archive(tmp_path / name, lambda name: True))


def test_two_calls_do_not_fetch_at_once(tmp_path, monkeypatch):
    place = cache_in(tmp_path, monkeypatch)
    place.mkdir()
    holds = "import sys, time; from pathlib import Path; from tessera.files import exclusive_lock\n"
    holds += "with exclusive_lock(Path(sys.argv[1]), 'busy'):\n    print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holds, str(place)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another call fetches packages into this folder; wait for it"):
            fetch(PYPI)
        other.kill()
