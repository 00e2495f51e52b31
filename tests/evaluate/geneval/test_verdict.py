"""GenEval's rules, one by one: each row is a prompt's metadata, what was found, and the verdict by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.evaluate.geneval.verdict import Detection, judge, relative_position


def box(x: float, y: float, width: float = 10, height: float = 10) -> tuple[float, float, float, float]:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def found(name: str, score: float = 0.8, x: float = 50, y: float = 50, color: str | None = None) -> Detection:
    return Detection(name, score, box(x, y), color)


def want(name: str, count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": name, "count": count, **more}


ONE = {"tag": "single_object", "include": [want("dog")]}
TWO = {"tag": "two_object", "include": [want("dog"), want("cat")]}
COUNT = {"tag": "counting", "include": [want("dog", 2)], "exclude": [want("dog", 3)]}
RED = {"tag": "colors", "include": [want("dog", color="red")]}
TWO_RED = {"tag": "colors", "include": [want("dog", 2, color="red")]}
LEFT = {"tag": "position", "include": [want("cat"), want("dog", position=["left of", 0])]}
PAIRS = {"tag": "position", "include": [want("cat", 2), want("dog", 2, position=["left of", 0])]}
ATTRIBUTES = {"tag": "color_attr", "include": [want("dog", color="red"), want("cat", color="blue")]}
RED_LEFT = {"tag": "position", "include": [want("cat"), want("dog", color="red", position=["left of", 0])]}
CHAIN = {"tag": "position", "include": [want("cat", color="red"), want("dog", position=["left of", 0])]}

CASES = {
    "there": (ONE, [found("dog")], True, "found dog 0.80"),
    "nothing found": (ONE, [], False, "expected 1 dog, found 0"),
    "another class": (ONE, [found("cat")], False, "expected 1 dog, found 0"),
    "score at the threshold": (ONE, [found("dog", 0.3)], False, "found 0"),
    "score above the threshold": (ONE, [found("dog", 0.301)], True, "found dog"),
    "more than asked is no failure": (ONE, [found("dog"), found("dog")], True, "found dog"),
    "both": (TWO, [found("cat"), found("dog")], True, "found dog 0.80, cat 0.80"),
    "one of two": (TWO, [found("dog")], False, "expected 1 cat, found 0"),
    "none of two: both reasons": (TWO, [], False, "expected 1 dog, found 0; expected 1 cat, found 0"),
    "counted": (COUNT, [found("dog", 0.95), found("dog", 0.95)], True, "found dog 0.95, dog 0.95"),
    "counting wants sure ones": (COUNT, [found("dog", 0.95), found("dog", 0.9)], False, "expected 2 dog, found 1"),
    "a doubtful third does not count": (COUNT, [found("dog", s) for s in (0.95, 0.95, 0.9)], True, ""),
    "one too many": (COUNT, [found("dog", 0.95)] * 3, False, "expected fewer than 3 dog, found 3"),
    "excluded class beside": ({**ONE, "exclude": [want("cat")]}, [found("dog"), found("cat")], False, "fewer than 1"),
    "excluded class absent": ({**ONE, "exclude": [want("cat")]}, [found("dog")], True, ""),
    "right color": (RED, [found("dog", color="red")], True, "found red dog 0.80"),
    "wrong color": (RED, [found("dog", color="blue")], False, "expected 1 red dog, found 0 (blue)"),
    "no color known": (RED, [found("dog")], False, "expected 1 red dog, found 0 (no color)"),
    "only the best is asked its color": (
        RED,
        [found("dog", 0.5, color="red"), found("dog", 0.6, color="blue")],
        False,
        "expected 1 red dog, found 0 (blue)",
    ),
    "every one must have the color": (
        TWO_RED,
        [found("dog", color="red"), found("dog", 0.7, color="blue"), found("dog", 0.6, color="red")],
        False,
        "expected 2 red dog, found 1 (red, blue)",
    ),
    "colors swapped": (
        ATTRIBUTES,
        [found("dog", color="blue"), found("cat", color="red")],
        False,
        "expected 1 red dog, found 0 (blue); expected 1 blue cat, found 0 (red)",
    ),
    "colors attributed": (ATTRIBUTES, [found("dog", color="red"), found("cat", color="blue")], True, ""),
    "left": (LEFT, [found("dog", x=20), found("cat", x=70)], True, ""),
    "right instead": (
        LEFT,
        [found("dog", x=70), found("cat", x=20)],
        False,
        "expected dog left of cat, found it right of",
    ),
    "above instead": (
        LEFT,
        [found("dog", y=20), found("cat", y=70)],
        False,
        "expected dog left of cat, found it above",
    ),
    "on top of each other": (
        LEFT,
        [found("dog"), found("cat")],
        False,
        "found it neither left nor right, above or below",
    ),
    "target missing": (LEFT, [found("dog")], False, "expected 1 cat, found 0; no target for dog to be left of"),
    "target of the wrong color is none": (
        CHAIN,
        [found("dog", x=20), found("cat", x=70, color="blue")],
        False,
        "expected 1 red cat, found 0 (blue); no target for dog to be left of",
    ),
    "wrong color: position not asked": (
        RED_LEFT,
        [found("dog", x=70, color="blue"), found("cat", x=20)],
        False,
        "expected 1 red dog, found 0 (blue)",
    ),
    "each against each": (
        PAIRS,
        [found("dog", x=10), found("dog", x=20), found("cat", x=60), found("cat", x=80)],
        True,
        "",
    ),
    "one of the found lies wrong": (
        PAIRS,
        [found("dog", x=10), found("dog", x=70), found("cat", x=60), found("cat", x=80)],
        False,
        "expected dog left of cat, found it right of",
    ),
    "one of the target lies wrong": (
        PAIRS,
        [found("dog", x=40), found("dog", x=45), found("cat", x=60), found("cat", 0.5, x=10)],
        False,
        "expected dog left of cat, found it right of",
    ),
    "the third best is not looked at": (
        PAIRS,
        [*(found("dog", x=x) for x in (10, 20)), *(found("cat", s, x=x) for s, x in ((0.9, 60), (0.8, 80), (0.7, 5)))],
        True,
        "",
    ),
    "nothing asked": ({"tag": "", "include": []}, [], True, "nothing was asked"),
}


@pytest.mark.parametrize("name", CASES)
def test_rules(name: str):
    metadata, detections, correct, reason = CASES[name]
    verdict = judge(metadata, detections)
    assert verdict.correct is correct
    assert reason in verdict.reason
    assert verdict.reason


def test_at_most_sixteen_of_a_class_are_looked_at():
    many = [found("dog", 0.95) for _ in range(20)]
    line = {"tag": "counting", "include": [want("dog", 16)], "exclude": [want("dog", 17)]}
    assert judge(line, many).correct
    assert not judge({**line, "include": [want("dog", 17)]}, many).correct


def test_the_order_of_detections_does_not_matter():
    detections = [found("dog", s, x=x) for s, x in ((0.5, 80), (0.9, 10), (0.4, 90))] + [found("cat", 0.6, x=50)]
    assert judge(LEFT, detections) == judge(LEFT, detections[::-1])
    assert judge(LEFT, detections).correct


@pytest.mark.parametrize(
    ("dx", "dy", "names"),
    [
        (30, 0, {"right of"}),
        (-30, 0, {"left of"}),
        (0, -30, {"above"}),
        (0, 30, {"below"}),
        (30, 30, {"right of", "below"}),  # (30 - 2) / 42.4 = 0.66 on both axes
        (-30, 30, {"left of", "below"}),
        (30, 19, {"right of"}),  # (19 - 2) / 35.5 = 0.479
        (30, 20, {"right of"}),  # (20 - 2) / 36.06 = 0.4992
        (30, 20.1, {"right of", "below"}),  # (20.1 - 2) / 36.11 = 0.5012
        (2, 0, set()),  # shrunk to nothing by 0.1 * (10 + 10)
        (3.9, 0, set()),  # 1.9 / 3.9 = 0.487
        (4.1, 0, {"right of"}),  # 2.1 / 4.1 = 0.512
        (0, 0, set()),
    ],
)
def test_relative_position(dx: float, dy: float, names: set[str]):
    a, b = Detection("a", 1, box(100 + dx, 100 + dy)), Detection("b", 1, box(100, 100))
    assert relative_position(a, b) == names


def test_each_axis_shrinks_by_its_own_sizes():
    a, b = Detection("a", 1, box(30, 0, width=10, height=300)), Detection("b", 1, box(0, 40, width=10, height=100))
    assert relative_position(a, b) == {"right of"}  # x: 28 / 50 = 0.56; y: (40 - 40) / 50 = 0


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=2), st.floats(1, 40), st.floats(1, 40))
def test_position_is_antisymmetric(offset: list[float], size_a: float, size_b: float):
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    a = Detection("a", 1, box(offset[0], offset[1], size_a, size_a))
    b = Detection("b", 1, box(0, 0, size_b, size_b))
    there, back = relative_position(a, b), relative_position(b, a)
    assert {opposite[name] for name in there} == back
    assert len(there) <= 2
    if np.hypot(*offset) > 0.49 * (size_a + size_b):  # the larger axis has 0.707, and loses at most 0.1 / 0.49
        assert there
