"""Spoiled renders: torn, merged and blurred objects, which a judge must not take for sound ones.

An image model fails so: halves that do not fit, two objects run together, colors that leak, blurs. Each function draws
a scene that is none of its prompt's any more, though every color of it is there.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from tessera.miniature import SHAPES, render
from tessera.records import Scene, SceneObject

_ALIKE = ({"circle", "square", "heart"}, {"cross", "star"})
_TURN = math.pi * (3 - math.sqrt(5))  # the golden angle: scene after scene, all directions alike


def torn(scene: Scene, angle: float, shift: float, apart: float = 0.0, size: int = 32) -> np.ndarray:
    """Return uint8 (size, size, 3): the last object is cut through its center, and its halves do not meet.

    angle: of the cut, in radians. shift, apart: how far the halves lie from each other along and across it, in
    diameters of the object.
    """
    along, across = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
    thing, images = scene.objects[-1], []
    for side in (-0.5, 0.5):
        x, y = (c + side * thing.diameter * (shift * a + apart * b) for c, a, b in zip(thing.center, along, across))
        images.append(render(_with_last(scene, replace(thing, center=(x, y))), size))
    beyond = _beyond(thing, angle, size)
    image = np.where((beyond > 0)[..., None], images[1], images[0])
    gap = np.abs(beyond) < apart * thing.diameter / 2
    return np.where(gap[..., None], render(_with_last(scene), size), image)


def half_gone(scene: Scene, angle: float, size: int = 32) -> np.ndarray:
    """Return uint8 (size, size, 3): the last object ends at a cut through its center, as at a CutMix seam."""
    beyond = _beyond(scene.objects[-1], angle, size) > 0
    return np.where(beyond[..., None], render(_with_last(scene), size), render(scene, size))


def joined(scene: Scene, angle: float, other: SceneObject, size: int = 32) -> np.ndarray:
    """Return uint8 (size, size, 3): half of the last object is that of `other`, of another shape or color."""
    beyond = _beyond(scene.objects[-1], angle, size) > 0
    return np.where(beyond[..., None], render(_with_last(scene, other), size), render(scene, size))


def around_middle(scene: Scene, angle: float, distance: float) -> tuple[SceneObject, SceneObject]:
    """Return a scene's two objects around the frame's middle, so many diameters (the mean of both) apart."""
    first, second = scene.objects
    half = distance * (first.diameter + second.diameter) / 4
    x, y = half * math.cos(angle), half * math.sin(angle)
    return replace(first, center=(0.5 - x, 0.5 - y)), replace(second, center=(0.5 + x, 0.5 + y))


def overlaid(scene: Scene, angle: float, distance: float, size: int = 32) -> np.ndarray:
    """Return uint8 (size, size, 3): the second of two objects covers the first, as `around_middle` places them."""
    return render(replace(scene, objects=around_middle(scene, angle, distance)), size)


def blended(scene: Scene, angle: float, distance: float, size: int = 32) -> np.ndarray:
    """Return uint8 (size, size, 3): two objects lie as in `overlaid`, and both shine through."""
    first, second = around_middle(scene, angle, distance)
    images = [render(replace(scene, objects=order), size) for order in ((first, second), (second, first))]
    return np.round(np.mean(images, axis=0)).astype(np.uint8)


def swapped(scene: Scene, angle: float, size: int = 32) -> np.ndarray:
    """Return uint8 (size, size, 3): half of each of two objects has the other one's color."""
    first, second = scene.objects
    other = replace(scene, objects=(replace(first, color=second.color), replace(second, color=first.color)))
    nearer_first = _distance(first, size) < _distance(second, size)
    beyond = np.where(nearer_first, _beyond(first, angle, size), _beyond(second, angle, size)) > 0
    return np.where(beyond[..., None], render(other, size), render(scene, size))


def resampled(image: np.ndarray, cells: int) -> np.ndarray:
    """Return uint8 (S, S, 3) averaged to `cells` pixels a side and enlarged again, bicubic."""
    size = len(image)
    small = Image.fromarray(image).resize((cells, cells), Image.Resampling.BOX)
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return uint8 (S, S, 3) under a Gaussian blur of that standard deviation, in 32nds of the frame."""
    sigma = sigma * len(image) / 32
    reach = math.ceil(3 * sigma)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    wide = np.pad(image.astype(np.float64), ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(wide, len(weights), axis=axis)
        wide = windows @ (weights / weights.sum())
    return np.round(wide).astype(np.uint8)


def unlike(thing: SceneObject, number: int) -> SceneObject:
    """Return the object in another shape, which at 32 pixels nobody takes for a rough form of its own."""
    alike = next((group for group in _ALIKE if thing.shape in group), {thing.shape})
    others = [shape for shape in SHAPES if shape not in alike]
    return replace(thing, shape=others[number % len(others)])


ONE: dict[str, dict[str, Callable[[Scene, int, int], np.ndarray]]] = {
    "torn": {
        "halves shifted by 0.4": lambda scene, n, size: torn(scene, n * _TURN, 0.4, size=size),
        "halves shifted by 0.6": lambda scene, n, size: torn(scene, n * _TURN, 0.6, size=size),
        "halves 0.35 apart": lambda scene, n, size: torn(scene, n * _TURN, 0, 0.35, size=size),
        "one half gone": lambda scene, n, size: half_gone(scene, n * _TURN, size),
        "halves of two shapes": lambda scene, n, size: joined(scene, n * _TURN, unlike(scene.objects[-1], n), size),
    },
    "blurred": {
        "6 pixels a side": lambda scene, n, size: resampled(render(scene, size), 6),
        "5 pixels a side": lambda scene, n, size: resampled(render(scene, size), 5),
        "Gaussian of 3 pixels": lambda scene, n, size: blurred(render(scene, size), 3),
        "Gaussian of 4 pixels": lambda scene, n, size: blurred(render(scene, size), 4),
    },
    "softened": {
        "8 pixels a side": lambda scene, n, size: resampled(render(scene, size), 8),
        "Gaussian of 2 pixels": lambda scene, n, size: blurred(render(scene, size), 2),
    },
}
"""Kind -> name -> image of a scene of one object, its number among the scenes, and the image's size in pixels."""
TWO: dict[str, dict[str, Callable[[Scene, int, int], np.ndarray]]] = {
    "merged": {
        "overlaid at 0.2": lambda scene, n, size: overlaid(scene, n * _TURN, 0.2, size),
        "overlaid at 0.4": lambda scene, n, size: overlaid(scene, n * _TURN, 0.4, size),
        "blended at 0.2": lambda scene, n, size: blended(scene, n * _TURN, 0.2, size),
        "blended at 0.4": lambda scene, n, size: blended(scene, n * _TURN, 0.4, size),
        "colors swapped by halves": lambda scene, n, size: swapped(scene, n * _TURN, size),
    },
}
"""The same of scenes of two objects."""


def _with_last(scene: Scene, *last: SceneObject) -> Scene:
    return replace(scene, objects=(*scene.objects[:-1], *last))


def _beyond(thing: SceneObject, angle: float, size: int) -> np.ndarray:
    """Return how far each pixel lies beyond the line through the object's center, in frames: (size, size)."""
    axis = (np.arange(size) + 0.5) / size
    x, y = thing.center
    return (axis[:, None] - y) * math.cos(angle) - (axis[None, :] - x) * math.sin(angle)


def _distance(thing: SceneObject, size: int) -> np.ndarray:
    axis = (np.arange(size) + 0.5) / size
    return np.hypot(axis[None, :] - thing.center[0], axis[:, None] - thing.center[1]) - thing.diameter / 2
