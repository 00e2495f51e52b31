"""A short prompt to a long one (paper section 4.1), for the page's button: the texts of `tessera extend-prompts`.

A model of the miniature knows few words, so for it a rule reads shapes, colors, numbers and places out of the prompt,
draws the rest, and says it as the training captions do.
"""

import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tessera.config import UserError, from_dict
from tessera.miniature import NUMBER_WORDS, WorldConfig, describe, plural
from tessera.prompts.extend import RULES, ExtendConfig, load_extender
from tessera.prompts.miniature import EXTENDER, extend
from tessera.prompts.read import SHIPPED, load_prompts
from tessera.prompts.style import STYLE, extend_in_style
from tessera.randomness import address, philox
from tessera.stages import MANIFEST, read_manifest

_RELATIONS = {"left of": "left of", "right of": "right of", "above": "above", "over": "above"}
_RELATIONS |= {"below": "below", "under": "below", "beneath": "below"}
_MORE = ("five", "six", "seven", "eight", "nine", "ten")
_ALSO = {"crescent": "moon", "crescents": "moon", "disc": "circle", "disk": "circle"}


class PromptExtender:
    """The extender that was asked for, or one that fits the model: the paper's prompts get their own long form, a model
    of the miniature (`world`) the words of its captions, another model the style of the `captions` that it was trained
    on, or else the rules of extend-prompts."""

    def __init__(
        self,
        world: WorldConfig | None,
        config: ExtendConfig | None = None,
        device: str | None = None,
        captions: Sequence[str] = (),
    ):
        self.world, self.config, self.device, self.captions = world, config, device, captions
        self._extend: Callable[[str, int], str] | None = None
        self._lock = threading.Lock()

    def extend(self, prompt: str, seed: int) -> tuple[str, str]:
        """Return (long form, its maker); another seed makes another one.

        Raises UserError for an empty prompt, one that the miniature cannot show, a language model that is not there.
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
                rng = philox(seed, "demo/extend", address(told))
                scene = extend(read_line(told, self.world), self.world, rng)
                return describe(scene, seed, address("demo/extend", told)), EXTENDER
            if self.captions:
                return extend_in_style(told, self.captions, seed), STYLE
        with self._lock:  # one text at a time; a language model is loaded by the first
            config = self.config or ExtendConfig(extender="rules")
            if self._extend is None:
                self._extend = load_extender(config, self.device)
            made_by = RULES if config.extender == "rules" else config.model or "the language model"
            return self._extend(told, seed), made_by


def world_of(workspace: Path | None, text_encoder: str, vocabulary: Sequence[str] = ()) -> WorldConfig | None:
    """Return the miniature world that a model knows: the working folder's, or the default one for its word encoder,
    unless the model's `vocabulary`, if known, has none of its shapes."""
    images = workspace / "images" if workspace else None
    if images is not None and (images / MANIFEST).is_file():
        world = read_manifest(images, must_be_complete=False).config.get("world")
        return None if world is None else from_dict(WorldConfig, world, str(images / MANIFEST))
    world = WorldConfig()
    foreign = bool(vocabulary) and not set(world.shapes) & set(vocabulary)
    return world if text_encoder.startswith("words:") and not foreign else None


def read_line(prompt: str, world: WorldConfig) -> dict[str, Any]:
    """Read a short prompt as a line of GenEval's metadata.

    Raises UserError where there is no shape in it, or more than can be placed.
    """
    named = {word: shape for shape in world.shapes for word in (shape, plural(shape))}
    named |= {word: shape for word, shape in _ALSO.items() if shape in world.shapes}
    numbers = {word: number for number, word in enumerate((*NUMBER_WORDS, *_MORE))}
    words = re.findall(r"[a-z0-9]+", prompt[:2000].lower())
    clauses: list[dict[str, Any]] = []
    color, count = None, 1
    for word in words:
        if word in world.colors:
            color = word
        elif word in numbers or word.isdecimal():
            count = max(1, numbers[word] if word in numbers else int(word))
        elif word in named:
            clauses.append({"class": named[word], "count": count} | ({"color": color} if color else {}))
            color, count = None, 1
    if not clauses:
        raise UserError(f"the prompt names none of the shapes that this model knows: {', '.join(world.shapes)}")
    if len(clauses) > 2 or any(clause["count"] > (4 if len(clauses) == 1 else 1) for clause in clauses):
        raise UserError("the rule places one shape up to four times, or two different ones; ask for less")
    text = f" {' '.join(words)} "
    found = [(text.find(said), relation) for said, relation in _RELATIONS.items() if f" {said} " in text]
    if found and len(clauses) == 2:
        # As GenEval does: the object that is placed comes second, by where the first one is.
        clauses = [clauses[1], {**clauses[0], "position": [min(found)[1], 0]}]
    return {"include": clauses, "prompt": prompt}
