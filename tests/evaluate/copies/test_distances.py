"""Nearest training images: planted copies are found, and images like the held-out ones are none."""

import numpy as np
import pytest

from tessera.evaluate.copies import distances
from tessera.evaluate.copies.distances import (
    AT_ONCE,
    CLOSEST,
    copied,
    copy_numbers,
    nearest_training,
    search_seconds,
    yardstick,
)
from tessera.evaluate.scores import Protocol

RNG = np.random.default_rng(3)
TRAINING = RNG.normal(size=(400, 12))
PROTOCOL = Protocol(metric="copies", name="test")


def near(rows, distance):
    """Points at that distance from training rows."""
    step = RNG.normal(size=(len(rows), 12))
    return TRAINING[rows] + distance * step / np.linalg.norm(step, axis=1, keepdims=True)


def test_the_nearest_of_all_variants_counts():
    far = RNG.normal(size=(3, 12)) + 50
    variants = [np.concatenate([near([5], 0.1), far[:2]]), np.concatenate([far[2:], near([7, 9], 0.2)])]
    found = nearest_training(variants, TRAINING)
    assert found.rows.tolist() == [5, 7, 9]
    assert found.variants.tolist() == [0, 1, 1]
    assert found.distances == pytest.approx([0.1, 0.2, 0.2])


def test_planted_copies_are_counted_and_their_distance_is_zero():
    by = yardstick(nearest_training([RNG.normal(size=(2000, 12))], TRAINING))
    unseen = RNG.normal(size=(1000, 12))
    share, ratio = copy_numbers("copies", nearest_training([unseen], TRAINING), by, list(range(1000)), PROTOCOL)
    assert share.low <= CLOSEST <= share.high
    assert ratio.value == pytest.approx(1, abs=0.05)
    assert (share.metric, ratio.metric) == ("copies", "copies_ratio")
    drawn = np.concatenate([unseen[:40], near(np.arange(60), 1e-3)])
    found = nearest_training([drawn], TRAINING)
    assert copied(found, by)[40:].all()
    share, ratio = copy_numbers("copies", found, by, list(range(100)), PROTOCOL)
    assert share.value == pytest.approx(0.6, abs=0.05)
    assert ratio.value < 0.01
    assert ratio.high > ratio.low >= 0


@pytest.mark.parametrize("rounding", [0, 1e-6])
def test_duplicates_among_the_training_images_hide_no_copies(rounding):
    """Two in 100, so that the 1st percentile of all would be 0."""
    twice = np.concatenate([TRAINING, TRAINING[:4] + rounding])
    alone = yardstick(nearest_training([TRAINING], TRAINING, np.arange(400)))
    by = yardstick(nearest_training([twice], twice, np.arange(404)))
    assert (alone.duplicates, by.duplicates, by.images) == (0, 8, 404)
    assert by.closest == pytest.approx(alone.closest, rel=0.05)
    assert copied(nearest_training([near(np.arange(60), 1e-3)], twice), by).all()
    assert copied(nearest_training([TRAINING[:60]], twice), by).all()


def test_intervals_are_over_prompts():
    by = yardstick(nearest_training([RNG.normal(size=(500, 12))], TRAINING))
    drawn = np.repeat(RNG.normal(size=(50, 12)), 8, axis=0)  # eight equal images of each prompt
    found = nearest_training([drawn], TRAINING)
    apart = copy_numbers("copies", found, by, list(range(400)), PROTOCOL)[1]
    together = copy_numbers("copies", found, by, np.repeat(np.arange(50), 8).tolist(), PROTOCOL)[1]
    assert (together.n, together.clusters) == (400, 50)
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_intervals_are_over_images_where_prompts_are_unknown_and_one_prompt_has_none():
    by = yardstick(nearest_training([RNG.normal(size=(500, 12))], TRAINING))
    found = nearest_training([RNG.normal(size=(40, 12))], TRAINING)
    share, ratio = copy_numbers("copies", found, by, None, PROTOCOL)
    assert (share.interval, ratio.interval) == ("Wilson's score interval over images", "bootstrap over images")
    assert share.clusters is ratio.clusters is None
    apart = copy_numbers("copies", found, by, list(range(40)), PROTOCOL)
    assert [(n.low, n.high) for n in (share, ratio)] == [(n.low, n.high) for n in apart]
    share, ratio = copy_numbers("copies", found, by, ["a red fox"] * 40, PROTOCOL)
    assert share.low < share.high
    assert (ratio.low, ratio.high, ratio.interval) == (None, None, "none: 1 prompt, at least 2 are needed")
    ratio = copy_numbers("copies", nearest_training([np.zeros((1, 12))], TRAINING), by, None, PROTOCOL)[1]
    assert (ratio.low, ratio.high, ratio.interval) == (None, None, "none: 1 image, at least 2 are needed")


@pytest.mark.parametrize("rows", [50, 3 * AT_ONCE])
def test_the_time_of_searches_is_that_of_preparing_and_comparing(monkeypatch, rows):
    clock = [0.0]

    def took(images, among):
        return 1e-3 * among + 1e-6 * images * among

    def nearest(points, others):
        clock[0] += took(len(points), len(others))

    monkeypatch.setattr(distances, "nearest", nearest)
    monkeypatch.setattr(distances.time, "monotonic", lambda: clock[0])
    several = [200, 200, AT_ONCE + 5000]
    expected = 2 * took(200, rows) + took(AT_ONCE, rows) + took(5000, rows)
    assert search_seconds(several, np.zeros((rows, 2))) == pytest.approx(expected, rel=0.03)
