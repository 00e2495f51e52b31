"""Colors in words."""

import colorsys

import numpy as np

from tessera.curate.emoji.color_words import GROUNDS, main_colors


def flat(*parts: tuple[tuple[int, int, int], int], alpha: int = 255) -> np.ndarray:
    """Rows of one color each: (RGB, number of rows)."""
    rows = [np.full((count, 32, 4), (*rgb, alpha), np.uint8) for rgb, count in parts]
    return np.concatenate(rows)


def test_the_largest_come_first_and_small_ones_are_left_out():
    red, white, blue = (200, 30, 40), (250, 250, 250), (30, 90, 200)
    assert main_colors(flat((blue, 20), (red, 40), (white, 4))) == ["red", "blue"]
    seen = flat((red, 32))
    hidden = flat((blue, 64), alpha=100)
    assert main_colors(np.concatenate([seen, hidden])) == ["red"]


def test_hues_have_the_names_that_people_give_them():
    named = {hue: main_colors(flat((_rgb(hue), 4)))[0] for hue in (0, 30, 50, 120, 220, 275, 330)}
    assert list(named.values()) == ["red", "orange", "yellow", "green", "blue", "purple", "pink"]
    for rgb, name in {(0, 0, 0): "black", (128, 128, 128): "gray", (101, 67, 33): "brown"}.items():
        assert main_colors(flat((rgb, 4))) == [name]


def test_grounds_are_of_the_color_that_they_are_called():
    for name, rgb in GROUNDS.items():
        near = main_colors(flat((rgb, 4)))[0]
        assert near in (name, "white", "gray")  # all are pale
        assert min(rgb) > 180


def _rgb(hue: int) -> tuple[int, int, int]:
    red, green, blue = (round(255 * share) for share in colorsys.hsv_to_rgb(hue / 360, 0.9, 0.9))
    return red, green, blue
