"""Tables of questions about images: a prompt, a question, its dimension and the answer that is expected.

A row each in csv, tsv, jsonl or parquet with the columns prompt, question, dimension and answer (the last two may be
missing, and long may hold a long version of the prompt); or a row for each prompt: GenEval 2's geneval2_data.jsonl, and
UniGenBench++'s test_prompts_en.csv, test_prompts_en_long.csv, test_prompts_zh.csv, test_prompts_zh_long.csv.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.prompts.rows import read_rows


@dataclass(frozen=True)
class Asked:
    """A question about the image of a prompt."""

    text: str
    """ "" in a table without questions."""
    answer: str
    """One word; "yes" where the table has none."""
    dimension: str
    """Its skill; "" for none."""


@dataclass(frozen=True)
class PromptQuestions:
    """A prompt with its questions, in the file's order."""

    text: str
    questions: tuple[Asked, ...]
    atoms: int | None = None
    """The number of GenEval 2's atoms."""
    long: str | None = None
    """The long version of the prompt."""
    pair: str | None = None
    """The number that UniGenBench++'s short and long versions of a prompt share, in files of their own."""


CHECKS = {"prompt_en": ("Testpoints", "Testpoint Description"), "prompt_zh": ("考点", "考点对应描述")}
"""UniGenBench++'s column of prompts -> what sub_dims calls a prompt's points, and their descriptions."""
FULFILLED = 'The prompt was "{prompt}". Does the image fulfill this part of it: "{part}" ({point})?'
"""Our question about a point; UniGenBench++ asks Gemini about all points of an image at once, with explanations."""


def read_question_table(path: Path, need_questions: bool = True) -> list[PromptQuestions]:
    """Return the prompts of a table, each once.

    need_questions: without them a row is a prompt and maybe a dimension. Raises UserError that names the line.
    """
    found: dict[str, tuple[list[Asked], int | None, str | None]] = {}
    pairs: dict[str, str] = {}
    for where, row, (column,) in read_rows(Path(path), ("prompt", *CHECKS), plain=False):
        row = {name.strip().lower(): value for name, value in row.items()}
        column = column.strip().lower()
        text, longer = _text(where, row, column), row.get("long")
        if column in CHECKS:
            if text in found:
                raise UserError(f"{where}: its prompt is that of an earlier row; remove one of them")
            found[text], pairs[text] = (list(_points(where, row, column, text)), None, None), str(row.get("index"))
            continue
        if "vqa_list" in row:
            atoms = row.get("atom_count")
            if text in found or not (atoms is None or type(atoms) is int):
                raise UserError(f"{where}: each prompt stands once, with a whole number atom_count; fix the line")
            found[text] = (list(_atoms(where, row)), atoms, None)
            continue
        question = _text(where, row, "question") if need_questions or row.get("question") else ""
        asked = _asked(where, question, row.get("answer") or "yes", row.get("dimension") or "")
        found.setdefault(text, ([], None, str(longer) if longer else None))[0].append(asked)
    if not found:
        raise UserError(f"{path}: holds no prompts")
    return [
        PromptQuestions(text, tuple(asked), atoms, longer, pairs.get(text))
        for text, (asked, atoms, longer) in found.items()
    ]


def _text(where: str, row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: has no text {name!r}; its columns are prompt, question, dimension and answer")
    return value.strip()


def _atoms(where: str, row: Mapping[str, Any]) -> Iterator[Asked]:
    """Yield the questions of a line of GenEval 2."""
    pairs, skills = row["vqa_list"], row.get("skills")
    if not isinstance(pairs, list) or not pairs or not isinstance(skills, list) or len(skills) != len(pairs):
        raise UserError(f"{where}: vqa_list and skills must be lists of one length; give geneval2_data.jsonl")
    for pair, skill in zip(pairs, skills):
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(f"{where}: vqa_list must hold pairs of question and answer; give geneval2_data.jsonl")
        question, answer = pair
        yield _asked(where, question, answer, skill)


def _points(where: str, row: Mapping[str, Any], column: str, prompt: str) -> Iterator[Asked]:
    """Yield a question about each point of a row of UniGenBench++."""
    name = column.replace("prompt", "sub_dims")
    try:
        text = row.get(name) or ""
        try:
            data = json.loads(text)
        except json.JSONDecodeError:  # test_prompts_en_long.csv has no comma between two points of its row 509
            data = json.loads(re.sub(r'" +"', '", "', text))
        points, parts = (data[key] for key in CHECKS[column])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        keys = " and ".join(CHECKS[column])
        raise UserError(f"{where}: {name} is no JSON with {keys} ({error!r}); give UniGenBench++'s file") from None
    if not isinstance(points, list) or not isinstance(parts, list) or len(points) != len(parts) or not points:
        raise UserError(f"{where}: {name} has not as many descriptions as points; give UniGenBench++'s file")
    for point, part in zip(points, parts):
        dimension = " - ".join(map(str.strip, str(point).split("-", 1)))
        yield _asked(where, FULFILLED.format(prompt=prompt, part=part, point=dimension), "yes", dimension)


def _asked(where: str, question: Any, answer: Any, dimension: Any) -> Asked:
    if not all(isinstance(part, str) for part in (question, answer, dimension)) or len(answer.split()) != 1:
        raise UserError(
            f"{where}: question and dimension must be texts, answer one word, not {answer!r}: its probability is that "
            "of its first token"
        )
    return Asked(question.strip(), answer.strip(), dimension.strip())
