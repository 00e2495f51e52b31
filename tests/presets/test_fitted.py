"""Run presets of another size, network, text encoder and budget."""

from dataclasses import replace

import pytest
import torch

from tessera.config import UserError
from tessera.models.build import build_network
from tessera.models.rin import RINConfig
from tessera.presets.fitted import budgeted, fitted, scaled
from tessera.presets.miniature import miniature, my_pictures


@pytest.mark.parametrize(("size", "patch"), [(32, 1), (48, 1), (64, 1), (96, 2), (128, 2), (256, 4)])
@pytest.mark.parametrize("network", ["dit", "cad"])
def test_networks_follow_the_size(size, patch, network):
    config = fitted(my_pictures(), size=size, network=network)
    model = config.arms[0].train.model
    assert (config.collect.size, model.latent_size, model.patch_size) == (size, size // 4, patch)
    assert isinstance(model, RINConfig) == (network == "cad")
    with torch.device("meta"):
        assert build_network(model).parameter_count < 4_000_000


@pytest.mark.parametrize(
    ("size", "said"), [(33, "needs an image side that is a multiple of 4"), (76, "give 64, 96, 12")]
)
def test_sizes_that_cannot_be_cut_into_patches(size, said):
    with pytest.raises(UserError, match=said):
        fitted(my_pictures(), size=size)


def test_the_text_encoder_and_nothing(t5_folder):
    config = fitted(my_pictures(), text="words:32")
    assert (config.encode.text, config.arms[0].train.model.text_width) == ("words:32", 32)
    assert fitted(my_pictures()) == my_pictures()


def test_a_budget_moves_its_phases_along():
    train = my_pictures().arms[0].train
    assert budgeted(train, train.num_images) == train
    longer = budgeted(train, 20_001)
    assert (longer.num_images, longer.checkpoint_every_images) == (20_032, 4_006)
    assert longer.sample_every_images == longer.keep_every_images == 4_006
    assert longer.optim == replace(train.optim, cooldown_images=5_568)
    short = budgeted(train, 320)
    assert (short.optim.warmup_images, short.optim.cooldown_images) == (80, 96)


def test_scaled_keeps_the_shares_of_all_phases():
    train = miniature().arms[1].train
    half = scaled(replace(train, augment_start_image=8_000), 0.5)
    assert (half.num_images, half.augment_start_image, half.caption_mix_start_image) == (40_000, 4_000, 24_704)
    assert (half.optim.warmup_images, half.optim.cooldown_images) == (512, 5_440)
    assert scaled(train, 1.0) == replace(train, optim=replace(train.optim, warmup_images=992))
