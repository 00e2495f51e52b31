"""A short prompt to a long one (paper section 4.1), for the page's button.

Of the paper's own prompts their own extended form; for a model of the miniature a rule that reads shapes, colours,
numbers and places out of the prompt, draws the rest, and says it as the training captions do.
"""

import re
from typing import Any

from tessera.config import UserError
from tessera.evaluate.prompts import extend
from tessera.generate.prompts import SHIPPED, load_prompts
from tessera.miniature import NUMBER_WORDS, WorldConfig, describe, plural
from tessera.runtime import address, philox

_RELATIONS = {"left of": "left of", "right of": "right of", "above": "above", "over": "above"}
_RELATIONS |= {"below": "below", "under": "below", "beneath": "below"}
_ALSO = {"crescent": "moon", "crescents": "moon", "disc": "circle", "disk": "circle"}


def extend_prompt(prompt: str, seed: int, world: WorldConfig | None) -> str:
    """The long form of `prompt`; another seed draws another one. UserError where no extender knows the prompt.

    world: of the miniature that the model was trained on; None = another model.
    """
    told = prompt.strip()
    for name in SHIPPED:
        for metadata, _ in load_prompts(name).rows:
            if "extended" in metadata and metadata["prompt"].casefold() == told.casefold():
                return metadata["extended"]["text"]
    if world is None:
        raise UserError(
            "this prompt has no extended form here: the rule knows the miniature's shapes and the paper's prompts;"
            " write a long description yourself, as the training captions are"
        )
    line = read_line(told, world)
    rng = philox(seed, "demo/extend", address(told))
    return describe(extend(line, world, rng), seed, address("demo/extend", told))


def read_line(prompt: str, world: WorldConfig) -> dict[str, Any]:
    """A short prompt as a line of GenEval's metadata. UserError: no shape in it, or more than can be placed."""
    named = {word: shape for shape in world.shapes for word in (shape, plural(shape))}
    named |= {word: shape for word, shape in _ALSO.items() if shape in world.shapes}
    numbers = {word: number for number, word in enumerate(NUMBER_WORDS)} | {str(n): n for n in range(1, 5)}
    words = re.findall(r"[a-z0-9]+", prompt[:2000].lower())
    clauses: list[dict[str, Any]] = []
    color, count = None, 1
    for word in words:
        if word in world.colors:
            color = word
        elif word in numbers:
            count = max(1, numbers[word])
        elif word in named:
            clauses.append({"class": named[word], "count": count} | ({"color": color} if color else {}))
            color, count = None, 1
    if not clauses:
        raise UserError(f"the prompt names none of the shapes that this model knows: {', '.join(world.shapes)}")
    if len(clauses) > 2 or (len(clauses) == 2 and any(clause["count"] > 1 for clause in clauses)):
        raise UserError("the rule places one shape up to four times, or two different ones; ask for less")
    relation = _relation(" ".join(words)) if len(clauses) == 2 else None
    if relation:
        # As GenEval does: the object that is placed comes second, by where the first one is.
        clauses = [clauses[1], {**clauses[0], "position": [relation, 0]}]
    return {"include": clauses, "prompt": prompt}


def _relation(text: str) -> str | None:
    found = [(text.find(words), relation) for words, relation in _RELATIONS.items() if f" {words} " in f" {text} "]
    return min(found)[1] if found else None
