import pytest

from tessera.config import UserError
from tessera.demo.extender import PromptExtender, read_line, world_of
from tessera.miniature import WorldConfig
from tessera.prompts.extend import RULES, ExtendConfig, extend_prompts
from tessera.prompts.read import load_prompts
from tessera.prompts.style import STYLE
from tiny.judges import save_llama

WORLD = WorldConfig()


def extended(prompt, seed, world, **settings):
    return PromptExtender(world, **settings).extend(prompt, seed)[0]


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
        text = extended("a red circle above a blue square", seed, WORLD)
        assert "red" in text
        assert "blue" in text
        assert len(text) > 60
    texts = [extended("a star", seed, WORLD) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert "to the left of" in " ".join(extended("a red star left of a blue moon", n, WORLD) for n in range(9))


@pytest.mark.parametrize("extender", ["rules", "llm"])
def test_other_models_get_what_extend_prompts_writes(extender, tmp_path):
    model = str(save_llama(tmp_path / "llama")) if extender == "llm" else None
    config = ExtendConfig(extender=extender, model=model, seed=4)
    (tmp_path / "short.txt").write_text("a fox\na photo of a wolf\n")
    extend_prompts(tmp_path / "long", tmp_path / "short.txt", config, device="cpu")
    rows = load_prompts(tmp_path / "long" / "prompts.jsonl", extended=True).rows
    button = PromptExtender(WORLD, config, "cpu")  # one that was asked for goes before the miniature's rule
    for metadata, text in rows:
        assert button.extend(metadata["prompt"], 4) == (text, RULES if extender == "rules" else model)
    if extender == "rules":  # which is also what a model of no miniature gets unasked
        assert [extended(metadata["prompt"], 4, None) for metadata, _ in rows] == [text for _, text in rows]


def test_a_language_model_that_is_not_there_is_told(tmp_path):
    button = PromptExtender(None, ExtendConfig(model=str(tmp_path / "no-such-model")), "cpu")
    for _ in range(2):  # the second time too
        with pytest.raises(UserError, match="no-such-model"):
            button.extend("a fox", 0)


def test_the_papers_prompts_have_their_own_form():
    for metadata, _ in load_prompts("figure4").rows:
        assert extended(f" {metadata['prompt'].upper()} ", 0, None) == metadata["extended"]["text"]


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " \n",
        "a fox",
        "a star, a moon and a ring",
        "two stars and a moon",
        "five stars",
        "12 stars",
        "<script>" * 2000,
    ],
)
def test_other_prompts_are_told_what_the_rule_knows(prompt):
    with pytest.raises(UserError):
        extended(prompt, 0, WORLD)
    if not prompt.strip():
        with pytest.raises(UserError, match="no prompt to extend"):
            extended(prompt, 0, None)


def test_a_model_of_own_images_gets_the_style_of_its_captions():
    captions = ("A drawing of a red cup.", "A drawing of a blue boat.", "red cup", "blue boat")
    button = PromptExtender(None, None, "cpu", captions)
    assert button.extend("green kite", 0) == ("A drawing of a green kite.", STYLE)
    assert world_of(None, "words:64", ["red", "cup"]) is None
    assert world_of(None, "words:64", ["red", "circle"]) == world_of(None, "words:64") == WORLD
