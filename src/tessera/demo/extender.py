"""A short prompt to a long one (paper section 4.1), for the page's button: what `tessera extend-prompts` makes of it.

A model of the miniature knows few words, so for it a rule reads shapes, colours, numbers and places out of the prompt,
draws the rest, and says it as the training captions do.
"""

import re
import threading
from collections.abc import Callable
from typing import Any

from tessera.config import UserError
from tessera.miniature import NUMBER_WORDS, WorldConfig, describe, plural
from tessera.prompts.extend import RULES, ExtendConfig, load_extender
from tessera.prompts.miniature import EXTENDER, extend
from tessera.prompts.read import SHIPPED, load_prompts
from tessera.randomness import address, philox

_RELATIONS = {"left of": "left of", "right of": "right of", "above": "above", "over": "above"}
_RELATIONS |= {"below": "below", "under": "below", "beneath": "below"}
_ALSO = {"crescent": "moon", "crescents": "moon", "disc": "circle", "disk": "circle"}


class PromptExtender:
    """What the button does. The extender that was asked for, or one that fits the model: of the paper's prompts their
    own long form, for a model of the miniature the words of its captions, for another the rules of extend-prompts."""

    def __init__(self, world: WorldConfig | None, config: ExtendConfig | None = None, device: str | None = None):
        """world: the miniature that the model was trained on; None = another model. config: an extender asked for."""
        self.world, self.config, self.device = world, config, device
        self._extend: Callable[[str, int], str] | None = None
        self._lock = threading.Lock()

    def extend(self, prompt: str, seed: int) -> tuple[str, str]:
        """(long form, what made it); another seed makes another one.

        UserError: an empty prompt, one that the miniature cannot show, a language model that cannot be had.
        """
        told = prompt.strip()
        if not told:
            raise UserError("there is no prompt to extend yet; write a short one first")
        if self.config is None:
            for name in SHIPPED:
                for metadata, _ in load_prompts(name).rows:
                    if "extended" in metadata and metadata["prompt"].casefold() == told.casefold():
                        return metadata["extended"]["text"], "the paper"
            if self.world is not None:
                return _in_the_miniatures_words(told, seed, self.world), EXTENDER
        with self._lock:  # one text at a time; a language model is loaded by the first
            config = self.config or ExtendConfig(extender="rules")
            if self._extend is None:
                self._extend = load_extender(config, self.device)
            made_by = RULES if config.extender == "rules" else config.model or "the language model"
            return self._extend(told, seed), made_by


def _in_the_miniatures_words(prompt: str, seed: int, world: WorldConfig) -> str:
    line = read_line(prompt, world)
    rng = philox(seed, "demo/extend", address(prompt))
    return describe(extend(line, world, rng), seed, address("demo/extend", prompt))


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
