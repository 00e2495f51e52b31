"""The loss on held-out records and the grids of images: fixed by address, and of the right weights."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tessera.config import UserError
from tessera.diffusion.loss import diffusion_loss
from tessera.encoded.store import open_encoded
from tessera.train import checkpoint, validation
from tessera.train.config import RuntimeOptions
from tessera.train.export import export
from tessera.train.loop import Trainer, train
from tessera.train.optim.config import OptimConfig
from tiny.ranks import on_ranks
from tiny.runs import Killed, before_step, contents, log_of, state_of, stop_at
from tiny.stub_judge import calls_of, stub_judge
from tiny.training_sets import DIT, RIN, SHAPE, config_of, make_records, write_set

HELD = 9


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held")
    plain = write_set(folder / "plain", make_records(37, std=0.3))
    return plain, write_set(folder / "augmented", make_records(23, seed=1, std=0.3))


def config(**changes):
    return config_of(validation_records=HELD, num_images=80, log_every_images=40, **changes)


def trainer_of(sets, config, size=None) -> Trainer:
    stores, runtime = map(open_encoded, sets), RuntimeOptions(device_batch_size=size)
    return Trainer(Path("unused"), *stores, config, torch.device("cpu"), runtime)


def lines_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_held_out_records_are_never_trained_on(sets):
    trainer = trainer_of(sets, config(augment_prob=0.3))
    draws = trainer.reader.algorithm.draws(range(5000))
    assert set(draws.index[~draws.augmented]) == set(range(37 - HELD))
    assert set(draws.index[draws.augmented]) == set(range(23))


@pytest.mark.parametrize("name", ["{}+mix", "{}+n01440764_10026.JPEG_quarter_0_0"])
def test_nor_are_augmented_ones_of_which_they_are_the_base(sets, tmp_path, name):
    """By both ways in which augmented images are named; an image's own name may hold a "+"."""
    keys = [f"thing/{i}" if i % 3 else f"thing/{i}+{i}" for i in range(37)]
    order = [5 * i % 37 for i in range(37)]
    plain = [replace(record, key=key) for record, key in zip(make_records(37), keys)]
    mixed = [replace(record, key=name.format(keys[i])) for record, i in zip(make_records(37, seed=1), order)]
    stores = write_set(tmp_path / "plain", plain), write_set(tmp_path / "augmented", mixed)
    trainer = trainer_of(stores, config(augment_prob=0.9))
    reader = trainer.reader
    draws = reader.algorithm.draws(range(3000))
    assert reader.augmented is not None
    seen = {reader.augmented[i].key for i in set(draws.index[draws.augmented].tolist())}
    assert seen == {name.format(key) for key in keys[: 37 - HELD]}
    assert {reader.plain[i].key for i in set(draws.index[~draws.augmented].tolist())} == set(keys[: 37 - HELD])
    every = trainer_of(stores, config_of(augment_prob=0.9)).reader.algorithm.draws(range(3000))
    assert len(set(every.index[every.augmented])) == 37


def test_times_and_noise_are_fixed_and_cover_all_levels(sets):
    one, two = trainer_of(sets, config()), trainer_of(sets, config(optim=config_of().optim), 2)
    assert one.actions.validation is not None
    assert two.actions.validation is not None
    whole = one.actions.validation.batch(np.arange(HELD))
    assert torch.allclose(whole.t, (torch.arange(HELD) + 0.5) / HELD)
    assert torch.allclose(whole.alpha_bar, 1 - whole.t)
    for row in range(HELD):
        part = two.actions.validation.batch(np.array([row]))
        assert torch.equal(part.noise[0], whole.noise[row])
        assert torch.equal(part.latents[0], whole.latents[row])
    stored = torch.from_numpy(np.stack([one.reader.plain[28 + i].latent_mean for i in range(HELD)])).float()
    assert 0 < (whole.latents - stored).abs().mean() < 0.5  # a draw from the posterior
    trained_on = one.reader(range(HELD))
    assert not torch.isclose(trained_on.noise, whole.noise).any()


@pytest.mark.parametrize("model", [DIT, RIN])
@pytest.mark.parametrize("size", [8, 4, 2])
def test_the_loss_is_that_of_one_large_batch(sets, model, size):
    trainer = trainer_of(sets, config(model=model), size)
    held_out = trainer.actions.validation
    assert held_out is not None
    found = held_out.loss(trainer.state.network)
    keep = torch.ones(HELD, dtype=torch.bool) if model is RIN else None
    batch = held_out.batch(np.arange(HELD))
    _, losses = diffusion_loss(trainer.state.network, batch, trainer.stepper.null_condition, self_condition_keep=keep)
    assert found["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    quarters = [losses[batch.t.mul(4).floor() == q] for q in range(4)]
    assert found["loss_by_t"] == pytest.approx([float(q.mean()) for q in quarters], rel=1e-5)


def test_online_and_averaged_weights_are_measured(sets, tmp_path):
    settings = config(augment_prob=0.0, validate_every_images=40, ema_decay=0.5)
    train(tmp_path / "run", sets[0], None, settings)
    lines = lines_of(tmp_path / "run")
    assert [line["num_images"] for line in lines] == [40, 80]
    for line in lines:
        assert line["validation"]["loss"] != pytest.approx(line["validation_ema"]["loss"], rel=1e-4)
    newest = checkpoint.latest(tmp_path / "run")
    assert newest is not None
    trainer = Trainer(tmp_path / "run", open_encoded(sets[0]), None, settings, torch.device("cpu"))
    trainer.state.load(newest)
    assert trainer.actions.validate(trainer.actions.validation)["validation_ema"] == lines[-1]["validation_ema"]  # type: ignore[arg-type]


def test_measuring_changes_nothing(sets, tmp_path):
    settings = config(augment_prob=0.0, compute="bf16")
    train(tmp_path / "often", sets[0], None, replace(settings, validate_every_images=8))
    train(tmp_path / "once", sets[0], None, replace(settings, validate_every_images=80))
    often, once = (checkpoint.load(checkpoint.latest(tmp_path / name)).tensors for name in ("often", "once"))
    assert all(torch.equal(often[name], once[name]) for name in once)


def test_a_set_too_small_to_hold_out(sets, tmp_path):
    with pytest.raises(UserError, match="validation_records: 37 leaves nothing"):
        train(tmp_path / "run", sets[0], None, config_of(augment_prob=0.0, validation_records=37))


def test_a_run_that_diverges_ends_as_one_and_not_where_it_is_measured(sets, tmp_path):
    """The loss on held-out records overflows steps before that of five batches in a row does."""
    settings = config(augment_prob=0.0, validate_every_images=8, sample_every_images=8)
    settings = replace(settings, optim=OptimConfig(lr=1e18, clip_norm=None, decay="constant"))
    seen = []
    runtime = RuntimeOptions(decode=lambda latents: seen.append(latents) or decode(latents))
    with pytest.raises(UserError, match=r"was not finite 5 steps in a row, up to image \d+; lower optim\.lr"):
        train(tmp_path / "run", sets[0], None, settings, runtime=runtime)
    measured = [line["validation"]["loss"] for line in lines_of(tmp_path / "run")]
    assert measured[-1] is None
    assert all(latents.isfinite().all() for latents in seen)


def decode(latents: torch.Tensor) -> np.ndarray:
    """(B, 4, 4, 4) -> uint8 (B, 4, 4, 3)."""
    return (latents[:, :3].permute(0, 2, 3, 1).clamp(-1, 1) * 127 + 128).byte().numpy()


@pytest.mark.parametrize("model", [DIT, RIN])
def test_grids_of_pictures(sets, tmp_path, model):
    settings = config(model=model, augment_prob=0.0, sample_every_images=40, latent_shift=(0.1,), latent_scale=(0.5,))
    seen = []
    runtime = RuntimeOptions(decode=lambda latents: seen.append(latents) or decode(latents))
    train(tmp_path / "run", sets[0], None, settings, runtime=runtime)
    pictures = sorted((tmp_path / "run" / "samples").iterdir())
    assert [p.name for p in pictures] == ["000000000040.png", "000000000080.png"]
    with Image.open(pictures[0]) as picture:
        assert picture.size == (16, 12)  # nine held-out captions, four in a row
    assert all(latents.shape == (HELD, *SHAPE) for latents in seen)
    assert not torch.equal(seen[0], seen[1])
    limit = json.loads((tmp_path / "run" / "manifest.json").read_text())["facts"]["latent_limit"]
    assert max(float(latents.abs().max()) for latents in seen) <= limit / 0.5 + 0.1 + 1e-5  # normalization is undone
    train(tmp_path / "again", sets[0], None, settings, runtime=runtime)
    assert torch.equal(seen[2], seen[0])
    train(tmp_path / "without", sets[0], None, settings)
    assert not (tmp_path / "without" / "samples").exists()


POINTS = ["000000000040", "000000000080", "000000000120", "000000000160"]


def judged_run(plain, run, judge, **changes) -> None:
    """20 steps of 8, or of `changes`."""
    settings = config_of(augment_prob=0.0, checkpoint_every_images=24, **changes)
    train(run, plain, None, settings, runtime=RuntimeOptions(judge=judge))


def scores_of(run) -> dict[int, dict]:
    lines = [line for line in log_of(run) if "scores" in line]
    assert len({line["num_images"] for line in lines}) == len(lines)
    return {line["num_images"]: line for line in lines}


def digest_of(weights: Path) -> int:
    return int(hashlib.sha256(weights.read_bytes()).hexdigest()[:8], 16)


@pytest.fixture(scope="module")
def alone(sets, tmp_path_factory):
    """A run without a judge."""
    run = tmp_path_factory.mktemp("alone") / "run"
    judged_run(sets[0], run, None)
    return run


def assert_same_training(run, alone) -> None:
    """Weights, optimizer, log and manifest are those of a run without a judge, but for what it says."""
    ours, theirs = contents(run), contents(alone)
    assert [line for line in ours.pop("log.jsonl") if "scores" not in line] == theirs.pop("log.jsonl")  # type: ignore
    manifests = [json.loads(files.pop("manifest.json")) for files in (ours, theirs)]  # type: ignore[arg-type]
    manifests[0]["counts"].pop("failed_evaluations")
    assert manifests[0] == manifests[1]
    assert {name: text for name, text in ours.items() if not name.startswith("evaluations/")} == theirs


@pytest.mark.parametrize("wait", [True, False])
def test_scores_of_the_ema_weights_are_logged_on_the_way(sets, alone, tmp_path, wait):
    judged_run(sets[0], tmp_path / "run", stub_judge(tmp_path / "judge", wait=wait))
    assert calls_of(tmp_path / "judge") == POINTS
    found = scores_of(tmp_path / "run")
    assert list(found) == [40, 80, 120, 160]
    export(tmp_path / "export", alone)
    assert found[160]["scores"] == {"fid": digest_of(tmp_path / "export" / "model.safetensors")}
    assert len({line["scores"]["fid"] for line in found.values()}) == 4
    assert_same_training(tmp_path / "run", alone)
    left = {path.name for path in (tmp_path / "run" / "evaluations" / POINTS[0]).iterdir()}
    assert left == {"values.json", "judge.log"}
    if wait:  # each before the next line of the log
        assert [line["num_images"] for line in log_of(tmp_path / "run")] == [40, 40, 80, 80, 120, 120, 160, 160]
    boards = EventAccumulator(str(next((tmp_path / "run" / "tensorboard").iterdir()))).Reload()
    assert [(event.step, event.value) for event in boards.Scalars("scores/fid")] == [
        (images, pytest.approx(line["scores"]["fid"])) for images, line in found.items()
    ]


def test_training_goes_on_meanwhile(sets, alone, tmp_path, monkeypatch):
    """The first judge waits for a file that a later step writes."""

    def step(number):
        if number == 8:
            (tmp_path / "judge" / "later").touch()

    before_step(monkeypatch, step)
    judged_run(sets[0], tmp_path / "run", stub_judge(tmp_path / "judge", _000000000040="later"))
    assert scores_of(tmp_path / "run")[40]["scores"] is not None
    assert_same_training(tmp_path / "run", alone)


@pytest.mark.parametrize("wait", [True, False])
def test_a_failed_judge_ends_no_training(sets, alone, tmp_path, monkeypatch, capfd, wait):
    monkeypatch.setattr(validation, "JUDGE_SECONDS", 20.0)
    fails = dict(zip((f"_{name}" for name in POINTS), ("raise", "kill", "nothing", "garbage")))
    judged_run(sets[0], tmp_path / "run", stub_judge(tmp_path / "judge", wait=wait, **fails))
    found = scores_of(tmp_path / "run")
    assert [line["scores"] for line in found.values()] == [None] * 4
    said = [line["failed"] for line in found.values()]
    assert said[:2] == ["no memory for this", "was killed by signal 9; most often memory ran out"]
    assert "values.json: there is no such file" in said[2]
    assert "is not JSON" in said[3]
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["counts"]["failed_evaluations"] == 4
    assert "train: the judge of 000000000040 failed: no memory for this; all it said: " in capfd.readouterr().err
    assert_same_training(tmp_path / "run", alone)


def test_nor_does_one_that_hangs_or_cannot_be_started(sets, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "JUDGE_SECONDS", 1.0)
    judge = stub_judge(tmp_path / "judge", every=80, _000000000160="hang")
    judged_run(sets[0], tmp_path / "run", judge)
    assert scores_of(tmp_path / "run")[160]["failed"] == "took longer than 1 s"
    assert_same_training(tmp_path / "run", alone)
    judged_run(sets[0], tmp_path / "other", replace(judge, command=(str(tmp_path / "nothing"),)))
    assert "cannot be started: " in scores_of(tmp_path / "other")[80]["failed"]
    assert_same_training(tmp_path / "other", alone)


def test_nor_do_weights_that_cannot_be_written(sets, alone, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(validation, "save_export", full)
    judged_run(sets[0], tmp_path / "run", stub_judge(tmp_path / "judge", every=80))
    assert "weights cannot be written: [Errno 28]" in scores_of(tmp_path / "run")[80]["failed"]
    assert calls_of(tmp_path / "judge") == []
    assert_same_training(tmp_path / "run", alone)


@pytest.mark.parametrize("stop", [5, 6, 11, 14])
def test_a_resumed_run_asks_for_no_scores_twice(sets, alone, tmp_path, monkeypatch, stop):
    judge = stub_judge(tmp_path / "judge", wait=True)
    with monkeypatch.context() as patched:
        stop_at(patched, stop)
        with pytest.raises(KeyboardInterrupt):
            judged_run(sets[0], tmp_path / "run", judge)
    for folder in sorted((tmp_path / "run" / "checkpoints").iterdir())[-1:]:
        shutil.rmtree(folder)  # as if it had been killed before the last checkpoint
    judged_run(sets[0], tmp_path / "run", judge)
    assert calls_of(tmp_path / "judge") == POINTS
    assert list(scores_of(tmp_path / "run")) == [40, 80, 120, 160]
    judged_run(sets[0], tmp_path / "whole", stub_judge(tmp_path / "other", wait=True))
    assert scores_of(tmp_path / "run") == scores_of(tmp_path / "whole")
    assert_same_training(tmp_path / "run", alone)


def test_an_extended_run_forgets_scores_of_a_cooldown_that_it_takes_back(sets, tmp_path, monkeypatch):
    """It was killed during that, and resumes from a checkpoint before."""
    judge = stub_judge(tmp_path / "judge", wait=True)
    settings = config_of(augment_prob=0.0, checkpoint_every_images=72, num_images=160)
    settings = replace(settings, optim=OptimConfig(decay="constant", cooldown_images=80))
    more, runtime = replace(settings, num_images=240), RuntimeOptions(judge=judge)
    train(tmp_path / "whole", sets[0], None, more, runtime=runtime)

    def killed(number):
        if number == 15:
            raise Killed

    with monkeypatch.context() as patched:
        before_step(patched, killed)
        with pytest.raises(Killed):
            train(tmp_path / "run", sets[0], None, settings, runtime=runtime)
    assert list(scores_of(tmp_path / "run")) == [40, 80, 120]
    train(tmp_path / "run", sets[0], None, more, runtime=runtime, extend=True)
    assert scores_of(tmp_path / "run") == scores_of(tmp_path / "whole")


def test_a_judge_that_was_stopped_goes_on_with_the_run(sets, alone, tmp_path, monkeypatch):
    """The process ends with the training, which is no failure; it is asked again for what it had not done."""
    judge = stub_judge(tmp_path / "judge", every=80, _000000000080="later", _000000000160="later")
    with monkeypatch.context() as patched:
        stop_at(patched, 12)
        with pytest.raises(KeyboardInterrupt):
            judged_run(sets[0], tmp_path / "run", judge)
    assert scores_of(tmp_path / "run") == {}
    with monkeypatch.context() as patched:
        patched.setattr(validation.Evaluations, "wait", lambda self, *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # at image 160, where the judge of 80 is still awaited
            judged_run(sets[0], tmp_path / "run", judge)
    (tmp_path / "judge" / "later").touch()
    judged_run(sets[0], tmp_path / "run", judge)
    assert list(scores_of(tmp_path / "run")) == [80, 160]
    assert [line.get("failed") for line in scores_of(tmp_path / "run").values()] == [None, None]
    assert_same_training(tmp_path / "run", alone)


def test_the_scores_of_a_run_are_of_one_judge(sets, tmp_path, monkeypatch):
    judge = stub_judge(tmp_path / "judge")
    with monkeypatch.context() as patched:
        stop_at(patched, 6)
        with pytest.raises(KeyboardInterrupt):
            judged_run(sets[0], tmp_path / "run", judge)
    with pytest.raises(UserError, match=r"evaluations: was made otherwise: seed: the directory has 1, this call has 2"):
        judged_run(sets[0], tmp_path / "run", replace(judge, described={"seed": 2}))
    judged_run(sets[0], tmp_path / "run", None)  # without a judge it ends as well
    assert list(scores_of(tmp_path / "run")) == [40]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["", "shard", "shard_optimizer"])
def test_one_rank_asks_for_the_scores_of_all(sets, alone, tmp_path, split):
    judge = stub_judge(tmp_path / "judge", wait=True)
    settings = config_of(augment_prob=0.0, checkpoint_every_images=24)
    options = {split: True} if split else {}
    assert on_ranks(2, settings, tmp_path / "run", sets[0], stop=7, judge=judge, **options) == [7, 7]
    assert on_ranks(2, settings, tmp_path / "run", sets[0], judge=judge, **options) == [0, 0]
    assert calls_of(tmp_path / "judge") == POINTS  # none of which takes itself for a rank
    assert list(scores_of(tmp_path / "run")) == [40, 80, 120, 160]
    newest, expected = state_of(tmp_path / "run"), state_of(alone)
    assert all(torch.allclose(newest[name], expected[name], atol=1e-5) for name in expected)
    export(tmp_path / "export", tmp_path / "run")
    assert scores_of(tmp_path / "run")[160]["scores"]["fid"] == digest_of(tmp_path / "export" / "model.safetensors")
