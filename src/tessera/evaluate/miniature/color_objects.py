"""The miniature's second judge: objects of a color, found without any network.

An object is a patch of pixels whose color is one of the world's, lighter or darker as its texture makes it. No
background comes near: they are all paler or darker. This judge does not know shapes, so it says already early in
training, when shapes are still crude, whether both objects of a prompt are there and lie as asked.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tessera.miniature import BACKGROUNDS, COLORS

SIZE = 32
"""The judges look at images of this side; others are resized first."""
MIN_AREA = 0.012
"""An object covers at least this share of the frame (the smallest of the prompts' objects cover about 0.025)."""
_REACH = 2  # pixels of one color belong together over gaps of one pixel: thin parts fade where they lie between pixels
_NEIGHBORS = 3  # a pixel counts with at least so many of its 8 neighbors in its color: lines and specks go
_BRIGHTNESS = (0.6, 1.05)  # of an object's pixel over its color's; textures darken to 0.66
_FARTHEST = 75.0  # RGB distance beyond which a pixel is neither object nor background
_RIM = 0.7  # a patch of which this share lies within two pixels of a larger patch is that one's blended rim


@dataclass(frozen=True)
class ColorObject:
    """A patch of one color."""

    color: str
    center: tuple[float, float]
    """Mean of its pixels, x and y as fractions of the frame."""
    area: float
    """Share of the frame."""


def shrink(images: np.ndarray) -> np.ndarray:
    """Return uint8 (B, S, S, 3) -> uint8 (B, 32, 32, 3): larger images are averaged by area, smaller ones bicubic."""
    size = images.shape[1]
    if size == SIZE:
        return images
    kind = Image.Resampling.BOX if size > SIZE else Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(image).resize((SIZE, SIZE), kind)) for image in images])


@functools.cache
def _nearest_color() -> np.ndarray:
    """Return for every RGB color, in steps of 8, its object's index in COLORS or -1: int8 (32, 32, 32).

    Objects and backgrounds are lines in RGB (an object's color from dark to bright, a background's from top to bottom,
    brick's with its mortar, and the grays); a color belongs to the nearest line.
    """
    lines = [np.outer(_BRIGHTNESS, rgb) for rgb in COLORS.values()]
    lines += [np.array([top, bottom], dtype=np.float64) for _, top, bottom in BACKGROUNDS.values()]
    lines += [np.outer((0.72, 1), BACKGROUNDS["brick"][2]), np.outer((0, 1), (255, 255, 255))]
    axis = np.arange(32, dtype=np.float32) * 8 + 4
    rgb = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)  # (32, 32, 32, 3)
    distances = []
    for start, end in lines:
        along = np.clip((rgb - start) @ (end - start) / ((end - start) ** 2).sum(), 0, 1)
        distances.append(np.linalg.norm(rgb - start - along[..., None] * (end - start), axis=-1))
    best, least = np.argmin(distances, 0), np.min(distances, 0)
    return np.where((best < len(COLORS)) & (least < _FARTHEST), best, -1).astype(np.int8)


def color_mask(images: np.ndarray) -> np.ndarray:
    """Return the index in COLORS of the object color of each pixel of uint8 (..., 3), or -1: int8 (...)."""
    r, g, b = np.moveaxis(images >> 3, -1, 0)
    return _nearest_color()[r, g, b]


def color_objects(images: np.ndarray) -> list[list[ColorObject]]:
    """Return the colored objects of each image of uint8 (B, S, S, 3), largest first; at 32 px."""
    mask = _cleaned(color_mask(shrink(images)))
    found: list[list[ColorObject]] = [[] for _ in images]
    inside = np.flatnonzero(mask >= 0)
    if not len(inside):
        return found
    same, other = _neighbor_pairs(mask, inside)
    first, patch = np.unique(_components(len(inside), *same), return_inverse=True)  # one entry per patch
    area = np.bincount(patch)
    nearby = np.zeros(len(inside), dtype=np.int64)  # for each pixel the largest patch of another color near it
    for here, there in (other, other[::-1]):
        np.maximum.at(nearby, here, area[patch[there]])
    rim = np.bincount(patch, weights=nearby > area[patch]) / area
    image, pixel = np.divmod(inside, SIZE * SIZE)
    x = np.bincount(patch, weights=(pixel % SIZE + 0.5) / SIZE) / area
    y = np.bincount(patch, weights=(pixel // SIZE + 0.5) / SIZE) / area
    colors = list(COLORS)
    for number in np.argsort(-area, kind="stable"):
        if area[number] >= MIN_AREA * SIZE * SIZE and rim[number] < _RIM:
            color, center = colors[mask.ravel()[inside[first[number]]]], (float(x[number]), float(y[number]))
            found[image[first[number]]].append(ColorObject(color, center, float(area[number]) / (SIZE * SIZE)))
    return found


def both_colors(objects: Sequence[ColorObject], colors: Sequence[str]) -> bool:
    """Return whether each of `colors` is the color of an object."""
    return set(colors) <= {item.color for item in objects}


def color_score(objects: Sequence[ColorObject], colors: Sequence[str]) -> float:
    """Return the share of two different `colors` that the two largest objects have: 0, 0.5 or 1.

    Only as many objects count as were asked for, so an image full of patches of every color gains nothing.
    """
    return len({item.color for item in objects[: len(colors)]} & set(colors)) / len(colors)


def colors_in_relation(objects: Sequence[ColorObject], first: str, second: str, relation: str) -> bool:
    """Return whether the largest object of color `first` lies as asked to the largest of color `second`.

    `relation` is "left of", "right of", "above" or "below": as for GenEval, it holds when the offset of the centers
    along it is more than half of their distance.
    """
    if not both_colors(objects, (first, second)):
        return False
    a, b = (next(item for item in objects if item.color == color).center for color in (first, second))
    axis, sign = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}[relation]
    return sign * (a[axis] - b[axis]) > 0.5 * math.dist(a, b)


def _cleaned(mask: np.ndarray) -> np.ndarray:
    """Return `mask` (B, S, S) without the pixels that have fewer than three neighbors of their color."""
    size = mask.shape[1]
    wide = np.pad(mask, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    number = np.zeros(mask.shape, dtype=np.int8)
    for dy, dx in itertools.product(range(3), range(3)):
        number += wide[:, dy : dy + size, dx : dx + size] == mask  # the pixel itself is counted too
    return np.where(number > _NEIGHBORS, mask, -1)


def _neighbor_pairs(mask: np.ndarray, inside: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of pixels at most two apart, of the same color and then of two colors.

    Pixels are numbers into `inside`, the flat indices of `mask` (B, S, S) that show a color.
    """
    size = mask.shape[1]
    index = np.full(mask.size, -1)
    index[inside] = np.arange(len(inside))
    index = np.pad(index.reshape(mask.shape), ((0, 0), (0, _REACH), (_REACH, _REACH)), constant_values=-1)
    color = mask.ravel()[inside]
    image, pixel = np.divmod(inside, size * size)
    row, column = np.divmod(pixel, size)
    pairs = []
    for dy, dx in itertools.product(range(_REACH + 1), range(-_REACH, _REACH + 1)):
        if (dy, dx) > (0, 0):  # each pair once
            there = index[image, row + dy, column + _REACH + dx]
            here = np.flatnonzero(there >= 0)
            pairs.append((here, there[here]))
    here, there = (np.concatenate(side) for side in zip(*pairs))
    same = color[here] == color[there]
    yield here[same], there[same]
    yield here[~same], there[~same]


def _components(number: int, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return the smallest node that edges (here, there) connect with each of `number` nodes.

    Hooking and pointer jumping: roots are tied to the smallest root across an edge until nothing changes.
    """
    root = np.arange(number)
    while not np.array_equal(a := root[here], b := root[there]):
        for side in (a, b):
            np.minimum.at(root, side, np.minimum(a, b))
        while not np.array_equal(root, root[root]):
            root = root[root]
    return root
