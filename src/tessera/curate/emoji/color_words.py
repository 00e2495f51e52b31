"""Colors in words: those of a drawing, measured on its pixels, and those of the ground behind it."""

import numpy as np
from numpy.typing import NDArray

_REFERENCES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("red", (210, 40, 45)),
    ("orange", (245, 140, 30)),
    ("yellow", (255, 205, 70)),
    ("yellow", (250, 235, 130)),
    ("green", (60, 150, 65)),
    ("green", (150, 200, 80)),
    ("blue", (35, 100, 210)),
    ("blue", (120, 195, 245)),
    ("blue", (40, 55, 110)),
    ("purple", (130, 75, 190)),
    ("purple", (190, 150, 225)),
    ("pink", (245, 150, 185)),
    ("pink", (230, 70, 140)),
    ("brown", (125, 80, 50)),
    ("brown", (190, 140, 100)),
    ("black", (30, 30, 32)),
    ("gray", (90, 95, 100)),
    ("gray", (165, 170, 175)),
    ("white", (245, 245, 245)),
)
GROUNDS = {
    "white": (255, 255, 255),
    "gray": (205, 208, 212),
    "blue": (190, 220, 245),
    "green": (198, 230, 200),
    "yellow": (250, 238, 185),
    "pink": (246, 208, 220),
}
"""Color of a plain ground -> its RGB."""
COLORS = tuple(dict.fromkeys(name for name, _ in _REFERENCES))
"""The names of colors."""
_SHARE, _MOST = 0.15, 3
_TO_LMS = np.array(
    [[0.41222147, 0.53633254, 0.05144599], [0.21190350, 0.68069955, 0.10739696], [0.08830246, 0.28171884, 0.62997870]],
    np.float32,
)
_TO_LAB = np.array(
    [
        [0.10522713, 0.39680889, -0.00203603],
        [1.9779985, -2.42859221, 0.45059371],
        [0.02590404, 0.78277177, -0.80867577],
    ],
    np.float32,
)


def main_colors(drawing: NDArray[np.uint8]) -> list[str]:
    """Return the colors, the largest first, that cover at least 15% of a drawing, at most three; the largest in any
    case. drawing: uint8 (H, W, 4)."""
    shares = color_shares(drawing)
    return [name for n, name in enumerate(shares) if n == 0 or shares[name] >= _SHARE][:_MOST]


def color_shares(drawing: NDArray[np.uint8]) -> dict[str, float]:
    """Return color -> share of a drawing that it covers, 0..1, the largest first. drawing: uint8 (H, W, 4), of which
    every fourth pixel counts, if more than half opaque."""
    pixels = drawing[::2, ::2][drawing[::2, ::2, 3] > 127][:, :3]
    near = np.square(_oklab(pixels)[:, None] - _oklab(np.array([rgb for _, rgb in _REFERENCES]))).sum(2).argmin(1)
    shares: dict[str, float] = {}
    for (name, _), count in zip(_REFERENCES, np.bincount(near, minlength=len(_REFERENCES)).tolist()):
        shares[name] = shares.get(name, 0) + count / max(len(pixels), 1)
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _oklab(rgb: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return colors (N, 3) in Oklab (Ottosson, 2020), lightness counting half: it changes a color's name less than hue
    and saturation do."""
    share = rgb.astype(np.float32) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T
