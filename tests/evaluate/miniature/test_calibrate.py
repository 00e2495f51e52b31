"""The judge's calibration: scenes that satisfy a line, and lines with one fact made wrong."""

import pytest

from tessera.evaluate.miniature.calibrate import altered, held_out, metadata_of, relation_of
from tessera.miniature import WorldConfig

WORLD = WorldConfig(seed=3)


@pytest.mark.parametrize(
    ("first", "second", "relation"),
    [
        ((0.2, 0.5), (0.8, 0.6), "left of"),
        ((0.8, 0.5), (0.2, 0.6), "right of"),
        ((0.5, 0.1), (0.6, 0.9), "above"),
        ((0.5, 0.9), (0.6, 0.1), "below"),
        ((0.1, 0.1), (0.3, 0.3), "left of"),  # equal distances: the horizontal one
    ],
)
def test_relations_follow_the_larger_distance(first, second, relation):
    assert relation_of(first, second) == relation


def test_held_out_scenes_of_two_differ_in_shape_and_color():
    scenes = held_out(WORLD, 2, 20)
    assert len(scenes) == 20
    for scene in scenes:
        first, second = scene.objects
        assert first.shape != second.shape
        assert first.color != second.color
    assert held_out(WORLD, 2, 20) == scenes


def test_an_altered_line_has_one_wrong_fact_by_turns():
    (scene,) = held_out(WORLD, 2, 1)
    line = metadata_of(scene)
    for number, field in enumerate(("class", "color", "position")):
        clauses = altered(line, number)["include"]
        assert clauses[0] == line["include"][0]
        wrong = {name for name in clauses[1] if clauses[1][name] != line["include"][1][name]}
        assert wrong == {field}
    assert line == metadata_of(scene)  # the line itself stays
