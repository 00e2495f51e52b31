"""Presets of the full-size trainings: the published recipe, the paper's counts, commands that parse."""

import inspect
from dataclasses import replace

import pytest
import torch

from tessera.models.build import build_network
from tessera.presets import imagenet
from tessera.presets.imagenet import arms_of, cad_i_l
from tessera.presets.lookup import load_train_preset
from test_docs import parse
from test_runs import commands_of


@pytest.mark.parametrize("name", imagenet.TRAIN_PRESETS)
def test_the_presets_docstrings_say_the_command(name, monkeypatch):
    preset = imagenet.TRAIN_PRESETS[name]
    commands = commands_of(inspect.cleandoc(preset.__doc__ or ""))
    assert commands
    (train,) = [words for words in commands if words[0] == "train"]
    assert parse(train, monkeypatch) == ["train"]
    assert train[1].startswith(f"{name}:")
    load_train_preset(train[1])


@pytest.mark.parametrize("name", imagenet.TRAIN_PRESETS)
@pytest.mark.parametrize("arm", imagenet.ARMS)
def test_every_arm_of_every_preset(name, arm):
    """One forward pass's shape and count on the meta device; underscores will do in the name."""
    config = load_train_preset(f"{name.replace('-', '_')}:{arm}", num_images=10240, seed=3)
    assert (config.num_images, config.seed) == (10240, 3)
    assert (config.augment_prob > 0) == (arm == "ta_ia")
    with torch.device("meta"):
        network = build_network(config.model)
    expected = 330.2e6 if name.startswith("cad") else 438.3e6
    extra = 768 * 256 if name == "cad-i-l-512" else 0  # four times the positions
    assert network.parameter_count == pytest.approx(expected + extra, rel=1e-3)


def test_the_published_recipe():
    config = load_train_preset("cad-i-l:ta_ia")
    assert config.num_images == 250_000 * 1024
    assert (config.batch_size, config.ema_decay, config.compute) == (1024, 0.9999, "auto")
    assert (config.noise_schedule, config.augment_min_t, config.augment_prob) == ("linear", 0.4, 0.5)
    assert (config.prediction, config.caption_drop_prob, config.self_condition_prob) == ("eps", 0.1, 0.9)
    optim = config.optim
    assert (optim.name, optim.lr, optim.betas, optim.weight_decay) == ("lamb", 1e-3, (0.9, 0.999), 0.01)
    assert (optim.warmup_images, optim.final_lr_fraction, optim.clip_norm) == (5000 * 1024, 0.206, 2.0)


def test_arms_differ_by_augmentation_only():
    arms = arms_of(cad_i_l())
    assert list(arms) == ["aio", "ta", "ta_ia"]
    assert arms["aio"] == arms["ta"] == replace(arms["ta_ia"], augment_prob=0.0)


def test_larger_images_start_from_weights_of_small_ones():
    small, large = imagenet.dit_i_l2(), imagenet.dit_i_l2_512()
    assert (large.model.latent_size, large.model.position_grid) == (64, 16)
    assert large.optim.lr == pytest.approx(small.optim.lr / 3)
    assert imagenet.cad_i_l_512().model.latent_size == 64
