"""Paired differences of two models, and intervals that cover the truth."""

import dataclasses

import numpy as np
import pytest

from tessera.config import UserError
from tessera.evaluate.copies.distances import Nearest, Yardstick, copied, copy_numbers
from tessera.evaluate.intervals import mean_interval, paired_difference
from tessera.evaluate.scores import Protocol, Scores
from tiny.quality_number import scores


def test_paired_differences_are_of_the_same_images():
    noise = np.random.default_rng(0).normal(size=6)
    a, b = scores(values=noise), scores("b", values=noise + 1)
    interval = paired_difference(a, b, "clip_score")
    assert (interval.low, interval.value, interval.high) == pytest.approx((1, 1, 1))
    with pytest.raises(UserError, match="judged different images"):
        paired_difference(a, scores("b", values=noise[:4], tags=("x",) * 4), "clip_score")
    with pytest.raises(UserError, match="was not measured in b"):
        paired_difference(a, Scores(kind="quality", name="b", numbers=()), "clip_score")
    assert paired_difference(scores(over=None), scores("b", over=None), "clip_score") is None
    shares = [
        dataclasses.replace(scores(name, values), kind="dpg")
        for name, values in (("a", range(6)), ("b", range(96, 102)))
    ]
    with pytest.raises(UserError, match=r"b has images with values outside 0\.\.100; judge them again"):
        paired_difference(*shares, "clip_score")


def test_shares_of_copies_pair_though_they_have_a_reference():
    about = Protocol(metric="copies", name="copies-1", reference="r" * 64, reference_images=9)
    prompts = np.repeat(np.arange(25), 2).tolist()
    found = []
    for name, near in (("a", 5), ("b", 25)):
        by = Yardstick(median=1.0, closest=0.5, images=9, duplicates=0)
        distances = np.where(np.arange(50) < near, 0.1, 0.9)
        nearest = Nearest(distances, np.zeros(50, np.int64), np.zeros(50, np.int64))
        numbers = copy_numbers("copies", nearest, by, prompts, about)
        values = copied(nearest, by).astype(float).tolist()
        items = tuple(
            {"prompt": prompt, "sample": i % 2, "values": {"copies": value}}
            for i, (prompt, value) in enumerate(zip(prompts, values))
        )
        found.append(Scores(kind="copies", name=name, numbers=numbers, items=items))
    interval = paired_difference(*found, "copies")
    assert (interval.value, interval.low > 0) == (pytest.approx(0.4), True)
    assert paired_difference(*found, "copies_ratio") is None  # of medians: no mean, and no distance


def test_prompts_in_another_order_do_not_pair():
    def about(name, texts):
        found = scores(name)
        items = tuple({**item, "text": texts[item["prompt"]]} for item in found.items)
        return dataclasses.replace(found, items=items)

    a, b, c = about("a", "xyz"), about("b", "xyz"), about("c", "yxz")
    assert paired_difference(a, b, "clip_score").value == 0
    with pytest.raises(UserError, match="a and c drew the prompts in different orders; draw both from one file"):
        paired_difference(a, c, "clip_score")


def test_images_of_one_prompt_or_of_unknown_ones_have_no_difference():
    def about(name, values, prompt, **more):
        found = scores(name, values)
        items = tuple({**item, "prompt": prompt(i), "sample": i} for i, item in enumerate(found.items))
        return dataclasses.replace(found, numbers=(dataclasses.replace(found.numbers[0], **more),), items=items)

    one = [about(name, values, lambda i: 0, clusters=1) for name, values in (("a", range(6)), ("b", range(1, 7)))]
    with pytest.raises(UserError, match=r"^clip_score: all images are of 1 prompt, at least 2 are needed"):
        paired_difference(*one, "clip_score")
    unknown = about("c", range(6), lambda i: i, clusters=None)
    with pytest.raises(UserError, match=r"^clip_score: the prompts of c are not known; give them by --prompts"):
        paired_difference(scores(), unknown, "clip_score")


def test_over_tags_each_tag_counts_the_same():
    tags = ("x", "x", "x", "x", "y", "y")
    a, b = (
        dataclasses.replace(scores(name, v, "tags", tags), kind="geneval")
        for name, v in (("a", (0.0,) * 6), ("b", (0.0, 0, 0, 0, 1, 1)))
    )
    assert paired_difference(a, b, "clip_score").value == 0.5
    percent = [dataclasses.replace(one, kind="dpg") for one in (a, b)]
    assert paired_difference(*percent, "clip_score").value == pytest.approx(0.5)
    assert mean_interval([0, 0, 0, 0, 1, 1], [0, 1, 2, 3, 4, 5], tags).value == 0.5


def test_intervals_over_prompts_cover_the_truth_in_93_to_97_percent():
    """553 prompts of unequal difficulty in six tasks, 4 images each, as GenEval has them."""
    rng, covered, rounds = np.random.default_rng(3), 0, 600
    prompts = np.repeat(np.arange(553), 4)
    tags = np.repeat(np.repeat(np.arange(6), (80, 99, 80, 94, 100, 100)), 4)
    shape = np.array([4.5, 2.5, 1.5, 3, 0.5, 1])
    truth = float((shape / (shape + 2)).mean())
    for _ in range(rounds):
        skill = rng.beta(shape[tags[::4]], 2.0)  # (553,)
        values = rng.random(len(tags)) < np.repeat(skill, 4)
        interval = mean_interval(values, prompts, tags)
        covered += interval.low <= truth <= interval.high
    assert 0.93 <= covered / rounds <= 0.97
