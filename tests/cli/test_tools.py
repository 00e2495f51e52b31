"""completion, demo and doctor as verbs."""

import subprocess
import sys

import pytest

from tessera.cli import VERBS
from tessera.prompts.extend import ExtendConfig
from tessera.stages import open_stage
from tiny.commands import call, tessera


@pytest.mark.parametrize(
    ("flags", "extender"),
    [
        ([], None),
        (["--extender", "rules"], ExtendConfig(extender="rules")),
        (["--extender-model", "m"], ExtendConfig(model="m")),
        (["--extender-model", "m", "--extender-server", "http://a/v1"], ExtendConfig(model="m", server="http://a/v1")),
    ],
)
def test_the_demo_is_served_with_the_extender_that_was_asked_for(flags, extender, tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr("tessera.demo.serve.serve", lambda export, **given: served.append((export, given)))
    monkeypatch.setattr("os._exit", sys.exit)
    assert call("demo", tmp_path, "--port", 7000, *flags) == 0
    ((export, given),) = served
    assert (export, given["port"], given["extender"]) == (tmp_path, 7000, extender)


def test_the_demo_of_a_working_folder_is_that_of_its_last_arm(tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr("tessera.demo.serve.serve", lambda export, **given: served.append(export))
    monkeypatch.setattr("os._exit", sys.exit)
    for arm in ("ta", "ta_ia"):
        open_stage(tmp_path / "export" / arm, stage="export", config={}).finish({})
    assert call("demo", tmp_path) == 0
    assert served == [tmp_path / "export" / "ta_ia"]  # the other one is drawn with it


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
