"""Optional libraries: imported, or missing in one line with the command that installs them."""

import importlib.metadata
import json
import subprocess
import sys

import pytest

from tessera.config import UserError
from tessera.extras import install_command, require


def test_a_library_that_is_there_is_returned():
    assert require("json", "hub", "it") is json


def test_one_that_is_missing_is_one_line_with_the_command(monkeypatch):
    with pytest.raises(
        UserError, match=r'^text: it needs more libraries; run: pip install .*"diffusers>=[^"]*"'
    ) as error:
        require("no_such_library", "hub", "text: it")
    assert "\n" not in str(error.value)


def test_the_command_names_an_extras_packages_or_the_extra(monkeypatch):
    lines = ['one>=1; extra == "a"', "two ; extra == 'a'", 'three; extra == "b"', "four"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert install_command("a") == 'pip install "one>=1" "two"'
    assert install_command("c") == 'pip install "tessera-t2i[c]"'

    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", none)
    assert install_command("a") == 'pip install "tessera-t2i[a]"'


@pytest.mark.parametrize(
    ("library", "network"),
    [("transformers", "BertModel"), pytest.param("diffusers", "AutoencoderKL", marks=pytest.mark.slow)],
)
def test_a_library_says_nothing_of_torchao(library, network):
    command = f"from tessera.extras import require; require('{library}', 'hub', 'it').{network}"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
