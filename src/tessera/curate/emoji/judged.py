"""Concepts that the judge of emoji tells apart, and captions that ask for them."""

import json
import re
from pathlib import Path

import numpy as np

from tessera.config import UserError
from tessera.curate.emoji.color_words import GROUNDS
from tessera.curate.index import read_images, read_recipe
from tessera.encoded.record import LONG

CONCEPTS = (
    "ribbon", "anchor", "crescent moon", "star", "airplane", "snowflake", "vertical traffic light", "hamsa",
    "cocktail glass", "flamingo", "roller skate", "gem stone", "church", "shinto shrine", "rainbow",
)  # fmt: skip
"""Names of emoji that are recognized in the drawings of an artist who was not learned from, chosen without twemoji.

A namer (`tessera.evaluate.drawings.naming`) of two of noto, fluent and openmoji named scenes of the third, among all
names of the set, each of the three in turn. These are the animals, plants, food, vehicles, buildings, weather, clothes
and other things whose right name had a mean share of at least 0.95 in each of the three; plural names were left out.
"""
_END = re.compile(r"(?<= in )[a-z]+(?:, [a-z]+)*(?: and [a-z]+)?(?= on an? ([a-z]+) background\.$)")


def pairs_in_mixes(images: Path, recipe: Path) -> set[frozenset[str]]:
    """Return the names that stand together in a CutMix image of the directory `recipe`, made of those in `images`."""
    names = {row.key: _name_of(row.source) for row in read_images(images)}
    return {frozenset((names[row.base], names[row.partner])) for row in read_recipe(recipe).rows}


def _name_of(file: str) -> str:
    """Return the name of the emoji in a file of `draw_emoji`."""
    return file.rpartition("/")[2].rpartition(" ")[0]


class EmojiCaptions:
    """The long captions of a captions file of `draw_emoji`, changed to say a color or a count."""

    def __init__(self, path: Path):
        self._told: dict[str, list[tuple[str, str]]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            self._told.setdefault(_name_of(row["file_name"]), []).append((row["short"], row[LONG]))

    def tell(self, name: str, color: str | None, count: str | None, rng: np.random.Generator) -> str:
        """Return a caption of one of the drawings of `name` on another ground, in `color` alone if given; count: said
        in place of the name. Raises UserError for a name that no drawing has."""
        if name not in self._told:
            raise UserError(f"concept {name!r}: no drawing of the set has this name")
        phrase, text = self._told[name][int(rng.integers(len(self._told[name])))]
        found = _END.search(text)
        assert found is not None, text
        colors = color or found[0]
        ground = str(rng.choice([ground for ground in GROUNDS if ground not in colors]))
        text = f"{text[: found.start()]}{colors} on a {ground} background."
        return text.replace(phrase, count, 1) if count else text
