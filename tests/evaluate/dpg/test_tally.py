"""DPG-Bench's two ways of counting, against an example worked out by hand, and the reading of its csv."""

import pytest

from tessera.config import UserError
from tessera.evaluate.dpg.evaluate import numbers, verdict
from tessera.evaluate.dpg.questions import read_questions
from tessera.evaluate.dpg.tally import fixed, official
from tessera.evaluate.scores import Protocol

HEADER = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language"
)

ROWS = [
    # A dog with a hat that is red: a chain of parents.
    ("a", "A dog.", 1, "0", "entity - whole (dog)", "Is there a dog?"),
    ("a", "A dog.", 2, "1", "entity - part (dog's hat)", "Has it a hat?"),
    ("a", "A dog.", 3, "1, 2", "attribute - color (hat, red)", "Is the hat red?"),
    # Children stand before their parent.
    ("b", "Two cats.", 3, "2", "attribute - color (cat, black)", "Is the cat black?"),
    ("b", "Two cats.", 2, "1", "entity - whole (cat)", "Is there a cat?"),
    ("b", "Two cats.", 1, "0", "global (photo)", "Is it a photo?"),
    ("c", "A bus.", 1, "0", "entity - whole (bus)", "Is there a bus?"),
    ("c", "A bus.", 2, "0", "other - text (STOP)", "Does it say STOP?"),
]


def write_csv(path, rows=ROWS):
    lines = [HEADER]
    for item, text, number, parents, kind, question in rows:
        lines.append(f'{item},"{text}",,{number},"{parents}",,,"{kind}","{question}"')
    path.write_text("\n".join(lines) + "\n")
    return path


# Two images of each item.
ANSWERS = {
    "a": [{1: True, 2: False, 3: True}, {1: True, 2: True, 3: True}],
    "b": [{1: False, 2: True, 3: True}, {1: True, 2: True, 3: False}],
    "c": [{1: True, 2: False}, {1: False, 2: True}],
}


@pytest.fixture
def items(tmp_path):
    return read_questions(write_csv(tmp_path / "q.csv"))


def means(tally):
    return {item: sum(shares) / len(shares) for item, shares in tally.images.items()}


def test_fixed_by_hand(items):
    tally = fixed(items, ANSWERS)
    # a: 1 of 3 (no hat, so no red one) and 3 of 3; b: 0 of 3 (no photo, so no cat, so no black one) and 2 of 3.
    assert means(tally) == pytest.approx({"a": (1 / 3 + 1) / 2, "b": (0 + 2 / 3) / 2, "c": 0.5})
    assert tally.categories == {
        "entity - whole": [("a", 1), ("a", 1), ("b", 0), ("b", 1), ("c", 1), ("c", 0)],
        "entity - part": [("a", 0), ("a", 1)],
        "attribute - color": [("a", 0), ("a", 1), ("b", 0), ("b", 0)],
        "global": [("b", 0), ("b", 1)],
        "other - text": [("c", 0), ("c", 1)],
    }
    values = {number.metric: number for number in numbers("fixed", tally, Protocol(metric="", name=""))}
    assert values["dpg/fixed/overall"].value == pytest.approx(100 * (2 / 3 + 1 / 3 + 1 / 2) / 3)
    assert {name: values[f"dpg/fixed/{name}"].value for name in ("global", "entity", "attribute", "other")} == {
        "global": 50,
        "entity": pytest.approx(100 * 5 / 8),
        "attribute": 25,
        "other": 50,
    }
    assert values["dpg/fixed/level 2/entity - whole"].n == 6
    assert len(values) == 1 + 4 + 5


def test_official_by_hand(items):
    tally = official(items, ANSWERS)
    # a drops out: its questions ask for the first row. b in the file's order: question 3 sees 2's own yes in image 1,
    # so 1 of 3; and 2 of 3 in image 2.
    assert means(tally) == pytest.approx({"b": (1 / 3 + 2 / 3) / 2, "c": 0.5})
    # Of the last image, before the zeroing.
    assert tally.categories == {
        "entity - whole": [("b", 1), ("c", 0)],
        "attribute - color": [("b", 0)],
        "global": [("b", 1)],
        "other - text": [("c", 1)],
    }
    values = {number.metric: number for number in numbers("official", tally, Protocol(metric="", name=""))}
    assert values["dpg/official/overall"].value == pytest.approx(50)
    assert values["dpg/official/entity"].value == pytest.approx(50)
    assert values["dpg/official/overall"].protocol.settings == {"count": "official"}


def test_official_passes_over_the_first_row_alone(tmp_path):
    rows = [
        ("a", "A dog.", 1, "0", "entity - whole (dog)", "Is there a dog?"),
        ("a", "A dog.", 2, "0", "global (photo)", "Is it a photo?"),
        ("a", "A dog.", 3, "2, 1", "global (sharp)", "Is it sharp?"),
    ]
    items = read_questions(write_csv(tmp_path / "q.csv", rows))
    # Question 3 looks at 2 first, and does not come to the missing 1 when that says no.
    assert means(official(items, {"a": [{1: True, 2: False, 3: True}]})) == {"a": 0.0}
    assert means(official(items, {"a": [{1: True, 2: True, 3: True}]})) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", True),
        ("Yes.", True),
        ("no", False),
        (" NO, it is not", False),
        ("2", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_verdict(text, expected):
    assert verdict(text) is expected


def changed(number, **changes):
    rows = [list(row) for row in ROWS]
    for index, value in changes.items():
        rows[number][int(index[1:])] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(2, _3="1, 7"), r"row 4: question 3 of a depends on 7, and there is no such question"),
        (ROWS[1:], r"row 2: question 2 of a depends on 1"),
        (changed(0, _3="3"), "questions of a depend on each other in a circle"),
        (changed(1, _3=""), r"line 3: proposition_id '2' and dependency '' must be whole numbers"),
        (changed(1, _2="two"), "proposition_id 'two'"),
        (changed(1, _4="(dog)"), "a tuple with a category"),
        ([], "holds no questions"),
    ],
)
def test_bad_questions(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_questions(write_csv(tmp_path / "q.csv", rows))


def test_other_files(tmp_path):
    path = tmp_path / "q.csv"
    with pytest.raises(UserError, match=r"q\.csv: there is no such file"):
        read_questions(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="has no column item_id; it has a, b"):
        read_questions(path)
    path.write_text(HEADER + "\na,b\n")
    with pytest.raises(UserError, match="line 2 has not as many fields"):
        read_questions(path)
