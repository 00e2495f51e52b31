"""The built-in studies: each varies what it says."""

import itertools

import pytest

from tessera.config import UserError
from tessera.cutmix import PATTERNS
from tessera.study.studies import (
    STUDIES,
    how_many,
    load_study,
    overfit,
    patterns,
    probability,
    tau,
)


def test_every_study_is_called_as_its_name_says_and_documents_its_command():
    for name, make in STUDIES.items():
        assert load_study(name).name == name
        assert f"tessera study {name} " in make.__doc__


def test_each_varies_one_thing():
    assert [v.name for v in patterns().variants] == ["ta", *PATTERNS, "all"]
    assert [v.config.arms[0].train.augment_prob for v in probability().variants[1:]] == [0.25, 0.5, 0.75, 1.0]
    assert [v.config.arms[0].train.augment_min_t for v in tau().variants[1:]] == [0.0, 0.2, 0.4, 0.6, 0.8]


def test_how_many_varies_the_number_of_images_at_equal_images_seen():
    study = how_many()
    assert study.copies
    assert len({v.config.arms[0].train.num_images for v in study.variants}) == 1
    assert [v.config.collect.world.num_images for v in study.variants] == [v.value for v in study.variants]
    assert {v.value for v in study.variants if v.line == "ta"} == {v.value for v in study.variants if v.line == "ta_ia"}


def test_longer_budgets_continue_shorter_ones():
    variants = overfit().variants
    for before, after in itertools.pairwise(variants):
        if after.follows:
            assert after.follows == before.name
            assert after.config.arms[0].train.num_images == 2 * before.config.arms[0].train.num_images


def test_an_unknown_study_is_named():
    with pytest.raises(UserError, match="did you mean 'patterns'"):
        load_study("pattern")
