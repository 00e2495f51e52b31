"""The bootstrap: how often its intervals hold the truth in simulations, and what it refuses."""

import numpy as np
import pytest

from tessera.config import UserError
from tessera.metrics import Interval, bootstrap, bootstrap_median, paired_bootstrap


def coverage(draw, truth, repeats=2000):
    """Share of `repeats` intervals that hold the truth; draw(rng) -> Interval."""
    rng = np.random.default_rng(0)
    hits = [interval.low <= truth <= interval.high for interval in (draw(rng, seed) for seed in range(repeats))]
    return np.mean(hits)


@pytest.mark.parametrize(("clusters", "per_cluster"), [(40, 1), (15, 1), (25, 4)])
def test_intervals_hold_the_truth_95_times_of_100(clusters, per_cluster):
    labels = np.repeat(np.arange(clusters), per_cluster)

    def draw(rng, seed):
        shared = rng.normal(size=clusters)[labels]
        values = 0.3 + shared + 0.5 * rng.normal(size=len(labels))
        return bootstrap(values, None if per_cluster == 1 else labels, n=300, seed=seed)

    assert 0.93 <= coverage(draw, 0.3) <= 0.97


def test_without_clusters_correlated_values_look_more_certain_than_they_are():
    labels = np.repeat(np.arange(25), 4)

    def draw(rng, seed):
        return bootstrap(rng.normal(size=25)[labels], n=200, seed=seed)

    assert coverage(draw, 0.0, repeats=300) < 0.8


def test_paired_intervals_hold_the_truth_and_are_narrower():
    labels = np.repeat(np.arange(30), 2)
    widths = []

    def draw(rng, seed):
        difficulty = 3 * rng.normal(size=30)[labels]
        a, b = (difficulty + rng.normal(size=30)[labels] + 0.3 * rng.normal(size=60) for _ in range(2))
        interval = paired_bootstrap(a + 0.5, b, labels, n=300, seed=seed)
        apart = bootstrap(a, labels, n=300, seed=seed)
        widths.append((interval.high - interval.low) / (apart.high - apart.low))
        return interval

    assert 0.93 <= coverage(draw, 0.5, repeats=1500) <= 0.97
    assert np.mean(widths) < 0.7


def test_intervals_depend_on_the_seed_alone():
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)
    whole = bootstrap(values, seed=1)
    assert bootstrap(values, seed=1, block_entries=100) == whole


def test_clusters_of_one_kind_have_no_width():
    assert bootstrap([1.0] * 8) == Interval(1, 1, 1)
    assert bootstrap([0.0, 1.0, 1.0, 0.0], ["a"] * 4) == Interval(0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap([]), "at least one value"),
        (lambda: bootstrap([1.0, 2.0], ["a"]), "1 labels for 2"),
        (lambda: bootstrap(np.ones((2, 2))), "shape"),
        (lambda: paired_bootstrap([1.0], [1.0, 2.0]), "pairs"),
    ],
)
def test_bad_input_is_a_user_error(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_median_intervals_hold_the_truth_95_times_of_100():
    labels = np.repeat(np.arange(40), 3)

    def draw(rng, seed):
        values = np.exp(rng.normal(size=40)[labels] + 0.5 * rng.normal(size=120))
        return bootstrap_median(values, labels, n=200, seed=seed)

    assert 0.92 <= coverage(draw, 1.0, repeats=600) <= 0.98


def test_the_median_is_the_lower_one_of_two_and_needs_a_label_for_each_value():
    assert bootstrap_median([4.0, 1.0, 2.0, 3.0], list("abcd")).value == 2
    assert bootstrap_median([5.0, 5.0, 5.0], [0, 1, 2]) == Interval(5.0, 5.0, 5.0)
    with pytest.raises(UserError, match="3 values, 2 labels"):
        bootstrap_median([1.0, 2.0, 3.0], [0, 1])
