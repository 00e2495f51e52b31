"""The seam score: how visible the boundary of a CutMix image is in a generated one.

Definition, on 32 px. The contrast at the line between two columns, in one row, is the color of the three pixels to its
right (their median) minus that of the three to its left; it is lowered, at most to 0, by the mean of the same at the
lines three columns to either side, so that smooth backgrounds, and bricks' single dark lines, give nothing. The same
between rows. An edge of a box has the mean of its contrasts outside objects (colored patches and their rims), and the
largest of the three channels' absolute values of it over 255 is how visible the edge is; an edge of which less than a
fifth lies outside objects counts as 0. A box is as visible as its least visible edge inside the frame, and an image's
score is that of the most visible box among all placements of all CutMix patterns. 0 = no seam, 1 = black next to white.

Renders score 0.007 on average and at most 0.04, blurred, bent and noisy ones 0.02 and 0.14; CutMix images of two
renders 0.47 (half), 0.46 (quarter), 0.31 (ninth), 0.22 (sixteenth); a sixth of those have two equal backgrounds.
"""

from collections.abc import Sequence

import numpy as np

from tessera.cutmix import PATTERNS, placement_at, windows_of
from tessera.evaluate.miniature.color_objects import SIZE, color_mask, shrink

VISIBLE = 0.1
"""An image with a larger score counts as one with a visible seam."""
_SIDE = 3  # pixels whose median stands for one side of a line
_CLEAR = 0.2


def seam_scores(images: np.ndarray, patterns: Sequence[str] = PATTERNS) -> np.ndarray:
    """Return the seam score in [0, 1] of each image of uint8 (B, S, S, 3): float64 (B,)."""
    small = shrink(images)
    free = _outside_objects(small)
    images_01 = small.astype(np.float32) / 255
    columns = _edge_sums(images_01, free)
    rows = _edge_sums(images_01.transpose(0, 2, 1, 3), free.transpose(0, 2, 1))
    score = np.zeros(len(images))
    for pattern in patterns:
        for number in range(len(windows_of(pattern, SIZE))):
            left, top, right, bottom = placement_at(pattern, SIZE, number).box
            edges = [_visibility(columns, x, top, bottom) for x in (left, right) if 0 < x < SIZE]
            edges += [_visibility(rows, y, left, right) for y in (top, bottom) if 0 < y < SIZE]
            np.maximum(score, np.min(edges, axis=0), out=score)
    return score


def _outside_objects(small: np.ndarray) -> np.ndarray:
    """Return bool (B, 32, 32): no object color there or in a neighboring pixel."""
    colored = np.pad(color_mask(small) >= 0, ((0, 0), (1, 1), (1, 1)))
    near = np.zeros(small.shape[:3], dtype=bool)
    for dy in range(3):
        for dx in range(3):
            near |= colored[:, dy : dy + SIZE, dx : dx + SIZE]
    return ~near


def _edge_sums(images_01: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Return running sums down the rows of the contrasts at each vertical line, and of their number.

    images_01 (B, 32, 32, 3), free (B, 32, 32). Returns (B, 33, 33, 4): [:, y, x] sums rows 0..y-1 at the line left of
    column x; the last of the four is the number of rows in which that line is outside objects.
    """
    windows = np.lib.stride_tricks.sliding_window_view(images_01, _SIDE, axis=2)  # (B, 32, 30, 3, 3)
    middle = np.sort(windows, axis=-1)[..., _SIDE // 2]  # (B, 32, 30, 3): of columns x..x+2
    clear = np.asarray(np.lib.stride_tricks.sliding_window_view(free, _SIDE, axis=2).all(-1))  # (B, 32, 30)
    step = middle[:, :, _SIDE:] - middle[:, :, :-_SIDE]  # (B, 32, 27, 3): at the lines 3..29
    valid = clear[:, :, _SIDE:] & clear[:, :, :-_SIDE]
    step = step * valid[..., None]
    # The lines three to the left and right, where they are in the frame and outside objects.
    around, number = np.zeros_like(step), np.zeros(valid.shape, dtype=np.float32)
    for here, there in ((slice(_SIDE, None), slice(None, -_SIDE)), (slice(None, -_SIDE), slice(_SIDE, None))):
        around[:, :, here] += step[:, :, there]
        number[:, :, here] += valid[:, :, there]
    around /= np.maximum(number, 1)[..., None]
    # Towards 0 and no farther: a step elsewhere must not leave a ghost here.
    excess = step - np.clip(around, np.minimum(step, 0), np.maximum(step, 0))
    sums = np.zeros((len(images_01), SIZE + 1, SIZE + 1, 4))
    sums[:, 1:, _SIDE : SIZE - _SIDE + 1, :3] = excess.cumsum(1)
    sums[:, 1:, _SIDE : SIZE - _SIDE + 1, 3] = valid.cumsum(1)
    return sums


def _visibility(sums: np.ndarray, line: int, start: int, end: int) -> np.ndarray:
    """Return how visible the edge at `line` from `start` to `end` is: (B,)."""
    total = sums[:, end, line] - sums[:, start, line]  # (B, 4)
    contrast = np.abs(total[:, :3]).max(1) / np.maximum(total[:, 3], 1)
    return np.where(total[:, 3] >= _CLEAR * (end - start), contrast, 0.0)
