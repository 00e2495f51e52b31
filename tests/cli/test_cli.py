"""The command line as a user meets it: help, mistyped words, bad input, the user's own files."""

import json
import subprocess
import sys

import pytest

from tessera.cli import VERBS
from tiny.commands import call, fails, tessera

NAMES = list(VERBS)


def test_help_names_every_verb_and_imports_nothing_heavy():
    code = "import sys\nfrom tessera.cli import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: print(sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in NAMES:
        assert f"  {name}  " in result.stdout
    for heavy in ("tyro", "torch", "numpy", "pyarrow", "transformers", "gradio", "matplotlib", "PIL"):
        assert f"'{heavy}'" not in result.stdout


@pytest.mark.parametrize("verb", NAMES)
def test_every_verbs_help_shows_an_example(verb, capsys):
    assert call(*verb.split(" "), "--help") == 0
    said = capsys.readouterr().out
    assert f"Example: tessera {verb} " in said
    assert "With --json: one JSON object for scripts." in " ".join(said.split())
    assert "{None" not in said


def without(module, *words):
    """The command in a process in which `module` cannot be imported."""
    code = f"import sys\nsys.modules[{module!r}] = None\nfrom tessera.cli import main\nmain({list(map(str, words))!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_a_missing_library_of_an_extra_is_named_with_the_extra(tmp_path):
    """The judges import transformers when they are asked for; other missing modules are defects."""
    quality = ["evaluate", "quality", "--samples", tmp_path, "--reference", tmp_path, "--metrics", "clip_score"]
    for words in (["extend-prompts", "geneval"], quality):
        result = without("transformers", *words, "--out", tmp_path / "out")
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1
        assert "run: pip install " in result.stderr
        assert '"transformers>=' in result.stderr
    assert without("tessera.plan", "plan", "--images", 9).returncode == 1


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "tessera.cli", "plan", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before anything is written
        assert process.stderr.read() == ""
        assert process.wait(timeout=120) == 0


def test_version(capsys):
    assert tessera("--version").stdout.strip()[0].isdigit()
    assert call("version") == 0
    assert capsys.readouterr().out.strip()[0].isdigit()


def test_help_as_a_word_and_nothing_at_all(capsys):
    for words, begin in (([], "usage: tessera VERB"), (["help"], "usage: tessera VERB")):
        assert call(*words) == 0
        assert capsys.readouterr().out.startswith(begin)
    assert call("help", "evaluate", "copies") == 0
    assert capsys.readouterr().out.startswith("usage: tessera evaluate copies")


def test_errors_of_a_script_are_an_object_too(tmp_path, capsys):
    nowhere = ["collect", tmp_path / "none", "--out", tmp_path / "x"]
    for words in (nowhere, ["collect"], ["colect"], ["plan", "--image", 1]):
        assert call(*words, "--json") == 2
        said = capsys.readouterr()
        assert said.err == f"error: {json.loads(said.out)['error']}\n"


def test_a_home_folder_that_the_shell_left_in_a_flag(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    call("collect", "miniature", "--num-images", 8, "--out=~/images")
    call("augment", "~/images", "--out", "~/recipe")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "recipe"]


def test_unknown_words_are_answered_with_near_ones(tmp_path):
    assert "miniature" in fails("run", "miniatur", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert "tessera run has no flag --ot; did you mean --out" in fails("run", "miniature", "--ot", "x")
    assert "ta_ia" in fails("train", "miniature:taia", "--plain", "x", "--out", tmp_path / "y")
    assert "which arm" in fails("train", "miniature", "--plain", "x", "--out", tmp_path / "y")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("trian", "train"),
        ("Colect images", "collect"),
        ("evaluate qualty", "evaluate quality"),
        ("evalute quality", "evaluate"),
        ("geneval", "evaluate geneval"),
        ("figure_tua", "figure tau"),
    ],
)
def test_a_mistyped_verb_is_answered_with_the_nearest_one(said, meant, capsys):
    assert call(*said.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: unknown verb ")
    assert f"did you mean {meant!r}?" in line


def test_verbs_with_underscores_and_words_that_are_like_none(capsys):
    assert call("extend_prompts", "--help") == 0
    assert call("zzzz") == 2
    said = capsys.readouterr().err
    assert "did you mean" not in said
    assert "known: run, " in said


MINE = """
from tessera.miniature import WorldConfig

def big():
    return {}["width"]

def tiny():
    return WorldConfig(size=1)

def long():
    raise RuntimeError("one line\\nand another")

def asks(width):
    return width
"""


@pytest.mark.parametrize("verb", ["run", "study", "train"])
@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("big", "line 5: KeyError: 'width' (TESSERA_DEBUG=1 shows where)"),
        ("tiny", "size is 1; give at least 16"),
        ("long", "line 11: RuntimeError: one line and another (TESSERA_DEBUG=1 shows where)"),
        ("asks", "TypeError: asks() missing 1 required positional argument: 'width' (TESSERA_DEBUG=1 shows where)"),
    ],
)
def test_what_a_users_own_function_raises_is_no_defect_of_tessera(verb, function, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    rest = ["--plain", "encoded", "--out", "out"] if verb == "train" else ["--out", "out"]
    assert call(verb, f"mine.py:{function}", *rest) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f" mine.py:{function}: {said}" in line
    assert not (tmp_path / "out").exists()


def test_what_a_users_own_file_raises_and_its_trace(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("width = 1\nwidth / 0\n")
    assert call("run", "mine.py:big") == 2
    said = "error: preset mine.py:big: line 2: ZeroDivisionError: division by zero (TESSERA_DEBUG=1 shows where)\n"
    assert capsys.readouterr().err == said
    monkeypatch.setenv("TESSERA_DEBUG", "1")
    assert call("run", "mine.py:big") == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback ")
    assert "    width / 0\n" in shown
    assert shown.endswith(said)


def test_bad_input_is_one_line_that_names_it(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty" in fails("collect", empty, "--out", tmp_path / "images")
    assert "nowhere" in fails("collect", tmp_path / "nowhere", "--out", tmp_path / "images")
    assert "size is 0" in fails("collect", empty, "--size", 0, "--out", tmp_path / "images")
    flat = tmp_path / "flat"
    flat.mkdir()
    from PIL import Image

    Image.new("RGB", (20, 20)).save(flat / "a.png")
    assert "--single-class" in fails("collect", flat, "--out", tmp_path / "images")
    assert "--images" in fails("run", "my-pictures", "--out", tmp_path / "run")
    assert "brings its own" in fails("run", "miniature", "--images", flat, "--out", tmp_path / "run")
    assert "tessera collect" in fails("augment", tmp_path / "none", "--out", tmp_path / "recipe")
    assert "nothing to resume" in fails("run", "miniature", "--resume", "--out", tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    assert "did not make" in fails("run", "miniature", "--out", tmp_path / "full")
