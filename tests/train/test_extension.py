"""Runs that continue to more images"""

import json
import shutil
from dataclasses import replace

import pytest

from tessera.files import exclusive_lock
from tessera.stages import read_manifest
from tessera.train.config import RuntimeOptions
from tessera.train.loop import train
from tessera.train.optim.config import OptimConfig
from tiny.runs import contents, stop_at
from tiny.training_sets import DIT, RIN, config_of
from train.test_loop import refused

CONSTANT = OptimConfig(lr=3e-3, warmup_images=16, decay="constant")


@pytest.mark.parametrize("model", [DIT, RIN])
def test_an_extended_run_is_one_of_more_images(plain, augmented, tmp_path, monkeypatch, model):
    """Twice, and stopped amid the second extension: the same weights and log as without an end in between."""
    config = config_of(model=model, num_images=160, optim=CONSTANT)
    train(tmp_path / "whole", plain, augmented, config)
    for count in (40, 80):
        train(tmp_path / "run", plain, augmented, replace(config, num_images=count), extend=count > 40)
        assert read_manifest(tmp_path / "run", "train").counts["num_images"] == count
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", plain, augmented, config, extend=True)
    assert not read_manifest(tmp_path / "run", must_be_complete=False).complete
    train(tmp_path / "run", plain, augmented, config, extend=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    before = contents(tmp_path / "run")
    train(tmp_path / "run", plain, augmented, config, extend=True)  # done
    assert contents(tmp_path / "run") == before


def test_a_run_that_is_being_trained_is_not_extended(plain, augmented, tmp_path, monkeypatch):
    config = config_of(num_images=120, optim=CONSTANT)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", plain, augmented, config)
    before, more = contents(tmp_path / "run"), replace(config, num_images=160)
    with exclusive_lock(tmp_path / "run", "test"):
        refused("another process is training", tmp_path / "run", plain, augmented, more, extend=True)
    assert contents(tmp_path / "run") == before


def test_a_stopped_run_cannot_end_where_it_is(plain, tmp_path, monkeypatch):
    """Its last line, its last measurement and the best EMA would be missing."""
    config = config_of(num_images=400, augment_prob=0.0, optim=CONSTANT)
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", plain, None, config)
    before = contents(tmp_path / "run")
    (name,) = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    for count in (int(name), int(name) - 8):
        match = rf"has seen {int(name)} images, and num_images is {count}; .* --num-images {int(name) + 8}$"
        refused(match, tmp_path / "run", plain, None, replace(config, num_images=count), extend=True)
    assert contents(tmp_path / "run") == before


def test_an_extended_run_is_cooled_down_at_its_end(plain, augmented, tmp_path):
    """The first time like a run that was so from the start; then the rate rises again, and falls anew."""
    config = config_of(num_images=80, optim=replace(CONSTANT, cooldown_images=24))
    train(tmp_path / "whole", plain, augmented, config)
    train(tmp_path / "run", plain, augmented, replace(config, num_images=40, optim=CONSTANT))
    train(tmp_path / "run", plain, augmented, config, extend=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    train(tmp_path / "run", plain, augmented, replace(config, num_images=160), extend=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    rates = {line["num_images"]: line["lr"] for line in lines if "lr" in line}
    assert (rates[80], rates[120], rates[160]) == (0.0, CONSTANT.lr, 0.0), rates


def test_a_run_that_cannot_be_extended_is_left_as_it_is(plain, augmented, tmp_path):
    def finished(name, **changes):
        config = config_of(augment_prob=0.0, num_images=16, **{"optim": CONSTANT} | changes)
        train(tmp_path / name, plain, None, config)
        return replace(config, num_images=32)

    def check(match, name, config, given=plain, **options):
        before = contents(tmp_path / name)
        refused(match, tmp_path / name, given, None, config, extend=True, **options)
        assert contents(tmp_path / name) == before

    config = finished("constant")
    check("optim.lr: the directory has", "constant", replace(config, optim=replace(CONSTANT, lr=1.0)))
    check("input plain", "constant", config, augmented)
    check("has seen 16 images, more than num_images 8; give a larger", "constant", replace(config, num_images=8))
    for decay in ("cosine", "linear"):
        more = finished(decay, optim=OptimConfig(decay=decay))
        check(rf"has fallen to its end \(optim.decay is {decay}\); export it .* --init", decay, more)
    refused("is a run of 16 images, not 32; give --extend to continue it", tmp_path / "constant", plain, None, config)
    wrong = RuntimeOptions(device_batch_size=3)  # seen once all is put together
    check("device_batch_size: 3 does not divide", "constant", config, runtime=wrong)
    shutil.rmtree(tmp_path / "constant" / "checkpoints")
    check("its last checkpoint is missing", "constant", config)
    refused("there is no such directory", tmp_path / "absent", plain, None, config, extend=True)


def test_a_run_whose_augmentation_has_moved_is_not_extended(plain, augmented, tmp_path):
    config = config_of(num_images=16, optim=CONSTANT, augment_prob_end=0.9)
    train(tmp_path / "run", plain, augmented, config)
    more = replace(config, num_images=32)
    refused("augment_prob has moved to augment_prob_end", tmp_path / "run", plain, augmented, more, extend=True)
