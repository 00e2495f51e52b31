"""GenEval's six tasks over any classes and colors: everything that can be asked, and the metadata line of each."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from tessera.miniature import NUMBER_WORDS, with_article
from tessera.prompts.geneval import RELATIONS

COUNTS = (2, 3, 4)


def choices(task: str, classes: Sequence[str], colors: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return everything that a prompt of the task can ask for."""
    pairs = list(itertools.permutations(classes, 2))
    return {
        "single_object": lambda: [(name,) for name in classes],
        "two_object": lambda: pairs,
        "counting": lambda: list(itertools.product(classes, COUNTS)),
        "colors": lambda: list(itertools.product(classes, colors)),
        "position": lambda: [(*pair, relation) for pair in pairs for relation in RELATIONS],
        "color_attr": lambda: [(*p, *c) for p in pairs for c in itertools.permutations(colors, 2)],
    }[task]()


def metadata_line(
    task: str, choice: tuple[Any, ...], plural: Callable[[str], str], opening: str = "a photo of "
) -> dict[str, Any]:
    """Return GenEval's metadata line for one of the `choices`. opening: of the prompt, before what is asked for."""
    clauses: list[dict[str, Any]] = [{"class": choice[0], "count": 1}]
    line: dict[str, Any] = {"tag": task, "include": clauses}
    if task == "single_object":
        said = with_article(choice[0])
    elif task == "counting":
        name, count = choice
        clauses[0]["count"] = count
        line["exclude"] = [{"class": name, "count": count + 1}]
        said = f"{NUMBER_WORDS[count]} {plural(name)}"
    elif task == "colors":
        clauses[0]["color"] = choice[1]
        said = with_article(f"{choice[1]} {choice[0]}")
    elif task == "position":
        # As GenEval does: the prompt's first object is the second clause, placed by the first clause's.
        first, second, relation = choice
        clauses[:] = [{"class": second, "count": 1}, {"class": first, "count": 1, "position": [relation, 0]}]
        said = f"{with_article(first)} {relation} {with_article(second)}"
    else:
        clauses.append({"class": choice[1], "count": 1})
        for clause, color in zip(clauses, choice[2:]):
            clause["color"] = color
        said = " and ".join(with_article(f"{clause.get('color', '')} {clause['class']}".strip()) for clause in clauses)
    line["prompt"] = f"{opening}{said}"
    return line
