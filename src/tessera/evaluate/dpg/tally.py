"""From DPG-Bench's answers to its scores: as the published script counts, and as its paper says. Pure functions.

answers: item -> per image -> question number -> whether the answer was yes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tessera.evaluate.dpg.questions import Item, Question, ordered

Answers = Mapping[str, Sequence[Mapping[int, bool]]]


@dataclass(frozen=True)
class Tally:
    """The scores of one way of counting."""

    images: dict[str, list[float]]
    """Item -> of each image, the share of questions with a yes, 0..1. Overall is the items' mean of means."""
    categories: dict[str, list[tuple[str, float]]]
    """Level 2 category -> (item, 0 or 1) of each answer that counts for it."""

    def level_1(self) -> dict[str, list[tuple[str, float]]]:
        """Return the categories by level 1."""
        out: dict[str, list[tuple[str, float]]] = {}
        for name, values in self.categories.items():
            out.setdefault(name.split("-")[0].strip(), []).extend(values)
        return out


def fixed(items: Sequence[Item], answers: Answers) -> Tally:
    """Count as the paper says: a question counts 0 if a parent does; categories take every image, after that.

    A parent that counts 0 because of its own parent makes its children 0 too, in whatever order the file has them.
    """
    images: dict[str, list[float]] = {}
    categories: dict[str, list[tuple[str, float]]] = {}
    for item in items:
        shares = []
        for image in answers[item.id]:
            scores: dict[int, float] = {}
            for question in ordered(item):
                held = all(scores[parent] for parent in question.parents)
                scores[question.number] = float(image[question.number] and held)
            shares.append(sum(scores.values()) / len(scores))
            for question in item.questions:
                categories.setdefault(question.category, []).append((item.id, scores[question.number]))
        images[item.id] = shares
    return Tally(images, categories)


def official(items: Sequence[Item], answers: Answers) -> Tally:
    """Count as the published script does in one process, with its mistakes.

    - The file's first row is passed over; an item with a question that asks for it as its parent drops out.
    - Zeroing goes through the questions in the file's order, so a child that stands before its parent sees the
      parent's own answer.
    - Categories take the last image alone, before the zeroing.
    """
    images: dict[str, list[float]] = {}
    categories: dict[str, list[tuple[str, float]]] = {}
    for item in items:
        questions = [question for question in item.questions if question.row != 0]
        if not questions:
            continue
        said = [{q.number: float(image[q.number]) for q in questions} for image in answers[item.id]]
        try:
            shares = [_share_in_order(questions, dict(scores)) for scores in said]
        except KeyError:  # no such parent: the script reports the image's name and continues
            continue
        images[item.id] = shares
        for question in questions:
            categories.setdefault(question.category, []).append((item.id, said[-1][question.number]))
    return Tally(images, categories)


def _share_in_order(questions: Sequence[Question], scores: dict[int, float]) -> float:
    for question in questions:
        if any(scores[parent] == 0 for parent in question.parents):
            scores[question.number] = 0.0
    return sum(scores.values()) / len(scores)
