"""Prompts for a judge of drawings: GenEval's six tasks over its concepts and colors, each short and extended.

A short prompt is what a short caption says ("a dog"), two objects joined by "and" or by where they are. The extended
one is a caption of the training set, changed to say what is asked for, two of them joined as the captions of CutMix
images are. Extender, seed and text are stored with each line.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tessera.config import to_dict
from tessera.files import atomic_path
from tessera.miniature import NUMBER_WORDS
from tessera.prompts.geneval import RELATIONS, TASKS
from tessera.prompts.miniature import FILE, PromptConfig, prompts_sha256, to_bytes
from tessera.prompts.tasks import choices, metadata_line
from tessera.randomness import philox
from tessera.stages import open_stage

EXTENDER = "tessera-drawing-1"
"""Name of the rules below; a change to them changes it."""
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
"""Colors that prompts ask for."""
_PLACES = {"left of": "on the left", "right of": "on the right", "above": "at the top", "below": "at the bottom"}
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_OF_TWO = ("two_object", "position", "color_attr")
_ODD = {"fish": "fish", "leaf": "leaves"}


class Captions(Protocol):
    """The captions of a set of drawings."""

    def tell(self, name: str, color: str | None, count: str | None, rng: np.random.Generator) -> str:
        """Return a long caption of the concept `name`, in `color` alone if given; count: such as "three dogs"."""
        ...


def drawing_prompts(
    out: Path,
    images: Path,
    concepts: Sequence[str],
    captions: Captions,
    config: PromptConfig,
    together: Collection[frozenset[str]] = (),
) -> None:
    """Write `out`/prompts.jsonl, one metadata line a prompt. images: the set, whose captions `captions` tells.

    together: pairs of concepts that stand together in an image of training; prompts ask for others, where there are
    any.
    """
    seen = sorted(sorted(pair) for pair in together if pair <= set(concepts))
    described = to_dict(config) | {"concepts": list(concepts), "together": seen}
    stage = open_stage(out, stage="prompts", config=described, inputs={"images": images})
    if stage.done:
        return
    lines = [line for task in TASKS for line in _task(task, concepts, captions, config, together)]
    with atomic_path(out / FILE) as temporary:
        temporary.write_bytes(to_bytes(lines))
    stage.finish({"prompts": len(lines)}, facts={"extender": EXTENDER, "prompts_sha256": prompts_sha256(lines)})


def _task(
    task: str,
    concepts: Sequence[str],
    captions: Captions,
    config: PromptConfig,
    together: Collection[frozenset[str]],
) -> list[dict[str, Any]]:
    asked = choices(task, concepts, COLORS)
    if task in _OF_TWO:
        asked = [choice for choice in asked if frozenset(choice[:2]) not in together] or asked
    order = philox(config.seed, f"prompts/{task}").permutation(len(asked))
    lines = []
    for number in range(config.per_task):
        line = metadata_line(task, asked[order[number % len(asked)]], plural, "")
        text = _extended(line, captions, philox(config.seed, f"prompts/drawings/{task}", number))
        line["extended"] = {"text": text, "extender": EXTENDER, "template": "captions", "seed": config.seed}
        lines.append(line)
    return lines


def _extended(line: dict[str, Any], captions: Captions, rng: np.random.Generator) -> str:
    clauses = line["include"]
    told = []
    for clause in clauses:
        name, count = clause["class"], clause["count"]
        many = f"{NUMBER_WORDS[count]} {plural(name)}" if count > 1 else None
        told.append(captions.tell(name, clause.get("color"), many, rng))
    if len(told) == 1:
        return told[0]
    relation = clauses[1]["position"][0] if "position" in clauses[1] else str(rng.choice(RELATIONS))
    parts = [(_PLACES[_OPPOSITE[relation]], told[0]), (_PLACES[relation], told[1])]
    if rng.random() < 0.5:
        parts.reverse()
    return " ".join(f"{place.capitalize()}, {text[0].lower()}{text[1:].rstrip('.')}." for place, text in parts)


def plural(name: str) -> str:
    """Return the plural of a concept's name: "soccer balls", "buses", "butterflies"."""
    *before, last = name.split(" ")
    if last not in _ODD:
        hissing = last.endswith(("s", "x", "z", "ch", "sh"))
        last = f"{last[:-1]}ies" if last.endswith("y") and last[-2] not in "aeiou" else f"{last}{'e' * hissing}s"
    return " ".join([*before, _ODD.get(last, last)])
