"""An export holds the averaged weights and all that sampling has to know."""

import shutil
from pathlib import Path

import pytest
import torch

from tessera.config import UserError
from tessera.encoded.store import open_encoded
from tessera.generate.pipeline import Pipeline
from tessera.records import TextEncoding
from tessera.stages import read_manifest
from tessera.train import checkpoint
from tessera.train.export import ExportConfig, export
from tessera.train.loop import train
from tessera.train.optim.config import OptimConfig
from tessera.weights.export import load_export
from tiny.runs import log_of
from tiny.training_sets import DIT, RIN, SHAPE, WIDTH, config_of


@pytest.fixture(scope="module")
def run(plain, augmented, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    optim = OptimConfig(name="muon", decay="constant")
    train(folder, plain, augmented, config_of(num_images=40, optim=optim, compute="bf16", prediction="v"))
    return folder


@pytest.mark.parametrize(("weights", "prefix"), [("ema", "ema/"), ("online", "master/")])
def test_weights_are_those_of_the_last_checkpoint(run, tmp_path, weights, prefix):
    export(tmp_path / "export", run, ExportConfig(weights=weights))
    network, _ = load_export(tmp_path / "export")
    state = checkpoint.load(run / "checkpoints" / "000000000040").tensors
    assert network.config == DIT
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[prefix + name])
    different = [n for n in network.state_dict() if not torch.equal(state["ema/" + n], state["master/" + n])]
    assert "out_projection.weight" in different


def test_the_best_average_is_that_of_the_lowest_held_out_loss(run, plain, tmp_path):
    with pytest.raises(UserError, match="run: keeps no best EMA, since no loss on held-out records was measured"):
        export(tmp_path / "none", run, ExportConfig(weights="best"))
    assert not (tmp_path / "none").exists()  # so the same command without --best works
    measured = config_of(num_images=40, augment_prob=0.0, validation_records=4, validate_every_images=16)
    train(tmp_path / "run", plain, None, measured)
    lines = [line for line in log_of(tmp_path / "run") if "validation_ema" in line]
    lowest = min(lines, key=lambda line: line["validation_ema"]["loss"])
    export(tmp_path / "best", tmp_path / "run", ExportConfig(weights="best"))
    network, info = load_export(tmp_path / "best")
    assert info.num_images == lowest["num_images"]
    kept = checkpoint.load(tmp_path / "run" / "best" / "checkpoints" / f"{info.num_images:012d}").tensors
    assert all(torch.equal(value, kept[f"ema/{name}"]) for name, value in network.state_dict().items())
    with pytest.raises(UserError, match="num_images: 40 says nothing of the best EMA; leave it out"):
        export(tmp_path / "other", tmp_path / "run", ExportConfig(weights="best"), num_images=40)


def test_the_average_is_the_default(run, tmp_path):
    export(tmp_path / "a", run)
    export(tmp_path / "b", run, ExportConfig(weights="ema"))
    for file in ("config.json", "model.safetensors", "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_what_sampling_has_to_know(run, plain, tmp_path):
    config = ExportConfig(guidance_scale=2.5, sampling_steps=20, clip_denoised=1.0)
    export(tmp_path / "export", run, config)
    _, info = load_export(tmp_path / "export")
    assert (info.guidance_scale, info.sampling_steps, info.clip_denoised) == (2.5, 20, 1.0)
    assert (info.prediction, info.noise_schedule) == ("v", "linear")
    assert (info.latent_codec, info.text_encoder, info.image_size) == ("pixel-unshuffle:4", "words:16", 16)
    assert (info.arm, info.num_images) == ("ta_ia", 40)
    assert torch.equal(info.null_condition, torch.from_numpy(open_encoded(plain).null_condition))
    made_of = dict(info.inputs)
    assert made_of["run"] == read_manifest(run).sha256
    assert made_of["plain"] == read_manifest(plain).sha256
    assert read_manifest(tmp_path / "export", "export").inputs == {"run": read_manifest(run).sha256}


def test_a_rectified_flow_is_trained_exported_and_drawn_from(plain, augmented, tmp_path):
    flow = {"noise_schedule": "flow", "prediction": "velocity", "t_distribution": "logit_normal", "t_shift": 2.0}
    train(tmp_path / "run", plain, augmented, config_of(num_images=40, **flow))
    export(tmp_path / "export", tmp_path / "run")
    _, info = load_export(tmp_path / "export")
    assert (info.prediction, info.noise_schedule) == ("velocity", "flow")
    pipeline = Pipeline.load(tmp_path / "export", "cpu")
    for sampler in ("euler", "heun", "dpmpp_2m"):
        noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
        latents = pipeline.sample(pipeline.encode(["a red dog", "a dog"]), noise, steps=3, sampler=sampler)
        assert latents.shape == noise.shape
        assert latents.isfinite().all()


def test_predictions_are_limited_to_what_the_training_latents_reach(run, tmp_path):
    export(tmp_path / "export", run)
    _, info = load_export(tmp_path / "export")
    assert info.clip_denoised == read_manifest(run).facts["latent_limit"] > 0


def test_a_rin_is_exported(plain, tmp_path):
    config = config_of(
        model=RIN, num_images=8, augment_prob=0.0, latent_scale=(0.5,), latent_shift=(0.1, 0.2, 0.3, 0.4)
    )
    train(tmp_path / "run", plain, None, config)
    export(tmp_path / "export", tmp_path / "run")
    network, info = load_export(tmp_path / "export")
    text = TextEncoding(torch.zeros(1, 2, WIDTH), torch.ones(1, 2, dtype=torch.bool))
    output, _ = network(torch.zeros(1, *SHAPE), torch.tensor([0.5]), text)
    assert output.shape == (1, *SHAPE)
    assert info.arm == "ta"
    assert (info.latent_scale, info.latent_shift) == (config.latent_scale, config.latent_shift)


def test_it_is_done_once(run, tmp_path, monkeypatch):
    export(tmp_path / "export", run)
    monkeypatch.setattr(checkpoint, "load", None)
    export(tmp_path / "export", run)
    with pytest.raises(UserError, match="guidance_scale"):
        export(tmp_path / "export", run, ExportConfig(guidance_scale=7.0))


def test_a_run_that_cannot_be_exported(run, tmp_path):
    with pytest.raises(UserError, match="absent"):
        export(tmp_path / "export", tmp_path / "absent")
    bare = shutil.copytree(run, tmp_path / "bare")
    shutil.rmtree(bare / "checkpoints")
    with pytest.raises(UserError, match=r"the run's last checkpoint is missing; delete .*bare and train"):
        export(tmp_path / "export", bare)
    manifest = (bare / "manifest.json").read_text()
    (bare / "manifest.json").write_text(manifest.replace('"complete": true', '"complete": false'))
    with pytest.raises(UserError, match="bare: is unfinished"):
        export(tmp_path / "other", bare)


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": "average"},
        {"sampling_steps": 0},
        {"guidance_scale": float("nan")},
        {"guidance_scale": float("inf")},
        {"clip_denoised": 0.0},
        {"clip_denoised": float("nan")},
    ],
)
def test_fields_out_of_range_are_named(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        ExportConfig(**changes)
