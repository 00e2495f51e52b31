"""The four CutMix patterns: where the pasted picture goes, and the picture that results (paper section 3.2).

| pattern   | paper    | pasted side at 256 px | where (box = left, top, right, bottom)                           |
|-----------|----------|-----------------------|------------------------------------------------------------------|
| half      | CM^1/2   | 256, half of it shown | the right half or the bottom half, both pictures at full size    |
| quarter   | CM^1/4   | 128                   | flush in a corner                                                |
| ninth     | CM^1/9   | 85                    | flush on a border, at least 12 px from each corner               |
| sixteenth | CM^1/16  | 64                    | anywhere 12 px inside the frame, not touching [103, 153]^2        |

Beside them stands `crop`, the second augmentation of the paper's later version: a square window of one picture, of any
side from half to three quarters of the frame, scaled up to the frame; its box is the window.

Every pattern has a finite list of placements, so that drawing one is drawing one integer, and a recipe of millions of
rows needs no generator per row. At other sizes the numbers above are scaled by size / 256 and rounded. The 12 px that
keep the corners intact under `ninth` are the margin of `sixteenth`: the paper gives no number, and one bare
corner pixel would not be a corner anybody sees.
"""

import functools
from bisect import bisect_right
from itertools import accumulate
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tessera.records import Placement

Pattern = Literal["half", "quarter", "ninth", "sixteenth"]
HalfView = Literal["aligned", "centre"]

PATTERNS: tuple[Pattern, ...] = ("half", "quarter", "ninth", "sixteenth")
HALF_VIEWS: tuple[HalfView, ...] = ("aligned", "centre")

CROP = "crop"
"""The pattern that mixes nothing: one picture's window, scaled up."""

PASTED_AREA: dict[Pattern, float] = {"half": 1 / 2, "quarter": 1 / 4, "ninth": 1 / 9, "sixteenth": 1 / 16}
"""Share of the frame that the pasted picture covers (paper section 3.2)."""

MIN_SIZE = 16
"""Smallest frame side in pixels: below it the scaled margins and boxes are no longer distinct."""

_MARGIN = 12  # px at 256
_CENTRAL = (103, 153)  # px at 256: the central 10% on either side of the middle, as closed intervals


def pasted_side(pattern: str, size: int) -> int:
    """Side in pixels of the pasted square in a frame of `size` pixels; for `half`, the width of the shown half.

    Raises ValueError for an unknown pattern or a frame smaller than `MIN_SIZE`.
    """
    if pattern not in PASTED_AREA:
        raise ValueError(f"unknown CutMix pattern {pattern!r}; there are: {', '.join(PATTERNS)}")
    if size < MIN_SIZE:
        raise ValueError(f"CutMix needs frames of at least {MIN_SIZE} px, not {size}")
    if pattern == "half":
        return size - size // 2
    parts = {"quarter": 2, "ninth": 3, "sixteenth": 4}[pattern]
    return (2 * size + parts) // (2 * parts)  # size / parts, rounded half up


def count_placements(pattern: str, size: int) -> int:
    """How many different placements `pattern` has in a frame of `size` pixels."""
    if pattern == CROP:
        return _windows(size)[-1]
    side = pasted_side(pattern, size)
    if pattern == "half":
        return 2
    if pattern == "quarter":
        return 4
    margin = _scaled(_MARGIN, size)
    offsets = size - side - 2 * margin + 1
    if pattern == "ninth":
        return 4 * offsets
    _, touching = _touching(size, side, margin)
    return offsets**2 - touching**2


def placement_at(pattern: str, size: int, index: int) -> Placement:
    """Placement number `index` (0 <= index < `count_placements`) of `pattern` in a frame of `size` pixels."""
    count = count_placements(pattern, size)
    if not 0 <= index < count:
        raise ValueError(f"{pattern} has placements 0 to {count - 1} at {size} px, not {index}")
    if pattern == CROP:
        return Placement(pattern, _window(size, index), size)
    side = pasted_side(pattern, size)
    far = size - side
    margin = _scaled(_MARGIN, size)
    if pattern == "half":
        box = (size // 2, 0, size, size) if index == 0 else (0, size // 2, size, size)
        return Placement(pattern, box, size)
    if pattern == "quarter":
        left, top = far * (index % 2), far * (index // 2)
    elif pattern == "ninth":
        border, offset = index % 4, margin + index // 4
        left, top = ((offset, 0), (offset, far), (0, offset), (far, offset))[border]
    else:
        left, top = _beside_the_centre(size, side, margin, index)
    return Placement(pattern, (left, top, left + side, top + side), size)


def draw_placement(pattern: str, size: int, rng: np.random.Generator) -> Placement:
    """Draw one of `pattern`'s placements uniformly: one integer is taken from `rng`.

    `size` is the frame's side in pixels, at least `MIN_SIZE`. The box's right and bottom are exclusive.
    """
    return placement_at(pattern, size, int(rng.integers(count_placements(pattern, size))))


def compose(
    base: NDArray[np.uint8], partner: NDArray[np.uint8], placement: Placement, half_view: str = "aligned"
) -> NDArray[np.uint8]:
    """The augmented picture: `base` with `partner` in the placement's box. Returns uint8 (S, S, 3), a new array.

    For `crop` it is the box of `base`, scaled up with Pillow's bicubic filter; the partner is not used.

    base: uint8 (S, S, 3) with S = `placement.size`. partner: uint8 (H, W, 3) of any size; it is resized with Pillow's
    bicubic filter to the box, or for `half` to the frame, and left as it is if it has that size already.
    half_view says what `half` shows: "aligned", the base's left (top) half beside the partner's right (bottom) half,
    or "centre", the central half of each. The other patterns do not use it. Outside the box the base's pixels stay.
    """
    size = placement.size
    if half_view not in HALF_VIEWS:
        raise ValueError(f"half_view must be one of {', '.join(HALF_VIEWS)}, not {half_view!r}")
    _check_picture("base", base)
    _check_picture("partner", partner)
    if base.shape[:2] != (size, size):
        raise ValueError(f"base is {base.shape[1]} x {base.shape[0]} px, but the placement is for {size} x {size} px")

    left, top, right, bottom = placement.box
    if placement.pattern == CROP:
        return np.array(_resized(np.ascontiguousarray(base[top:bottom, left:right]), size, size))
    out = base.copy()
    if placement.pattern != "half":
        out[top:bottom, left:right] = _resized(partner, right - left, bottom - top)
        return out

    full = _resized(partner, size, size)
    if half_view == "aligned":
        out[top:bottom, left:right] = full[top:bottom, left:right]
        return out
    kept, pasted = size // 2, size - size // 2
    base_from, partner_from = (size - kept) // 2, (size - pasted) // 2
    if left > 0:
        out[:, :kept] = base[:, base_from : base_from + kept]
        out[:, kept:] = full[:, partner_from : partner_from + pasted]
    else:
        out[:kept] = base[base_from : base_from + kept]
        out[kept:] = full[partner_from : partner_from + pasted]
    return out


@functools.lru_cache(maxsize=8)
def _windows(size: int) -> list[int]:
    """Numbers of windows of at most each side, from half the frame (rounded up) to three quarters (rounded down)."""
    if size < MIN_SIZE:
        raise ValueError(f"CutMix needs frames of at least {MIN_SIZE} px, not {size}")
    return list(accumulate((size - side + 1) ** 2 for side in range((size + 1) // 2, 3 * size // 4 + 1)))


def _window(size: int, index: int) -> tuple[int, int, int, int]:
    """Window number `index`, by side, then row, then column."""
    smaller = bisect_right(_windows(size), index)
    side = (size + 1) // 2 + smaller
    index -= _windows(size)[smaller - 1] if smaller else 0
    top, left = divmod(index, size - side + 1)
    return left, top, left + side, top + side


def _scaled(pixels: int, size: int) -> int:
    """A length given at 256 px, at `size` px, rounded half up."""
    return (2 * pixels * size + 256) // 512


def _touching(size: int, side: int, margin: int) -> tuple[int, int]:
    """First left edge at which a box of `side` touches the central interval, and how many such left edges there are."""
    low, high = _CENTRAL
    first = max(-(-low * size // 256) - side, margin)  # the box's right edge reaches the interval
    last = min(high * size // 256, size - margin - side)
    return first, max(last - first + 1, 0)


def _beside_the_centre(size: int, side: int, margin: int, index: int) -> tuple[int, int]:
    """Left and top of placement `index` of `sixteenth`: first all whose columns miss the centre, then the others."""
    offsets = size - side - 2 * margin + 1
    first, touching = _touching(size, side, margin)

    def beside(i: int) -> int:
        """The i-th edge that misses the central interval."""
        edge = margin + i
        return edge if edge < first else edge + touching

    free = offsets - touching
    if index < free * offsets:
        return beside(index // offsets), margin + index % offsets
    index -= free * offsets
    return first + index // free, beside(index % free)


def _check_picture(name: str, picture: NDArray[np.uint8]) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ValueError(f"{name} must be uint8 (H, W, 3), not {picture.dtype} {picture.shape}")


def _resized(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
