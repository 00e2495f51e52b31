"""Algorithm 1 against its equations, and the limit of latents."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.config import UserError
from tessera.diffusion.schedule import SCHEDULES, linear
from tessera.encoded.store import open_encoded
from tessera.randomness import philox
from tessera.train.algorithm1 import BLOCK, CLEANER, Algorithm1, CaptionMix, Normalization, Times, latent_limit
from tiny.training_sets import SHAPE, make_records, write_set


def draws_of(count: int, **changes):
    arguments = {"plain": 101, "augmented": 53, "min_t": 0.4, "prob": 0.5, "seed": 5, "schedule": linear} | changes
    return Algorithm1(**arguments).draws(np.arange(count))


def four_sigma(share: float, count: int) -> float:
    return 4 * np.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize(("min_t", "prob"), [(0.4, 0.5), (0.4, 0.25), (0.0, 1.0), (0.75, 0.9)])
def test_share_of_augmented_samples_is_what_equation_3_says(min_t, prob):
    count = 40_000
    draws = draws_of(count, min_t=min_t, prob=prob)
    expected = (1 - min_t) * prob
    assert abs(draws.augmented.mean() - expected) <= four_sigma(expected, count)
    assert not draws.augmented[draws.t <= min_t].any()
    above = draws.t > min_t
    assert abs(draws.augmented[above].mean() - prob) <= four_sigma(prob, above.sum())


def test_t_is_uniform_whatever_the_augmentation():
    draws = draws_of(40_000)
    assert np.abs(np.histogram(draws.t, bins=10, range=(0, 1))[0] - 4000).max() < 4 * np.sqrt(4000)
    assert np.array_equal(draws.t, draws_of(40_000, prob=0.0, augmented=None).t)


def test_times_of_a_logistic_normal_with_a_shift():
    draws = draws_of(40_000, times=Times(distribution="logit_normal", shift=3.0))
    t = draws.t / (3 - 2 * draws.t)  # the shift undone
    logits = np.log(t / (1 - t))
    assert logits.mean() == pytest.approx(0, abs=4 / np.sqrt(40_000))
    assert logits.std() == pytest.approx(1, abs=4 / np.sqrt(80_000))
    assert np.mean(np.abs(logits) < 1) == pytest.approx(0.6827, abs=four_sigma(0.6827, 40_000))
    assert not draws.augmented[draws.t <= 0.4].any()
    uniform = draws_of(40_000)
    assert np.array_equal(np.argsort(draws.t), np.argsort(uniform.t))
    assert np.array_equal(draws.drop_caption, uniform.drop_caption)


def test_no_time_leaves_the_unit_interval():
    ends = np.array([0.0, 2.0**-53, 0.5, 1 - 2.0**-53])
    for distribution in ("uniform", "logit_normal"):
        for shift in (0.2, 1.0, 5.0):
            t = Times(distribution=distribution, shift=shift)(ends)
            assert (np.diff(t) > 0).all()
            assert (t[0], t[-1] <= 1) == (0.0, True)
    assert Times()(ends) is ends


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_alpha_bar_is_the_schedule_at_t(name):
    draws = draws_of(100, schedule=name)
    assert np.array_equal(draws.alpha_bar, SCHEDULES[name](torch.from_numpy(draws.t)).numpy())
    assert np.array_equal(draws.alpha_bar, draws_of(100, schedule=SCHEDULES[name]).alpha_bar)


@pytest.mark.parametrize("start", [1, 500, BLOCK, BLOCK + 77, 3 * BLOCK])
def test_no_augmented_sample_before_start(start):
    late, always = draws_of(4 * BLOCK, start=start), draws_of(4 * BLOCK)
    assert not late.augmented[:start].any()
    assert np.array_equal(late.augmented[start:], always.augmented[start:])
    assert np.array_equal(late.t, always.t)
    # The augmented set starts its first epoch there.
    assert sorted(late.index[late.augmented][:53]) == list(range(53))


def with_latents(tmp_path, mean: np.ndarray, std: np.ndarray):
    """A set whose records hold these latents, (n, C, H, W) each."""
    records = [
        replace(record, latent_mean=m.astype(np.float16), latent_std=s.astype(np.float16))
        for record, m, s in zip(make_records(len(mean)), mean, std)
    ]
    return open_encoded(write_set(tmp_path / "set", records))


def test_latents_of_the_published_vae_reach_its_widest_channel(tmp_path):
    """Channel means and spreads of the published config; the posterior has half of the variance."""
    means, stds = np.array([5.81, 3.25, 0.12, -2.15]), np.array([4.17, 4.62, 3.71, 3.28])
    noise = philox(0, "latents").standard_normal((600, *SHAPE))
    mean = means[:, None, None] + stds[:, None, None] * noise * np.sqrt(0.5)
    std = np.broadcast_to(stds[:, None, None] * np.sqrt(0.5), mean.shape)
    store = with_latents(tmp_path, mean, std)
    assert latent_limit(store, Normalization(scale=(0.18215,))) == pytest.approx(3.34, abs=0.11)
    assert latent_limit(store, Normalization(tuple(means), tuple(0.5 / stds))) == pytest.approx(1.5, abs=0.11)


def test_latents_never_reach_beyond_the_largest(tmp_path):
    signs = np.where(philox(0, "signs").random((20, *SHAPE)) < 0.5, -1.0, 1.0)
    store = with_latents(tmp_path, signs, np.zeros_like(signs))
    assert latent_limit(store, Normalization(scale=(0.2,))) == 0.2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_latents_that_are_not_finite_are_named_before_training(tmp_path, bad):
    """Otherwise a run would train to its end, and then fail to write the limit of its latents."""
    means = np.zeros((20, *SHAPE))
    means[7, 0, 1, 2] = bad
    with pytest.raises(UserError, match="the latents of record 'thing/7' are not finite"):
        latent_limit(with_latents(tmp_path, means, np.zeros_like(means)), Normalization())


@pytest.mark.parametrize(("first", "last"), [(0.1, 1.0), (1.0, 0.1), (0.7, 0.0)])
def test_the_probability_moves_in_a_straight_line(first, last):
    start, end, count = 10_000, 90_000, 120_000
    draws = draws_of(count, prob=first, start=start, end=(end, last))
    above = draws.t > 0.4
    assert not draws.augmented[~above].any()
    assert not draws.augmented[:start].any()
    edges = [*range(start, end + 1, 8_000), count]
    for a, b in itertools.pairwise(edges):
        middle = min((a + b) / 2, end) if a < end else end
        expected = first + (last - first) * (middle - start) / (end - start)
        drawn = draws.augmented[a:b][above[a:b]]
        assert abs(drawn.mean() - expected) <= four_sigma(expected, len(drawn))
    # The addresses are the same as with a constant probability: only the choice of the set moves.
    assert np.array_equal(draws.t, draws_of(count, prob=first, start=start).t)
    taken = draws.index[draws.augmented]
    assert [sorted(taken[i : i + 53]) for i in range(0, 530, 53)] == [list(range(53))] * 10


def test_an_end_without_a_beginning_is_refused():
    with pytest.raises(UserError, match="augment_prob_end: needs an augment_prob above 0"):
        draws_of(10, prob=0.0, end=(100, 0.5))


def naive(count, plain, augmented, min_t, prob, seed, start):
    """Algorithm 1 as a loop over samples with a counter for each set."""
    seen = {"plain": 0, "augmented": 0}
    for number in range(count):
        block, place = divmod(number, BLOCK)
        if place == 0:
            uniforms = philox(seed, "draws", block).random((4, BLOCK))
        source = "plain"
        if uniforms[0, place] > min_t and uniforms[1, place] < prob and number >= start:
            source = "augmented"
        size = {"plain": plain, "augmented": augmented}[source]
        epoch, offset = divmod(seen[source], size)
        seen[source] += 1
        yield source, int(philox(seed, f"order/{source}", epoch).permutation(size)[offset])


@pytest.mark.parametrize("start", [0, 300])
def test_against_a_sample_by_sample_loop(start):
    first = BLOCK - 200
    algorithm = Algorithm1(7, 3, 0.4, 0.5, 11, linear, start=start)
    expected = list(naive(BLOCK + 200, 7, 3, 0.4, 0.5, 11, start))[first:]
    found = [algorithm[g] for g in range(first, BLOCK + 200)]
    assert [(s.source, s.index) for s in found] == expected


@settings(max_examples=25)
@given(
    plain=st.integers(1, 3000),
    augmented=st.integers(1, 3000),
    prob=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    start=st.integers(0, 2 * BLOCK),
)
def test_each_epoch_of_each_set_has_every_record_once(plain, augmented, prob, seed, start):
    draws = draws_of(2 * BLOCK, plain=plain, augmented=augmented, prob=prob, seed=seed, start=start)
    for taken, size in ((draws.index[~draws.augmented], plain), (draws.index[draws.augmented], augmented)):
        for epoch in range(0, len(taken), size):
            part = taken[epoch : epoch + size]
            assert len(np.unique(part)) == len(part)
            assert part.min() >= 0
            assert part.max() < size


def test_epochs_have_different_orders():
    taken = draws_of(1000, prob=0.0).index
    assert not np.array_equal(taken[:101], taken[101:202])
    assert not np.array_equal(taken[:101], draws_of(1000, prob=0.0, seed=6).index[:101])


def test_random_access_equals_the_sequence():
    whole = draws_of(5 * BLOCK)
    algorithm = Algorithm1(101, 53, 0.4, 0.5, 5, linear)
    for number in (4 * BLOCK + 3, 17, 2 * BLOCK, 5 * BLOCK - 1, 0, BLOCK - 1):
        sample = algorithm[number]
        assert (sample.number, sample.t, sample.index) == (number, whole.t[number], whole.index[number])
        assert (sample.source == "augmented") == whole.augmented[number]
    mixed = np.array([4 * BLOCK, 3, BLOCK, 4])
    assert np.array_equal(algorithm.draws(mixed).index, whole.index[mixed])
    with pytest.raises(IndexError):
        algorithm[-1]


def test_shares_of_dropped_captions_and_of_self_conditioning():
    count = 40_000
    draws = draws_of(count, caption_drop_prob=0.1, self_condition_prob=0.9)
    assert abs(draws.drop_caption.mean() - 0.1) < four_sigma(0.1, count)
    assert abs(draws.self_condition.mean() - 0.9) < four_sigma(0.9, count)
    assert abs(draws.drop_caption[draws.augmented].mean() - 0.1) < four_sigma(0.1, draws.augmented.sum())
    none = draws_of(count)
    assert not none.drop_caption.any()
    assert not none.self_condition.any()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"plain": 0}, "plain"),
        ({"augmented": None}, "augment_prob"),
        ({"augmented": 0}, "augment_prob"),
        ({"prob": 1.5}, "prob is 1.5; give a number in"),
        ({"min_t": -0.1}, "min_t is -0.1"),
        ({"start": -1}, "start is -1; give at least 0"),
        ({"caption_drop_prob": 2.0}, "caption_drop_prob"),
        ({"schedule": "lineer"}, "linear"),
    ],
)
def test_impossible_settings_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        draws_of(1, **changes)


MIX = CaptionMix(levels=("long", "short", "tags"), weights=(0.6, 0.3, 0.1))


def test_levels_are_drawn_by_their_probabilities_and_change_no_other_draw():
    count = 40_000
    draws, without = draws_of(count, caption_mix=MIX), draws_of(count)
    for level, share in enumerate(MIX.weights, start=1):
        for some in (draws.level, draws.level[draws.augmented]):
            assert abs((some == level).mean() - share) <= four_sigma(share, len(some))
    for name in ("number", "t", "alpha_bar", "augmented", "index", "drop_caption", "self_condition"):
        assert np.array_equal(draws[name], without[name]), name
    assert not without.level.any()


def test_a_level_has_the_address_of_its_sample():
    whole = draws_of(2 * BLOCK, caption_mix=MIX).level
    algorithm = Algorithm1(101, 53, 0.4, 0.5, 5, linear, caption_mix=MIX)
    numbers = philox(0, "some").permutation(2 * BLOCK)[:500]
    assert [algorithm[g].level for g in numbers[:50].tolist()] == whole[numbers[:50]].tolist()
    assert np.array_equal(algorithm.draws(numbers).level, whole[numbers])
    assert not np.array_equal(draws_of(2 * BLOCK, caption_mix=MIX, seed=6).level, whole)


def test_the_mix_begins_at_its_start():
    start, count = 30_001, 60_000
    short = draws_of(count, caption_mix=replace(MIX, start=start)).level
    assert not short[:start].any()
    assert np.array_equal(short[start:], draws_of(count, caption_mix=MIX).level[start:])


OWN = philox(0, "min_t").choice([0.0, 0.3, 0.7, 0.95, 1.0], size=53)
"""Least t of 53 augmented records."""


def test_one_tau_for_all_records_is_the_scalar():
    for start in (0, BLOCK + 7):
        one, all_alike = (draws_of(3 * BLOCK, min_t=min_t, start=start) for min_t in (0.4, np.full(53, 0.4)))
        assert np.array_equal(one, all_alike)


def test_no_record_is_drawn_at_or_below_its_own_tau():
    count = 60_000
    draws = draws_of(count, min_t=OWN, prob=0.8)
    index, t = draws.index[draws.augmented], draws.t[draws.augmented]
    assert (t > OWN[index]).all()
    assert set(np.unique(index)) == set(np.flatnonzero(OWN < 1))
    expected = 0.8 * (1 - OWN)  # share of samples above a record's own t, for each of the 53 in turn
    seen = np.bincount(index, minlength=53)
    assert np.abs(seen - count * expected / 53).max() < 4 * np.sqrt(count * 0.8 / 53)
    plain = draws.index[~draws.augmented]
    for epoch in range(len(plain) // 101):
        assert len(set(plain[epoch * 101 : (epoch + 1) * 101].tolist())) == 101


def test_draws_by_own_tau_have_addresses():
    whole = draws_of(3 * BLOCK, min_t=OWN, start=100)
    later = Algorithm1(101, 53, OWN, 0.5, 5, linear, start=100)
    numbers = np.array([2 * BLOCK + 5, 17, BLOCK + 1, 3 * BLOCK - 1])
    assert np.array_equal(later.draws(numbers), whole[numbers])


def test_augmented_up_to_a_t_alone():
    draws = draws_of(20_000, min_t=0.0, max_t=0.2)
    assert draws.t[draws.augmented].max() <= 0.2
    assert draws.augmented.mean() == pytest.approx(0.1, abs=four_sigma(0.1, 20_000))


@pytest.mark.parametrize("min_t", [0.4, OWN])
def test_below_tau_augmented_samples_are_masked(min_t):
    draws = draws_of(20_000, min_t=min_t, below=True)
    records = np.where(draws.augmented, draws.index, 0)
    own = min_t[records] if isinstance(min_t, np.ndarray) else np.full(len(draws), min_t)
    assert draws.augmented.mean() == pytest.approx(0.5, abs=four_sigma(0.5, 20_000))
    assert np.array_equal(draws.masked, draws.augmented & (draws.t <= np.where(draws.augmented, own, 0)))
    assert 0.1 < draws.masked[draws.augmented].mean() < 0.9
    assert not draws_of(BLOCK, min_t=min_t).masked.any()


@pytest.mark.parametrize("min_t", [0.4, OWN])
@pytest.mark.parametrize("below", [False, True])
def test_the_cleaner_view_has_less_noise_but_shows_no_seam(min_t, below):
    """Uniformly less, by addresses of its own; 0 at least, and a CutMix image's own least t."""
    draws = draws_of(20_000, min_t=min_t, prob=0.8, below=below)
    t = 1 - draws.cleaner_alpha_bar  # `linear` has alpha_bar = 1 - t
    own = np.where(draws.augmented & ~draws.masked, min_t if isinstance(min_t, float) else min_t[draws.index % 53], 0.0)
    assert (t >= own - 1e-12).all()
    assert (t <= draws.t + 1e-12).all()
    less = (draws.t - t)[(own == 0) & (draws.t > CLEANER)]
    assert 0 <= less.min() < less.max() <= CLEANER
    assert less.mean() == pytest.approx(CLEANER / 2, abs=4 * CLEANER / np.sqrt(12 * len(less)))
    again = draws_of(5009, min_t=min_t, prob=0.8, below=below).cleaner_alpha_bar
    assert np.array_equal(draws.cleaner_alpha_bar[:5009], again)
    assert abs(np.corrcoef(less, draws.t[(own == 0) & (draws.t > CLEANER)])[0, 1]) < 0.05
