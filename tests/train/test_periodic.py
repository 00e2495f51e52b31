"""Actions between steps: each when its number of images is reached, and at the end."""

from pathlib import Path

import pytest
import torch

from tessera.encoded.store import open_encoded
from tessera.train.config import RuntimeOptions
from tessera.train.loop import Trainer, train
from tessera.train.periodic import PeriodicActions
from tiny.runs import log_of
from tiny.training_sets import config_of


def actions_of(plain, runtime=None, **changes):
    config = config_of(augment_prob=0.0, **changes)
    return Trainer(Path("unused"), open_encoded(plain), None, config, torch.device("cpu"), runtime).actions


def test_an_action_is_due_where_a_multiple_was_crossed_and_at_the_end(plain):
    actions = actions_of(plain, log_every_images=20, num_images=80)
    due = []
    for images in range(8, 88, 8):
        actions.state.num_images = images
        due += [images] if actions.due else []
    assert due == [24, 40, 64, 80]


def test_each_action_has_its_own_interval(plain, tmp_path):
    changes = {"log_every_images": 16, "checkpoint_every_images": 32, "keep_checkpoints": 9}
    changes |= {"validation_records": 4, "validate_every_images": 24}
    train(tmp_path / "run", plain, None, config_of(augment_prob=0.0, num_images=64, **changes))
    lines = log_of(tmp_path / "run")
    assert [line["num_images"] for line in lines] == [16, 24, 32, 48, 64]
    assert [line["num_images"] for line in lines if "validation" in line] == [24, 48, 64]
    assert all(line["validation"].keys() == line["validation_ema"].keys() for line in lines if "validation" in line)


@pytest.mark.parametrize(("given", "share"), [(None, 989.0), (500.0, 500.0)])
def test_the_peak_is_that_of_the_gpu_unless_given(plain, monkeypatch, given, share):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    trainer = Trainer(Path("unused"), open_encoded(plain), None, config_of(augment_prob=0.0), torch.device("cpu"))
    assert trainer.actions.peak is None  # of a CPU none is known
    trainer.state.device = torch.device("cuda")
    runtime, null = RuntimeOptions(peak_tflops=given), trainer.stepper.null_condition
    found = PeriodicActions(Path("unused"), trainer.config, trainer.state, trainer.reader, null, 8, runtime)
    assert found.peak == share


def test_without_a_decoder_no_images_are_sampled(plain):
    assert actions_of(plain, sample_every_images=8).grid is None
    decode = RuntimeOptions(decode=lambda latents: latents.numpy())
    assert actions_of(plain, decode, sample_every_images=8).grid is not None
    assert actions_of(plain, decode).grid is None
