"""The scripts of runs/ and the commands in the presets' docstrings: what they call is there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from test_docs import parse

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "runs").glob("*.sh"))
ARRAYS = {
    "sets": "--plain encoded/ta --augmented encoded/ta_ia",
    "frozen": "--latents owner/vae --text owner/t5 --engine processes",
    "llava": "--captioner openai --server http://127.0.0.1:8000/v1",
    "longer": "--extended",
}
"""What the scripts' arrays hold."""


def commands_of(text: str) -> list[list[str]]:
    """The words after `tessera` or its equal in a script, with variables filled in."""
    text = text.replace("\\\n", " ")
    for name, words in ARRAYS.items():
        text = text.replace(f'"${{{name}[@]}}"', words)
    text = re.sub(
        r"\$\{?\w+[^}\s/\"-]*\}?", "1", text.replace('"$preset"', "cad-i-l:ta").replace("$model:$arm", "cad-i-l:ta")
    )
    found = []
    for line in text.splitlines():
        match = re.search(r"(?:^|\s)(?:tessera|on_gpus|-m tessera\.cli) ([a-z][a-z-]+ [^&\n]*)", line.split("#")[0])
        if match:
            found.append(shlex.split(match[1]))
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_call_what_there_is(script, monkeypatch):
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    commands = commands_of(text)
    assert commands or "bench/first_hour.py" in text  # whose commands a test of it runs
    for words in commands:
        (verb,) = parse(words, monkeypatch)
        assert verb.split() == words[: len(verb.split())]
        monkeypatch.undo()


def test_srun_names_the_cores_of_a_process():
    """Which it does not inherit from the job since Slurm 22.05."""
    lines = [line for line in (ROOT / "runs/slurm.sh").read_text(encoding="utf-8").splitlines() if "srun " in line]
    assert len(lines) == 1
    assert lines[0].startswith('srun --cpus-per-task="$SLURM_CPUS_PER_TASK" ')
