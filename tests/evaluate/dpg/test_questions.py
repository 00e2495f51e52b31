"""DPG-Bench's csv: read in order, parents before children, and every mistake by its row."""

import pytest

from tessera.config import UserError
from tessera.evaluate.dpg.questions import ordered, read_questions

HEADER = "item_id,text,proposition_id,dependency,tuple,question_natural_language\n"


def table(tmp_path, *rows):
    path = tmp_path / "questions.csv"
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return path


def test_questions_are_read_and_ordered(tmp_path):
    path = table(
        tmp_path,
        'a,A red dog.,1,2,"attribute - color (dog, red)",is the dog red ?',
        "a,A red dog.,2,0,entity - whole (dog),is there a dog ?",
        "b,A cat.,1,0,entity - whole (cat),is there a cat ?",
    )
    first, second = read_questions(path)
    assert [(item.id, len(item.questions)) for item in (first, second)] == [("a", 2), ("b", 1)]
    assert [question.number for question in ordered(first)] == [2, 1]
    assert first.questions[0].parents == (2,)
    assert first.questions[0].category == "attribute - color"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((), "holds no questions"),
        (("a,A dog.,x,0,entity - whole (dog),is it ?",), "csv line 2: proposition_id 'x'"),
        (("a,A dog.,1,7,entity - whole (dog),is it ?",), "question 1 of a depends on 7, and there is no such question"),
        (("a,A dog.,1,2,e - w (d),is it ?", "a,A dog.,2,1,e - w (d),is it ?"), "depend on each other in a circle: 1"),
        (("a,A dog.,1,0",), "has not as many fields as the header"),
        (("a,A dog.,1,0,entity - whole (dog), ",), "and a question"),
    ],
)
def test_mistakes_are_named(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        read_questions(table(tmp_path, *rows))


def test_another_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"absent\.csv: there is no such file"):
        read_questions(tmp_path / "absent.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="has no column item_id; it has a, b; rename the one that is meant"):
        read_questions(tmp_path / "other.csv")
