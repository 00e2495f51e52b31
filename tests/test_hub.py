"""What is asked of the Hub, and what is said when it does not answer."""

from pathlib import Path

import pytest

from tessera.config import UserError
from tessera.hub import fetch_repository

hub = pytest.importorskip("huggingface_hub")


def test_files_are_asked_for_by_pattern_and_revision(monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "snapshot_download", lambda repo, **options: asked.append((repo, options)) or "fetched")
    assert fetch_repository("owner/name", ("*.json",), token="t") == Path("fetched")
    assert fetch_repository("owner/name@abc", ("*.json",)) == Path("fetched")
    assert asked == [
        ("owner/name", {"allow_patterns": ["*.json"], "token": "t"}),
        ("owner/name", {"allow_patterns": ["*.json"], "revision": "abc"}),
    ]


def test_failures_are_one_line(monkeypatch):
    def fail(repo, **options):
        raise hub.errors.LocalEntryNotFoundError("cannot reach the Hub\nand a long explanation")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"^owner/name: .* failed: cannot reach the Hub$"):
        fetch_repository("owner/name", ("*.json",))
    for name in ("nothing", "/nowhere/at/all", "a/b/c", ""):
        with pytest.raises(UserError, match=r"named owner/name$"):
            fetch_repository(name, ("*.json",))


def test_without_the_extra_the_fix_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install"):
        fetch_repository("owner/name", ("*.json",))
