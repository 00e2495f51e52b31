"""Miniature scenes in words: the long captions of paper section 3.1, from ground truth instead of a captioner.

A long caption tells composition, place, size, color, texture, shape and background; a medium one leaves some of that
out, a short one is what a person types. Several phrasings say the same facts; which one is chosen is a function of the
address (seed, number).
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tessera.miniature.world import BACKGROUNDS
from tessera.randomness import philox
from tessera.records import Scene, SceneObject

_VOWEL = re.compile(r"(?!eu|ewe|one\b)[aeio]|u(?!ni)|hour|SOS\b", re.IGNORECASE)
NUMBER_WORDS = ("no", "one", "two", "three", "four")
_THIRDS = (0.36, 0.64)  # a little outside 1/3 and 2/3, so that both halves of a half-mix are off the center


def plural(shape: str) -> str:
    return {"cross": "crosses", "moon": "moons"}.get(shape, f"{shape}s")


def place(center: tuple[float, float], fine: bool = False) -> str:
    """Say where a center (x, y), in fractions of the frame, lies; `fine` names small offsets from the middle."""
    x, y = center
    if fine:
        near = 0.03
        side = "left" if x < 0.5 - near else "right" if x > 0.5 + near else ""
        row = "above" if y < 0.5 - near else "below" if y > 0.5 + near else ""
        said = " and ".join(filter(None, (row, side and f"to the {side}")))
        return f"near the center slightly {said}" if said else "exactly in the center"
    column = ("left", "", "right")[int(np.digitize(x, _THIRDS))]
    row = ("top", "", "bottom")[int(np.digitize(y, _THIRDS))]
    if column and row:
        return f"in the {row} {column} corner"
    if column:
        return f"on the {column}"
    return f"at the {row}" if row else "in the center"


def relation(first: SceneObject, second: SceneObject) -> str:
    """Say where `first` lies as seen from `second`, along the axis of the larger distance."""
    dx, dy = first.center[0] - second.center[0], first.center[1] - second.center[1]
    if abs(dx) >= abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    return "above" if dy < 0 else "below"


def describe(scene: Scene, seed: int, number: int) -> str:
    """Return the long caption of a scene of one to four objects; (seed, number) chooses the phrasing."""
    rng = philox(seed, "miniature/words", number)
    say = {1: _describe_one, 2: _describe_two}.get(len(scene.objects), _describe_many)
    return with_articles(say(scene, rng))


def describe_medium(scene: Scene, seed: int, number: int) -> str:
    """Return a caption that names every object and leaves out clauses of the long one: attributes, places and the
    background are each told or not; (seed, number) draws which."""
    rng = philox(seed, "miniature/medium", number)
    order = rng.permutation(len(scene.objects))  # a caption must not tell which image was the base
    things = [scene.objects[i] for i in order]
    nouns = [_some(thing, rng) for thing in things]
    alike = len(things) > 1 and len({(thing.shape, thing.color) for thing in things}) == 1
    if alike:
        told = f"{NUMBER_WORDS[len(things)]} {_pick(rng, '', f'{things[0].color} ')}{plural(things[0].shape)}"
    elif len(things) == 2 and rng.random() < 1 / 3:
        told = f"a {nouns[0]} {relation(*things)} a {nouns[1]}"
    else:
        placed = rng.random() < 0.5
        places = [f" {place(thing.center, len(things) == 1)}" if placed else "" for thing in things]
        told = _listed([f"a {noun}{where}" for noun, where in zip(nouns, places)])
    told = f"{_pick(rng, 'The image shows ', 'A photo of ', '')}{told}."
    ground = ""
    if rng.random() < 0.5:
        grounds = [scene.backgrounds[i] for i in order] if len(scene.backgrounds) > 1 else list(scene.backgrounds)
        ground = f" {_ground(rng, things, grounds)}"
    return with_articles(f"{told[0].upper()}{told[1:]}{ground}")


def describe_short(scene: Scene, seed: int, number: int = 0) -> str:
    """Say a scene in a few words, as a person types a prompt: objects and how many, perhaps with color and relation.

    Objects side by side may be listed, from left to right as they are read; of two above one another the relation is
    told. So a list leaves no place open. The address (seed, number) chooses what is told.
    """
    rng = philox(seed, "miniature/short", number)
    colored = rng.random() < 0.5
    things, stacked = _in_reading_order(scene.objects)
    counted = Counter((thing.color if colored else "", thing.shape) for thing in things)
    nouns = [
        f"a {color} {shape}" if count == 1 else f"{NUMBER_WORDS[count]} {color} {plural(shape)}"
        for (color, shape), count in counted.items()
    ]
    told = _listed(nouns)
    if len(nouns) == len(things) == 2 and (stacked or rng.random() < 0.5):
        a, b = rng.permutation(2)
        joined = relation(things[a], things[b])
        told = f"{nouns[a]} {joined.replace('to the ', '') if rng.random() < 0.5 else joined} {nouns[b]}"
    return with_articles(" ".join(f"{_pick(rng, 'a photo of ', 'a picture of ', '')}{told}".split()))


def with_articles(text: str) -> str:
    """Write "an" for "a" before a color or shape that begins with a vowel."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def with_article(noun: str) -> str:
    """Return "a" or "an", by the noun's sound, and the noun: "an anchor", "a unicorn"."""
    return f"{'an' if _VOWEL.match(noun) else 'a'} {noun}"


def _pick(rng: np.random.Generator, *choices: str) -> str:
    return choices[int(rng.integers(len(choices)))]


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _in_reading_order(objects: Sequence[SceneObject]) -> tuple[list[SceneObject], bool]:
    """Return objects from left to right, or from top to bottom where they are further apart that way: then True."""
    x, y = zip(*(thing.center for thing in objects))
    stacked = max(y) - min(y) > max(x) - min(x)
    return sorted(objects, key=lambda thing: thing.center[stacked]), stacked


def _some(thing: SceneObject, rng: np.random.Generator) -> str:
    """Return an object's noun with some of its attributes, the color most often."""
    told = rng.random(3) < (0.5, 0.5, 0.8)
    size, texture, color = (word if t else "" for word, t in zip((thing.size, thing.texture, thing.color), told))
    after = f" with a {texture} surface" if texture and rng.random() < 0.5 else ""
    return " ".join(filter(None, (size, "" if after else texture, color, thing.shape))) + after


def _ground(rng: np.random.Generator, things: Sequence[SceneObject], backgrounds: Sequence[str]) -> str:
    """Return a sentence about what is behind one or more objects: one background, or one for each of two."""
    grounds = [BACKGROUNDS[name][0] for name in backgrounds]
    if len(set(grounds)) == 1:
        behind = {1: "it", 2: "both"}.get(len(things), "them")
        return _pick(rng, f"Behind {behind} there is {grounds[0]}.", f"The background is {grounds[0]}.")
    name_a, name_b = _names(things)
    return _pick(
        rng,
        f"The {name_a} is in front of {grounds[0]} and the {name_b} is in front of {grounds[1]}.",
        f"Behind the {name_a} there is {grounds[0]}, behind the {name_b} there is {grounds[1]}.",
    )


def _names(things: Sequence[SceneObject]) -> list[str]:
    """Return what two objects are called once they were introduced: by color too where their shapes are alike."""
    alike = things[0].shape == things[1].shape
    return [f"{thing.color} {thing.shape}" if alike else thing.shape for thing in things]


def _noun(thing: SceneObject, rng: np.random.Generator) -> str:
    """Return an object's noun with all its attributes, in one of several orders."""
    return _pick(
        rng,
        f"{thing.size} {thing.color} {thing.shape} with a {thing.texture} surface",
        f"{thing.size} {thing.texture} {thing.color} {thing.shape}",
        f"{thing.color} {thing.shape} which is {thing.size} and {thing.texture}",
    )


def _describe_one(scene: Scene, rng: np.random.Generator) -> str:
    (thing,) = scene.objects
    noun = _noun(thing, rng)
    where = place(thing.center, fine=True)
    behind = BACKGROUNDS[scene.backgrounds[0]][0]
    return _pick(
        rng,
        f"The image shows a single object, a {noun}, placed {where}. Behind it there is {behind}.",
        f"A {noun} stands alone {where} of the picture. The background is {behind}.",
        f"Against {behind} there is one {noun}. It lies {where}.",
        f"The scene is composed of a {noun} in front of {behind}. The object is {where}.",
    )


def _describe_two(scene: Scene, rng: np.random.Generator) -> str:
    # The order of naming is drawn too: a caption must not tell which image was the base.
    order = slice(None) if rng.random() < 0.5 else slice(None, None, -1)
    first, second = scene.objects[order]
    a, b = _noun(first, rng), _noun(second, rng)
    where_a, where_b = place(first.center), place(second.center)
    rel, (name_a, name_b) = relation(first, second), _names((first, second))
    ground = _ground(rng, (first, second), scene.backgrounds[order])
    return _pick(
        rng,
        f"The image shows two objects, a {a} {where_a} and a {b} {where_b}. {ground}",
        f"A {a} is {rel} a {b}. {ground}",
        f"There is a {a} {where_a}. A {b} is {where_b}. The {name_a} is {rel} the {name_b}. {ground}",
        f"The scene is composed of a {a} and a {b}. The {name_a} is {where_a} and the {name_b} is {where_b}. {ground}",
    )


def _describe_many(scene: Scene, rng: np.random.Generator) -> str:
    count = NUMBER_WORDS[len(scene.objects)]
    behind = BACKGROUNDS[scene.backgrounds[0]][0]
    if len({(o.shape, o.color) for o in scene.objects}) == 1:
        thing = scene.objects[0]
        named = f"{count} {thing.size} {thing.color} {plural(thing.shape)} with a {thing.texture} surface"
    else:
        named = f"{count} objects, " + ", ".join(f"a {_noun(o, rng)} {place(o.center)}" for o in scene.objects)
    return _pick(
        rng,
        f"The image shows {named}. Behind them there is {behind}.",
        f"The scene is composed of {named}. The background is {behind}.",
    )
