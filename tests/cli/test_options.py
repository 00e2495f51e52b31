"""The help of parameters."""

import inspect
import re

import pytest
import tyro

from tessera.cli import VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_parameter_of_a_verb_has_its_help_in_one_place(verb):
    about = inspect.getdoc(VERBS[verb])
    said = re.findall(r"^    (\w+): ", about.partition("Args:\n")[2], re.MULTILINE)
    for name, hint in VERBS[verb].__annotations__.items():
        marks = getattr(hint, "__metadata__", ())  # tyro's, once a command line was read
        said += [name for mark in marks if mark not in ("positional", tyro.conf.Positional)]
    assert sorted(said) == sorted(inspect.signature(VERBS[verb]).parameters)
