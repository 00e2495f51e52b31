"""One optimizer step"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tessera.config import UserError
from tessera.diffusion import objective
from tessera.encoded.store import open_encoded
from tessera.stages import read_manifest
from tessera.train import checkpoint
from tessera.train.config import RuntimeOptions
from tessera.train.loader import passes
from tessera.train.loop import Trainer, train
from tessera.train.optim.config import OptimConfig
from tessera.train.optim.master import MasterOptimizer
from tessera.train.step import Stepper
from tiny.runs import log_of, state_of, stop_at
from tiny.training_sets import DIT, RIN, config_of

FAMILIES = {
    "dit-adamw-fp32": config_of(),
    "dit-muon-bf16": config_of(optim=OptimConfig(name="muon"), compute="bf16", prediction="x0"),
    "rin-lamb": config_of(model=RIN, optim=OptimConfig(name="lamb")),
}


def gradients_of(plain, augmented, config, size=None):
    """The gradient of the first step, before clipping, and the losses."""
    stores = open_encoded(plain), open_encoded(augmented)
    trainer = Trainer(Path("unused"), *stores, config, torch.device("cpu"), RuntimeOptions(device_batch_size=size))
    found = {}

    def clip():
        found.update(zip(trainer.state.optimizer.names, (g.clone() for g in trainer.state.optimizer.gradients())))
        return torch.ones(())

    trainer.state.optimizer.clip = clip
    numbers = passes(0, config.batch_size, config.batch_size, trainer.samples_per_pass, trainer.reader.lengths)
    values = trainer.stepper.step([trainer.reader(part) for part in numbers])
    return found, values[:-2]


@pytest.mark.parametrize("model", [DIT, RIN])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_accumulated_passes_are_one_batch(plain, augmented, model, size):
    config = config_of(model=model, num_images=16, batch_size=16)
    whole, losses = gradients_of(plain, augmented, config)
    parts, part_losses = gradients_of(plain, augmented, config, size)
    assert np.allclose(losses, part_losses, rtol=1e-5)
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], atol=1e-6), name
    assert sum(float(g.norm()) for g in whole.values()) > 0.1


class NothingOnTheHost(TorchDispatchMode):
    """Refuses operations on tensors of the CPU: what of them goes to a GPU without page-locked memory waits for it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            assert not isinstance(leaf, torch.Tensor) or leaf.device.type == "meta", f"{func} on the host"
        return result


def test_passes_on_a_device_wait_for_nothing():
    """Places and weights of the losses are taken on the device, by the numbers that came with the batch."""
    there, seen = torch.device("meta"), []
    scale = torch.ones((), device=there, requires_grad=True)

    def own_loss(network, batch, null, *, weights, **options):
        seen.append(weights)
        return scale * 2, torch.empty(len(batch.numbers), device=there)

    stepper = Stepper.__new__(Stepper)
    vars(stepper).update(batch_size=4, objective="paper", self_condition=False, null_condition=None)
    stepper.state = SimpleNamespace(
        objective=own_loss,
        network=None,
        first_network=None,
        average=None,
        exchange=None,
        shards=None,
        device=there,
        dtype=torch.float32,
        num_images=8,
        optimizer=SimpleNamespace(add_gradients=lambda: None),
    )
    numbers = [torch.tensor(part) for part in ([11, 8], [9, 10])]
    batches = [SimpleNamespace(numbers=part.to(there)) for part in numbers]
    hosts: Any = [
        SimpleNamespace(numbers=part, self_condition=None, to=lambda *_, batch=batch: batch)
        for part, batch in zip(numbers, batches)
    ]
    weights = torch.empty(4, device=there)
    with NothingOnTheHost():
        assert stepper._gradients(hosts, weights).shape == (4,)
    assert [part.shape for part in seen] == [(2,), (2,)]


def test_the_loss_sees_normalised_latents(plain, augmented, monkeypatch):
    seen = []
    original = objective.diffusion_loss
    monkeypatch.setattr(
        objective, "diffusion_loss", lambda net, batch, *a, **k: seen.append(batch) or original(net, batch, *a, **k)
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
    original = objective.diffusion_loss

    def recording(network, batch, null, **options):
        seen.append(options["self_condition_keep"])
        return original(network, batch, null, **options)

    monkeypatch.setattr(objective, "diffusion_loss", recording)
    train(tmp_path / "dit", plain, augmented, config_of(num_images=8))
    assert seen == [None]
    train(tmp_path / "rin", plain, augmented, config_of(model=RIN, num_images=80))
    share = torch.cat(seen[1:]).float().mean()
    assert 0.75 < share < 1
    train(tmp_path / "off", plain, augmented, config_of(model=RIN, num_images=8, self_condition_prob=0.0))
    assert seen[-1] is None


def poison(monkeypatch, bad):
    """The loss of steps number `bad` is not finite."""
    original, count = objective.diffusion_loss, iter(range(10**6))

    def poisoned(*args, **options):
        loss, per_sample = original(*args, **options)
        factor = float("nan") if next(count) in bad else 1.0
        return loss * factor, per_sample * factor

    monkeypatch.setattr(objective, "diffusion_loss", poisoned)


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
    original = objective.diffusion_loss

    def one_bad(network, batch, *args, **options):
        loss, per_sample = original(network, batch, *args, **options)
        bad = (batch.numbers == 21) | (batch.numbers == 50)
        return torch.where(bad, torch.nan, per_sample).mean() + 0 * loss, torch.where(bad, torch.inf, per_sample)

    monkeypatch.setattr(objective, "diffusion_loss", one_bad)
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
