"""Intervals of the distances: values without a block against the metric itself, and coverage in simulations."""

import math
import tracemalloc

import numpy as np
import pytest

from tessera.config import UserError
from tessera.metrics import (
    LeftOut,
    bootstrap,
    cmmd,
    cmmd_left_out,
    deal_blocks,
    frechet_distance,
    frechet_left_out,
    jackknife,
    kid,
    kid_left_out,
    paired_jackknife,
    prdc,
    prdc_left_out,
)

PARTS = ("precision", "recall", "density", "coverage")


def sets(rows, other, width, seed=0, kind="plain"):
    """Real and fake features that overlap, and blocks of unequal sizes."""
    rng = np.random.default_rng(seed)
    real, fake = rng.normal(size=(rows, width)), 1.2 * rng.normal(size=(other, width)) + 0.2
    if kind == "duplicates":
        real[: rows // 2], fake[10:30], fake[30:40] = real[-(rows // 2) :], np.tile(fake[:2], (10, 1)), real[:10]
    elif kind == "constant columns":
        real[:, width // 2 :], fake[:, width // 2 :] = 7.0, 7.0
    elif kind == "lattice":
        real, fake = rng.integers(0, 3, (rows, width)) * 1.0, rng.integers(0, 4, (other, width)) * 1.0
    elif kind == "float32":
        real, fake = real.astype(np.float32), fake.astype(np.float32)
    blocks = rng.permutation(np.concatenate([np.arange(6), rng.integers(0, 6, other - 6)]))
    return real, fake, blocks


KINDS = ("plain", "duplicates", "constant columns", "lattice", "float32")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "other", "width"), [(90, 80, 10), (60, 50, 70), (90, 40, 70), (40, 90, 70)])
def test_the_frechet_distance_without_a_block_is_that_of_the_others(rows, other, width, kind):
    real, fake, blocks = sets(rows, other, width, kind=kind)
    found = frechet_left_out(real, fake, blocks)
    assert found.value == frechet_distance(real, fake) or min(rows, other) > width
    assert found.value == pytest.approx(frechet_distance(real, fake), rel=1e-9)
    expected = [frechet_distance(real, fake[blocks != block]) for block in range(6)]
    np.testing.assert_allclose(found.without, expected, rtol=1e-5)
    assert np.ptp(found.without) > 1e-3 * found.value  # what rounding cannot make


def test_the_frechet_distance_without_a_block_of_nearly_all_images():
    real, fake, _ = sets(60, 50, 10)
    blocks = np.repeat([0, 1], [45, 5])  # 5 images are left: fewer than widths
    expected = [frechet_distance(real, fake[blocks != block]) for block in range(2)]
    np.testing.assert_allclose(frechet_left_out(real, fake, blocks).without, expected, rtol=1e-6)
    with pytest.raises(UserError, match="1 images are left"):
        frechet_left_out(real, fake[:5], np.array([0, 0, 0, 0, 1]))


def test_one_long_caption_takes_no_room_for_all():
    """Prompts may be as long as a language model writes them."""
    captions = [f"caption {i}" for i in range(400)] + ["long " * 4000]
    tracemalloc.start()
    dealt = deal_blocks(captions)
    found = bootstrap(np.arange(401), captions, n=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000
    assert (dealt == deal_blocks(np.array(captions))).all()  # the same blocks as by an array of them
    assert found == bootstrap(np.arange(401), np.array(captions), n=10)


def test_cmmd_without_a_block_is_that_of_the_others():
    real, fake, blocks = sets(70, 600, 8)
    found = cmmd_left_out(real, fake, blocks)
    assert found.value == pytest.approx(cmmd(real, fake), rel=1e-12)
    np.testing.assert_allclose(found.without, [cmmd(real, fake[blocks != b]) for b in range(6)], rtol=1e-8)


def test_kid_without_a_block_is_that_of_the_same_subsets():
    real, fake, blocks = sets(40, 40, 5)
    found = kid_left_out(real, fake, blocks, subsets=3, size=40)
    assert found.value == kid(real, fake, subsets=3, size=40)

    def plain(a, b):
        kernels = [(x @ y.T / 5 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
        n, m = len(a), len(b)
        within = [(k.sum() - k.trace()) / (c * (c - 1)) for k, c in zip(kernels[:2], (n, m), strict=True)]
        return sum(within) - 2 * kernels[2].mean()

    np.testing.assert_allclose(found.without, [plain(real, fake[blocks != b]) for b in range(6)], rtol=1e-9)
    parts = kid_left_out(real, fake, blocks, subsets=9, size=20, seed=3)
    assert parts.value == kid(real, fake, subsets=9, size=20, seed=3)
    assert np.isfinite(parts.without).all()
    few = kid_left_out(real, fake[:6], np.array([0, 0, 0, 0, 0, 1]), subsets=1, size=6)
    assert np.isnan(few.without).tolist() == [True, False]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("width", [2, 70])
def test_neighbors_without_a_block_are_those_of_the_others(k, width, kind):
    real, fake, blocks = sets(83, 76, width, seed=k, kind=kind)
    found = prdc_left_out(real, fake, k, blocks, block_entries=1000)
    assert {name: found[name].value for name in PARTS} == vars(prdc(real, fake, k))
    for block in range(6):
        expected = vars(prdc(real, fake[blocks != block], k))
        assert {name: found[name].without[block] for name in PARTS} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("spare", [0, 8])
def test_neighbors_that_all_belong_to_one_block(spare):
    """An image among copies of another prompt: its ball has to reach beyond all that are kept."""
    rng = np.random.default_rng(0)
    centres = 5 * rng.normal(size=(4, 3))
    fake = np.concatenate([centres[i] + 0.1 * rng.normal(size=(30, 3)) for i in range(4)])
    blocks = np.repeat(np.arange(4), 30)
    blocks[::30] = (blocks[::30] + 1) % 4  # one of each group is of another block
    real = np.concatenate([fake[:60] + 0.05, 2 * rng.normal(size=(40, 3))])
    found = prdc_left_out(real, fake, 3, blocks, spare=spare)
    for block in range(4):
        expected = vars(prdc(real, fake[blocks != block], 3))
        assert {name: found[name].without[block] for name in PARTS} == pytest.approx(expected, abs=1e-12)
    with pytest.raises(UserError, match="images are left"):
        prdc_left_out(real, fake, 3, np.minimum(np.arange(120), 117) // 117)


def test_blocks_are_of_whole_prompts_and_of_equal_numbers_of_them():
    prompts = [f"prompt {i % 47}" for i in range(141)]
    blocks = deal_blocks(prompts, seed=5)
    assert len({(prompt, block) for prompt, block in zip(prompts, blocks, strict=True)}) == 47
    assert set(np.bincount(blocks)) == {6, 9}
    np.testing.assert_array_equal(blocks, deal_blocks(prompts, seed=5))
    assert (blocks != deal_blocks(prompts, seed=6)).any()
    assert deal_blocks(range(19)) is None
    assert sorted(deal_blocks(range(20))) == list(range(20))


def test_the_jackknife_of_a_mean_is_its_standard_error():
    """Of blocks of one image; of unequal blocks it is near."""
    values = np.random.default_rng(0).normal(size=30)
    without = (values.sum() - values) / 29
    interval = jackknife(LeftOut(values.mean(), without), np.ones(30))
    half = 2.04523 * values.std(ddof=1) / math.sqrt(30)  # the 97.5% point of Student's t with 29 degrees of freedom
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-4)
    cut = jackknife(LeftOut(values.mean(), without), np.ones(30), least=values.mean() - 0.01, most=values.mean())
    assert (cut.low, cut.high) == (values.mean() - 0.01, values.mean())
    assert jackknife(LeftOut(1.0, np.ones(20)), np.ones(20)) is None
    assert jackknife(LeftOut(0.1 + 0.2, np.array([0.3] * 19 + [0.1 + 0.2])), np.ones(20)) is None
    with pytest.raises(UserError, match="2 blocks for 3"):
        jackknife(LeftOut(1.0, np.ones(3)), [1, 2])
    with pytest.raises(UserError, match="at least 2"):
        deal_blocks([1, 2], 1)


def pictures(rng, count, width, kind):
    """Those of a model; "prompts": five of each prompt, which have much in common."""
    if kind == "prompts":
        shared = np.repeat(rng.normal(size=(count // 5, width)), 5, 0)
        return shared + 0.5 * rng.normal(size=(count, width)) + 0.6
    return 1.3 * rng.normal(size=(count, width)) + 0.6


METRICS = {
    "fid": (8, frechet_left_out),
    "kid": (8, lambda real, fake, blocks: kid_left_out(real, fake, blocks, 2, 150)),
    "cmmd": (8, cmmd_left_out),
    "prdc": (3, lambda real, fake, blocks: prdc_left_out(real, fake, 3, blocks)),
}
"""What has an interval, and the width of features to try it with."""
WIDER = {"recall": 2.5, "coverage": 1.4}
"""How much wider than need be: those two are no sums over the generated images (see `tessera.metrics.jackknife`)."""


@pytest.mark.parametrize("kind", ["single", "prompts"])
@pytest.mark.parametrize("metric", [pytest.param(m, marks=[pytest.mark.slow] * (m == "prdc")) for m in METRICS])
def test_intervals_of_distances_hold_the_truth_95_times_of_100(metric, kind):
    """The truth is what other images of the same model give on average, at this number, with this reference."""
    width, left_out = METRICS[metric]
    real, count = np.random.default_rng(99).normal(size=(200, width)), 300
    clusters = np.arange(count) // (5 if kind == "prompts" else 1)
    intervals = {}
    for seed in range(400):
        blocks = deal_blocks(clusters, seed=seed)
        found = left_out(real, pictures(np.random.default_rng(seed), count, width, kind), blocks)
        for name, part in found.items() if metric == "prdc" else [(metric, found)]:
            intervals.setdefault(name, []).append(jackknife(part, np.bincount(blocks)))
    for name, tried in intervals.items():
        values = np.array([interval.value for interval in tried])
        held = np.mean([interval.low <= values.mean() <= interval.high for interval in tried])
        errors = np.array([interval.high - interval.low for interval in tried]) / 2 / 2.093
        assert 0.88 <= np.sqrt(np.square(errors).mean()) / values.std() <= WIDER.get(name, 1.12), name
        assert 0.92 <= held <= (1 if name in WIDER else 0.98), name


def test_without_prompts_alike_pictures_look_more_certain_than_they_are():
    real, held = np.random.default_rng(99).normal(size=(200, 3)), []
    for name, clusters in (("pictures", np.arange(300)), ("prompts", np.arange(300) // 5)):
        widths = []
        for seed in range(20):
            blocks = deal_blocks(clusters, seed=seed)
            fake = pictures(np.random.default_rng(seed), 300, 3, "prompts")
            interval = jackknife(frechet_left_out(real, fake, blocks), np.bincount(blocks))
            widths.append(interval.high - interval.low)
        held.append((name, np.mean(widths)))
    assert held[1][1] > 1.5 * held[0][1]


def two_models(rng, width, kind):
    """The images of two, five of each of 60 prompts; "together": what a prompt asks is in the images of both."""
    asked = np.repeat(rng.normal(size=(60, width)), 5, 0)
    other = asked if kind == "together" else np.repeat(rng.normal(size=(60, width)), 5, 0)
    first = asked + 0.5 * rng.normal(size=(300, width)) + 0.6
    return first, 1.1 * other + 0.5 * rng.normal(size=(300, width)) + 0.4


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        *(pytest.param(m, "together", marks=[pytest.mark.slow] * (m in ("prdc", "cmmd"))) for m in METRICS),
        pytest.param("fid", "apart", marks=pytest.mark.slow),
    ],
)
def test_intervals_of_differences_hold_the_truth_95_times_of_100(metric, kind):
    """The truth is the mean difference over other prompts and images of the same two models.

    Where the prompts do the same to both, the interval is narrower than by two intervals that know nothing of each
    other; where they have nothing in common, it is not.
    """
    width, left_out = METRICS[metric]
    real = np.random.default_rng(99).normal(size=(200, width))
    paired, unpaired = {}, {}
    for seed in range(400):
        blocks = deal_blocks(np.arange(300) // 5, seed=seed)
        found = [left_out(real, fake, blocks) for fake in two_models(np.random.default_rng(seed), width, kind)]
        sizes = np.bincount(blocks)
        for name in PARTS if metric == "prdc" else (metric,):
            a, b = ((part[name] if metric == "prdc" else part) for part in found)
            paired.setdefault(name, []).append(paired_jackknife(b, a, sizes))
            ends = [jackknife(part, sizes) for part in (a, b)]
            unpaired.setdefault(name, []).append(math.hypot(*(end.high - end.low for end in ends)))
    for name, tried in paired.items():
        values = np.array([interval.value for interval in tried])
        held = np.mean([interval.low <= values.mean() <= interval.high for interval in tried])
        widths = np.array([interval.high - interval.low for interval in tried])
        error = np.sqrt(np.square(widths / 2 / 2.093).mean())
        assert 0.88 <= error / values.std() <= WIDER.get(name, 1.12), name
        assert 0.91 <= held <= (1 if name in WIDER else 0.98), name
        share = widths.mean() / np.mean(unpaired[name])
        assert share < 0.95 if kind == "together" else 0.95 < share < 1.05, name


def test_the_paired_jackknife_of_means_is_that_of_their_differences():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=30), rng.normal(size=30)
    first, second, both = (LeftOut(x.mean(), (x.sum() - x) / 29) for x in (a, b, a - b))
    found, expected = paired_jackknife(first, second, np.ones(30)), jackknife(both, np.ones(30))
    assert vars(found) == pytest.approx(vars(expected))
    assert paired_jackknife(first, first, np.ones(30)) is None
    nearly = LeftOut(first.value, first.without * (1 + 1e-15))  # another order of sums
    assert paired_jackknife(first, nearly, np.ones(30)) is None
    with pytest.raises(UserError, match="without 29 blocks, a without 30"):
        paired_jackknife(first, LeftOut(0.0, np.ones(29)), np.ones(30))
