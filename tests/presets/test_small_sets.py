"""Presets for small sets: sizes, commands that parse, held-out records."""

import inspect

import pytest
import torch

from tessera.models.build import build_network
from tessera.presets.lookup import load_train_preset
from tessera.presets.small_sets import SMALL_PRESETS
from test_docs import parse
from test_runs import commands_of


@pytest.mark.parametrize(("name", "parameters"), [("dit-i-xs", 23.3e6), ("dit-i-s", 33.9e6), ("dit-i-b", 133.6e6)])
def test_sizes_and_commands(name, parameters, monkeypatch):
    (train,) = commands_of(inspect.cleandoc(SMALL_PRESETS[name].__doc__ or ""))
    assert parse(train, monkeypatch) == ["train"]
    config = load_train_preset(train[1])
    assert train[1] == f"{name}:ta_ia"
    with torch.device("meta"):
        network = build_network(config.model)
    assert network.parameter_count == pytest.approx(parameters, rel=2e-3)
    assert config.augment_prob == 0.5
    assert load_train_preset(f"{name}:ta").augment_prob == 0
    assert config.validation_records == 128
    assert config.optim.cooldown_images * 5 == config.num_images


def test_a_run_that_overfits_can_end():
    assert load_train_preset("dit-i-s:ta", stop_after_no_gain=512_000).stop_after_no_gain == 512_000
