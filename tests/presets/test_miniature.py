"""Presets of the miniature world: arms that differ by what is compared, and the path that works."""

from dataclasses import replace

import pytest
import torch

from tessera.config import to_dict
from tessera.models.build import build_network
from tessera.presets.miniature import miniature, miniature_cad, miniature_paper, miniature_smoke, my_pictures


@pytest.mark.parametrize("preset", [miniature, miniature_paper, miniature_cad, miniature_smoke])
def test_arms_of_one_preset_differ_by_captions_and_augmentation(preset):
    arms = {arm.name: arm for arm in preset().arms}
    plain, mixed = (to_dict(arms[name].train) for name in ("ta", "ta_ia"))
    assert {name for name in plain if plain[name] != mixed[name]} <= {"augment_prob", "augment_start_image"}
    assert mixed["augment_prob"] > plain["augment_prob"] == 0


@pytest.mark.parametrize("preset", [miniature, miniature_cad])
def test_networks_have_about_a_million_parameters(preset):
    with torch.device("meta"):
        network = build_network(preset().arms[0].train.model)
    assert 0.5e6 < network.parameter_count < 2e6


def test_the_paper_in_miniature_is_the_papers():
    train = miniature_paper().arms[-1].train
    assert (train.prediction, train.noise_schedule, train.augment_min_t, train.augment_prob) == (
        "eps",
        "linear",
        0.4,
        0.5,
    )
    assert [arm.name for arm in miniature_paper().arms] == ["aio", "ta", "ta_ia"]


def test_the_smoke_run_is_the_miniature_but_for_sizes():
    small, base = miniature_smoke(), miniature()
    assert small.augment == base.augment
    assert replace(small.arms[0].train.model, width=96, depth=4, heads=3, refiner_depth=2) == base.arms[0].train.model
    assert small.arms[0].train.num_images < base.arms[0].train.num_images / 30


def test_my_pictures_is_one_augmented_arm_without_a_judge():
    config = my_pictures()
    assert [(arm.name, arm.captioner, arm.augmented) for arm in config.arms] == [("aio_ia", "aio", True)]
    assert config.collect.world is None
    assert config.evaluate is None
    assert list(config.sample_sets()) == ["short"]
