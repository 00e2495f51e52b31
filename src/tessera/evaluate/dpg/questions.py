"""DPG-Bench's questions: the csv of its authors, checked (Hu et al. 2024, "ELLA", Apache-2.0)."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tessera.config import UserError

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

    @property
    def level_1(self) -> str:
        """The part of the category before the dash."""
        return self.category.split("-")[0].strip()


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
    for row, fields in enumerate(_rows(Path(path))):
        where = f"{path}: row {row + 2}"  # as an editor counts the lines of an unbroken file
        question = _question(where, fields, row)
        _, questions = items.setdefault(fields["item_id"], (fields["text"], {}))
        questions[question.number] = question  # of two with one number the later counts, as in the published script
    found = [Item(name, text, tuple(questions.values())) for name, (text, questions) in items.items()]
    if not found:
        raise UserError(f"{path}: holds no questions")
    for item in found:
        _check_parents(path, item)
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    limit = csv.field_size_limit(1_000_000)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path}: has no column {', '.join(missing)}; give DPG-Bench's dpg_bench.csv")
            rows = []
            for fields in reader:
                if None in fields or any(fields[name] is None for name in COLUMNS):
                    raise UserError(f"{path}: line {reader.line_num} has not as many fields as the header")
                rows.append(fields)
            return rows
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: there is no such questions file; give DPG-Bench's dpg_bench.csv") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not a csv file in UTF-8 ({error})") from error
    finally:
        csv.field_size_limit(limit)


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


def _check_parents(path: Path, item: Item) -> None:
    numbers = {question.number for question in item.questions}
    for question in item.questions:
        unknown = [parent for parent in question.parents if parent not in numbers]
        if unknown:
            raise UserError(
                f"{path}: row {question.row + 2}: question {question.number} of {item.id} depends on {unknown[0]}, and "
                "there is no such question; fix the file or download it again"
            )
    ordered(item, str(path))


def ordered(item: Item, where: str = "questions") -> list[Question]:
    """Return the item's questions with parents before children; UserError if some depend on each other in a circle."""
    left, done, out = list(item.questions), set(), []
    while left:
        ready = [question for question in left if done.issuperset(question.parents)]
        if not ready:
            raise UserError(f"{where}: questions of {item.id} depend on each other in a circle: {left[0].number}")
        out += ready
        done |= {question.number for question in ready}
        left = [question for question in left if question.number not in done]
    return out
