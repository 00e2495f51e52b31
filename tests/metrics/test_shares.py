"""Intervals of shares: by hand, and how often they hold the truth in simulations."""

import math

import numpy as np
import pytest

from tessera.config import UserError
from tessera.metrics import bootstrap, share_difference, share_interval
from tessera.metrics.resampling import student_t
from tessera.metrics.shares import auc


def wilson(share, number, t):
    """The textbook's formula."""
    center = (share + t**2 / (2 * number)) / (1 + t**2 / number)
    half = t * math.sqrt(share * (1 - share) / number + t**2 / (4 * number**2)) / (1 + t**2 / number)
    return center - half, center + half


def bounds(interval):
    return interval.low, interval.high


@pytest.mark.parametrize(
    ("dof", "expected"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (9, 2.262), (19, 2.093), (99, 1.984)]
)
def test_student_s_t(dof, expected):
    assert student_t(dof) == pytest.approx(expected, rel=0.008 if 3 <= dof <= 5 else 3e-4)


def test_single_values_have_wilson_s_interval():
    rng = np.random.default_rng(0)
    values = rng.random(60) < 0.7
    found = share_interval(values)
    assert found.value == values.mean()
    assert bounds(found) == pytest.approx(wilson(values.mean(), 60, student_t(59)), rel=1e-12)


def test_where_all_prompts_agree_their_pictures_count_as_half_alike():
    prompts = np.repeat(np.arange(20), 2)
    t, number = student_t(19), 40 / 1.5
    right, wrong = share_interval(np.ones(40), prompts), share_interval(np.zeros(40), prompts)
    assert (right.value, right.high) == (1, 1)
    assert right.low == pytest.approx(1 / (1 + t**2 / number))
    assert (wrong.low, wrong.value) == (0, 0)
    assert wrong.high == pytest.approx(1 - right.low)
    once = share_interval(np.ones(40))
    assert once.low == pytest.approx(1 / (1 + student_t(39) ** 2 / 40))
    one = share_interval([1.0, 1.0, 0.0, 1.0], ["a"] * 4)  # one prompt says next to nothing of others
    assert one.low < 0.1
    assert one.high > 0.9


def test_how_alike_the_pictures_of_a_prompt_are_decides():
    rng = np.random.default_rng(1)
    prompts = np.repeat(np.arange(50), 4)
    right = np.sort(rng.random(50) < 0.6).astype(float)
    known, t = 50 * min(right.mean(), 1 - right.mean()), student_t(49)
    # All four alike: V says so, but for the part that was guessed.
    effect = (known * 199 / 49 + 2.5) / (known + 1)
    found = share_interval(np.repeat(right, 4), prompts)
    assert bounds(found) == pytest.approx(wilson(right.mean(), 200 / effect, t), rel=1e-12)
    # Rights and wrongs that are spread more evenly than chance would still count for no more than their number ...
    even = np.tile([1.0, 0.0, 1.0, 0.0], 50)
    assert bounds(share_interval(even, prompts)) == pytest.approx(wilson(0.5, 200, t), rel=1e-12)
    # ... but values between may be more certain than single draws of the same share.
    between = share_interval(np.full(200, 0.5), prompts)
    assert bounds(between) == pytest.approx(wilson(0.5, 200 / (2.5 / 26), t), rel=1e-12)
    small = 0.02 + 0.01 * rng.random(200)  # a score near 0 that varies little
    low, high = bounds(share_interval(small, prompts))
    error = small.reshape(50, 4).mean(1).std(ddof=1) / 50**0.5
    assert 1.9 * t * error < high - low < 3 * t * error


def test_unequal_numbers_of_pictures():
    """The rarer a prompt's images, the less it counts: by hand, three prompts of 1, 2 and 5."""
    prompts, values = [0, 1, 1, 2, 2, 2, 2, 2], np.array([1.0, 1, 0, 1, 1, 0, 1, 0])
    share = 5 / 8
    sums = np.array([1 - share, 1 - 2 * share, 3 - 5 * share])
    variance = 3 / 2 * (sums**2).sum() / 64
    known = 3 * (1 - share)
    effect = (known * variance * 7 / (share * (1 - share)) + 1 + 0.5 * ((1 + 4 + 25) / 8 - 1)) / (known + 1)
    number = 8 / max(effect, 1)
    assert bounds(share_interval(values, prompts)) == pytest.approx(wilson(share, number, student_t(2)), rel=1e-12)


def test_groups_count_the_same_and_mirror_each_other():
    tasks, values = ["x"] * 30 + ["y"] * 10, np.array([1.0] * 24 + [0.0] * 6 + [1.0] * 2 + [0.0] * 8)
    found = share_interval(values, None, tasks)
    assert found.value == pytest.approx((0.8 + 0.2) / 2)
    t = student_t(38)
    parts = [wilson(0.8, 30, t), wilson(0.2, 10, t)]
    variance = (0.16 / 30 + 0.16 / 10) / 4
    whole = wilson(0.5, 0.25 / variance, t)
    assert found.low == pytest.approx(min(0.5 - math.hypot(0.8 - parts[0][0], 0.2 - parts[1][0]) / 2, whole[0]))
    assert found.high == pytest.approx(max(0.5 + math.hypot(parts[0][1] - 0.8, parts[1][1] - 0.2) / 2, whole[1]))
    mirrored = share_interval(1 - values, None, tasks)
    assert bounds(mirrored) == pytest.approx((1 - found.high, 1 - found.low))
    # A prompt's name in two groups is two clusters.
    names = list(range(30)) + list(range(10))
    assert share_interval(values, names, tasks) == found


@pytest.mark.parametrize("binary", [True, False])
def test_order_and_names_do_not_matter_and_right_mirrors_wrong(binary):
    rng = np.random.default_rng(2)
    prompts, tasks, seeds = rng.integers(0, 12, 90), rng.integers(0, 4, 90), rng.integers(0, 2, 90)
    a, b = rng.random((2, 90)) ** 2
    a, b = (a < 0.2, b < 0.3) if binary else (a, b)
    a, b = a.astype(float), b.astype(float)
    share, apart = share_interval(a, prompts, tasks, seeds), share_difference(a, b, prompts, tasks, seeds)
    order = rng.permutation(90)
    names = [f"p{(7 * number) % 12}" for number in prompts[order]], [-number for number in tasks[order]], seeds[order]
    assert bounds(share_interval(a[order], *names)) == pytest.approx(bounds(share), abs=1e-9)
    assert bounds(share_difference(a[order], b[order], *names)) == pytest.approx(bounds(apart), abs=1e-9)
    mirrored = share_interval(1 - a, prompts, tasks, seeds)
    assert bounds(mirrored) == pytest.approx((1 - share.high, 1 - share.low), abs=1e-9)
    mirrored = share_difference(1 - b, 1 - a, prompts, tasks, seeds)
    assert bounds(mirrored) == pytest.approx(bounds(apart), abs=1e-9)


@pytest.mark.parametrize("tasks", [(1, 1, 1, 1, 1, 1), (1, 1, 1, 0, 0, 0), (1, 0, 0, 0, 0, 0)])
def test_the_first_picture_that_is_otherwise_moves_an_interval_but_little(tasks):
    prompts = np.repeat(np.arange(120), 2)
    values = np.array(tasks, dtype=float)[prompts // 20]
    before = share_interval(values, prompts, prompts // 20)
    values[0] = 0
    after = share_interval(values, prompts, prompts // 20)
    assert bounds(after) == pytest.approx(bounds(before), abs=0.01)


def test_a_difference_by_hand():
    """Newcombe's: the ends' distances, less what the two have in common."""
    a = np.array([1.0] * 18 + [0.0] * 2)
    b = np.array([1.0] * 10 + [0.0] * 10)
    found = share_difference(a, b)
    assert found.value == pytest.approx(0.4)
    common, t = np.corrcoef(a, b)[0, 1], student_t(19)
    (low_a, high_a), (low_b, high_b) = wilson(0.9, 20, t), wilson(0.5, 20, t)
    below, above = 0.9 - low_a, high_b - 0.5
    assert found.low == pytest.approx(0.4 - math.sqrt(below**2 + above**2 - 2 * common * below * above))
    above, below = high_a - 0.9, 0.5 - low_b
    assert found.high == pytest.approx(0.4 + math.sqrt(above**2 + below**2 - 2 * common * above * below))
    other = share_difference(b, a)
    assert (other.low, other.high) == pytest.approx((-found.high, -found.low))


def test_two_models_that_never_fail_differ_by_less_than_the_prompts_can_tell():
    prompts = np.repeat(np.arange(20), 2)
    found = share_difference(np.ones(40), np.ones(40), prompts)
    apart = 1 - share_interval(np.ones(40), prompts).low
    assert found.value == 0
    assert bounds(found) == pytest.approx((-apart, apart))
    assert share_difference(np.ones(40), np.zeros(40), prompts).high == 1
    # Values that agree but for rounding have nothing in common.
    third, tenth = (share_interval(np.full(40, value), prompts) for value in (1 / 3, 0.1))
    found = share_difference(np.full(40, 1 / 3), np.full(40, 0.1), prompts)
    low = math.hypot(third.value - third.low, tenth.high - tenth.value)
    assert found.low == pytest.approx(1 / 3 - 0.1 - low, rel=1e-9)


def test_repeats_add_what_lies_between_them():
    values = np.concatenate([np.zeros(50), np.ones(50)])
    prompts, seeds = np.tile(np.arange(50), 2), np.repeat([7, 8], 50)
    found = share_interval(values, prompts, None, seeds)
    assert (found.low, found.value, found.high) == (0, 0.5, 1)
    alone = share_interval(values, prompts)
    assert alone.high - alone.low < 0.4
    assert share_interval(values, prompts, None, ["one"] * 100) == alone
    # Seeds that say the same add nothing.
    twice = np.tile(np.arange(50) < 20, 2)
    assert share_interval(twice, prompts, None, seeds) == share_interval(twice, prompts)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: share_interval([]), "at least one"),
        (lambda: share_interval([0.5, 1.2]), r"values: .*0\.\.1"),
        (lambda: share_interval([0.5, float("nan")]), r"values: .*0\.\.1"),
        (lambda: share_interval([[0.5], [1.0]]), "one number"),
        (lambda: share_interval([1.0, 0.0], ["a"]), "clusters: 1 labels for 2"),
        (lambda: share_interval([1.0, 0.0], None, ["a"]), "groups: 1 labels for 2"),
        (lambda: share_interval([1.0, 0.0], None, None, ["a"]), "repeats: 1 labels for 2"),
        (lambda: share_difference([1.0], [1.0, 0.0]), "pairs"),
        (lambda: share_difference([1.0], [-1.0]), r"b: .*0\.\.1"),
    ],
)
def test_bad_input_is_a_user_error(call, words):
    with pytest.raises(UserError, match=words):
        call()


def skills(rng, share, alike, shape):
    """How often each prompt is drawn rightly: beta, with mean `share` and the correlation `alike` within a prompt."""
    spread = (1 - alike) / alike
    return rng.beta(share * spread, (1 - share) * spread, shape)


def coverage(draw, truth, repeats):
    """Share of intervals that hold the truth; draw(rng) -> Interval."""
    rng = np.random.default_rng(0)
    found = [draw(rng) for _ in range(repeats)]
    return np.mean([one.low <= truth + 1e-12 and truth - 1e-12 <= one.high for one in found])


@pytest.mark.parametrize("alike", [0.1, 0.5])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.9, 0.95, 0.97])
def test_twenty_prompts_hold_the_truth_also_near_the_edge(share, alike):
    """20 prompts of 2 images, where the bootstrap's interval holds 0.97 in 7 of 10 draws."""
    prompts = np.repeat(np.arange(20), 2)

    def draw(rng):
        return share_interval(rng.random(40) < skills(rng, share, alike, 20)[prompts], prompts)

    assert 0.93 <= coverage(draw, share, 1500) <= 0.99


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_prompts_with_very_unlike_numbers_of_pictures_hold_the_truth(share):
    """Half have one image, the others 20 on average."""

    def draw(rng):
        labels = np.repeat(np.arange(50), np.where(rng.random(50) < 0.5, 1, 3 * rng.geometric(0.15, 50)))
        return share_interval(rng.random(len(labels)) < skills(rng, share, 0.4, 50)[labels], labels)

    assert 0.9 <= coverage(draw, share, 1000) <= 0.99


def test_the_bootstrap_does_not_near_the_edge():
    prompts = np.repeat(np.arange(20), 2)

    def draw(rng):
        return bootstrap(rng.random(40) < skills(rng, 0.97, 0.3, 20)[prompts], prompts, 200)

    assert coverage(draw, 0.97, 500) < 0.8


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97, 0.99])
def test_a_hundred_prompts_hold_the_truth(share):
    """100 prompts of 4 images, as GenEval's tasks have."""
    prompts = np.repeat(np.arange(100), 4)

    def draw(rng):
        return share_interval(rng.random(400) < skills(rng, share, 0.3, 100)[prompts], prompts)

    assert 0.92 <= coverage(draw, share, 1500) <= 0.98


@pytest.mark.parametrize(
    "shares",
    [(0.97, 0.9, 0.5, 0.3, 0.05, 0.01), (1.0, 1.0, 1.0, 1.0, 0.9, 0.5), (0.5,) * 6, (0.95,) * 6, (0.99,) * 6],
)
def test_means_of_six_tasks_hold_the_truth(shares):
    prompts = np.repeat(np.arange(120), 2)
    tasks = prompts // 20
    means = np.clip(shares, 0.0001, 0.9999)

    def draw(rng):
        skill = np.where(np.array(shares)[:, None] < 1, skills(rng, means[:, None], 0.4, (6, 20)), 1).reshape(-1)
        return share_interval(rng.random(240) < skill[prompts], prompts, tasks)

    assert 0.93 <= coverage(draw, np.mean(shares), 1500) <= 0.985


@pytest.mark.parametrize(
    "shares", [(0.97, 0.9), *(pytest.param(s, marks=pytest.mark.slow) for s in ((0.5, 0.5), (0.7, 0.5), (0.9, 0.9)))]
)
def test_differences_hold_the_truth_and_gain_from_what_is_common(shares):
    prompts = np.repeat(np.arange(50), 4)
    widths = []

    def draw(rng):
        ease = rng.random(50)  # of each prompt, for both models; its power k has the mean 1 / (k + 1)
        a, b = (rng.random(200) < (ease ** (1 / share - 1))[prompts] for share in shares)
        apart = share_interval(a, prompts), share_interval(b, prompts)
        found = share_difference(a, b, prompts)
        widths.append((found.high - found.low) / math.hypot(*(one.high - one.low for one in apart)))
        return found

    assert 0.93 <= coverage(draw, shares[0] - shares[1], 1500) <= 0.99
    assert np.mean(widths) < (0.95 if shares[0] == shares[1] else 1)


def test_repeats_and_prompts_together_hold_the_truth():
    """Twelve seeds that differ, on the same 120 prompts in six tasks."""
    prompts, seeds = np.tile(np.repeat(np.arange(120), 2), 12), np.repeat(np.arange(12), 240)

    def draw(rng):
        skill = 0.2 + 0.6 * rng.beta(2, 2, 120) + 0.05 * rng.normal(size=(12, 1))
        return share_interval(rng.random(2880) < np.repeat(skill, 2, 1).reshape(-1), prompts, prompts % 6, seeds)

    assert 0.93 <= coverage(draw, 0.5, 600) <= 0.985


def test_auc_is_the_share_of_pairs_in_order():
    assert auc([2, 3], [0, 1]) == 1
    assert auc([0, 1], [2, 3]) == 0
    assert auc([1, 1], [1, 1]) == 0.5
    a, b = np.random.default_rng(0).normal(size=(2, 40)).round(1)
    expected = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    assert auc(a, b) == pytest.approx(expected)
