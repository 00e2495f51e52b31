"""CutMix patterns: where the partner is pasted into the base, and the image that results (paper section 3.2).

| pattern   | paper    | pasted side at 256 px | where (box = left, top, right, bottom)                         |
|-----------|----------|-----------------------|----------------------------------------------------------------|
| half      | CM^1/2   | 256, half of it shown | the right half or the bottom half, both images at full size    |
| quarter   | CM^1/4   | 128                   | flush in a corner                                              |
| ninth     | CM^1/9   | 85                    | flush on a border, at least 12 px from each corner             |
| sixteenth | CM^1/16  | 64                    | anywhere 12 px inside the frame, not touching [103, 153]^2     |

`crop` is the second augmentation of the paper's later version: a square window of one image, of any side from half to
three quarters of the frame, scaled up to the frame; its box is the window.

A pattern is a finite list of boxes for each frame size, so that drawing one is drawing one integer, and a recipe of
millions of rows needs no generator per row. At other sizes the numbers above are scaled by size / 256 and rounded. The
12 px that keep the corners intact under `ninth` are the margin of `sixteenth`: the paper gives no number, and one bare
corner pixel would not be a corner anybody sees.
"""

import functools
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tessera.records import Placement

Box = tuple[int, int, int, int]
HalfView = Literal["aligned", "centre"]
HALF_VIEWS: tuple[HalfView, ...] = get_args(HalfView)

MIN_SIZE = 16
"""Smallest frame side in pixels: below it the scaled margins and boxes are no longer distinct."""

_MARGIN = 12  # px at 256
_CENTRAL = (103, 153)  # px at 256: the central 10% on either side of the middle, as closed intervals


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A CutMix pattern. A box that spans the frame in one direction shows a part of the partner, which has the frame's
    size (`half_view`); into any other box the whole partner is scaled."""

    name: str
    """Name in a recipe."""
    area: float
    """Fraction of the frame that the partner covers, up to the rounding of its sides."""
    windows: Callable[[int], Sequence[Box]]
    """Every box (left, top, right, bottom; right and bottom exclusive) of a frame of so many pixels."""
    words: tuple[str, str] | None = None
    """Places of base and partner in captions ("at the edges", "across the middle"). None = told from the box."""
    label: str = ""
    """The paper's name, for pages. "" = the name."""


def _quarter(size: int) -> list[Box]:
    side = _side(size, 2)
    return [_square(left, top, side) for top, left in product((0, size - side), repeat=2)]


def _ninth(size: int) -> list[Box]:
    side, margin = _side(size, 3), _scaled(_MARGIN, size)
    far = size - side
    places = [((at, 0), (at, far), (0, at), (far, at)) for at in range(margin, far - margin + 1)]
    return [_square(left, top, side) for place in places for left, top in place]


def _sixteenth(size: int) -> list[Box]:
    """Return first the boxes whose columns miss the center, then the others."""
    side, margin = _side(size, 4), _scaled(_MARGIN, size)
    edges = range(margin, size - side - margin + 1)
    low, high = -(-_CENTRAL[0] * size // 256), _CENTRAL[1] * size // 256
    outside = [edge for edge in edges if edge + side < low or edge > high]
    touching = [edge for edge in edges if low - side <= edge <= high]
    return [_square(left, top, side) for left, top in (*product(outside, edges), *product(touching, outside))]


class _Windows(Sequence[Box]):
    """Windows of half to three quarters of the frame, by side, row and column; computed when asked for."""

    def __init__(self, size: int):
        self._sides = range((size + 1) // 2, 3 * size // 4 + 1)
        self._offsets = [size - side + 1 for side in self._sides]
        self._ends = list(accumulate(offsets**2 for offsets in self._offsets))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index):
        smaller = bisect_right(self._ends, index)
        top, left = divmod(index - (self._ends[smaller - 1] if smaller else 0), self._offsets[smaller])
        return _square(left, top, self._sides[smaller])


TABLE = {
    "half": Pattern(name="half", area=1 / 2, windows=lambda s: [(s // 2, 0, s, s), (0, s // 2, s, s)], label="CM 1/2"),
    "quarter": Pattern(name="quarter", area=1 / 4, windows=_quarter, label="CM 1/4"),
    "ninth": Pattern(name="ninth", area=1 / 9, windows=_ninth, label="CM 1/9"),
    "sixteenth": Pattern(name="sixteenth", area=1 / 16, windows=_sixteenth, label="CM 1/16"),
}
"""The paper's patterns; "all" deals them out in equal parts. An entry here adds one."""
PATTERNS = tuple(TABLE)
CROP = "crop"
"""The pattern that mixes nothing: one image's window, scaled up."""
CROP_PATTERN = Pattern(name=CROP, area=0, windows=_Windows, label="crop")


def label_of(pattern: str) -> str:
    """Return the paper's name of a pattern ("CM 1/4"), or its own where the paper has none."""
    return TABLE[pattern].label if pattern in TABLE else pattern


@functools.lru_cache(maxsize=32)
def windows_of(pattern: str | Pattern, size: int) -> Sequence[Box]:
    """Return every box of a pattern, or of the one of that name, in a frame of `size` pixels.

    Raises ValueError for an unknown pattern or a frame smaller than `MIN_SIZE`.
    """
    if isinstance(pattern, str):
        if pattern not in (*TABLE, CROP):
            raise ValueError(f"unknown CutMix pattern {pattern!r}; there are: {', '.join(PATTERNS)}")
        pattern = TABLE.get(pattern, CROP_PATTERN)
    if size < MIN_SIZE:
        raise ValueError(f"CutMix needs frames of at least {MIN_SIZE} px, not {size}")
    return pattern.windows(size)


def placement_at(pattern: str | Pattern, size: int, index: int) -> Placement:
    """Return placement `index`, 0 <= index < len(windows_of(pattern, size)), of a frame of `size` pixels."""
    windows, name = windows_of(pattern, size), pattern if isinstance(pattern, str) else pattern.name
    if not 0 <= index < len(windows):
        raise ValueError(f"{name} has placements 0 to {len(windows) - 1} at {size} px, not {index}")
    return Placement(name, windows[index], size)


def draw_placement(pattern: str | Pattern, size: int, rng: np.random.Generator) -> Placement:
    """Draw one of `pattern`'s placements uniformly: one integer is taken from `rng`.

    `size` is the frame's side in pixels, at least `MIN_SIZE`. The box's right and bottom are exclusive.
    """
    return placement_at(pattern, size, int(rng.integers(len(windows_of(pattern, size)))))


def pattern_of(box: Box, size: int) -> str | None:
    """Return the name of the paper's pattern with such a box; None if there is none. A square may lie anywhere."""
    left, top, right, bottom = box
    square = right - left == bottom - top
    for name in PATTERNS:
        windows = windows_of(name, size)
        first = windows[0]
        if square and first[2] - first[0] == first[3] - first[1] == right - left and max(right, bottom) <= size:
            return name
        if not square and box in windows:
            return name
    return None


Line = tuple[int, int, int, int]
"""A line inside a frame of latents: (axis, line, first cell, end cell); axis 2 = across columns."""


def edges_of(box: Sequence[int], size: int, cells: int) -> list[Line]:
    """Return the lines of `box` (left, top, right, bottom) in a frame of `size` px, in latents of `cells` x `cells`."""
    left, top, right, bottom = (round(edge * cells / size) for edge in box)
    lines = [(2, x, top, bottom) for x in (left, right) if 0 < x < cells]
    lines += [(1, y, left, right) for y in (top, bottom) if 0 < y < cells]
    return [line for line in lines if line[3] > line[2]]


def near_seam(box: Box, size: int, cells: int, reach: int) -> NDArray[np.bool_]:
    """Return which of the `cells` x `cells` latents of a frame of `size` px lie within `reach` of a border of `box`, in
    rows and columns; the frame's own edges are none."""
    near = np.zeros((cells, cells), bool)
    for axis, line, first, end in edges_of(box, size, cells):
        part = near if axis == 2 else near.T
        part[max(0, first - reach) : end + reach, max(0, line - reach) : line + reach] = True
    return near


def inside_box(box: Box, size: int, cells: int) -> NDArray[np.bool_]:
    """Return which of the `cells` x `cells` latents of a frame of `size` px lie within `box`."""
    left, top, right, bottom = (round(edge * cells / size) for edge in box)
    inside = np.zeros((cells, cells), bool)
    inside[top:bottom, left:right] = True
    return inside


def compose(
    base: NDArray[np.uint8], partner: NDArray[np.uint8], placement: Placement, half_view: str = "aligned"
) -> NDArray[np.uint8]:
    """Return the augmented image, `base` with `partner` in the placement's box: uint8 (S, S, 3), a new array.

    For `crop` it is the box of `base`, scaled up with Pillow's bicubic filter; the partner is not used.

    base: uint8 (S, S, 3) with S = `placement.size`. partner: uint8 (H, W, 3) of any size; it is resized with Pillow's
    bicubic filter to the box, or for a box that spans the frame (`half`) to the frame, and left as it is if it has that
    size already.
    half_view says what `half` shows: "aligned", the base's left (top) half with the partner's right (bottom) half, or
    "centre", the central half of each. The other patterns do not use it. Outside the box the base's pixels stay.
    """
    size = placement.size
    if half_view not in HALF_VIEWS:
        raise ValueError(f"half_view must be one of {', '.join(HALF_VIEWS)}, not {half_view!r}")
    for name, image in (("base", base), ("partner", partner)):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"{name} must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
    if base.shape[:2] != (size, size):
        raise ValueError(f"base is {base.shape[1]} x {base.shape[0]} px, but the placement is for {size} x {size} px")

    left, top, right, bottom = placement.box
    if placement.pattern == CROP:
        return np.array(_resized(np.ascontiguousarray(base[top:bottom, left:right]), size, size))
    if half_view == "centre" and placement.pattern == "half":
        axis = 1 if left > 0 else 0
        parts = ((base, size // 2), (_resized(partner, size, size), size - size // 2))
        views = [np.take(image, range((size - n) // 2, (size - n) // 2 + n), axis) for image, n in parts]
        return np.concatenate(views, axis)
    out = base.copy()
    if placement.spans_frame:
        out[top:bottom, left:right] = _resized(partner, size, size)[top:bottom, left:right]
    else:
        out[top:bottom, left:right] = _resized(partner, right - left, bottom - top)
    return out


def _square(left: int, top: int, side: int) -> Box:
    return left, top, left + side, top + side


def _side(size: int, parts: int) -> int:
    """Divide the frame's side into so many parts, rounded half up."""
    return (2 * size + parts) // (2 * parts)


def _scaled(pixels: int, size: int) -> int:
    """Convert a length given at 256 px to `size` px, rounded half up."""
    return (2 * pixels * size + 256) // 512


def _resized(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
