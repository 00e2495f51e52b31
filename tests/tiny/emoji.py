"""Tiny packages of emoji, in the place of the pinned ones."""

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera import packages
from tessera.curate.emoji import concepts, draw
from tessera.curate.emoji.styles import STYLES
from tessera.packages import Package

NAMES = (("1F34E", "red apple", 42, ["fruit", "ripe"]), ("1F34C", "banana", 42, ["fruit", "potassium"]))
NAMES += (("1F408", "cat", 34, ["pet"]), ("1F402", "ox", 34, ["bull"]), ("2764-FE0F", "red heart", 14, ["love"]))
OTHERS = (("1F1EB", "flag: France", 97, []), ("0023-FE0F-20E3", "keycap: #", 94, []))
OTHERS += (("1F468-1F9B0", "man: red hair", 23, []),)
_GROUPS = {42: 4, 34: 3, 14: 0, 97: 9, 94: 8, 23: 1}
_FAMILIES = {42: ("food-fruit", "fruit"), 34: ("animal-mammal", "mammals"), 14: ("heart", "hearts")}
_FAMILIES |= {97: ("flag", "flags"), 94: ("keycap", "keys"), 23: ("person", "people")}


def make_archive(path: Path, files: Mapping[str, bytes]) -> str:
    """Write a .tgz or .whl archive and return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def cache_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep packages in `folder`; return where archives belong."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return packages.folder()


def pinned(package: Package, files: Mapping[str, bytes]) -> Package:
    """Put an archive of `files` into the cache; return the package with its hash."""
    return replace(package, sha256=make_archive(packages.folder() / package.file, files))


def tiny_emoji(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put packages of five emoji, three that are left out, and two styles, noto and twemoji, into the cache."""
    data = [
        {"label": label, "hexcode": code, "tags": tags, "emoji": "".join(chr(int(c, 16)) for c in code.split("-")),
         "order": order, "group": _GROUPS[family], "subgroup": family}
        for order, (code, label, family, tags) in enumerate(NAMES + OTHERS)
    ]  # fmt: skip
    groups = {"groups": {"4": "food-drink", "3": "animals-nature", "0": "smileys-emotion", "9": "flags"}}
    groups["groups"] |= {"8": "symbols", "1": "people-body"}
    groups["subgroups"] = {str(number): key for number, (key, _) in _FAMILIES.items()}
    words = {"subgroups": [{"key": key, "message": message} for key, message in _FAMILIES.values()]}
    files = {"package/en/data.json": data, "package/meta/groups.json": groups, "package/en/messages.json": words}
    names = pinned(concepts.NAMES, {name: json.dumps(content).encode() for name, content in files.items()})
    monkeypatch.setattr(concepts, "NAMES", names)
    monkeypatch.setattr(draw, "NAMES", names)
    for style, folder in (("noto", "google"), ("twemoji", "twitter")):
        images = {
            f"package/img/{folder}/64/{code.lower()}.png": disk((30 * number, 200, 30))
            for number, (code, *_) in enumerate(NAMES + OTHERS)
        }
        images[f"package/img/{folder}/64/2764.png"] = disk((200, 30, 30))  # the same emoji by another name
        package = pinned(STYLES[style].package, images | {f"package/img/{folder}/sheets/all.png": b"no image"})
        monkeypatch.setitem(STYLES, style, replace(STYLES[style], package=package))


def disk(rgb: tuple[int, int, int]) -> bytes:
    """Return a PNG of 64 x 64 pixels: a disk of one color on a transparent ground."""
    rows, columns = np.ogrid[:64, :64]
    alpha = np.where((rows - 32) ** 2 + (columns - 32) ** 2 < 24**2, 255, 0)[..., None]
    pixels = np.concatenate([np.broadcast_to(np.uint8(rgb), (64, 64, 3)), alpha.astype(np.uint8)], 2)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
