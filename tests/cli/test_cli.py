"""The command line as a user meets it: in a process of its own."""

import inspect
import json
import os
import re
import subprocess
import sys

import pytest

from tessera.cli import VERBS, main
from tiny.exports import write_export

NAMES = list(VERBS)


def tessera(*args, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "tessera.cli", *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"TESSERA_QUIET": "1", "COLUMNS": "120"},
        timeout=120,
    )


def fails(*args, cwd=None):
    """The one line that a wrong call says."""
    result = tessera(*args, cwd=cwd)
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "Traceback" not in result.stderr
    return lines[0]


def call(*args):
    """The command in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    return ended.value.code


def test_help_names_every_verb_and_does_not_import_torch():
    code = "import sys\nfrom tessera.cli import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: print(sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in NAMES:
        assert name.split(" ")[0] in result.stdout
    for heavy in ("torch", "numpy", "pyarrow", "transformers", "gradio", "matplotlib", "PIL"):
        assert f"'{heavy}'" not in result.stdout


@pytest.mark.parametrize("verb", NAMES)
def test_every_verbs_help_shows_an_example(verb):
    result = tessera(*verb.split(" "), "--help")
    assert result.returncode == 0
    assert f"Example: tessera {verb} " in result.stdout


def without(module, *words):
    """The command in a process in which `module` cannot be imported."""
    code = f"import sys\nsys.modules[{module!r}] = None\nfrom tessera.cli import main\nmain({list(map(str, words))!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_a_missing_library_of_an_extra_is_named_with_the_extra(tmp_path):
    """The judges import transformers when they are asked for; other modules that lack are defects."""
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


def test_version():
    assert tessera("--version").stdout.strip()[0].isdigit()


def test_a_home_folder_that_the_shell_left_in_a_flag(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    call("collect", "miniature", "--num-images", 8, "--out=~/images")
    call("augment", "~/images", "--out", "~/recipe")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "recipe"]


def test_unknown_words_are_answered_with_near_ones(tmp_path):
    assert "miniature" in fails("run", "miniatur", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    result = tessera("run", "miniature", "--ot", "x")
    assert result.returncode == 2
    assert "nrecognized" in result.stderr
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
        ("tiny", "world.size is 1: give at least 16 pixels"),
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


@pytest.mark.parametrize("words", ["caption images --captioner llava", "encode images captions"])
@pytest.mark.parametrize(("engine", "fix"), [("processes", "CUDA_VISIBLE_DEVICES=1"), ("ray", "leave --engine out")])
def test_one_gpu_for_workers_that_get_one_each(words, engine, fix, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("collect", "miniature", "--num-images", 8, "--out", "images") == 0
    assert call("caption", "images", "--out", "captions") == 0
    capsys.readouterr()
    assert call(*words.split(), "--engine", engine, "--device", "cuda:1", "--out", "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --device cuda:1: with --engine {engine} ")
    assert fix in line
    assert not (tmp_path / "out").exists()


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
    assert "draws its own" in fails("run", "miniature", "--images", flat, "--out", tmp_path / "run")
    assert "tessera collect" in fails("augment", tmp_path / "none", "--out", tmp_path / "recipe")
    assert "nothing to resume" in fails("run", "miniature", "--resume", "--out", tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    assert "did not make" in fails("run", "miniature", "--out", tmp_path / "full")


def test_stages_by_hand_and_a_directory_of_another_configuration(tmp_path):
    made = tessera("collect", "miniature", "--num-images", 24, "--out", "images", cwd=tmp_path)
    assert made.stdout.startswith("images: ")
    assert "24" in made.stdout
    assert tessera("augment", "images", "--out", "recipe", cwd=tmp_path).returncode == 0
    args = ("caption", "images", "--recipe", "recipe", "--captioner", "scene", "--out", "captions")
    assert tessera(*args, cwd=tmp_path).returncode == 0
    assert tessera("encode", "images", "captions", "--recipe", "recipe", "--out", "mixed", cwd=tmp_path).returncode == 0
    line = fails("augment", "images", "--pattern", "half", "--out", "recipe", cwd=tmp_path)
    assert "pattern" in line
    assert '"all"' in line
    assert '"half"' in line


@pytest.mark.parametrize("verb", VERBS)
def test_what_a_verb_says_of_its_arguments_is_what_it_takes(verb):
    about = inspect.getdoc(VERBS[verb])
    said = re.findall(r"^    (\w+): ", about.partition("Args:\n")[2], re.MULTILINE)
    assert sorted(said) == sorted(inspect.signature(VERBS[verb]).parameters)


def test_json_for_scripts(tmp_path):
    made = tessera("collect", "miniature", "--num-images", 16, "--out", "images", "--json", cwd=tmp_path)
    told = json.loads(made.stdout)
    assert (told["directory"], told["stage"], told["counts"]["images"]) == ("images", "collect", 16)
    assert "--json" in tessera("--help").stdout


def test_every_verb_answers_scripts_with_one_object(tmp_path, capsys, monkeypatch):
    """The verbs that need no pretrained network, one after the other in one folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("a fox\n")
    write_export(tmp_path / "export")

    def told(line):
        assert call(*line.split(), "--json") == 0
        return json.loads(capsys.readouterr().out)

    assert told("collect miniature --num-images 60 --out images")["counts"]["images"] == 60
    assert told("augment images --out recipe")["stage"] == "augment"
    assert told("caption images --recipe recipe --captioner scene --out captions")["directory"] == "captions"
    assert told("encode images captions --recipe recipe --out encoded")["stage"] == "encode"
    assert told("look captions --out look.html") == {"files": ["look.html"]}
    assert told("prompts images --per-task 1 --out prompts")["counts"] == {"prompts": 6}
    assert told("extend-prompts short.txt --extender rules --seed 7 --out long")["counts"] == {"prompts": 1}
    assert json.loads((tmp_path / "long" / "prompts.jsonl").read_text())["extended"]["seed"] == 7
    assert told("generate export --prompts short.txt --per-prompt 1 --out samples")["counts"]["images"] == 1
    assert told("generate export --prompts prompts/prompts.jsonl --per-prompt 1 --out asked")["counts"]["prompts"] == 6
    judged = told("evaluate miniature asked --out scores")["numbers"]
    assert {"overall", "color_attr", "seam"} <= {number["metric"] for number in judged}
    assert all(number["low"] <= number["value"] <= number["high"] for number in judged)
    assert told("figure tau --pictures 16 --out tau")["directory"] == "tau"
    plan = told("plan --images 1000")
    assert plan["bytes"]["images"] > 0
    assert plan["commands"][0].startswith("tessera collect")
    study = told("study claims-smoke --plan --out studies")
    assert (study["plan"], len(study["cells"])) == ("studies/claims-smoke/plan.json", 6)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_what_the_shell_reads(shell, tmp_path):
    script = tessera("completion", shell).stdout
    for name in NAMES:
        assert name.split(" ")[0] in script
    if shell == "bash":
        (tmp_path / "script").write_text(script)
        asked = "source ./script; COMP_WORDS=(tessera coll); COMP_CWORD=1;"
        asked += " $(complete -p tessera | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo ${COMPREPLY[@]}"
        done = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.split() == ["collect"], done.stderr


def test_one_class_has_no_partner(tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (number * 80, 0, 0)).save(tmp_path / "photos" / f"{number}.jpg")
    made = tessera("collect", "photos", "--single-class", "cat", "--size", 32, "--out", "images", cwd=tmp_path)
    assert made.returncode == 0
    assert "class" in fails("augment", "images", "--out", "recipe", cwd=tmp_path)
