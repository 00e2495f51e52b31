"""GenEval's six tasks over any classes and colors."""

import pytest

from tessera.prompts.geneval import TASKS
from tessera.prompts.tasks import choices, metadata_line, with_article

COUNTS = {"single_object": 3, "two_object": 6, "counting": 9, "colors": 6, "position": 24, "color_attr": 12}


@pytest.mark.parametrize("task", TASKS)
def test_everything_that_can_be_asked_is_there_once(task):
    found = choices(task, ("cat", "owl", "bus"), ("red", "blue"))
    assert len(found) == len(set(found)) == COUNTS[task]
    lines = [metadata_line(task, choice, "{}s".format, "") for choice in found]
    assert len({line["prompt"] for line in lines}) == len(found)
    assert {line["tag"] for line in lines} == {task}


def test_the_first_object_of_a_place_is_the_second_clause():
    line = metadata_line("position", ("owl", "cat", "above"), str, "a photo of ")
    assert line["prompt"] == "a photo of an owl above a cat"
    assert line["include"] == [
        {"class": "cat", "count": 1},
        {"class": "owl", "count": 1, "position": ["above", 0]},
    ]


@pytest.mark.parametrize(("noun", "said"), [("umbrella", "an umbrella"), ("unicorn", "a unicorn"), ("owl", "an owl")])
def test_articles(noun, said):
    assert with_article(noun) == said
