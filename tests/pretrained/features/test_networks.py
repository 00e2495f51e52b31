"""The table of the metrics' networks: each is loaded by its entry and takes images of the side that it says."""

import inspect

import pytest

from tessera.cli.evaluate import quality
from tessera.pretrained.features import inception
from tessera.pretrained.features.networks import NETWORKS
from tessera.pretrained.features.vision import KINDS
from tiny.encoders import blocky_image, save_clip, save_dino, save_inception, save_vision

SIDES = {"inception": 299, "dinov2": 224, "clip": 224, "clip336": 336, "pickscore": 224, "hpsv2": 224}
SIDES |= {"convnextv2": 224, "mae": 224, "siglip2": 256, "clip_vision": 224}


@pytest.mark.parametrize("key", SIDES)
def test_an_entry_loads_its_network_with_the_side_of_its_model(key, tmp_path):
    save = {"inception": lambda: save_inception(tmp_path / "i.safetensors"), "dinov2": lambda: save_dino(tmp_path)}
    save |= {kind: lambda: save_vision(tmp_path, key, SIDES[key]) for kind in KINDS}
    folder = save.get(key, lambda: save_clip(tmp_path, SIDES[key]))()
    encoder = NETWORKS[key].load(str(folder), "cpu")
    assert encoder.prepare(blocky_image()).shape == (3, SIDES[key], SIDES[key])
    assert ("square" in encoder.resizing) == (key == "clip336")


def test_the_command_lines_models_are_the_tables():
    given = inspect.signature(quality).parameters
    assert {key: given[key].default for key in NETWORKS} == {key: entry.model for key, entry in NETWORKS.items()}
    assert NETWORKS["inception"].model == inception.FILE
