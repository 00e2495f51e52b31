"""Prompts for a judge of drawings: the tasks' lines, and captions of the set that say the same."""

import json

import pytest

from tessera.prompts.drawings import COLORS, drawing_prompts, plural
from tessera.prompts.geneval import TASKS
from tessera.prompts.miniature import PromptConfig
from tessera.stages import open_stage

NAMES = ("cat", "bus", "lady beetle")


class Told:
    """Captions of a set of one sentence."""

    def tell(self, name, color, count, rng):
        return f"A drawing of {count or name} in {color or 'its colors'}."


@pytest.fixture
def lines(tmp_path):
    open_stage(tmp_path / "images", stage="collect", config={}, inputs={}).finish({})
    for _ in range(2):  # the second call leaves it as it is
        drawing_prompts(tmp_path / "prompts", tmp_path / "images", NAMES, Told(), PromptConfig(per_task=5, seed=1))
    return [json.loads(line) for line in (tmp_path / "prompts" / "prompts.jsonl").read_text().splitlines()]


def test_each_task_is_asked_for_in_words_of_captions(lines):
    assert [line["tag"] for line in lines] == [task for task in TASKS for _ in range(5)]
    for line in lines:
        assert {clause["class"] for clause in line["include"]} <= set(NAMES)
        assert {clause["color"] for clause in line["include"] if "color" in clause} <= set(COLORS)
        assert not line["prompt"].startswith("a photo of")


def test_extended_texts_say_names_colors_counts_and_places(lines):
    for line in lines:
        text = line["extended"]["text"]
        for clause in line["include"]:
            name = plural(clause["class"]) if clause["count"] > 1 else clause["class"]
            assert name in text
            assert clause.get("color", "its colors") in text
        if line["tag"] == "position":
            second = line["include"][1]
            place = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}[second["position"][0]]
            assert next(part for part in text.split(". ") if second["class"] in part).split(",")[0].endswith(place)


def test_two_things_that_stand_in_a_training_image_are_not_asked_for(tmp_path):
    open_stage(tmp_path / "images", stage="collect", config={}, inputs={}).finish({})
    seen = {frozenset(("cat", "bus")), frozenset(("cat", "ox"))}
    drawing_prompts(tmp_path / "prompts", tmp_path / "images", NAMES, Told(), PromptConfig(per_task=9), seen)
    lines = [json.loads(line) for line in (tmp_path / "prompts" / "prompts.jsonl").read_text().splitlines()]
    asked = [frozenset(clause["class"] for clause in line["include"]) for line in lines]
    assert sum(len(names) == 2 for names in asked) == 3 * 9
    assert not seen & set(asked)


@pytest.mark.parametrize(
    ("name", "many"),
    [
        ("bus", "buses"),
        ("butterfly", "butterflies"),
        ("dress", "dresses"),
        ("maple leaf", "maple leaves"),
        ("soccer ball", "soccer balls"),
        ("key", "keys"),
    ],
)
def test_plurals(name, many):
    assert plural(name) == many
