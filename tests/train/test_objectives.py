"""Objectives of a run: of one's own, and those that align."""

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
from tessera.train.export import export
from tessera.train.loop import Trainer, train
from tessera.weights.export import load_export
from tiny.runs import state_of, stop_at
from tiny.training_sets import DIT, FEATURES, RIN, config_of, make_records, with_features, write_set
from train.test_step import gradients_of

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


class TwoWeights(Objective):
    def weights(self, draws):
        return torch.ones(len(draws), 1)


class LateTimes(Objective):
    def times(self, uniforms):
        return uniforms + 0.5


class BrokenTimes(Objective):
    def times(self, uniforms):
        return uniforms / {}["nothing"]


class LossAlone(Objective):
    def forward(self, network, batch, null_condition, **options):
        return super().forward(network, batch, null_condition, **options)[0]


class NoGradient(Objective):
    def forward(self, network, batch, null_condition, **options):
        loss, per_sample = super().forward(network, batch, null_condition, **options)
        return loss.detach(), per_sample


class NoSuper(Objective):
    def __init__(self, prediction, times, levels):
        pass


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


def test_an_end_of_what_is_not_aligned_is_refused(plain, tmp_path):
    config = config_of(augment_prob=0.0, objective="balanced", align_until_image=8)
    with pytest.raises(UserError, match="align_until_image: the objective balanced aligns nothing; leave it out"):
        train(tmp_path / "run", plain, None, config)
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
        ("TwoWeights", r"mine\.py:TwoWeights: weights are \(8, 1\); give one for each draw, \(8,\)"),
        ("LateTimes", r"mine\.py:LateTimes: times has to return a t in \[0, 1\) for each draw"),
        ("BrokenTimes", r"mine\.py:BrokenTimes: line \d+: KeyError: 'nothing'"),
        ("LossAlone", r"mine\.py:LossAlone: forward has to return the loss, with a gradient, and that of each of 8"),
        ("NoGradient", r"mine\.py:NoGradient: forward has to return the loss, with a gradient"),
        ("NoSuper", r"mine\.py:NoSuper: AttributeError"),
    ],
)
def test_a_bad_objective_is_one_line(plain, tmp_path, name, message):
    (tmp_path / "mine.py").write_text(OWN)
    config = config_of(augment_prob=0.0, objective=f"{tmp_path}/mine.py:{name}")
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", plain, None, config)
