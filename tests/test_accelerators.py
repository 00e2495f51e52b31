"""The same results on a GPU as on the CPU: CUDA's and Apple's where there is one, else the CPU takes their place.

    python -m pytest tests/test_accelerators.py

What every machine can check of it, that no tensor strays from its device, is in tests/models/test_device_placement.py.
"""

import functools
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tessera.diffusion import objective
from tessera.diffusion.guidance import Guided
from tessera.diffusion.loss import Denoiser, diffusion_loss
from tessera.diffusion.sampler import SAMPLERS
from tessera.diffusion.schedule import PREDICTIONS, get_schedule
from tessera.generate.pipeline import Pipeline
from tessera.models.dit import DiTConfig
from tessera.pretrained.text_encoders import load_text_encoder
from tessera.records import Batch
from tessera.train import checkpoint, step
from tessera.train.config import RuntimeOptions
from tessera.train.loop import train
from tessera.train.optim.config import OptimConfig
from tessera.train.optim.master import MasterOptimizer
from tessera.train.state import TrainState, initial_network, load_objective
from tessera.weights.export import ExportInfo, save_export

sys.path.insert(0, str(Path(__file__).parent))
from tiny import ranks
from tiny.networks import CONFIGS, make_inputs, make_network
from tiny.training_sets import DIT, RIN, config_of, make_records, write_set

# On GPUs training compiles by default; these warnings are of torch's compiler itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
]
THERE = [name for name, there in (("cuda", torch.cuda), ("mps", torch.backends.mps)) if there.is_available()]
NULL = torch.linspace(-1, 1, 12)[None]  # (1, D)


@pytest.fixture(params=THERE or ["cpu"])
def device(request, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device(request.param)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_sampling(name, sampler, device):
    latents = []
    for where in (torch.device("cpu"), device):
        network = make_network(CONFIGS[name]).eval().to(where)
        noise, _, text = make_inputs()
        with torch.inference_mode():
            guided = Guided(Denoiser(network, "eps"), text.to(where), NULL.to(where), 3.0, (0.2, 0.8), 3.0)
            generator = torch.Generator().manual_seed(0)
            drawn = SAMPLERS[sampler](guided, noise.to(where), get_schedule("linear"), 6, generator=generator)
        assert drawn.device.type == where.type
        latents.append(drawn.cpu())
    torch.testing.assert_close(latents[1], latents[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["dit", "rin"])
def test_loss_and_gradients(name, prediction, device):
    found = []
    for where in (torch.device("cpu"), device):
        network = make_network(CONFIGS[name]).to(where)
        latents, alpha_bar, text = make_inputs()
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
        dropped = torch.tensor([False, True, False])
        batch = Batch(latents, text, alpha_bar, alpha_bar, noise, dropped, torch.arange(3)).to(where)
        keep = torch.tensor([True, False, True]) if name == "rin" else None
        loss, _ = diffusion_loss(network, batch, NULL.to(where), prediction=prediction, self_condition_keep=keep)
        loss.backward()
        gradients = torch.cat([p.grad.flatten().cpu() for p in network.parameters() if p.grad is not None])
        found.append((loss.detach().cpu(), gradients))
    (expected, gradients), (loss, theirs) = found
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)
    assert (theirs - gradients).norm() < 1e-3 * gradients.norm()


RUNS = {
    "dit-adamw": {},
    "dit-muon": {"optim": OptimConfig(name="muon", lr=3e-3, warmup_images=16)},
    "rin-lamb": {"model": RIN, "optim": OptimConfig(name="lamb", lr=3e-3, warmup_images=16)},
    "rin-lamb-bf16": {
        "model": RIN,
        "optim": OptimConfig(name="lamb", lr=3e-3, warmup_images=16),
        "compute": "bf16",
    },
    "dit-bf16": {"model": replace(DIT, width=48), "compute": "bf16"},
}


def settings(name):
    """Ten steps of four passes each; held-out records are looked at, and texts of several lengths met."""
    changes = {"num_images": 80, "log_every_images": 8, "augment_prob": 0.0}
    measured = {"validation_records": 5, "validate_every_images": 40, "sample_every_images": 40}
    return config_of(**changes, **measured, **RUNS[name])


def tolerance(config):
    """Of ten steps' losses: rounding grows by the step, most in bfloat16, and where updates are normalized."""
    return 5e-2 if config.compute == "bf16" else 1e-3 if config.optim.name == "adamw" else 1e-2


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def drawing(latents):
    """A stand-in for a codec: latents (B, C, H, W) on the CPU -> uint8 (B, S, S, 3)."""
    assert latents.device.type == "cpu"
    return (255 * latents[:, :3].clamp(0, 1)).byte().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("name", RUNS)
def test_training_and_going_on(name, tmp_path, device, monkeypatch):
    """Ten steps, stopped before the sixth there and resumed: the CPU's losses, also of held-out records.

    By the defaults, so on a GPU by compiled blocks; and these networks differ, each with its own programs.
    """
    plain = write_set(tmp_path / "plain", make_records(37))
    config, runtime = settings(name), RuntimeOptions(decode=drawing, device_batch_size=2)
    train(tmp_path / "cpu", plain, None, config, device="cpu", runtime=runtime)
    passes = []

    def counted(*arguments, **options):
        if torch.is_grad_enabled():
            passes.append(1)
            if len(passes) == 4 * 5 - 3:
                os.kill(os.getpid(), signal.SIGTERM)
        return diffusion_loss(*arguments, **options)

    monkeypatch.setattr(objective, "diffusion_loss", counted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "there", plain, None, config, device=str(device), runtime=runtime)
    train(tmp_path / "there", plain, None, config, resume=True, device=str(device), runtime=runtime)
    assert len(passes) == 4 * 10
    expected, found = log_of(tmp_path / "cpu"), log_of(tmp_path / "there")
    assert len(expected) == 10
    close = functools.partial(pytest.approx, rel=tolerance(config))
    for field in ("loss", "grad_norm"):
        assert [line[field] for line in found] == close([line[field] for line in expected])
    for field in ("validation", "validation_ema"):
        ours, theirs = ([line[field]["loss"] for line in log if field in line] for log in (found, expected))
        assert len(theirs) == 2
        assert ours == close(theirs)
    assert len(list((tmp_path / "there" / "samples").glob("*.png"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [DIT, RIN], ids=["dit", "rin"])
def test_two_ranks_of_compiled_blocks_are_two_without(model, compute, tmp_path):
    """Gradients are exchanged while compiled backward passes run: by NCCL on two GPUs, else by gloo on the CPU, where
    blocks are traced as for a GPU."""
    plain = write_set(tmp_path / "plain", make_records(37))
    settings = ranks.config(model, augment_prob=0.0, compute=compute)
    where = {"device": "cuda"} if torch.cuda.device_count() >= 2 else {}
    for compiled in (False, True):
        out = tmp_path / str(compiled)
        assert ranks.on_ranks(2, settings, out, plain, compile=compiled, device_batch_size=3, **where) == [0, 0]
    expected, found = log_of(tmp_path / "False"), log_of(tmp_path / "True")
    assert len(expected) == 3
    close = functools.partial(pytest.approx, rel=1e-2 if compute == "bf16" or where else 1e-5)
    for field in ("loss", "grad_norm"):
        assert [line[field] for line in found] == close([line[field] for line in expected])
    validation = [[line["validation"]["loss"] for line in log] for log in (found, expected)]
    assert validation[0] == close(validation[1])


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_goes_from_device_to_device(name, tmp_path, device, monkeypatch):
    """Begun on the CPU, resumed there, ended on the CPU; and what the device holds is what it was given."""
    plain = write_set(tmp_path / "plain", make_records(37))
    config, runtime = settings(name), RuntimeOptions(device_batch_size=2)
    train(tmp_path / "whole", plain, None, config, device="cpu", runtime=runtime)
    original, steps = step.Stepper.step, []

    def counted(self, *arguments):
        steps.append(1)
        if len(steps) in (3, 6):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    monkeypatch.setattr(step.Stepper, "step", counted)
    for where in ("cpu", str(device)):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", plain, None, config, device=where, runtime=runtime)
    train(tmp_path / "run", plain, None, config, device="cpu", runtime=runtime)
    assert len(steps) == 10
    losses = [[line["loss"] for line in log_of(tmp_path / run)] for run in ("whole", "run")]
    assert losses[1] == pytest.approx(losses[0], rel=tolerance(config))
    newest = checkpoint.latest(tmp_path / "run")
    assert newest is not None
    network = initial_network(config.model, config.seed)
    state = TrainState(network, config, load_objective(config), device=device, runtime=RuntimeOptions(compile=False))
    state.load(newest)
    again = state.tensors()
    for key, value in checkpoint.load(newest).tensors.items():
        assert torch.equal(again[key].cpu(), value), key
        assert again[key].device.type == device.type or key.endswith("/step"), key


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_a_step_that_is_not_finite_changes_nothing(name, device):
    """Skipped on the device, where that decides; on others by the host."""
    network = make_network(CONFIGS["dit"]).to(device)
    optimizer = MasterOptimizer(network, OptimConfig(name=name, lr=0.01, weight_decay=0.1))
    for value in (0.1, float("nan"), 0.1):
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, value)
        norm = optimizer.clip()
        before = {key: tensor.clone() for key, tensor in optimizer.state_dict().items()}
        optimizer.step(1.0, ~torch.isfinite(norm))
        after = optimizer.state_dict()
        same = [torch.equal(after[key], before[key]) for key in before]
        assert all(same) if value != value else not any(same)
        assert {tensor.device.type for tensor in after.values() if tensor.ndim} == {device.type}


@pytest.mark.parametrize("name", ["dit", "rin"])
def test_compiled_networks_draw_the_same(name, device):
    """On a CPU traced alone: compiling takes a minute there, and tests/models/test_compile.py does it."""
    network = make_network(CONFIGS[name]).eval().to(device)
    calls = [make_inputs(lengths) for lengths in ((5, 2, 7), (3, 9), (4,), (1,), (6,) * 5)]
    with torch.inference_mode():
        expected = [network(x.to(device), a.to(device), text.to(device))[0] for x, a, text in calls]
        for block in network.blocks:
            block.compile(backend="inductor" if device.type == "cuda" else "eager")
        found = [network(x.to(device), a.to(device), text.to(device))[0] for x, a, text in calls]
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.fixture
def export(tmp_path):
    config = DiTConfig(latent_channels=48, latent_size=4, width=16, depth=1, heads=2, text_width=8, refiner_depth=1)
    info = ExportInfo(
        noise_schedule="cosine",
        prediction="x0",
        latent_codec="pixel-unshuffle:4",
        text_encoder="words:8",
        image_size=16,
        guidance_scale=2.0,
        sampling_steps=4,
        clip_denoised=1.0,
        arm="ta",
        num_images=1,
        inputs=(),
        null_condition=torch.from_numpy(load_text_encoder("words:8").null_condition),
    )
    save_export(tmp_path / "export", make_network(config), info)
    return tmp_path / "export"


def pictures(pipeline: Pipeline):
    text = pipeline.encode(["a red circle", "two moons over a lake"])
    noise = torch.randn(2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(3))
    return pipeline.decode(pipeline.sample(text, noise)).astype(int)


def test_pictures(export, device):
    assert abs(pictures(Pipeline.load(export, device)) - pictures(Pipeline.load(export, "cpu"))).max() <= 1


def test_the_pipeline_of_diffusers_and_its_offloading(export, device):
    pytest.importorskip("diffusers")
    pytest.importorskip("accelerate")
    import tessera

    def drawn(pipe):
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        return (255 * pipe("a red circle", generator=generator, output_type="np").images).round().astype(int)

    expected = drawn(tessera.load_pipeline(export, device="cpu"))
    pipe = tessera.load_pipeline(export, device=device)
    assert abs(drawn(pipe) - expected).max() <= 1
    offloaded = tessera.load_pipeline(export, device="cpu")
    offloaded.enable_model_cpu_offload(device=device)
    assert abs(drawn(offloaded) - expected).max() <= 1
    assert {parameter.device.type for parameter in offloaded.transformer.parameters()} == {"cpu"}
