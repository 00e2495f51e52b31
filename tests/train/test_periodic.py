"""Actions between steps: each when its number of images is reached, and at the end."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tessera.config import UserError
from tessera.encoded.store import open_encoded
from tessera.files import read_json
from tessera.stages import Stage, read_manifest
from tessera.train import checkpoint
from tessera.train.config import RuntimeOptions
from tessera.train.loop import Trainer, train
from tessera.train.periodic import PeriodicActions
from tessera.train.validation import ValidationLoss
from tiny.runs import Killed, before_step, log_of, stop_at
from tiny.stub_judge import calls_of, stub_judge
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


def test_without_a_decoder_no_images_are_sampled(plain, capsys):
    assert actions_of(plain, sample_every_images=8).grid is None
    assert (
        "sample_every_images without a decoder of latents draws no images; give RuntimeOptions"
        in capsys.readouterr().err
    )
    decode = RuntimeOptions(decode=lambda latents: latents.numpy())
    assert actions_of(plain, decode, sample_every_images=8).grid is not None
    assert actions_of(plain, decode).grid is None
    assert not capsys.readouterr().err


def overfitting(monkeypatch, by_images):
    """Let the held-out loss of the EMA, which is measured second, be `by_images`; that of the weights 9."""
    monkeypatch.setattr(ValidationLoss, "loss", lambda self, network: {"loss": next(losses), "loss_by_t": []})
    losses = iter([x for value in by_images for x in (9.0, value)])


EVERY_16 = {"num_images": 96, "validation_records": 4, "validate_every_images": 16, "log_every_images": 16}


def kept(run):
    return {int(path.name): read_json(path / "meta.json")["validation_ema"] for path in checkpoint.found(run / "best")}


def test_the_best_average_by_held_out_loss_is_kept(plain, tmp_path, monkeypatch):
    run = tmp_path / "run"
    config = config_of(augment_prob=0.0, checkpoint_every_images=16, keep_every_images=16, **EVERY_16)
    overfitting(monkeypatch, [5.0, 3.0, None, 4.0, 3.0, 7.0])
    train(run, plain, None, config)
    assert kept(run) == {32: 3.0}
    of_then = checkpoint.load(run / "checkpoints" / f"{32:012d}").tensors
    best = checkpoint.load(run / "best" / "checkpoints" / f"{32:012d}").tensors
    assert best.keys() == {name for name in of_then if name.startswith("ema/")}
    assert all(torch.equal(best[name], of_then[name]) for name in best)
    assert read_manifest(run).facts["best"] == {"num_images": 32, "validation_ema": 3.0}


def test_a_resumed_run_knows_the_best_of_its_checkpoint(plain, tmp_path, monkeypatch):
    """Checkpoints at 48 and 96, measurements every 16; stopped after 80, so that 64 and 80 are made again."""
    config = config_of(augment_prob=0.0, checkpoint_every_images=48, **EVERY_16)
    for name, first, second in (("as before", [5, 4, 6, 3, 2], [3, 2, 7]), ("otherwise", [5, 4, 6, 3, 2], [6, 5, 4.5])):
        run = tmp_path / name
        overfitting(monkeypatch, first)
        with monkeypatch.context() as patch:
            before_step(patch, lambda number: stop() if number == 10 else None)
            with pytest.raises(Killed):
                train(run, plain, None, config)
        assert kept(run) == {32: 4, 80: 2}  # what was the best at the checkpoint of 48, and now
        overfitting(monkeypatch, second)
        train(run, plain, None, config)
        assert kept(run) == ({80: 2} if name == "as before" else {32: 4})


@pytest.mark.parametrize("stopped", ["never", "at 56", "at 64", "before it is complete"])
def test_a_run_ends_where_its_held_out_loss_falls_no_more(plain, tmp_path, monkeypatch, capsys, stopped):
    config = config_of(augment_prob=0.0, stop_after_no_gain=40, keep_checkpoints=9, **EVERY_16)
    overfitting(monkeypatch, [5.0, 3.0, 4.0, None, 3.5, 1.0])
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        if stopped == "before it is complete":
            patch.setattr(Stage, "finish", stop)
            with pytest.raises(Killed):
                train(run, plain, None, config)
        elif stopped != "never":
            stop_at(patch, {"at 56": 5, "at 64": 6}[stopped])
            with pytest.raises(KeyboardInterrupt):
                train(run, plain, None, config)
    train(run, plain, None, config)
    manifest = read_manifest(run, "train")
    assert manifest.counts["num_images"] == 80  # the first measurement 40 images after the best, at 32
    assert [line["num_images"] for line in log_of(run)] == [16, 32, 48, 64, 80]
    said = "train: ends after 80 images: the EMA's loss on held-out records was lowest after 32\n"
    assert capsys.readouterr().err.count(said) == 1
    assert [path.name for path in checkpoint.found(run)] == [f"{80:012d}"]
    with pytest.raises(UserError, match="cannot be extended, it ended before its time"):
        train(run, plain, None, replace(config, num_images=160), extend=True)


def stop(*_, **__):
    raise Killed


def test_a_run_that_ends_early_is_judged_at_its_end(plain, tmp_path, monkeypatch):
    config = config_of(augment_prob=0.0, stop_after_no_gain=40, keep_checkpoints=9, **EVERY_16)
    overfitting(monkeypatch, [5.0, 3.0, 4.0, None, 3.5, 1.0])
    judge = stub_judge(tmp_path / "judge", every=64)
    train(tmp_path / "run", plain, None, config, runtime=RuntimeOptions(judge=judge))
    assert calls_of(tmp_path / "judge") == ["000000000064", "000000000080"]
