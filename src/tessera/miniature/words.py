"""Miniature scenes in words: the long captions of paper section 3.1, from ground truth instead of a captioner.

A caption tells composition, place, size, color, texture, shape and background. Several phrasings say the same facts;
which one is chosen is a function of the address (seed, number).
"""

import re

import numpy as np

from tessera.miniature.world import BACKGROUNDS
from tessera.randomness import philox
from tessera.records import Scene, SceneObject

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


def describe_short(scene: Scene, seed: int, number: int = 0) -> str:
    """Say a scene in a few words, as a person types a prompt: objects, perhaps with color and relation.

    The address (seed, number) chooses what is told. Scenes of more than two objects, or of two alike, are told long.
    """
    rng = philox(seed, "miniature/short", number)
    if len(scene.objects) > 2 or (len(scene.objects) == 2 and scene.objects[0].shape == scene.objects[1].shape):
        return describe(scene, seed, number)
    colored = rng.random() < 0.5
    nouns = [f"a {thing.color} {thing.shape}" if colored else f"a {thing.shape}" for thing in scene.objects]
    told = nouns[0]
    if len(nouns) == 2:
        first = int(rng.integers(2))  # a caption must not tell which image was the base
        joined = relation(scene.objects[first], scene.objects[1 - first]) if rng.random() < 0.5 else "and"
        if rng.random() < 0.5:
            joined = joined.replace("to the ", "")
        told = f"{nouns[first]} {joined} {nouns[1 - first]}"
    return with_articles(f"{_pick(rng, 'a photo of ', 'a picture of ', '')}{told}")


def with_articles(text: str) -> str:
    """Write "an" for "a" before a color or shape that begins with a vowel."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def _pick(rng: np.random.Generator, *choices: str) -> str:
    return choices[int(rng.integers(len(choices)))]


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
    alike, rel = first.shape == second.shape, relation(first, second)
    name_a, name_b = (f"{thing.color} {thing.shape}" if alike else thing.shape for thing in (first, second))
    grounds = [BACKGROUNDS[name][0] for name in scene.backgrounds[order]]
    if len(set(grounds)) == 1:
        ground = _pick(rng, f"Behind both there is {grounds[0]}.", f"The background is {grounds[0]}.")
    else:
        ground = _pick(
            rng,
            f"The {name_a} is in front of {grounds[0]} and the {name_b} is in front of {grounds[1]}.",
            f"Behind the {name_a} there is {grounds[0]}, behind the {name_b} there is {grounds[1]}.",
        )
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
