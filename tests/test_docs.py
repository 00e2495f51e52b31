"""What README and docs name exists: commands parse, code names import, files are there."""

import functools
import importlib
import re
import shlex
from pathlib import Path

import pytest

from tessera import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands():
    """Every `tessera ...` command of the pages: lines of sh blocks, and code spans in tables and text."""
    found = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            found |= {line.strip() for line in block.splitlines() if line.strip().startswith("tessera ")}
        found |= {span for span in re.findall(r"`(tessera [^`]+)`", text) if "--" in span and "PRESET" not in span}
    return sorted(found)


def parse(words, monkeypatch):
    """The verb that the command line calls for `words`, without doing it."""
    called = []
    stubs = {
        name: functools.wraps(verb)(lambda *args, _name=name, **kwargs: called.append(_name))
        for name, verb in cli.VERBS.items()
    }
    monkeypatch.setattr(cli, "VERBS", stubs)
    cli._app().cli(args=words, prog="tessera")
    return called


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command, monkeypatch):
    words = shlex.split(command)[1:]
    (verb,) = parse(words, monkeypatch)
    assert verb.split(" ") == words[: len(verb.split(" "))]


def test_the_pages_have_commands(monkeypatch):
    assert len(commands()) > 12
    with pytest.raises(SystemExit):
        parse(["collect", "miniature", "--outt", "x"], monkeypatch)


def names():
    found = set()
    for page in PAGES:
        found |= set(re.findall(r"`(tessera\.[\w.]+)", page.read_text(encoding="utf-8")))
    return sorted(found)


@pytest.mark.parametrize("name", names())
def test_code_names_exist(name):
    parts = name.rstrip(".").split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            fields = getattr(thing, "__dataclass_fields__", {})
            thing = fields[attribute] if attribute in fields else getattr(thing, attribute)
        return
    pytest.fail(f"{name} does not exist")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_pages_are_there(page):
    for path in re.findall(r"`((?:docs|src|scripts|tests|bench)/[\w./-]+\.\w+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path
