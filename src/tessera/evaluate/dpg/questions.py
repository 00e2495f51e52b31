"""DPG-Bench's questions: the csv of its authors, checked (Hu et al. 2024, "ELLA", Apache-2.0)."""

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tessera.config import UserError
from tessera.prompts.rows import read_rows

COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
"""Those that are read, of the nine of the published file."""
LEVEL_1 = ("global", "entity", "attribute", "relation", "other")


@dataclass(frozen=True)
class Question:
    """A yes-or-no question about the image of an item."""

    number: int
    """Its proposition_id, within the item."""
    parents: tuple[int, ...]
    """Questions of the item without whose yes it has no sense; 0 in the file is none."""
    category: str
    """Level 2, such as "entity - whole": what stands before the bracket of `tuple`."""
    text: str
    row: int
    """Its row in the file, from 0, without the header."""


@dataclass(frozen=True)
class Item:
    """A prompt with its questions, in the file's order."""

    id: str
    text: str
    questions: tuple[Question, ...]


def read_questions(path: Path) -> list[Item]:
    """Return the items of the file in its order.

    Raises UserError for another file, a row that is not well formed, or a parent that is no question of its item.
    """
    items: dict[str, tuple[str, dict[int, Question]]] = {}
    rows = read_rows(Path(path), *((name,) for name in COLUMNS), plain=False)
    for row, (where, data, columns) in enumerate(rows):
        fields = {name: str(data[column]) for name, column in zip(COLUMNS, columns)}
        question = _question(where, fields, row)
        _, questions = items.setdefault(fields["item_id"], (fields["text"], {}))
        questions[question.number] = question  # of two with one number the later counts, as in the published script
    found = [Item(name, text, tuple(questions.values())) for name, (text, questions) in items.items()]
    if not found:
        raise UserError(f"{path}: holds no questions")
    for item in found:
        _, numbers = items[item.id]
        for question in item.questions:
            if unknown := [parent for parent in question.parents if parent not in numbers]:
                raise UserError(
                    f"{path}: row {question.row + 2}: question {question.number} of {item.id} depends on {unknown[0]}, "
                    "and there is no such question; fix the file or download it again"
                )
        ordered(item, str(path))
    return found


def _question(where: str, fields: Mapping[str, str], row: int) -> Question:
    try:
        number = int(fields["proposition_id"])
        parents = tuple(int(part) for part in fields["dependency"].split(","))
    except ValueError:
        raise UserError(
            f"{where}: proposition_id {fields['proposition_id']!r} and dependency {fields['dependency']!r} must be "
            "whole numbers, the latter separated by commas, 0 for none"
        ) from None
    category = fields["tuple"].split("(")[0].strip()
    if number < 1 or not category or not fields["question_natural_language"].strip():
        raise UserError(f"{where}: needs a proposition_id from 1, a tuple with a category, and a question")
    own = tuple(parent for parent in parents if parent != 0)
    return Question(number, own, category, fields["question_natural_language"], row)


def ordered(item: Item, where: str = "questions") -> list[Question]:
    """Return the item's questions with parents before children; UserError if some depend on each other in a circle."""
    found = {question.number: question for question in item.questions}
    try:
        order = TopologicalSorter({question.number: question.parents for question in item.questions}).static_order()
        return [found[number] for number in order]
    except CycleError as error:
        circle = min(error.args[1])
        raise UserError(f"{where}: questions of {item.id} depend on each other in a circle: {circle}") from error
