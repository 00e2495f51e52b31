"""completion, demo and doctor as verbs."""

import subprocess

import pytest

from tessera.cli import VERBS
from tiny.commands import tessera


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_what_the_shell_reads(shell, tmp_path):
    script = tessera("completion", shell).stdout
    for name in VERBS:
        assert name.split(" ")[0] in script
    if shell == "bash":
        (tmp_path / "script").write_text(script)
        asked = "source ./script; COMP_WORDS=(tessera coll); COMP_CWORD=1;"
        asked += " $(complete -p tessera | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo ${COMPREPLY[@]}"
        done = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.split() == ["collect"], done.stderr
