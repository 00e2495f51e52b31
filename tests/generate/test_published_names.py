"""The published weights with the VAE and T5 that belong to them, by their names on the Hub, from import to image."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from tiny.models import save_t5, save_vae

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import tessera
from tessera.cli import main
from tessera.diffusion.guidance import Guided
from tessera.diffusion.loss import Denoiser
from tessera.diffusion.sampler import ddim
from tessera.diffusion.schedule import linear
from tessera.generate.pipeline import sample_noise
from tessera.pretrained.text_encoders import load_text_encoder
from tessera.pretrained.vae import load_codec
from tessera.records import TextEncoding
from tessera.weights.export import load_export, save_single_file
from tessera.weights.published import load_published

GOLDEN = Path(__file__).parents[1] / "golden" / "cad_i_tiny.safetensors"
PROMPT = "an image of a red cat"
SCALE = 0.18215


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Folders in place of the three repositories: tiny networks of the published classes."""
    root = tmp_path_factory.mktemp("hub")
    cad = root / "CAD-I"
    cad.mkdir()
    with safe_open(GOLDEN, framework="pt") as file:
        prefix = "state_dict/"
        tensors = {k[len(prefix) :]: file.get_tensor(k) for k in file.keys() if k.startswith(prefix)}  # noqa: SIM118
        (cad / "config.json").write_text(file.metadata()["config"])
    save_file(tensors, cad / "model.safetensors")
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    return {
        "Lucasdegeorge/CAD-I": cad,
        "google/flan-t5-xl": save_t5(root / "t5", width=24),
        "stabilityai/sd-vae-ft-ema": save_vae(root / "vae", block_out_channels=[8, 8, 8, 8], **blocks),
    }


@pytest.fixture
def on_the_hub(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: str(hub[repo]))


def call(*args):
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    assert ended.value.code == 0


@pytest.fixture
def export(on_the_hub, tmp_path):
    call("import-published", "Lucasdegeorge/CAD-I", "--out", tmp_path / "export", "--steps", "3")
    return tmp_path / "export"


def by_hand(hub, noise):
    """The image made of the three networks, step by step."""
    network, _ = load_published(hub["Lucasdegeorge/CAD-I"])
    encoder = load_text_encoder(str(hub["google/flan-t5-xl"]), "cpu")
    text, null = TextEncoding.stack(encoder.encode([PROMPT])), torch.from_numpy(encoder.null_condition)
    latents = ddim(Guided(Denoiser(network, "eps"), text, null, 9.0, clip=3.3), noise, linear, 3)
    return load_codec(str(hub["stabilityai/sd-vae-ft-ema"]), "cpu").decode(latents / SCALE)[0]


def test_null_condition_is_computed_by_the_text_encoder(export, hub):
    _, info = load_export(export)
    encoder = load_text_encoder(str(hub["google/flan-t5-xl"]), "cpu")
    np.testing.assert_allclose(info.null_condition.numpy(), encoder.null_condition, atol=1e-6)
    assert (info.text_encoder, info.latent_codec) == ("google/flan-t5-xl", "stabilityai/sd-vae-ft-ema")


def test_generate_and_the_pipeline_draw_what_the_parts_draw_by_hand(export, hub, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    call("generate", export, PROMPT, "--device", "cpu")
    (printed,) = capsys.readouterr().out.splitlines()
    noise = sample_noise((4, 8, 8), [(0, 0)], 0)
    expected = by_hand(hub, noise).astype(int)
    assert expected.shape == (64, 64, 3)
    assert expected.std() > 10
    assert np.abs(np.asarray(Image.open(printed)) - expected).max() <= 1

    pipe = tessera.load_pipeline(export, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    assert np.abs(np.asarray(pipe(PROMPT, latents=noise).images[0]) - expected).max() <= 1
    save_single_file(export, tmp_path / "single.safetensors")
    single = tessera.load_pipeline(tmp_path / "single.safetensors", device="cpu")
    single.set_progress_bar_config(disable=True)
    assert np.abs(np.asarray(single(PROMPT, latents=noise).images[0]) - expected).max() <= 1
    pipe.save_pretrained(tmp_path / "saved")
    again = tessera.load_pipeline(tmp_path / "saved", device="cpu")
    again.set_progress_bar_config(disable=True)
    assert np.abs(np.asarray(again(PROMPT, latents=noise).images[0]) - expected).max() <= 1


def test_any_prompt_is_taken_and_a_long_one_is_cut_with_a_warning(export):
    pipe = tessera.load_pipeline(export, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pictures = pipe(["", "赤いキツネ 🦊 ثعلب", "red cat " * 300]).images
    assert len(pictures) == 3
    (message,) = [str(w.message) for w in caught if "prompt cut" in str(w.message)]
    assert "601 tokens, the text encoder reads the first 256" in message


def test_offloading_takes_encoder_and_codec_back_to_the_cpu(export, monkeypatch):
    pytest.importorskip("accelerate")
    pipe = tessera.load_pipeline(export, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    noise = sample_noise((4, 8, 8), [(0, 0)], 0)
    plain = pipe(PROMPT, latents=noise, output_type="np").images
    pipe.enable_model_cpu_offload(device="cpu")
    moves = []
    for part in (pipe._drawer.text_encoder, pipe._drawer.codec):
        monkeypatch.setattr(part, "to", lambda device, part=part: moves.append((type(part).__name__, str(device))))
    offloaded = pipe(PROMPT, latents=noise, output_type="np").images
    np.testing.assert_array_equal(offloaded, plain)
    assert moves == [
        ("PretrainedText", "cpu"),
        ("PretrainedText", "cpu"),
        ("Autoencoder", "cpu"),
        ("Autoencoder", "cpu"),
    ]
