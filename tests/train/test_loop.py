"""Whole runs of the small networks"""

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

from encoded.test_seams import seams_of, write_tau
from tessera.config import UserError, from_dict, to_dict
from tessera.diffusion import objective
from tessera.encoded.store import open_encoded
from tessera.files import read_json, sha256_file
from tessera.randomness import philox
from tessera.records import Batch
from tessera.stages import read_manifest
from tessera.train import checkpoint, loop, step
from tessera.train.config import RuntimeOptions, TrainConfig
from tessera.train.loop import Trainer, train
from tessera.train.optim.config import OptimConfig
from tessera.train.optim.master import MasterOptimizer
from tiny.defaults import CHOICES, torch_defaults
from tiny.runs import STATE, Killed, before_step, contents, log_of, state_of, stop_at
from tiny.training_sets import DIT, RIN, SHAPE, WIDTH, config_of, load_batch, make_records, with_short, write_set

FAMILIES = {
    "dit-adamw-fp32": config_of(),
    "dit-muon-bf16": config_of(optim=OptimConfig(name="muon"), compute="bf16", prediction="x0"),
    "rin-lamb": config_of(model=RIN, optim=OptimConfig(name="lamb")),
}


MIX = {"caption_mix": {"long": 0.9, "short": 0.1}, "caption_mix_start_image": 80, "objective": "balanced"}


@pytest.mark.parametrize("family", [*FAMILIES, "caption-mix"])
def test_a_stopped_run_ends_with_the_same_bytes(plain, augmented, tmp_path, monkeypatch, family, capsys):
    config = FAMILIES.get(family) or config_of(**MIX)
    if config.caption_mix:
        plain = write_set(tmp_path / "set", with_short(make_records(37)), levels=("long", "short"))
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
    off = f"train: {augmented}: has one caption an image, so caption_mix is off\n"
    assert capsys.readouterr().err.count(off) == (3 if config.caption_mix else 0)


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
    config = config_of(num_images=8 * 5 * rounds, checkpoint_every_images=8)
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


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_saves_and_raises(plain, tmp_path, monkeypatch, number):
    handlers = [signal.getsignal(n) for n in STOPPING]
    stop_at(monkeypatch, 2, number)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", plain, None, config_of(augment_prob=0.0))
    assert [p.name for p in checkpoint.found(tmp_path / "run")] == [f"{4 * 8:012d}"]
    assert [signal.getsignal(n) for n in STOPPING] == handlers


def test_a_lost_terminal_does_not_stop_a_run_under_nohup(plain, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop_at(monkeypatch, 2, signal.SIGHUP)
        train(tmp_path / "run", plain, None, config_of(augment_prob=0.0, num_images=32))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert read_manifest(tmp_path / "run").complete


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
        "facts.json",
        "log.jsonl",
        "manifest.json",
    ]
    monkeypatch.setattr(loop, "Trainer", None)
    train(tmp_path / "one", plain, augmented, config)
    train(tmp_path / "one", plain, augmented, config, resume=True)
    assert contents(tmp_path / "one") == before


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_a_programs_own_torch_defaults_change_no_byte(plain, augmented, tmp_path, choice):
    config = config_of(model=RIN, num_images=16, objective="balanced", optim=OptimConfig(name="lamb"))
    train(tmp_path / "expected", plain, augmented, config)
    with torch_defaults(choice):
        train(tmp_path / "run", plain, augmented, config)
    assert contents(tmp_path / "run") == contents(tmp_path / "expected")


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


def test_an_augmented_set_that_would_not_be_used_is_refused(plain, augmented, tmp_path):
    with pytest.raises(UserError, match=r"augmented: no augmented images are trained on here .*leave out --augmented"):
        train(tmp_path / "run", plain, augmented, config_of(augment_prob=0.0, num_images=8))
    assert not (tmp_path / "run").exists()


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


@pytest.mark.parametrize(("model", "steps"), [(DIT, 100), (RIN, 280)])
def test_one_batch_is_learned_by_its_captions(plain, model, steps):
    """All noise and the same noise: only the caption tells which image is meant."""
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
        loss, _ = objective.diffusion_loss(trainer.state.network, batch, null, prediction="x0")
        first = first or loss.item()
        loss.backward()
        optimizer.clip()
        optimizer.step(1.0)
    with torch.no_grad():
        learned, _ = objective.diffusion_loss(trainer.state.network, batch, null, prediction="x0")
        shuffled = replace(batch, text=full.text.select(torch.arange(8).roll(1)))
        wrong, _ = objective.diffusion_loss(trainer.state.network, shuffled, null, prediction="x0")
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


def refused(match, out, *args, **options):
    with pytest.raises(UserError, match=match):
        train(out, *args, **options)


def test_what_does_not_fit_is_refused_before_anything_is_written(plain, augmented, tmp_path, monkeypatch):
    out = tmp_path / "run"
    refused("augment_prob: 0.5 needs an augmented set", out, plain, None, config_of())
    refused("text_width 32; .* with --fit", out, plain, augmented, config_of(model=replace(DIT, text_width=32)))
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
    train(out, plain, None, config)  # the lock is gone


SECOND = """
import json, sys
from pathlib import Path
from tessera.config import UserError, from_dict
from tessera.train import loop
from tessera.train.config import TrainConfig
config = from_dict(TrainConfig, json.loads(sys.argv[1]))
try:
    loop.train(Path(sys.argv[2]), Path(sys.argv[3]), None, config, device="cpu")
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


@pytest.fixture
def memory(monkeypatch):
    """Memory for passes of `memory["samples"]`, beyond which torch says what it says on a GPU; and the sizes of those
    that were begun."""
    memory, original = {"samples": 3, "begun": []}, objective.diffusion_loss

    def limited(network, batch, *arguments, **options):
        memory["begun"].append(len(batch.numbers))
        if len(batch.numbers) > memory["samples"]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(network, batch, *arguments, **options)

    monkeypatch.setattr(objective, "diffusion_loss", limited)
    return memory


@pytest.mark.parametrize("model", [DIT, RIN])
def test_the_size_of_a_pass_may_differ_from_call_to_call(plain, augmented, tmp_path, monkeypatch, model):
    config = config_of(model=model)
    train(tmp_path / "whole", plain, augmented, config)
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", plain, augmented, config, runtime=RuntimeOptions(device_batch_size=2))
    runtime = RuntimeOptions(device_batch_size=4)
    train(tmp_path / "run", plain, augmented, config, resume=True, runtime=runtime)
    losses = [[line["loss"] for line in log_of(tmp_path / name)] for name in ("whole", "run")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert read_manifest(tmp_path / "run").sha256 == read_manifest(tmp_path / "whole").sha256


def test_the_size_of_a_pass_is_found_and_remembered(plain, augmented, tmp_path, monkeypatch, memory, capsys):
    runtime = RuntimeOptions(device_batch_size="auto")
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", plain, augmented, config_of(), runtime=runtime)
    assert memory["begun"][:4] == [8, 4, 2, 2]  # tried, then the first step
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == [f"train: memory does not suffice; continues with passes of {n} samples" for n in (4, 2)]
    memory["begun"].clear()
    train(tmp_path / "run", plain, augmented, config_of(), resume=True, runtime=runtime)
    assert memory["begun"] == [2] * (4 * 13)  # of the rest alone
    train(tmp_path / "fixed", plain, augmented, config_of(), runtime=RuntimeOptions(device_batch_size=2))
    ours, theirs = contents(tmp_path / "run"), contents(tmp_path / "fixed")
    assert json.loads(ours.pop("device_batch_size.json"))["samples"] == 2  # type: ignore[arg-type]
    assert ours == theirs
    # Where more is kept, less fits: what was found otherwise does not count.
    trainer = Trainer(tmp_path / "run", open_encoded(plain), None, config_of(augment_prob=0.0), torch.device("cpu"))
    assert trainer.samples_per_pass == 8
    memory["samples"] = 8
    more = RuntimeOptions(device_batch_size="auto", gradient_checkpointing=True)
    stores = open_encoded(plain), None, config_of(augment_prob=0.0), torch.device("cpu")
    assert Trainer(tmp_path / "run", *stores, more).samples_per_pass == 8
    assert Trainer(tmp_path / "run", *stores, runtime).samples_per_pass == 2


def test_the_longest_texts_of_the_first_steps_are_tried(plain, tmp_path, monkeypatch):
    seen, original = [], step.Stepper.fits
    monkeypatch.setattr(step.Stepper, "fits", lambda self, host: seen.append(host) or original(self, host))
    config, runtime = config_of(augment_prob=0.0), RuntimeOptions(device_batch_size="auto")
    trainer = Trainer(tmp_path, open_encoded(plain), None, config, torch.device("cpu"), runtime)
    assert seen[0].text.mask.sum(1).tolist() == [5] * 8  # of 1 to 5
    assert all(parameter.grad is None for parameter in trainer.state.network.parameters())


def test_too_little_memory_ends_with_advice(plain, augmented, tmp_path, memory):
    def advice(**options):
        with pytest.raises(UserError) as caught:
            train(tmp_path / "run", plain, augmented, config_of(), runtime=RuntimeOptions(**options))
        return str(caught.value)

    assert advice(device_batch_size=4) == (
        "cpu: has too little memory for passes of 4 samples; try, in this order, --device-batch-size 2, "
        "--gradient-checkpointing, --adamw8bit for a new run, --shard on several GPUs, a smaller model"
    )
    memory["samples"] = 0
    assert advice(device_batch_size="auto", gradient_checkpointing=True) == (
        "cpu: has too little memory for one image; try, in this order, --adamw8bit for a new run, "
        "--shard on several GPUs, a smaller model"
    )


def test_memory_that_runs_out_later_is_remembered(plain, augmented, tmp_path, monkeypatch, memory):
    runtime = RuntimeOptions(device_batch_size="auto")
    config = config_of(checkpoint_every_images=16)
    with monkeypatch.context() as patch:
        before_step(patch, lambda number: memory.update(samples=1) if number == 5 else None)
        with pytest.raises(UserError, match="the next start, from the last checkpoint, has passes of 1"):
            train(tmp_path / "run", plain, augmented, config, runtime=runtime)
    train(tmp_path / "run", plain, augmented, config, resume=True, runtime=runtime)
    train(tmp_path / "whole", plain, augmented, config, runtime=RuntimeOptions(device_batch_size=1))
    losses = [[line["loss"] for line in log_of(tmp_path / name)] for name in ("whole", "run")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_pass_that_does_not_divide_a_step_is_refused(plain, augmented, tmp_path):
    with pytest.raises(UserError, match="device_batch_size: 3 does not divide a rank's 8 samples of a step; give 2"):
        train(tmp_path / "run", plain, augmented, config_of(), runtime=RuntimeOptions(device_batch_size=3))


def test_gradient_checkpointing_trains_the_same(plain, augmented, tmp_path):
    for name, model in (("dit", DIT), ("rin", RIN)):
        for keep_less in (False, True):
            runtime = RuntimeOptions(gradient_checkpointing=keep_less)
            train(tmp_path / f"{name}-{keep_less}", plain, augmented, config_of(model=model), runtime=runtime)
        assert contents(tmp_path / f"{name}-True") == contents(tmp_path / f"{name}-False")


@pytest.mark.parametrize(
    "changes",
    [
        {"augment_min_t": "recipe"},
        {"augment_min_t": "pattern", "seam_margin": 1, "validation_records": 5},
        {"seam_margin": 1, "model": RIN},
    ],
)
def test_a_stopped_run_by_each_images_own_tau_ends_with_the_same_bytes(
    plain, augmented, tmp_path, monkeypatch, changes
):
    tau = write_tau(tmp_path / "tau", augmented, seams_of(open_encoded(augmented)))
    config = config_of(noise_schedule="cosine", latent_scale=(0.2,), num_images=80, **changes)
    train(tmp_path / "whole", plain, augmented, config, tau=tau)
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped", plain, augmented, config, tau=tau)
    train(tmp_path / "stopped", plain, augmented, config, tau=tau)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    run = read_manifest(tmp_path / "whole")
    assert run.inputs["tau"] == read_manifest(tau).sha256
    assert 0 < run.facts["median_min_t"] < 1
    unmasked = {"augment_min_t": 0.4, "seam_margin": None}
    train(tmp_path / "other", plain, augmented, replace(config, **unmasked))
    name = "master/out_projection.weight" if config.model is DIT else "master/interface_positions"
    assert not torch.equal(state_of(tmp_path / "other")[name], state_of(tmp_path / "whole")[name])


def test_a_tau_that_is_missing_or_read_by_nothing(plain, augmented, tmp_path):
    tau = write_tau(tmp_path / "tau", augmented, seams_of(open_encoded(augmented)))
    needs = "needs --tau, a directory made by `tessera tau`; or set"
    with pytest.raises(UserError, match=f"augment_min_t is 'recipe', which {needs} a number"):
        train(tmp_path / "run", plain, augmented, config_of(augment_min_t="recipe"))
    with pytest.raises(UserError, match=f"seam_margin is 2, which {needs} None"):
        train(tmp_path / "run", plain, augmented, config_of(seam_margin=2))
    with pytest.raises(UserError, match=r"augment_prob: 0\.5 needs an augmented set"):
        train(tmp_path / "run", plain, None, config_of(augment_min_t="recipe"), tau=tau)
    alone = config_of(augment_prob=0.0, augment_min_t="recipe", seam_margin=1, num_images=8)
    with pytest.raises(UserError, match=r"tau: no augmented images are trained on here .*leave out --tau"):
        train(tmp_path / "run", plain, None, alone, tau=tau)
    with pytest.raises(UserError, match=r"tau: is read where augment_min_t is recipe or pattern, or seam_m"):
        train(tmp_path / "run", plain, augmented, config_of(), tau=tau)
    with pytest.raises(UserError, match=r"noise_schedule is \"cosine\" there, \"linear\" in the training; run"):
        train(tmp_path / "run", plain, augmented, config_of(augment_min_t="recipe"), tau=tau)
    assert not (tmp_path / "run").exists()
    train(tmp_path / "run", plain, None, alone)  # of an arm without augmented images, they say nothing
