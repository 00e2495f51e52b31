"""Scenes of drawings, whose content is known: cut-outs on plain or textured grounds, side by side or cut by a seam."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tessera.evaluate.miniature.color_objects import SIZE
from tessera.records import CutOuts

_LARGE, _PAIR, _SMALL = (0.55, 1.0), (0.36, 0.52), (0.3, 0.42)  # diameters of one, two, more objects
_IN_HALF = (0.75, 0.95)  # of an object of which a half of the frame shows the middle, as CutMix does
_CORNERS = ((0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74))


@dataclass(frozen=True)
class Placed:
    """A drawing in a scene."""

    row: int
    """Its cut-out."""
    center: tuple[float, float]
    """x and y of what is seen of it, as fractions of the frame."""
    diameter: float
    """Fraction of the frame."""
    mirrored: bool
    """True for one that is flipped left to right."""
    whole: bool
    """False for a part of it, that fills half of the frame."""


def compose_scene(
    cut_outs: CutOuts, rows: Sequence[int], rng: np.random.Generator, halves: bool = False, vary: bool = False
) -> tuple[NDArray[np.uint8], list[Placed]]:
    """Return a scene of the cut-outs `rows`, none to four, uint8 (32, 32, 3), and where they are in it.

    halves: two that fill half of the frame each, seen in part, each on its own ground. vary: each drawing is a little
    turned, sheared, narrower or wider, paler or darker, some without their lines and some with thicker ones.
    """
    image = ground(rng)
    if halves:
        upright = bool(rng.random() < 0.5)
        other = ground(rng) if rng.random() < 0.7 else image
        parts, flips = [], []
        for place, row in enumerate(rows):
            whole = (image, other)[place].copy()
            diameter = float(rng.uniform(*_IN_HALF))
            *_, mirrored = _paste(whole, _varied(cut_outs.pixels[row], rng, vary), (0.5, 0.5), diameter, rng)
            flips.append(mirrored)
            half, start = SIZE // 2, SIZE // 4
            parts.append(whole[start : start + half] if upright else whole[:, start : start + half])
        centers = ((0.5, 0.25), (0.5, 0.75)) if upright else ((0.25, 0.5), (0.75, 0.5))
        joined = np.concatenate(parts, 0 if upright else 1)
        return joined, [Placed(row, center, 0.6, flip, False) for row, center, flip in zip(rows, centers, flips)]
    placed = []
    for row, center, diameter in zip(rows, *_places(len(rows), rng)):
        found = _paste(image, _varied(cut_outs.pixels[row], rng, vary), center, diameter, rng)
        placed.append(Placed(row, *found, whole=True))
    return image, placed


def _places(count: int, rng: np.random.Generator) -> tuple[list[tuple[float, float]], list[float]]:
    """Return centers and diameters of `count` objects that do not cover each other."""
    if count <= 1:
        diameter = float(rng.uniform(*_LARGE))
        free = max(0.0, 1 - diameter) / 2
        return [(0.5 + float(rng.uniform(-free, free)), 0.5 + float(rng.uniform(-free, free)))], [diameter]
    if count == 2:
        along, across = float(rng.uniform(0.24, 0.27)), rng.uniform(0.3, 0.7, 2)
        sides = [(along, float(across[0])), (1 - along, float(across[1]))]
        if rng.random() < 0.5:
            sides = [(y, x) for x, y in sides]
        if rng.random() < 0.5:
            sides.reverse()
        return sides, [float(d) for d in rng.uniform(*_PAIR, 2)]
    chosen = rng.permutation(4)[:count]
    return [_CORNERS[n] for n in chosen], [float(d) for d in rng.uniform(*_SMALL, count)]


def _paste(
    image: NDArray[np.uint8],
    drawing: NDArray[np.uint8],
    center: tuple[float, float],
    diameter: float,
    rng: np.random.Generator,
) -> tuple[tuple[float, float], float, bool]:
    """Paste a drawing, uint8 (S, S, 4), mirrored or not, within the frame; return its center and diameter, which are
    of whole pixels, and whether it is mirrored."""
    side = max(round(diameter * SIZE), 4)
    small = np.asarray(Image.fromarray(drawing).resize((side, side), Image.Resampling.BOX, reducing_gap=2.0))
    mirrored = bool(rng.random() < 0.5)
    small = small[:, ::-1] if mirrored else small
    left, top = (int(np.clip(round(c * SIZE - side / 2), 0, SIZE - side)) for c in center)
    part = image[top : top + side, left : left + side]
    opacity = small[..., 3:] / np.float32(255)
    part[:] = (small[..., :3] * opacity + part * (1 - opacity)).round()
    return ((left + side / 2) / SIZE, (top + side / 2) / SIZE), side / SIZE, mirrored


def _varied(drawing: NDArray[np.uint8], rng: np.random.Generator, vary: bool) -> NDArray[np.uint8]:
    """Return a drawing, uint8 (S, S, 4), turned by up to 15 degrees, scaled in one direction and sheared, in other
    light; of some the thin lines are wiped out, of others the dark ones are thicker."""
    if not vary:
        return drawing
    turn, (wide, high), shear = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(0.92, 1.12, 2), rng.uniform(-0.15, 0.15)
    (a, b), (c, d) = ((wide * np.cos(turn), wide * np.sin(turn)), (-high * np.sin(turn), high * np.cos(turn)))
    b, d, middle = b + a * shear, d + c * shear, len(drawing) / 2
    matrix = (a, b, middle * (1 - a - b), c, d, middle * (1 - c - d))
    moved = Image.fromarray(drawing).transform(
        drawing.shape[:2], Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    kind = rng.random()
    if kind < 0.15:
        moved = moved.filter(ImageFilter.MedianFilter(5))
    elif kind < 0.25:
        opacity = moved.getchannel("A")
        moved = moved.convert("RGB").filter(ImageFilter.MinFilter(3))
        moved.putalpha(opacity)
    pixels = np.array(moved)
    gray = pixels[..., :3].mean(2, keepdims=True)
    rgb = gray + (pixels[..., :3] - gray) * rng.uniform(0.85, 1.15)
    rgb = (rgb - 128) * rng.uniform(0.85, 1.15) + 128 + rng.uniform(-10, 10)
    return np.concatenate([np.clip(rgb, 0, 255).astype(np.uint8), pixels[..., 3:]], 2)


def ground(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a ground, plain or textured, mostly light: uint8 (32, 32, 3)."""
    light = 255 - rng.uniform(0, 70, 3) * rng.uniform(0, 1) if rng.random() < 0.8 else rng.uniform(0, 255, 3)
    image = np.broadcast_to(light, (SIZE, SIZE, 3)).copy()
    kind = rng.random()
    if kind > 0.5:
        far = np.clip(light + rng.uniform(-60, 60, 3), 0, 255)
        axis = np.arange(SIZE)
        x, y = np.meshgrid(axis, axis)
        if kind < 0.65:  # from one color to another
            share = (x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1)) / SIZE
            share = (share - share.min()) / max(float(np.ptp(share)), 1e-6)
        elif kind < 0.75:  # stripes or checks
            width = int(rng.integers(2, 9))
            share = ((x // width + (y // width if rng.random() < 0.5 else 0)) % 2).astype(np.float64)
        else:  # clouds
            cells = int(rng.choice([4, 8, 16]))
            share = np.kron(rng.uniform(0, 1, (cells, cells)), np.ones((SIZE // cells, SIZE // cells)))
        image = image + (far - image) * share[..., None]
    return np.clip(image + rng.normal(0, rng.uniform(0, 4), image.shape), 0, 255).astype(np.uint8)
