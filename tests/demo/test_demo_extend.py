import pytest

from tessera.config import UserError
from tessera.demo.extend import extend_prompt, read_line
from tessera.generate.prompts import load_prompts
from tessera.miniature import WorldConfig

WORLD = WorldConfig()


def test_shapes_colours_numbers_and_places_are_read():
    line = read_line("A photo of a RED circle left of a blue square!", WORLD)
    assert line["include"] == [
        {"class": "square", "count": 1, "color": "blue"},
        {"class": "circle", "count": 1, "color": "red", "position": ["left of", 0]},
    ]
    assert read_line("three green crosses", WORLD)["include"] == [{"class": "cross", "count": 3, "color": "green"}]
    assert read_line("2 hearts", WORLD)["include"] == [{"class": "heart", "count": 2}]


def test_the_long_form_says_what_was_asked_and_follows_the_seed():
    for seed in range(5):
        text = extend_prompt("a red circle above a blue square", seed, WORLD)
        assert "red" in text
        assert "blue" in text
        assert len(text) > 60
    texts = [extend_prompt("a star", seed, WORLD) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert "to the left of" in " ".join(extend_prompt("a red star left of a blue moon", n, WORLD) for n in range(9))


def test_the_papers_prompts_have_their_own_form():
    for metadata, _ in load_prompts("figure4").rows:
        assert extend_prompt(f" {metadata['prompt'].upper()} ", 0, None) == metadata["extended"]["text"]


@pytest.mark.parametrize(
    "prompt", ["", "a fox", "a star, a moon and a ring", "two stars and a moon", "<script>" * 2000]
)
def test_other_prompts_are_told_what_the_rule_knows(prompt):
    with pytest.raises(UserError):
        extend_prompt(prompt, 0, WORLD)
    with pytest.raises(UserError, match="no extended form"):
        extend_prompt(prompt, 0, None)
