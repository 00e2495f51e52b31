"""The same results on a GPU as on the CPU: CUDA's and Apple's where there is one, else the CPU stands in for them.

    python -m pytest tests/test_accelerators.py

What every machine can check of it, that no tensor strays from its device, is in tests/models/test_device_placement.py.
"""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from tessera.diffusion.loss import PREDICTIONS, as_denoiser, diffusion_loss
from tessera.diffusion.sampler import SAMPLERS
from tessera.diffusion.schedule import get_schedule
from tessera.frozen.text import load_text_encoder
from tessera.generate.pipeline import Pipeline
from tessera.models.dit import DiTConfig
from tessera.records import Batch
from tessera.train import step
from tessera.train.loop import train
from tessera.weights import ExportInfo, save_export

sys.path.insert(0, str(Path(__file__).parent / "models"))
sys.path.insert(0, str(Path(__file__).parent / "train"))
from small_networks import CONFIGS, make_inputs, make_network
from training_sets import config_of, make_records, write_set

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
            drawn = SAMPLERS[sampler](
                as_denoiser(network, "eps"),
                noise.to(where),
                get_schedule("linear"),
                6,
                3.0,
                text=text.to(where),
                null=NULL.to(where),
                clip_denoised=3.0,
                guidance_interval=(0.2, 0.8),
                generator=torch.Generator().manual_seed(0),
            )
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


def test_training_and_going_on(tmp_path, device, monkeypatch):
    """Ten steps, stopped before the sixth there and gone on with: the CPU's losses."""
    plain = write_set(tmp_path / "plain", make_records(37))
    config = config_of(num_images=80, log_every_images=8, augment_prob=0.0)
    train(tmp_path / "cpu", plain, None, config, device="cpu")
    steps = []

    def counted(*arguments, **options):
        steps.append(1)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return diffusion_loss(*arguments, **options)

    monkeypatch.setattr(step, "diffusion_loss", counted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "there", plain, None, config, device=str(device))
    train(tmp_path / "there", plain, None, config, resume=True, device=str(device))
    assert len(steps) == 10
    losses = []
    for run in ("cpu", "there"):
        lines = [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert len(losses[0]) == 10
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


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
