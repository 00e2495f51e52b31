"""CutMix: boxes and areas as in the paper's list, pixels exact, corners and center intact."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessera.cutmix import (
    CROP,
    HALF_VIEWS,
    PATTERNS,
    TABLE,
    Pattern,
    compose,
    draw_placement,
    inside_box,
    label_of,
    near_seam,
    pattern_of,
    placement_at,
    windows_of,
)
from tessera.records import Placement

sizes = st.integers(16, 96) | st.sampled_from([128, 224, 256, 512])
patterns = st.sampled_from(PATTERNS)


@st.composite
def placements(draw, size=sizes, pattern=patterns):
    size, pattern = draw(size), draw(pattern)
    return placement_at(pattern, size, draw(st.integers(0, len(windows_of(pattern, size)) - 1)))


def all_boxes(pattern: str, size: int) -> list[tuple[int, int, int, int]]:
    return [placement_at(pattern, size, i).box for i in range(len(windows_of(pattern, size)))]


def picture(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_half_and_quarter_boxes_at_256():
    assert set(all_boxes("half", 256)) == {(128, 0, 256, 256), (0, 128, 256, 256)}
    assert set(all_boxes("quarter", 256)) == {
        (0, 0, 128, 128),
        (128, 0, 256, 128),
        (0, 128, 128, 256),
        (128, 128, 256, 256),
    }


def test_ninth_boxes_at_256_lie_on_every_border_and_leave_the_corners():
    boxes = all_boxes("ninth", 256)
    offsets = range(12, 256 - 85 - 12 + 1)
    expected = {(x, y, x + 85, y + 85) for o in offsets for x, y in ((o, 0), (o, 171), (0, o), (171, o))}
    assert len(boxes) == len(set(boxes))
    assert set(boxes) == expected


def test_sixteenth_boxes_at_256_are_all_those_beside_the_central_region():
    boxes = all_boxes("sixteenth", 256)
    edges = range(12, 256 - 64 - 12 + 1)
    beside = {e for e in edges if e + 64 < 103 or e > 153}
    expected = {(x, y, x + 64, y + 64) for x in edges for y in edges if x in beside or y in beside}
    assert len(boxes) == len(set(boxes))
    assert set(boxes) == expected


@given(placements())
def test_area_is_the_papers_share(placement):
    left, top, right, bottom = placement.box
    # Rounding moves each of the two sides by at most half a pixel.
    side = TABLE[placement.pattern].area ** 0.5 * placement.size
    low, high = (side - 0.5) ** 2, (side + 0.5) ** 2
    if placement.pattern == "half":
        low, high = (placement.size**2 - placement.size) / 2, (placement.size**2 + placement.size) / 2
    assert low - 1e-6 <= (right - left) * (bottom - top) <= high + 1e-6


@given(placements())
def test_box_lies_in_the_frame_where_its_pattern_says(placement):
    size, (left, top, right, bottom) = placement.size, placement.box
    assert 0 <= left < right <= size
    assert 0 <= top < bottom <= size
    horizontal, vertical = (left == 0) + (right == size), (top == 0) + (bottom == size)
    expected = {"half": {(1, 2), (2, 1)}, "quarter": {(1, 1)}, "ninth": {(1, 0), (0, 1)}, "sixteenth": {(0, 0)}}
    assert (horizontal, vertical) in expected[placement.pattern]


@given(placements(pattern=st.sampled_from(["ninth", "sixteenth"])))
def test_corners_and_centre_stay_intact(placement):
    size, (left, top, right, bottom) = placement.size, placement.box
    covered = np.zeros((size, size), bool)
    covered[top:bottom, left:right] = True
    corner = (12 * size + 128) // 256
    assert corner >= 1
    for part in (covered[:corner], covered[-corner:]):
        assert not part[:, :corner].any()
        assert not part[:, -corner:].any()
    centre = slice(int(np.ceil(103 * size / 256)), 153 * size // 256 + 1)
    assert not covered[centre, centre].any()


@given(placements(), st.sampled_from(HALF_VIEWS), st.integers(0, 2**31), st.data())
def test_pixels_are_exact(placement, half_view, seed, data):
    size, (left, top, right, bottom) = placement.size, placement.box
    height, width = data.draw(st.tuples(st.integers(1, 80), st.integers(1, 80)) | st.just((size, size)))
    base, partner = picture(seed, size, size), picture(seed + 1, height, width)
    kept_base, kept_partner = base.copy(), partner.copy()
    out = compose(base, partner, placement, half_view)

    wanted = (size, size) if placement.pattern == "half" else (right - left, bottom - top)
    pasted = np.asarray(Image.fromarray(partner).resize(wanted, Image.Resampling.BICUBIC))
    if (width, height) == wanted:
        assert np.array_equal(pasted, partner)
    inside = np.zeros((size, size), bool)
    inside[top:bottom, left:right] = True
    expected = base.copy()
    if placement.pattern != "half":
        expected[inside] = pasted.reshape(-1, 3)
    elif half_view == "aligned":
        expected[inside] = pasted[inside]
    else:
        first, second = size // 2, size - size // 2
        axis = 1 if left else 0
        central_base = np.take(base, range((size - first) // 2, (size - first) // 2 + first), axis)
        central_partner = np.take(pasted, range((size - second) // 2, (size - second) // 2 + second), axis)
        expected = np.concatenate([central_base, central_partner], axis)
    assert out.dtype == np.uint8
    assert np.array_equal(out, expected)
    assert np.array_equal(base, kept_base)
    assert np.array_equal(partner, kept_partner)


def test_centre_view_shows_the_whole_of_two_narrow_objects():
    base, partner = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)
    base[:, 9:23] = 100
    partner[:, 9:23] = 200
    out = compose(base, partner, placement_at("half", 32, 0), "centre")
    assert (out == 100).sum() == (base == 100).sum()
    assert (out == 200).sum() == (partner == 200).sum()
    assert (out[:, :16] != 200).all()


@given(patterns, sizes, st.integers(0, 2**63))
def test_draw_is_a_function_of_the_generator(pattern, size, seed):
    first = draw_placement(pattern, size, np.random.Generator(np.random.Philox(seed)))
    again = draw_placement(pattern, size, np.random.Generator(np.random.Philox(seed)))
    assert first == again
    assert first.pattern == pattern
    assert first.size == size


@settings(max_examples=10)
@given(patterns, st.integers(0, 2**31))
def test_draw_is_uniform(pattern, seed):
    rng = np.random.default_rng(seed)
    count = len(windows_of(pattern, 16))
    drawn = Counter(draw_placement(pattern, 16, rng).box for _ in range(50 * count))
    assert set(drawn) == set(all_boxes(pattern, 16))
    chi_squared = sum((n - 50) ** 2 / 50 for n in drawn.values())
    assert chi_squared < count - 1 + 6 * (2 * count) ** 0.5


def test_crop_is_every_window_of_half_to_three_quarters():
    boxes = all_boxes(CROP, 16)
    expected = {(x, y, x + s, y + s) for s in range(8, 13) for x in range(17 - s) for y in range(17 - s)}
    assert len(boxes) == len(set(boxes))
    assert set(boxes) == expected


@given(placements(pattern=st.just(CROP)), st.integers(0, 2**31))
def test_crop_shows_its_box_and_nothing_else(placement, seed):
    size, (left, top, right, bottom) = placement.size, placement.box
    base = picture(seed, size, size)
    out = compose(base, base, placement)
    window = Image.fromarray(base[top:bottom, left:right]).resize((size, size), Image.Resampling.BICUBIC)
    assert np.array_equal(out, np.asarray(window))
    base[top:bottom, left:right] = 0
    assert not compose(base, base, placement).any()
    assert CROP not in PATTERNS


def test_bad_input_is_named():
    base = picture(0, 32, 32)
    placement = placement_at("quarter", 32, 0)
    with pytest.raises(ValueError, match=r"third.*half, quarter, ninth, sixteenth"):
        placement_at("third", 32, 0)
    with pytest.raises(ValueError, match="at least 16 px, not 15"):
        windows_of("half", 15)
    with pytest.raises(ValueError, match="0 to 3 at 32 px, not 4"):
        placement_at("quarter", 32, 4)
    with pytest.raises(ValueError, match="half_view must be one of aligned, centre"):
        compose(base, base, placement, "center")
    with pytest.raises(ValueError, match="base is 31 x 31 px"):
        compose(picture(0, 31, 31), base, placement)
    with pytest.raises(ValueError, match=r"partner must be uint8 \(H, W, 3\), not float64"):
        compose(base, base.astype(float), placement)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"base must be uint8 \(H, W, 3\)"):
        compose(base[:, :, 0], base, placement)


def test_a_pattern_is_told_from_its_box():
    for pattern in PATTERNS:
        for box in all_boxes(pattern, 64):
            assert pattern_of(box, 64) == pattern
    assert pattern_of((3, 3, 24, 24), 64) == "ninth"  # a square may lie anywhere
    assert pattern_of((32, 0, 64, 63), 64) is None
    assert pattern_of((0, 0, 32, 64), 64) is None  # the left half is nobody's
    assert pattern_of((50, 50, 66, 66), 64) is None


def test_a_pattern_of_ones_own_is_one_record():
    stripe = Pattern(name="stripe", area=1 / 4, windows=lambda size: [(0, 0, size, size // 4), (0, 4, size, 8)])
    assert len(windows_of(stripe, 32)) == 2
    placement = placement_at(stripe, 32, 1)
    assert placement == Placement("stripe", (0, 4, 32, 8), 32)
    base, partner = picture(0, 32, 32), picture(1, 32, 32)
    out = compose(base, partner, placement, "centre")  # it spans the frame, so it shows that part of the partner
    assert np.array_equal(out[4:8], partner[4:8])
    assert np.array_equal(np.delete(out, range(4, 8), 0), np.delete(base, range(4, 8), 0))
    assert label_of("stripe") == "stripe"
    assert [label_of(name) for name in PATTERNS] == ["CM 1/2", "CM 1/4", "CM 1/9", "CM 1/16"]


def test_placement_type():
    assert isinstance(placement_at("half", 64, 1), Placement)


def test_cells_near_a_border_and_within_a_box():
    """16 px in 8 x 8 cells: a box of 3 x 4 cells, one side on the frame's edge, which is no border."""
    box = (0, 4, 6, 12)
    assert near_seam(box, 16, 8, 1).astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert inside_box(box, 16, 8).sum() == 12
    assert inside_box(box, 16, 8)[2:6, 0:3].all()
    assert not near_seam((0, 0, 16, 16), 16, 8, 3).any()
    half = near_seam((8, 0, 16, 16), 16, 8, 2)
    assert half[:, 2:6].all()
    assert half.sum() == 32
