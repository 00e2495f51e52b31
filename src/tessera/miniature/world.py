"""The miniature world: a small counterpart of ImageNet that can be drawn, said in words and judged exactly.

Every image holds ONE object, roughly centered; its class is its shape. Color, texture, size, background and exact
place are attributes that the class name does not tell, so a long caption carries what "An image of <class-name>"
does not (paper section 3.1), and every prompt with two objects is out of distribution (section 3.2).
No files are read or written here; scenes are a function of an address (seed, purpose, number).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tessera.config import UserError, check_ranges, nearest
from tessera.randomness import philox
from tessera.records import Placement, Scene, SceneObject

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 32, 38),
    "green": (18, 196, 66),
    "blue": (38, 66, 232),
    "yellow": (248, 220, 24),
    "purple": (150, 38, 206),
    "cyan": (20, 214, 222),
    "orange": (250, 128, 16),
    "pink": (250, 110, 190),
}
TEXTURES = ("plain", "striped", "dotted", "checkered")
SIZES: dict[str, tuple[float, float]] = {"small": (0.30, 0.35), "medium": (0.38, 0.43), "large": (0.46, 0.50)}
"""Object diameter as a fraction of the frame; at most one half, so that two objects fit side by side."""

BACKGROUNDS: dict[str, tuple[str, tuple[int, int, int], tuple[int, int, int]]] = {
    # name: (its name in captions, color at the top, color at the bottom)
    "sky": ("a clear blue sky", (118, 166, 214), (176, 208, 236)),
    "grass": ("dark green grass", (46, 84, 38), (62, 104, 46)),
    "sand": ("pale yellow sand", (206, 182, 138), (222, 200, 158)),
    "night": ("a black night sky", (14, 16, 30), (24, 26, 46)),
    "snow": ("white snow", (236, 240, 246), (246, 248, 252)),
    "brick": ("a brown brick wall", (116, 74, 60), (126, 82, 66)),
}
SHADE = 0.75
"""Brightness of the dark parts of a texture."""
JITTER = 0.09
"""The center of a single object lies within this fraction of the frame from the middle, on each axis."""

_SUPERSAMPLE = 3


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Mark a star of five points: in each of ten mirrored sectors a line from tip (r = 1) to notch (r = 0.42)."""
    sector = np.pi / 5
    angle = np.abs((np.arctan2(u, -v) + sector) % (2 * sector) - sector)  # 0 at a tip, pi/5 at a notch
    notch = 0.42 * np.array([np.cos(sector), np.sin(sector)])
    r = np.hypot(u, v)
    x, y = r * np.cos(angle), r * np.sin(angle)
    return (x - 1) * notch[1] - y * (notch[0] - 1) <= 0


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x * x + y * y - 1) ** 3 - x * x * y**3 <= 0


# Shape -> whether points (u, v) lie in it, in units of its radius from its center, v down.
_INSIDE = {
    "circle": lambda u, v: u * u + v * v <= 1,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 0.88,
    "triangle": lambda u, v: (v <= 0.85) & (v >= -1 + 1.85 * np.abs(u)),
    "cross": lambda u, v: (np.minimum(np.abs(u), np.abs(v)) <= 0.3) & (np.maximum(np.abs(u), np.abs(v)) <= 1),
    "ring": lambda u, v: (u * u + v * v <= 1) & (u * u + v * v >= 0.54**2),
    "moon": lambda u, v: (u * u + v * v <= 1) & ((u - 0.55) ** 2 + v * v >= 0.8**2),
    "star": _star,
    "heart": lambda u, v: _heart(1.15 * u, 0.15 - 1.12 * v),
}
SHAPES = tuple(_INSIDE)


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """A miniature world: the same config and number always give the same scene."""

    num_images: int = 8000
    """Images in the training set."""
    size: int = 32
    """Side of an image in pixels, at least 16."""
    shapes: tuple[str, ...] = SHAPES
    """Classes; shapes[number % len(shapes)] is the class of image `number`, so classes are balanced."""
    colors: tuple[str, ...] = tuple(COLORS)
    textures: tuple[str, ...] = TEXTURES
    sizes: tuple[str, ...] = tuple(SIZES)
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    seed: int = 0
    """In [0, 2**63)."""

    def __post_init__(self):
        check_ranges(self, seed="[0, 2**63)", num_images="[1, inf)", size="[16, inf)")
        kinds = {"shapes": SHAPES, "colors": COLORS, "textures": TEXTURES, "sizes": SIZES, "backgrounds": BACKGROUNDS}
        for field, known in kinds.items():
            chosen = getattr(self, field)
            if not chosen or len(set(chosen)) != len(chosen):
                raise UserError(f"world.{field} is {chosen!r}: name at least one, none twice")
            for name in chosen:
                if name not in known:
                    raise UserError(f"world.{field}: unknown {name!r}{nearest(name, known)}; known: {', '.join(known)}")


def scene_key(world: WorldConfig, number: int) -> str:
    """Return the key of training image `number`: class/stem, the stem six digits wide."""
    return f"{world.shapes[number % len(world.shapes)]}/{number:06d}"


def draw_scene(world: WorldConfig, number: int) -> Scene:
    """Draw training scene `number`: one object of class shapes[number % len(shapes)], near the middle."""
    rng = philox(world.seed, "miniature/scene", number)
    center = 0.5 + rng.uniform(-JITTER, JITTER, 2)
    thing = _draw_object(world, rng, shape=world.shapes[number % len(world.shapes)])
    return _draw_rest(world, rng, [_moved(thing, center, thing.diameter)])


def draw_composed(world: WorldConfig, number: int, objects: int, purpose: str, same: bool = False) -> Scene:
    """Draw several objects that do not touch, on one seam-free background: for the judge, not for training.

    `same`: all objects share shape and color, as counting prompts ask. Raises UserError when `objects` is not in 1..4.
    """
    if not 1 <= objects <= 4:
        raise UserError(f"draw_composed: {objects} objects asked, 1 to 4 can be placed")
    rng = philox(world.seed, f"miniature/composed/{purpose}", number)
    while True:  # a draw that does not fit is thrown away whole, which keeps the others unbiased
        placed: list[SceneObject] = []
        first = _draw_object(world, rng)
        shape, color = (first.shape, first.color) if same else (None, None)
        for _ in range(200):
            thing = _draw_object(world, rng, shape, color)
            diameter = thing.diameter * (1.0 if objects < 3 else 0.8)
            margin = diameter / 2 + 0.01
            x, y = rng.uniform(margin, 1 - margin, 2)
            gaps = (np.hypot(x - o.center[0], y - o.center[1]) - (o.diameter + diameter) / 2 for o in placed)
            if all(gap > 0.02 for gap in gaps):
                placed.append(_moved(thing, (x, y), diameter))
            if len(placed) == objects:
                return _draw_rest(world, rng, placed)


def mix_scene(base: Scene, partner: Scene, placement: Placement, half_view: str = "aligned") -> Scene:
    """Return the scene of a CutMix image of two single-object scenes: both objects where they come to lie, both
    backgrounds.

    With `half_view="aligned"` an object cut by the seam keeps its full diameter; its center is its visible half's.
    """
    left, top, right, bottom = (edge / placement.size for edge in placement.box)
    first, second = base.objects[0], partner.objects[0]
    (x, y), (u, v) = first.center, second.center
    if placement.spans_frame:
        a, b = (0.25, 0.25) if half_view == "centre" else (first.diameter / 4, second.diameter / 4)
        side_by_side = top == 0 and bottom == 1 and left > 0
        first = _moved(first, (x - a, y) if side_by_side else (x, y - a), first.diameter)
        second = _moved(second, (u + b, v) if side_by_side else (u, v + b), second.diameter)
    else:
        second = _moved(second, (left + u * (right - left), top + v * (bottom - top)), second.diameter * (right - left))
    return Scene(objects=(first, second), backgrounds=(base.backgrounds[0], partner.backgrounds[0]), seed=base.seed)


def render(scene: Scene, size: int = 32) -> np.ndarray:
    """Render a scene: uint8 (size, size, 3).

    Only the first background is drawn: mixed scenes are composed from images, not rendered.
    """
    rng = philox(scene.seed, "miniature/pixels")
    canvas = _background(scene.backgrounds[0], size, rng)  # (S, S, 3) float
    fine = size * _SUPERSAMPLE
    grid = (np.arange(fine) + 0.5) / fine
    for thing in scene.objects:
        u = ((grid - thing.center[0]) * (2 / thing.diameter))[None, :]
        v = ((grid - thing.center[1]) * (2 / thing.diameter))[:, None]
        rows = np.flatnonzero(np.abs(v[:, 0]) <= 1.2)
        columns = np.flatnonzero(np.abs(u[0]) <= 1.2)
        if not len(rows) or not len(columns):
            continue
        # Whole pixels around the object only: most of an image is background.
        y0, y1 = rows[0] // _SUPERSAMPLE, rows[-1] // _SUPERSAMPLE + 1
        x0, x1 = columns[0] // _SUPERSAMPLE, columns[-1] // _SUPERSAMPLE + 1
        across, down = slice(x0 * _SUPERSAMPLE, x1 * _SUPERSAMPLE), slice(y0 * _SUPERSAMPLE, y1 * _SUPERSAMPLE)
        inside = _INSIDE[thing.shape](u[:, across], v[down])
        cover = inside.reshape(y1 - y0, _SUPERSAMPLE, x1 - x0, _SUPERSAMPLE).mean((1, 3))[..., None]  # (h, w, 1)
        shade = _texture(thing.texture, x0, y0, x1, y1, size)[..., None]
        color = np.array(COLORS[thing.color], dtype=np.float64) * shade
        canvas[y0:y1, x0:x1] += cover * (color - canvas[y0:y1, x0:x1])
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)


def _draw_object(
    world: WorldConfig, rng: np.random.Generator, shape: str | None = None, color: str | None = None
) -> SceneObject:
    size = str(rng.choice(world.sizes))
    return SceneObject(
        shape=shape or str(rng.choice(world.shapes)),
        color=color or str(rng.choice(world.colors)),
        texture=str(rng.choice(world.textures)),
        size=size,
        center=(0.5, 0.5),
        diameter=float(rng.uniform(*SIZES[size])),
    )


def _draw_rest(world: WorldConfig, rng: np.random.Generator, objects: Sequence[SceneObject]) -> Scene:
    background = str(rng.choice(world.backgrounds))
    return Scene(objects=tuple(objects), backgrounds=(background,), seed=int(rng.integers(2**31)))


def size_word(diameter: float) -> str:
    """Return the word for a diameter (fraction of the frame); below the smallest rendered size it is "tiny"."""
    if diameter < 0.25:
        return "tiny"
    return "small" if diameter < 0.365 else "medium" if diameter < 0.445 else "large"


def _moved(thing: SceneObject, center: Iterable[float], diameter: float) -> SceneObject:
    x, y = map(float, center)
    return replace(thing, size=size_word(diameter), center=(x, y), diameter=diameter)


def _background(name: str, size: int, rng: np.random.Generator) -> np.ndarray:
    top, bottom = np.array(BACKGROUNDS[name][1:], dtype=np.float64)
    ramp = np.linspace(0, 1, size)[:, None, None]
    canvas = (1 - ramp) * top + ramp * bottom
    canvas = np.repeat(canvas, size, axis=1)  # (S, S, 3)
    if name == "night":
        stars = rng.integers(0, size, (max(2, size // 5), 2))
        canvas[stars[:, 1], stars[:, 0]] += rng.uniform(50, 110, (len(stars), 1))
    elif name == "brick":
        course, length = max(3, size // 6), max(6, size // 3)
        y, x = np.mgrid[:size, :size]
        mortar = (y % course == 0) | ((x + (y // course % 2) * (length // 2)) % length == 0)
        canvas[mortar] *= 0.72
    else:
        canvas += rng.normal(0, {"grass": 7.0, "sand": 4.0}.get(name, 1.5), (size, size, 1))
    return canvas


def _texture(name: str, x0: int, y0: int, x1: int, y1: int, size: int) -> np.ndarray:
    """Return the brightness factor (h, w) of a surface: the color stays the same, only lighter or darker."""
    y, x = np.mgrid[y0:y1, x0:x1]
    cell = max(2, size // 16)
    row, column = y // cell % 2, x // cell % 2
    dark = {"plain": 0, "striped": row, "dotted": row & column, "checkered": row ^ column}[name]
    return np.where(dark, SHADE, np.ones(x.shape))
