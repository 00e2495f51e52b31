"""scripts/own_vision.py: its crops, a network that `encode --features` takes, and its study."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.image_features import load_vision_network, patch_features


@pytest.fixture
def own_vision(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    return importlib.import_module("own_vision")


def test_a_crop_shows_a_part_enlarged(own_vision):
    """Along a ramp of slope 1 the values of a crop rise by its scale, and stay within the ramp."""
    ramp = torch.arange(32.0).expand(64, 3, 32, 32)
    cropped = own_vision.cropped(ramp, torch.Generator().manual_seed(0))
    slopes = cropped[:, 0, :, 17] - cropped[:, 0, :, 16]
    assert cropped.shape == ramp.shape
    assert float(cropped.min()) > -1e-4
    assert float(cropped.max()) < 31 + 1e-4
    assert float(slopes.min()) == pytest.approx(0.62, abs=0.025)
    assert float(slopes.max()) == pytest.approx(0.98, abs=0.025)
    assert torch.allclose(cropped[:, 0, 0], cropped[:, 2, 31], atol=1e-4)


def test_it_writes_a_network_that_features_are_read_from(own_vision, world, tmp_path, monkeypatch, capsys):
    images, folder = tmp_path / "images", tmp_path / "vision"
    collect(images, CollectConfig(size=32, world=replace(world, size=32)))
    arguments = ["own_vision.py", str(images), "--out", str(folder), "--steps", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    own_vision.main()
    assert "unseen images (chance 0.33)" in capsys.readouterr().out
    network = load_vision_network(f"convnextv2:{folder}", "cpu", "features")
    codes, _ = patch_features(network, [np.zeros((32, 32, 3), np.uint8)])[0]
    assert codes.shape == (64, 96)


def test_the_study_differs_by_the_features_alone(own_vision):
    study = own_vision.aligned()
    first, *others = (variant.config for variant in study.variants)
    assert first.encode.features is None
    assert {other.encode.features for other in others} == {"convnextv2:out/vision"}
    assert [other.arms[0].train.align_until_image for other in others] == [None, 24_000]
    assert all(other.arms[0].train.num_images == first.arms[0].train.num_images for other in others)


def test_the_score_is_asked_at_half_and_at_all_of_the_preset_images(own_vision):
    trains = {variant.name: variant.config.arms[0].train for variant in own_vision.to_score().variants}
    assert {name: train.num_images for name, train in trains.items()} == {
        "preset-44k": 44_000, "vision-44k": 44_000, "preset-88k": 88_000, "vision-88k": 88_000
    }  # fmt: skip
    assert [trains[name].align_until_image for name in ("vision-44k", "vision-88k")] == [21_984, 44_000]
