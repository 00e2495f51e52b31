"""What README and docs name exists: commands parse, code names import, files are there."""

import ast
import functools
import importlib
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tessera import cli
from tessera.diffusion.schedule import get_schedule
from tessera.presets.miniature import miniature

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PLACEHOLDERS = ("PRESET", "NAME", "VERB", "EXPORT")
"""Words of a code span that is no command to type but says what commands look like."""


def blocks(page, language=None):
    """(language, text) of the page's code blocks."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [(kind, text) for kind, text in found if language in (None, kind)]


def lines(text):
    """The lines of a block; one that ends in a backslash continues in the next."""
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def commands():
    """Every `tessera ...` command of the pages: lines of all blocks, and code spans in tables and text."""
    found = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for _, block in blocks(page):
            found |= {line for line in lines(block) if line.startswith("tessera ")}
            found |= {
                "tessera" + line.partition("tessera.cli")[2] for line in lines(block) if "-m tessera.cli " in line
            }
        spans = re.findall(r"`(tessera [^`\n]+)`", FENCE.sub("", text))
        found |= {span for span in spans if "--" in span and not any(word in span for word in PLACEHOLDERS)}
    return sorted(found)


def parse(words, monkeypatch):
    """The verb that the command line calls for `words`, without doing it."""
    called = []
    stubs = {
        name: functools.wraps(verb)(lambda *args, _name=name, **kwargs: called.append(_name))
        for name, verb in cli.VERBS.items()
    }
    monkeypatch.setattr(cli, "VERBS", stubs)
    cli.parse.app(cli.VERBS, cli.GROUPS).cli(args=words, prog="tessera")
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is_and_every_line_of_a_shell_is_checked(page):
    """What begins otherwise than these is checked by nothing: extend `checked`, or leave it out."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    def checked(line):
        words = shlex.split(line, comments=True)
        match words:
            case ["tessera", *_]:
                return True  # test_commands_parse
            case ["torchrun", *rest]:
                return "tessera.cli" in rest  # the same
            case ["make", *rest]:
                return all(word in targets or "=" in word for word in rest)
            case ["pip", "install", "-e", what]:
                return what.removeprefix(".[").removesuffix("]") in extras
            case ["uv", "run", "--no-sync", *rest]:
                return checked(shlex.join(rest))
            case ["uv", "venv", *_]:
                return True
            case ["uv", "pip", "install", "--torch-backend", "auto", *rest]:
                return checked(shlex.join(["pip", "install", *rest]))
            case ["pip", "install", "--constraint", file, "--editable", "."]:
                return (ROOT / file).exists()
            case ["sbatch", script, *_]:
                return (ROOT / script).exists()
            case [".", ".venv/bin/activate"] | ["vllm", "serve", *_]:
                return True
        return False

    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") == 2 * len(blocks(page))
    for kind, block in blocks(page):
        assert kind in ("sh", "python", "text"), f"a block of {page.name} has no language or an unknown one: {kind!r}"
        if kind == "sh":
            for line in lines(block):
                assert checked(line), line


def spans_of_verbs():
    """Code spans of a verb without flags, such as `tessera plan`."""
    found = set()
    for page in PAGES:
        found |= set(re.findall(r"`tessera ([a-z][^`\n]*)`", FENCE.sub("", page.read_text(encoding="utf-8"))))
    return sorted(found)


@pytest.mark.parametrize("span", spans_of_verbs())
def test_verbs_in_the_text_exist(span):
    first, second = [*span.split(), ""][:2]
    assert first in cli.VERBS or f"{first} {second}" in cli.VERBS or (first in cli.GROUPS and not second)


def test_the_table_of_verbs_has_all_of_them():
    readme = PAGES[0].read_text(encoding="utf-8")
    rows = [re.match(r"\| `tessera ([a-z -]+[a-z])", line) for line in readme.splitlines()]
    told = [row[1] for row in rows if row]
    assert [verb for verb in cli.VERBS if told.count(verb) + told.count(f"{verb} bash") != 1] == []


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


PAPER_PARTS = [
    *(f"Section{end}" for end in ("s 1, 2, 5, 6", " 3:", " 3.1:", " 3.2:", " 3.3:", " 4.1:", " 4.2:")),
    *(f"Section 4.3.{number}:" for number in range(1, 5)),
    *(f"Eq. {number}," for number in range(1, 5)),
    "Algorithm 1,",
    *(f"Table {number}," for number in range(1, 6)),
    *(f"Figure {number}," for number in range(1, 9)),
    *(f"Appendix {letter}," for letter in ("A", "B", "C", "D.1", "D.2", "E", "F")),
]


def paper_map():
    """(part, code, command) of each row of docs/paper_map.md."""
    text = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if row[0] not in ("paper", "---")]


@pytest.mark.parametrize("part", PAPER_PARTS)
def test_the_map_has_every_part_of_the_paper(part):
    assert any(row[0].startswith(part) for row in paper_map())


@pytest.mark.parametrize("row", paper_map(), ids=lambda row: row[0][:40])
def test_files_and_names_of_the_map_exist(row):
    part, code, command = row
    assert command == "" or command.startswith(("`tessera ", "`runs/"))
    assert part.startswith("Sections 1") or re.search(r"`[\w/]+\.py", code)
    for token in re.findall(r"`([^`]+)`", code):
        file, colon, name = token.partition(":")
        assert (ROOT / "src" / "tessera" / file).is_file(), token
        if not colon:
            continue
        thing = importlib.import_module(
            "tessera." + file.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
        )
        for attribute in name.split("."):
            fields = getattr(thing, "__dataclass_fields__", {})
            thing = fields[attribute] if attribute in fields else getattr(thing, attribute)
        assert getattr(thing, "__module__", "tessera").startswith("tessera") or not callable(thing)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_pages_are_there(page):
    for path in re.findall(
        r"`((?:docs|src|scripts|tests|bench|runs|examples|results)/[\w./-]+\.\w+)`", page.read_text(encoding="utf-8")
    ):
        assert (ROOT / path).exists() or "NAME" in path, path


@pytest.mark.parametrize("page", ["field.md", "gpu_readiness.md"])
def test_each_fault_has_its_test(page):
    tests = re.findall(r"`(tests/[\w/.]+)::(\w+)`", (ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert tests
    for path, name in tests:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), (path, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_parse_and_name_what_exists(page):
    for _, block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tessera"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "tessera":
                assert hasattr(importlib.import_module("tessera"), node.attr), ast.unparse(node)


def test_the_preset_of_a_flow_has_tau_at_the_noise_of_the_miniatures():
    ((_, block),) = blocks(ROOT / "docs" / "method.md", "python")
    names: dict[str, Any] = {}
    exec(block, names)
    for flow, usual in zip(names["flow"]().arms, miniature().arms, strict=True):
        assert flow.train.noise_schedule == "flow"
        there, here = (get_schedule(t.noise_schedule)(t.augment_min_t) for t in (flow.train, usual.train))
        assert float(there) == pytest.approx(float(here), abs=1e-6)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_and_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_pictures_of_the_docs_are_shown_somewhere():
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    }
    assert set((ROOT / "docs").glob("*.png")) <= linked


def test_the_study_of_the_docs_is_one():
    from tessera.study.design import Study

    (block,) = [text for _, text in blocks(ROOT / "docs" / "studies.md", "python")]
    names = {}
    exec(compile(block, "studies.md", "exec"), names)
    study = names["late_phase"]()
    assert isinstance(study, Study)
    starts = {arm.train.augment_start_image for variant in study.variants for arm in variant.config.arms}
    assert starts == {0, 16_000}


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
