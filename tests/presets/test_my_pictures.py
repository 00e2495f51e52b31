"""The preset for a user's own folder, fitted to what the user says about it."""

import pytest

from tessera.config import UserError
from tessera.presets.lookup import load_run_preset
from tessera.presets.my_pictures import my_pictures


def test_one_augmented_arm_without_a_judge():
    config = my_pictures()
    assert [(arm.name, arm.captioner, arm.augmented) for arm in config.arms] == [("aio_ia", "aio", True)]
    assert config.collect.world is None
    assert config.evaluate is None
    assert list(config.sample_sets()) == ["short"]


def test_it_needs_a_folder(tmp_path):
    with pytest.raises(UserError, match="needs your images: add --images FOLDER"):
        load_run_preset("my-pictures")
    assert load_run_preset("my-pictures", images=tmp_path).collect.source == tmp_path.name
