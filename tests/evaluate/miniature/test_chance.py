"""Chance level of scenes whose scores are counted by hand."""

from dataclasses import replace

from tessera.evaluate.miniature.chance import chance, chance_in
from tessera.prompts.miniature import PromptConfig, prompts
from tessera.stages import read_manifest
from tiny.scores import judged, miniature_scores


def line(tag, *objects, **clause):
    """A prompt for objects (class, color, center); clause: added to what it asks of the last one."""
    include = [{"class": name, "count": 1} for name, _, _ in objects]
    include[-1] |= clause
    if tag == "color_attr":
        include = [asked | {"color": color} for asked, (_, color, _) in zip(include, objects)]
    drawn = [{"class": name, "color": color, "center": center} for name, color, center in objects]
    return {"tag": tag, "include": include, "extended": {"objects": drawn}}


LEFT, RIGHT, CENTER = (0.25, 0.5), (0.75, 0.5), (0.5, 0.5)


def test_scenes_of_other_prompts_are_judged_by_the_rules():
    asked = [
        line("single_object", ("circle", "red", CENTER)),
        line("color_attr", ("circle", "red", LEFT), ("square", "blue", RIGHT)),
        line("position", ("circle", "red", LEFT), ("square", "blue", RIGHT), position=["right of", 0]),
    ]
    others = [
        line("single_object", ("circle", "blue", CENTER)),
        line("single_object", ("square", "red", CENTER)),
        line("color_attr", ("square", "blue", LEFT), ("circle", "red", RIGHT)),  # all but the places
        line("color_attr", ("circle", "red", LEFT), ("square", "green", RIGHT)),  # one color
        line("color_attr", ("circle", "green", LEFT), ("square", "yellow", RIGHT)),
        line("position", ("circle", "red", LEFT), ("square", "blue", RIGHT)),
        line("position", ("circle", "red", RIGHT), ("square", "blue", LEFT)),
    ]
    # color_attr: 1, 0, 0; color_score: 1, 0.5, 0 and 1, 1; both colors: 1, 0, 0 and 1, 1.
    assert chance(asked, others, extended=True) == {
        "single_object": 0.5,
        "color_attr": 0.333333,
        "color_score": 0.7,
        "both_colors": 0.6,
        "colors_in_relation": 0.2,  # only the scene with the places asked for
        "position": 0.5,
    }


def test_short_prompts_ask_for_no_colors_but_in_color_attr():
    asked = [line("position", ("circle", "red", LEFT), ("square", "blue", RIGHT), position=["right of", 0])]
    assert chance(asked, asked, extended=False) == {"position": 1.0}
    asked = [line("color_attr", ("circle", "red", LEFT), ("square", "blue", RIGHT))]
    assert chance(asked, asked, extended=False) == {"color_attr": 1.0, "color_score": 1.0, "both_colors": 1.0}


def test_a_directory_of_prompts_gives_the_level_of_its_own_scores_alone(images, tmp_path):
    prompts(tmp_path / "prompts", images, PromptConfig(per_task=1))
    drawn = read_manifest(tmp_path / "prompts").facts["prompts_sha256"]
    scores = miniature_scores("ta", [judged(0, 0, "single_object", True)], prompts_sha256=drawn)
    found = chance_in(tmp_path / "prompts", scores)
    assert found["single_object"] == 0.33  # of three shapes, by 200 scenes: 66, 67 or 67
    assert chance_in(tmp_path / "prompts", replace(scores, kind="geneval")) == {}
    assert chance_in(tmp_path / "prompts", miniature_scores("ta", scores.items)) == {}
    assert chance_in(tmp_path / "nowhere", scores) == {}
