"""Whole runs of the small networks: resumed ones end with the same bytes, wrong ones do not start."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tessera.config import UserError, from_dict, to_dict
from tessera.encoded.store import open_encoded
from tessera.files import read_json, sha256_file
from tessera.randomness import philox
from tessera.records import Batch
from tessera.stages import read_manifest
from tessera.train import checkpoint, loop, step
from tessera.train.config import RuntimeOptions, TrainConfig
from tessera.train.loader import passes
from tessera.train.logs import MEASURED
from tessera.train.loop import Trainer, train
from tessera.train.optim.config import OptimConfig
from tessera.train.optim.master import MasterOptimizer
from tessera.train.step import Stepper
from tiny.training_sets import DIT, RIN, SHAPE, WIDTH, config_of, load_batch, make_records, write_set

STATE = "shard-00001-model-00001-of-00001.safetensors"  # of one process

FAMILIES = {
    "dit-adamw-fp32": config_of(),
    "dit-muon-bf16": config_of(optim=OptimConfig(name="muon"), compute="bf16", prediction="x0"),
    "rin-lamb": config_of(model=RIN, optim=OptimConfig(name="lamb")),
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


def contents(run: Path) -> dict[str, object]:
    """Every file's bytes; of the log the numbers that are not timings."""
    found: dict[str, object] = {}
    for path in sorted(p for p in run.rglob("*") if p.is_file() and p.parent.name != "tensorboard"):
        name = str(path.relative_to(run))
        found[name] = log_of(run) if name == "log.jsonl" else path.read_bytes()
    return found


def log_of(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if k not in MEASURED} for x in lines]


def state_of(run: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.latest(run)
    assert newest is not None
    return checkpoint.load(newest).tensors


def before_step(monkeypatch, action):
    """Calls action(number) before each step; the first is 0."""
    original, count = Stepper.step, iter(range(10**6))

    def counted(self, *args):
        action(next(count))
        return original(self, *args)

    monkeypatch.setattr(Stepper, "step", counted)


def stop_at(monkeypatch, step, number=signal.SIGTERM):
    before_step(monkeypatch, lambda n: os.kill(os.getpid(), number) if n == step else None)


# Resuming


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stopped_run_ends_with_the_same_bytes(plain, augmented, tmp_path, monkeypatch, family):
    config = FAMILIES[family]
    train(tmp_path / "whole", plain, augmented, config)
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped", plain, augmented, config)
    stopped = checkpoint.latest(tmp_path / "stopped")
    assert stopped is not None
    assert stopped.name == f"{7 * 8:012d}"
    train(tmp_path / "stopped", plain, augmented, config, resume=True)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert any(key.startswith("ema/") for key in state_of(tmp_path / "whole"))
    assert len(log_of(tmp_path / "whole")) == 4


def test_a_save_that_was_killed_costs_nothing(plain, augmented, tmp_path, monkeypatch):
    config = config_of(checkpoint_every_images=56)
    train(tmp_path / "whole", plain, augmented, config)
    original = os.rename

    def rename(source, target):
        if str(target).endswith("000000000112"):
            raise Killed
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(Killed):
            train(tmp_path / "killed", plain, augmented, config)
    assert [p.name for p in checkpoint.found(tmp_path / "killed")] == ["000000000056"]
    assert len(log_of(tmp_path / "killed")) == 2  # up to image 80: one line later than the checkpoint
    train(tmp_path / "killed", plain, augmented, config)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_run_without_a_checkpoint_yet_starts_over(plain, tmp_path, monkeypatch):
    config = config_of(augment_prob=0.0)
    train(tmp_path / "whole", plain, None, config)

    def killed(number):
        if number == 3:
            raise Killed

    with monkeypatch.context() as patch:
        before_step(patch, killed)
        with pytest.raises(Killed):
            train(tmp_path / "killed", plain, None, config)
    train(tmp_path / "killed", plain, None, config, resume=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


KILLED_WHILE_SAVING = """
import json, os, signal, sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from tessera.config import from_dict
from tessera.train import checkpoint, loop, step
from tessera.train.config import RuntimeOptions, TrainConfig
config = from_dict(TrainConfig, json.loads(sys.argv[1]))
which, share, marker = int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])
original, saves, usual = checkpoint.save, iter(range(10**6)), [0.01]
def save(*args):
    if next(saves) == which:
        marker.touch()
        threading.Thread(target=lambda: (time.sleep(share * usual[0]), os.kill(os.getpid(), signal.SIGKILL))).start()
    began = time.monotonic()
    original(*args)
    usual[0] = time.monotonic() - began
    marker.unlink(missing_ok=True)
checkpoint.save = save
loop.train(*map(Path, sys.argv[5:]), config, device="cpu")
"""


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_sigkill_while_saving(plain, augmented, tmp_path, rounds):
    """Each round is another process, killed at a random moment of its second or third save."""
    config = config_of(num_images=8 * 100, checkpoint_every_images=8)
    train(tmp_path / "whole", plain, augmented, config)
    run, marker = tmp_path / "killed", tmp_path / "saving"
    paths = [str(path) for path in (marker, run, plain, augmented)]
    moments = philox(rounds, "kill")
    reached, amid = 0, 0
    for _ in range(rounds):
        which, share = int(moments.integers(1, 3)), float(moments.random())
        arguments = [json.dumps(to_dict(config)), str(which), str(share), *paths]
        ended = subprocess.run([sys.executable, "-c", KILLED_WHILE_SAVING, *arguments], timeout=120)
        assert ended.returncode == -signal.SIGKILL
        amid += marker.exists()
        marker.unlink(missing_ok=True)
        newest = checkpoint.latest(run)
        assert newest is not None
        assert int(newest.name) > reached  # nothing that was saved is lost
        reached = int(newest.name)
        assert not read_manifest(run, must_be_complete=False).complete
    assert amid >= 0.25 * rounds
    train(run, plain, augmented, config, resume=True)
    assert contents(run) == contents(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_raises(plain, tmp_path, monkeypatch, number):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    stop_at(monkeypatch, 2, number)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", plain, None, config_of(augment_prob=0.0))
    assert [p.name for p in checkpoint.found(tmp_path / "run")] == [f"{4 * 8:012d}"]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == handlers


def test_the_end_after_the_notice_does_not_break_the_save(plain, tmp_path, monkeypatch):
    """Slurm sends SIGUSR1, and SIGTERM when time is up."""

    def both(number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)

    before_step(monkeypatch, both)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", plain, None, config_of(augment_prob=0.0))
    assert checkpoint.latest(tmp_path / "run") is not None


def test_a_second_signal_does_not_wait(plain, tmp_path, monkeypatch):
    def twice(number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    before_step(monkeypatch, twice)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", plain, None, config_of(augment_prob=0.0))
    assert checkpoint.latest(tmp_path / "run") is None


# What a run leaves


def test_a_finished_run_is_left_alone_and_can_be_made_again(plain, augmented, tmp_path, monkeypatch):
    config = config_of()
    train(tmp_path / "one", plain, augmented, config)
    train(tmp_path / "two", plain, augmented, config)
    before = contents(tmp_path / "one")
    assert contents(tmp_path / "two") == before
    assert sorted(before) == [
        "checkpoints/000000000160/meta.json",
        f"checkpoints/000000000160/{STATE}",
        "config.json",
        "log.jsonl",
        "manifest.json",
    ]
    monkeypatch.setattr(loop, "Trainer", None)
    train(tmp_path / "one", plain, augmented, config)
    train(tmp_path / "one", plain, augmented, config, resume=True)
    assert contents(tmp_path / "one") == before


def test_manifest_and_config(plain, augmented, tmp_path):
    train(tmp_path / "run", plain, augmented, config_of())
    manifest = read_manifest(tmp_path / "run", "train")
    assert manifest.counts["num_images"] == 160
    assert manifest.counts["skipped_steps"] == 0
    assert manifest.inputs == {"plain": read_manifest(plain).sha256, "augmented": read_manifest(augmented).sha256}
    assert manifest.facts["arm"] == "ta_ia"
    assert manifest.facts["text_encoder"] == "words:16"
    assert from_dict(TrainConfig, read_json(tmp_path / "run" / "config.json")) == config_of()


def test_log_lines(plain, augmented, tmp_path):
    train(tmp_path / "run", plain, augmented, config_of(augment_start_image=80))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["num_images"] for line in lines] == [40, 80, 120, 160]
    for line in lines:
        assert line["loss"] > 0
        assert line["grad_norm"] > 0
        assert len(line["loss_by_t"]) == 4
        assert 0 <= line["data_wait"] <= 1
        assert line["images_per_second"] > 0
    assert [line["augmented_share"] > 0 for line in lines] == [False, False, True, True]
    assert lines[0]["lr"] > lines[1]["lr"] > lines[2]["lr"] > lines[3]["lr"] == 0


def test_an_unused_augmented_set_is_not_read(plain, tmp_path):
    train(tmp_path / "run", plain, tmp_path / "absent", config_of(augment_prob=0.0, num_images=8))
    assert list(read_manifest(tmp_path / "run").inputs) == ["plain"]


# The step


def gradients_of(plain, augmented, config):
    """The gradient of the first step, before clipping, and the losses."""
    stores = open_encoded(plain), open_encoded(augmented)
    trainer = Trainer(Path("unused"), *stores, config, torch.device("cpu"))
    found = {}

    def clip():
        found.update(zip(trainer.state.optimizer.names, (g.clone() for g in trainer.state.optimizer.gradients())))
        return torch.ones(())

    trainer.state.optimizer.clip = clip
    numbers = passes(0, config.batch_size, config.batch_size, trainer.samples_per_pass)
    values = trainer.stepper.step([trainer.reader(part) for part in numbers])
    return found, values[:-2]


@pytest.mark.parametrize("model", [DIT, RIN])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_accumulated_passes_are_one_batch(plain, augmented, model, size):
    config = config_of(model=model, num_images=16, batch_size=16)
    whole, losses = gradients_of(plain, augmented, config)
    parts, part_losses = gradients_of(plain, augmented, replace(config, device_batch_size=size))
    assert np.allclose(losses, part_losses, rtol=1e-5)
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], atol=1e-6), name
    assert sum(float(g.norm()) for g in whole.values()) > 0.1


def test_the_loss_sees_normalised_latents(plain, augmented, monkeypatch):
    seen = []
    original = step.diffusion_loss
    monkeypatch.setattr(
        step, "diffusion_loss", lambda net, batch, *a, **k: seen.append(batch) or original(net, batch, *a, **k)
    )
    config = config_of(num_images=8)
    gradients_of(plain, augmented, config)
    gradients_of(plain, augmented, replace(config, latent_scale=(0.5,), latent_shift=(0.25,)))
    assert torch.equal(seen[1].latents, (seen[0].latents - 0.25) * 0.5)


def test_bf16_is_close_to_fp32(plain, augmented):
    config = config_of(num_images=64, batch_size=64, prediction="v")
    exact, losses = gradients_of(plain, augmented, config)
    rounded, rounded_losses = gradients_of(plain, augmented, replace(config, compute="bf16"))
    assert np.allclose(losses, rounded_losses, rtol=0.05)
    a, b = (torch.cat([g.flatten() for g in found.values()]) for found in (exact, rounded))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.999


def test_self_conditioning_is_used_by_a_rin_alone(plain, augmented, tmp_path, monkeypatch):
    seen = []
    original = step.diffusion_loss

    def recording(network, batch, null, **options):
        seen.append(options["self_condition_keep"])
        return original(network, batch, null, **options)

    monkeypatch.setattr(step, "diffusion_loss", recording)
    train(tmp_path / "dit", plain, augmented, config_of(num_images=8))
    assert seen == [None]
    train(tmp_path / "rin", plain, augmented, config_of(model=RIN, num_images=80))
    share = torch.cat(seen[1:]).float().mean()
    assert 0.75 < share < 1
    train(tmp_path / "off", plain, augmented, config_of(model=RIN, num_images=8, self_condition_prob=0.0))
    assert seen[-1] is None


def poison(monkeypatch, bad):
    """The loss of steps number `bad` is not finite."""
    original, count = step.diffusion_loss, iter(range(10**6))

    def poisoned(*args, **options):
        loss, per_sample = original(*args, **options)
        factor = float("nan") if next(count) in bad else 1.0
        return loss * factor, per_sample * factor

    monkeypatch.setattr(step, "diffusion_loss", poisoned)


def keep_states(monkeypatch) -> dict[int, dict[str, torch.Tensor]]:
    """Fills a dict with every checkpoint's tensors, by number of images."""
    original, kept = checkpoint.save, {}

    def keeping(run, num_images, tensors, *args):
        kept[num_images] = {name: tensor.clone() for name, tensor in tensors.items()}
        return original(run, num_images, tensors, *args)

    monkeypatch.setattr(checkpoint, "save", keeping)
    return kept


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_ema_of_a_run(plain, tmp_path, monkeypatch, compute):
    config = config_of(
        augment_prob=0.0,
        num_images=48,
        checkpoint_every_images=8,
        ema_decay=0.3,
        compute=compute,
        optim=OptimConfig(lr=0.01),
    )
    name = "blocks.0.mlp.up.weight"
    trainer = Trainer(Path("unused"), open_encoded(plain), None, config, torch.device("cpu"))
    average = trainer.state.optimizer.masters[trainer.state.optimizer.names.index(name)].detach().clone()
    kept = keep_states(monkeypatch)
    train(tmp_path / "run", plain, None, config)
    for n in range(6):
        decay = min(0.3, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * kept[8 * (n + 1)][f"master/{name}"]
        assert torch.allclose(kept[8 * (n + 1)][f"ema/{name}"], average, atol=1e-6)


def test_steps_that_are_not_finite_are_skipped_and_counted(plain, tmp_path, monkeypatch):
    config = config_of(augment_prob=0.0, checkpoint_every_images=8, num_images=80)
    kept = keep_states(monkeypatch)
    poison(monkeypatch, {2, 3, 4, 5, 7})
    train(tmp_path / "run", plain, None, config)
    assert read_manifest(tmp_path / "run").counts["skipped_steps"] == 5
    for name, value in kept[16].items():
        assert torch.equal(value, kept[48][name])
        assert torch.isfinite(kept[80][name]).all()
    assert not torch.equal(kept[48]["master/out_projection.weight"], kept[56]["master/out_projection.weight"])
    assert all(np.isfinite(line["loss"]) for line in log_of(tmp_path / "run"))


def test_five_in_a_row_end_the_run(plain, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, {1, 3, 4, 5, 6, 7})
    with pytest.raises(UserError, match=r"5 steps in a row, up to image 64; lower optim\.lr"):
        train(tmp_path / "run", plain, None, config_of(augment_prob=0.0, checkpoint_every_images=24))
    assert [p.name for p in checkpoint.found(tmp_path / "run")] == [f"{n:012d}" for n in (24, 48)]
    assert capsys.readouterr().err.count("is not finite; that step is skipped") == 6


def test_the_samples_of_skipped_steps_are_written_down(plain, tmp_path, monkeypatch):
    original = step.diffusion_loss

    def one_bad(network, batch, *args, **options):
        loss, per_sample = original(network, batch, *args, **options)
        bad = (batch.numbers == 21) | (batch.numbers == 50)
        return torch.where(bad, torch.nan, per_sample).mean() + 0 * loss, torch.where(bad, torch.inf, per_sample)

    monkeypatch.setattr(step, "diffusion_loss", one_bad)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)  # saves after the fourth step, image 32
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", plain, None, config_of(augment_prob=0.0, num_images=80))
    file = tmp_path / "run" / "skipped.jsonl"
    file.write_text(file.read_text() + '{"num_images": 64, "samples": [56, 63]}\n')  # of a future that did not come
    train(tmp_path / "run", plain, None, config_of(augment_prob=0.0, num_images=80))
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"num_images": 24, "seed": 3, "samples": [16, 23], "not_finite": [21]},
        {"num_images": 56, "seed": 3, "samples": [48, 55], "not_finite": [50]},
    ]
    assert read_manifest(tmp_path / "run").counts["skipped_steps"] == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_decided_on_the_device_are_the_same(plain, augmented, tmp_path, monkeypatch, family):
    """As on a GPU: skipped by masks, read a step later. Two steps are not finite. In fp32, for Muon in bf16 magnifies
    the rounding of another order."""
    config = replace(FAMILIES[family], compute="fp32", num_images=80, checkpoint_every_images=24)
    for name in ("host", "device"):
        with monkeypatch.context() as patch:
            poison(patch, {3, 8})
            original = MasterOptimizer.__init__

            def init(self, *args, _masked=name == "device", _original=original, **options):
                _original(self, *args, **options)
                self.masked = _masked

            patch.setattr(MasterOptimizer, "__init__", init)
            train(tmp_path / name, plain, augmented, config)
    host, device = state_of(tmp_path / "host"), state_of(tmp_path / "device")
    for key, value in host.items():
        assert torch.allclose(value, device[key], rtol=1e-3, atol=2e-5), key
    assert (tmp_path / "host" / "skipped.jsonl").read_text() == (tmp_path / "device" / "skipped.jsonl").read_text()
    for line, other in zip(log_of(tmp_path / "host"), log_of(tmp_path / "device"), strict=True):
        assert other["num_images"] == line["num_images"]
        assert other["loss"] == pytest.approx(line["loss"], rel=1e-3)
        assert other["augmented_share"] == line["augmented_share"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:The .grad attribute:UserWarning")
def test_compiled_blocks_train_the_same(plain, augmented, tmp_path):
    config = config_of(num_images=40, log_every_images=8)
    train(tmp_path / "eager", plain, augmented, config)
    train(tmp_path / "compiled", plain, augmented, config, runtime=RuntimeOptions(compile=True))
    losses = [[line["loss"] for line in log_of(tmp_path / name)] for name in ("eager", "compiled")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert state_of(tmp_path / "eager").keys() == state_of(tmp_path / "compiled").keys()


def test_the_room_for_checkpoints_counts_what_is_kept_for_ever(plain, tmp_path):
    store = open_encoded(plain)

    def to_come(**changes):
        config = config_of(augment_prob=0.0, checkpoint_every_images=8, **changes)
        return Trainer(tmp_path, store, None, config, torch.device("cpu")).checkpoints_to_come

    assert to_come() == 3
    assert to_come(keep_every_images=40) == 3 + 4
    assert to_come(keep_checkpoints=5) == 6


# Learning


@pytest.mark.parametrize(("model", "steps"), [(DIT, 100), (RIN, 280)])
def test_one_batch_is_learned_by_its_captions(plain, model, steps):
    """All noise and the same noise: only the caption tells which picture is meant."""
    store = open_encoded(plain)
    config = config_of(model=model, augment_prob=0.0, caption_drop_prob=0.0)
    trainer = Trainer(Path("unused"), store, None, config, torch.device("cpu"))
    full = load_batch(trainer.reader.algorithm, store, None, np.arange(8))
    batch = Batch(
        latents=full.latents,
        text=full.text,
        t=torch.full((8,), 0.9999),
        alpha_bar=torch.full((8,), 1e-4),
        noise=full.noise[:1].expand(8, *SHAPE),
        dropped=torch.zeros(8, dtype=torch.bool),
        numbers=full.numbers,
    )
    null = torch.zeros(1, WIDTH)
    optimizer = MasterOptimizer(trainer.state.network, OptimConfig(lr=3e-3))
    first = None
    for _ in range(steps):
        loss, _ = step.diffusion_loss(trainer.state.network, batch, null, prediction="x0")
        first = first or loss.item()
        loss.backward()
        optimizer.clip()
        optimizer.step(1.0)
    with torch.no_grad():
        learned, _ = step.diffusion_loss(trainer.state.network, batch, null, prediction="x0")
        shuffled = replace(batch, text=full.text.select(torch.arange(8).roll(1)))
        wrong, _ = step.diffusion_loss(trainer.state.network, shuffled, null, prediction="x0")
    assert learned < 0.05 * first
    assert wrong > 10 * learned


# The loss of the first ten steps. A change of the numbers is a change of what is trained: say so where you make it.
GOLDEN = {
    "dit-adamw": [0.832099, 0.989234, 1.033580, 0.947264, 0.985146, 0.840578, 0.828550, 0.854065, 0.746630, 0.671541],
    "dit-muon": [0.832099, 0.989235, 1.033713, 0.947763, 0.986885, 0.843291, 0.833090, 0.861827, 0.759602, 0.678370],
    "rin-lamb": [1.781370, 2.032295, 1.744275, 1.763044, 1.810415, 1.371266, 1.339126, 1.401332, 1.070211, 1.018342],
    "rin-adamw": [1.781370, 1.845498, 1.514518, 1.409846, 1.503034, 1.071162, 1.063575, 1.136230, 0.943434, 0.877803],
}


@pytest.mark.parametrize("family", GOLDEN)
def test_golden_loss_curve(plain, augmented, tmp_path, family):
    optim = OptimConfig(name=family.split("-")[1], lr=3e-3, decay="constant")
    model = {"dit": DIT, "rin": RIN}[family.split("-")[0]]
    train(tmp_path / "run", plain, augmented, config_of(model=model, optim=optim, num_images=80, log_every_images=8))
    assert [line["loss"] for line in log_of(tmp_path / "run")] == pytest.approx(GOLDEN[family], rel=1e-4)


# Bad input


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_images": 0}, "num_images"),
        ({"num_images": 100}, "num_images: 100 is not a multiple of batch_size 8; use 96 or 104"),
        ({"batch_size": 256}, "num_images: 160 is not a multiple of batch_size 256; use 256"),
        ({"device_batch_size": 3}, "device_batch_size"),
        ({"augment_min_t": 1.1}, "augment_min_t"),
        ({"augment_prob": -0.5}, "augment_prob"),
        ({"caption_drop_prob": 1.5}, "caption_drop_prob"),
        ({"self_condition_prob": 2.0}, "self_condition_prob"),
        ({"augment_start_image": -1}, "augment_start_image"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"validation_records": -1}, "validation_records"),
        ({"keep_checkpoints": 0}, "keep_checkpoints"),
        ({"keep_every_images": 0}, "keep_every_images"),
        ({"sample_every_images": 0}, "sample_every_images"),
        ({"latent_scale": (1.0, 0.0, 1.0, 1.0)}, "latent_scale"),
        ({"latent_shift": (1.0, 0.0)}, "latent_shift"),
        ({"noise_schedule": "lineer"}, "noise_schedule"),
        ({"prediction": "x"}, "prediction"),
        ({"compute": "fp16"}, "compute"),
        ({"threads": 0}, "threads"),
        ({"log_every_images": 0}, "log_every_images"),
    ],
)
def test_fields_out_of_range_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        config_of(**changes)


def refused(match, out, *args, **options):
    with pytest.raises(UserError, match=match):
        train(out, *args, **options)


def test_what_does_not_fit_is_refused_before_anything_is_written(plain, augmented, tmp_path, monkeypatch):
    out = tmp_path / "run"
    refused("augment_prob: 0.5 needs an augmented set", out, plain, None, config_of())
    refused("text_width 32", out, plain, augmented, config_of(model=replace(DIT, text_width=32)))
    refused("latents are", out, plain, augmented, config_of(model=replace(DIT, latent_size=8)))
    refused("no run to resume", out, plain, augmented, config_of(), resume=True)
    other = write_set(tmp_path / "other", make_records(3), text_encoder="words:17")
    refused("text_encoder differs", out, plain, other, config_of())
    vae = write_set(tmp_path / "vae", make_records(3), latent_codec="pixel-unshuffle:2")
    refused("latent_codec differs", out, plain, vae, config_of())
    refused("tessera encode", out, tmp_path / "absent", augmented, config_of())
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _path: usage)
        refused("make room first", out, plain, augmented, config_of())
    assert not out.exists()


def test_a_batch_that_the_ranks_cannot_share_is_refused(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "world_size", lambda: 3)
    with pytest.raises(UserError, match="batch_size: 8 cannot be split over 3 ranks"):
        Trainer(tmp_path / "run", open_encoded(plain), None, config_of(augment_prob=0.0), torch.device("cpu"))
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_config_or_other_data_is_refused(plain, augmented, tmp_path):
    out = tmp_path / "run"
    train(out, plain, augmented, config_of(num_images=8))
    refused(r"optim\.lr", out, plain, augmented, config_of(num_images=8, optim=OptimConfig(lr=0.5)))
    refused("input plain", out, augmented, augmented, config_of(num_images=8))


def test_a_directory_that_another_process_trains_in_is_refused(plain, tmp_path, monkeypatch):
    """It would take the checkpoint that the other one is writing for what a killed process left."""
    out, config = tmp_path / "run", config_of(augment_prob=0.0, num_images=80, checkpoint_every_images=8)
    second = [sys.executable, "-c", SECOND, json.dumps(to_dict(config)), str(out), str(plain)]
    said = []

    def begun(number):
        if number == 5:
            said.append(subprocess.run(second, capture_output=True, text=True, timeout=120).stdout)

    before_step(monkeypatch, begun)
    train(out, plain, None, config)
    assert said == [f"{out}: another process is training in this directory; wait for it or stop it\n"]
    assert read_manifest(out, "train").counts["num_images"] == 80
    assert subprocess.run(second, capture_output=True, text=True, timeout=120).stdout == "done\n"


SECOND = """
import json, sys
from pathlib import Path
from tessera.config import UserError, from_dict
from tessera.train import loop
from tessera.train.config import TrainConfig
config = from_dict(TrainConfig, json.loads(sys.argv[1]))
try:
    loop.train(Path(sys.argv[2]), Path(sys.argv[3]), None, config, device="cpu")
    print("done")
except UserError as error:
    print(error)
"""


def test_a_shard_with_one_wrong_bit_is_named_with_its_checksum(tmp_path):
    damaged = write_set(tmp_path / "set", make_records(70))
    shard = damaged / "shard-00001.arrow"
    right = sha256_file(shard)
    data = bytearray(shard.read_bytes())
    text = make_records(70)[66].text_codes
    assert text is not None
    data[data.index(text.tobytes())] ^= 1
    shard.write_bytes(data)
    message = rf"shard-00001.arrow: is damaged \(its SHA-256 is {sha256_file(shard)}, its manifest says {right}\)"
    refused(message, tmp_path / "run", damaged, None, config_of(augment_prob=0.0))
    shard.write_bytes(data[:-100])  # cut short: found without reading it
    refused(rf"cut short .*its manifest says {right}", tmp_path / "run", damaged, None, config_of(augment_prob=0.0))
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_named(plain, tmp_path, monkeypatch):
    config = config_of(augment_prob=0.0)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", plain, None, config)
    newest = checkpoint.latest(tmp_path / "run")
    assert newest is not None
    (newest / STATE).write_bytes(b"half")
    refused(f"{STATE}: is damaged", tmp_path / "run", plain, None, config)
