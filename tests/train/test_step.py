"""One optimizer step"""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tessera.config import UserError
from tessera.diffusion import objective
from tessera.encoded.record import dequantize
from tessera.encoded.store import open_encoded
from tessera.stages import read_manifest
from tessera.train import checkpoint
from tessera.train.config import RuntimeOptions
from tessera.train.export import export
from tessera.train.loader import passes
from tessera.train.loop import Trainer, train
from tessera.train.optim.config import OptimConfig
from tessera.train.optim.master import MasterOptimizer
from tessera.weights.export import load_export
from tiny.runs import log_of, state_of, stop_at
from tiny.training_sets import DIT, FEATURES, RIN, config_of, make_records, with_features, write_set

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


OWN = """
import torch
from tessera.diffusion.objective import Objective


class Late(Objective):
    \"""Times above a half, weights by t, a term of its own with a parameter, and a count of steps.\"""

    def __init__(self, prediction, times, levels):
        super().__init__(prediction, times, levels)
        self.head = torch.nn.Linear(4, 4)
        self.register_buffer("steps", torch.zeros(()))

    def times(self, uniforms):
        return 0.5 + self.configured_times(uniforms) / 2

    def weights(self, draws):
        return torch.from_numpy(draws.t).float()

    def forward(self, network, batch, null_condition, **options):
        loss, per_sample = super().forward(network, batch, null_condition, **options)
        channels = batch.latents.mean((2, 3))
        return loss + (self.head(channels) - channels).square().mean(), per_sample

    def update(self, draws, losses, skip):
        self.steps += 1


class Breaks(Objective):
    def weights(self, draws):
        return {}["nothing"]


def late():
    return Late
"""


def state_of_resumed(folder, plain, augmented, config, monkeypatch, stop=3):
    """Return the state of a run in folder/whole; one that was stopped ends with the same."""
    train(folder / "whole", plain, augmented, config)
    with monkeypatch.context() as patch:
        stop_at(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            train(folder / "stopped", plain, augmented, config)
    train(folder / "stopped", plain, augmented, config)
    state, again = state_of(folder / "whole"), state_of(folder / "stopped")
    assert state.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in state.items())
    return state


def test_an_objective_of_ones_own(plain, augmented, tmp_path, monkeypatch):
    """It chooses t and weights, its parameter learns and is averaged, its buffer is saved; what was stopped resumes;
    and an export is of the network alone."""
    (tmp_path / "mine.py").write_text(OWN)
    config = config_of(objective=f"{tmp_path}/mine.py:Late", num_images=80)
    state = state_of_resumed(tmp_path, plain, augmented, config, monkeypatch)
    assert state["steps"] == 10
    before = Trainer(Path("unused"), open_encoded(plain), open_encoded(augmented), config, torch.device("cpu"))
    first = dict(zip(before.state.optimizer.names, before.state.optimizer.masters))["objective.head.weight"]
    assert (state["master/objective.head.weight"] - first).abs().max() > 0.01
    assert not torch.equal(state["ema/objective.head.weight"], state["master/objective.head.weight"])
    draws = before.stepper.algorithm.draws(np.arange(1000))
    assert 0.5 <= draws.t.min() < 0.51 < 0.99 < draws.t.max() < 1
    assert re.search(r"mine\.py:Late@[0-9a-f]{12}$", read_manifest(tmp_path / "whole").config["objective"])
    (tmp_path / "mine.py").unlink()
    export(tmp_path / "export", tmp_path / "whole")
    assert load_export(tmp_path / "export")[0].parameter_count == before.state.parameter_count


def test_weights_of_an_objective_are_those_of_the_gradients(plain, augmented, monkeypatch):
    config = config_of(num_images=8)
    whole, losses = gradients_of(plain, augmented, config)
    monkeypatch.setattr(objective.Objective, "weights", lambda self, draws: torch.full((len(draws),), 3.0))
    tripled, same = gradients_of(plain, augmented, config, size=2)
    assert torch.allclose(losses, same, rtol=1e-5)
    for name, gradient in whole.items():
        assert torch.allclose(3 * gradient, tripled[name], atol=1e-5), name


SELF = {
    "dit": config_of(objective="self-aligned"),
    "dit-bf16": config_of(objective="balanced-self-aligned", compute="bf16"),
    "rin": config_of(objective="self-aligned", model=replace(RIN, blocks=2)),
}
KINDS = ["dit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dit-bf16", "rin"))]


@pytest.mark.parametrize("name", KINDS)
def test_a_network_aligned_with_its_average_resumes_with_the_same_bytes(plain, augmented, tmp_path, monkeypatch, name):
    config = replace(SELF[name], num_images=80, align_until_image=64)
    state = state_of_resumed(tmp_path, plain, augmented, config, monkeypatch)
    assert not any(".average" in name or name.startswith("average") for name in state)
    export(tmp_path / "export", tmp_path / "whole")
    assert load_export(tmp_path / "export")[0].config == config.model


@pytest.mark.parametrize("name", KINDS[:-1])
def test_without_the_alignment_the_network_gets_the_bytes_of_the_objective_without(
    plain, augmented, tmp_path, monkeypatch, name
):
    """Off by its weight; on it changes them."""
    config = replace(SELF[name], num_images=64)
    without = replace(config, objective=config.objective.removesuffix("self-aligned").rstrip("-") or "paper")
    train(tmp_path / "without", plain, augmented, without)
    train(tmp_path / "on", plain, augmented, config)
    monkeypatch.setattr(objective, "ALIGNMENT_WEIGHT", 0.0)
    train(tmp_path / "off", plain, augmented, config)
    expected, on, off = (state_of(tmp_path / run) for run in ("without", "on", "off"))
    named = [key for key in expected if key.startswith(("master/", "ema/"))]
    for key in named:
        assert torch.equal(off[key], expected[key]), key
    assert any(not torch.equal(expected[key], on[key]) for key in named)


def test_without_the_alignment_a_rin_gets_the_gradients_of_the_objective_without(plain, augmented, monkeypatch):
    """To rounding, for zeros among them change the order in which they are added up. The weights after some steps
    differ more: the gradients of the keys' biases are rounding alone, and Adam divides them by their own size."""
    monkeypatch.setattr(objective, "ALIGNMENT_WEIGHT", 0.0)
    config = replace(SELF["rin"], num_images=8)
    off, _ = gradients_of(plain, augmented, config)
    expected, _ = gradients_of(plain, augmented, replace(config, objective="paper"))
    for key, gradient in expected.items():
        torch.testing.assert_close(off[key], gradient, rtol=0.0, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", SELF)
def test_the_gradient_of_the_alignment_is_the_students_alone(plain, augmented, name, monkeypatch):
    """The average has its weights from the EMA, no gradients, and no block behind the ones that are needed; what the
    term changes are the gradients of the network up to the aligned block and of the projection."""
    config = replace(SELF[name], num_images=8, compute="fp32")
    stores = open_encoded(plain), open_encoded(augmented)
    trainer = Trainer(Path("unused"), *stores, config, torch.device("cpu"))
    state = trainer.state
    assert state.average is not None
    assert len(state.average.blocks) == 2  # type: ignore[arg-type]
    state.ema.weights.mul_(0.5)
    trainer.stepper.step([trainer.reader(range(8))])
    weights = dict(state.network.named_parameters())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in state.average.parameters())
    fresh = Trainer(Path("unused"), *stores, config, torch.device("cpu")).state.network
    first = dict(fresh.named_parameters())
    for key, parameter in state.average.named_parameters():
        assert torch.equal(parameter, first[key] / 2), key  # before the step
    assert not torch.equal(weights["objective.projection.0.weight"], first["objective.projection.0.weight"])
    aligned, _ = gradients_of(plain, augmented, config)
    monkeypatch.setattr(objective, "ALIGNMENT_WEIGHT", 0.0)
    usual, _ = gradients_of(plain, augmented, config)
    changed = {key for key in usual if not torch.equal(aligned[key], usual[key])}
    assert any(key.startswith("blocks.0.") for key in changed)
    assert "patch_embedding.weight" in changed
    assert not any(key.startswith(("blocks.1.", "out_")) for key in changed)


def test_aligned_passes_are_one_batch(plain, augmented):
    config = config_of(objective="self-aligned", num_images=16, batch_size=16)
    whole, _ = gradients_of(plain, augmented, config)
    parts, _ = gradients_of(plain, augmented, config, 4)
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], atol=1e-6), name


@pytest.fixture(scope="module")
def sets_with_features(tmp_path_factory):
    """A plain and an augmented one."""
    folder = tmp_path_factory.mktemp("features")
    return [
        write_set(folder / name, with_features(make_records(count, seed=seed)), feature_shape=FEATURES)
        for name, count, seed in (("plain", 37, 0), ("augmented", 23, 1))
    ]


@pytest.mark.parametrize("model", [DIT, pytest.param(RIN, marks=pytest.mark.slow)])
def test_tokens_are_aligned_with_stored_features_until_an_image(sets_with_features, tmp_path, monkeypatch, model):
    """They are read until then alone; the term changes what the network learns; a run that was stopped ends alike."""
    config = config_of(model=model, objective="feature-aligned", num_images=48, align_until_image=24)
    first, second = sets_with_features
    stores = open_encoded(first), open_encoded(second)
    trainer = Trainer(Path("unused"), *stores, config, torch.device("cpu"))
    seen = trainer.reader(range(16, 24)).to("cpu", torch.float32)
    assert seen.features is not None
    assert seen.features.shape == (8, *FEATURES)
    records = [trainer.reader.algorithm[n] for n in range(16, 24)]
    for row, sample in zip(seen.features, records):
        record = stores[sample.source == "augmented"].read(sample.index, features=True)
        assert record.features is not None
        assert record.features_scale is not None
        assert np.allclose(row, dequantize(record.features, record.features_scale), atol=1e-6)
    assert {sample.source for sample in records} == {"plain", "augmented"}
    assert trainer.reader(range(24, 32)).features is None
    whole = state_of_resumed(tmp_path, first, second, config, monkeypatch, stop=1)
    train(tmp_path / "paper", first, second, replace(config, objective="paper", align_until_image=None))
    paper = state_of(tmp_path / "paper")
    assert not torch.equal(whole["master/patch_embedding.weight"], paper["master/patch_embedding.weight"])
    assert whole["master/objective.projection.weight"].shape[:1] == FEATURES[1:]


def test_features_that_are_missing_or_of_another_network(plain, augmented, sets_with_features, tmp_path):
    config, (with_them, mixed) = config_of(objective="feature-aligned"), sets_with_features
    with pytest.raises(UserError, match=rf"{plain}: holds no features to align with; .* --features, such as dinov2"):
        train(tmp_path / "run", plain, mixed, config)
    with pytest.raises(UserError, match=rf"{augmented}: holds no features"):
        train(tmp_path / "run", with_them, augmented, config)
    other = write_set(tmp_path / "o", with_features(make_records(9)), feature_shape=FEATURES, features="another")
    with pytest.raises(
        UserError, match=r"o: features are 9 x 70 by another, those of .*plain 9 x 70 by a-network; enc"
    ):
        train(tmp_path / "run", with_them, other, config)
    assert not (tmp_path / "run").exists()


def test_a_network_of_one_block_cannot_be_aligned_with_itself(plain, tmp_path):
    config = config_of(augment_prob=0.0, objective="self-aligned", model=RIN)
    with pytest.raises(UserError, match="objective: aligning a network with itself takes 2 blocks or more"):
        train(tmp_path / "run", plain, None, config)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Late2", "did you mean 'Late'"),
        ("late", r"objective .*mine\.py:late: is no tessera\.diffusion\.objective\.Objective; docs/extending\.md"),
        ("Breaks", r"objective .*mine\.py:Breaks: line \d+: KeyError: 'nothing'"),
    ],
)
def test_a_bad_objective_is_one_line(plain, tmp_path, name, message):
    (tmp_path / "mine.py").write_text(OWN)
    config = config_of(augment_prob=0.0, objective=f"{tmp_path}/mine.py:{name}")
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", plain, None, config)


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
