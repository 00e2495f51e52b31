"""What README and docs name exists: commands parse, code names import, files are there."""

import ast
import functools
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from tessera import cli

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_parse_and_name_what_exists(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tessera"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "tessera":
                assert hasattr(importlib.import_module("tessera"), node.attr), ast.unparse(node)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_and_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_citation_says_this_version():
    import tessera

    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {tessera.__version__}\n" in text


def test_the_notebook_parses_and_keeps_no_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            ast.parse("".join(cell["source"]))
            assert cell["outputs"] == []


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert "image/png" in text
    assert "Report: index.html" in text
