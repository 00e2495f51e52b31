"""Published-style weights become an export that draws; whatever is wrong with them is one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tessera.cli import main
from tessera.config import UserError
from tessera.diffusion.guidance import Guided
from tessera.diffusion.loss import Denoiser
from tessera.diffusion.sampler import ddim
from tessera.diffusion.schedule import get_schedule
from tessera.records import TextEncoding
from tessera.stages import read_manifest
from tessera.weights.export import load_export
from tessera.weights.import_published import ImportConfig, import_published

GOLDEN = Path(__file__).parents[1] / "golden" / "cad_i_tiny.safetensors"
NULL = np.linspace(-1, 1, 24, dtype=np.float32)[None]
WEIGHTS = "model.safetensors"


@pytest.fixture
def published(tmp_path):
    """A folder as on the Hub, of the tiny network, and null.npy next to it."""
    folder = tmp_path / "CAD-I"
    folder.mkdir()
    with safe_open(GOLDEN, framework="pt") as file:
        prefix = "state_dict/"
        tensors = {k[len(prefix) :]: file.get_tensor(k) for k in file.keys() if k.startswith(prefix)}  # noqa: SIM118
        (folder / "config.json").write_text(file.metadata()["config"])
    save_file(tensors, folder / WEIGHTS)
    np.save(tmp_path / "null.npy", NULL)
    return folder


def add_coherence(folder):
    """The eight further entries of the larger published files."""
    tensors = load_file(folder / WEIGHTS)
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "coherence_embedder.encode_time.freqs": (8,),
        "coherence_embedder.map_time.0.weight": (64, 16),
        "coherence_embedder.map_time.0.bias": (64,),
        "coherence_embedder.map_time.2.weight": (64, 64),
        "coherence_embedder.map_time.2.bias": (64,),
        "coherence_positional_embedding": (64,),
    }
    tensors |= {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["registers_coherence_mask"] = torch.ones(4, dtype=torch.bool)
    tensors["cond_mask"] = torch.ones(5, dtype=torch.bool)
    save_file(tensors, folder / WEIGHTS)


def test_import_is_an_export_of_the_same_network(published, tmp_path):
    out = tmp_path / "export"
    import_published(out, published, ImportConfig(sampling_steps=6), null_condition=tmp_path / "null.npy")
    network, info = load_export(out)
    golden = load_file(GOLDEN)
    text = TextEncoding(golden["inputs/text_tokens_embeddings"], golden["inputs/text_tokens_mask"])
    eps = network(golden["inputs/y"], golden["inputs/gamma"], text)[0]
    torch.testing.assert_close(eps, golden["outputs/eps_zero_prev"], atol=1e-5, rtol=1e-5)
    assert torch.equal(info.null_condition, torch.from_numpy(NULL))
    assert (info.noise_schedule, info.prediction) == ("linear", "eps")
    assert (info.latent_codec, info.text_encoder) == ("stabilityai/sd-vae-ft-ema", "google/flan-t5-xl")
    assert (info.latent_scale, info.latent_shift, info.image_size) == ((0.18215,), (0.0,), 64)
    assert (info.sampling_steps, info.guidance_scale, info.clip_denoised) == (6, 9.0, 3.3)
    manifest = read_manifest(out, "export")
    assert manifest.counts == {"parameters": network.parameter_count, "tensors": len(load_file(published / WEIGHTS))}
    assert str(tmp_path) not in (out / "manifest.json").read_text()


def test_done_is_not_done_again_and_another_source_is_refused(published, tmp_path):
    out, null = tmp_path / "export", tmp_path / "null.npy"
    import_published(out, published, null_condition=null)
    before = (out / WEIGHTS).stat()
    import_published(out, published, null_condition=null)
    assert (out / WEIGHTS).stat() == before
    with pytest.raises(UserError, match="guidance_scale: the directory has"):
        import_published(out, published, ImportConfig(guidance_scale=4.0), null_condition=null)
    tensors = load_file(published / WEIGHTS)
    tensors["latents"] += 1
    save_file(tensors, published / WEIGHTS)
    with pytest.raises(UserError, match="sha256"):
        import_published(out, published, null_condition=null)


def test_larger_file_runs_without_its_coherence_token_unless_asked(published, tmp_path):
    null = tmp_path / "null.npy"
    import_published(tmp_path / "small", published, null_condition=null)
    with pytest.raises(UserError, match="coherence=False"):
        import_published(tmp_path / "none", published, ImportConfig(coherence=True), null_condition=null)
    add_coherence(published)
    import_published(tmp_path / "without", published, null_condition=null)
    import_published(tmp_path / "with", published, ImportConfig(coherence=True), null_condition=null)
    small, without, kept = (load_export(tmp_path / name)[0] for name in ("small", "without", "with"))
    assert without.config == small.config
    assert kept.config.coherence
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text, schedule = TextEncoding.stack([torch.ones(3, 24)]), get_schedule("linear")
    guided = [Guided(Denoiser(n, "eps"), text, torch.from_numpy(NULL), 2.0, clip=3.3) for n in (small, without, kept)]
    drawn = [ddim(denoise, noise, schedule, 3) for denoise in guided]
    assert torch.equal(drawn[0], drawn[1])
    assert (drawn[0] - drawn[2]).abs().max() > 1e-3


def truncate(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def tensors_changed(change):
    def apply(folder):
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return apply


def config_changed(**changes):
    def apply(folder):
        data = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(data | changes))

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"model\.safetensors: cannot be read"),
        (
            lambda folder: (folder / WEIGHTS).write_text("hello"),
            r"model\.safetensors: cannot be read",
        ),
        (lambda folder: (folder / WEIGHTS).unlink(), r"model\.safetensors: there is no such file"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json: there is no such file"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: is not JSON"),
        (tensors_changed(lambda t: t.pop("latents")), "missing latent_tokens"),
        (tensors_changed(lambda t: t.update(extra=torch.zeros(1))), "unexpected extra"),
        (tensors_changed(lambda t: t.update(latents=t["latents"][:3].clone())), r"latent_tokens \(3, 64\) instead of"),
        (config_changed(num_latents=13), r"latent_tokens \(12, 64\) instead of \(13, 64\)"),
        (config_changed(num_blocks=3), "missing blocks.2"),
        (config_changed(latents_dim=None), "latents_dim must be an integer"),
    ],
)
def test_wrong_weights_are_one_line_and_nothing_is_made(published, tmp_path, damage, message):
    damage(published)
    with pytest.raises(UserError, match=message) as caught:
        import_published(tmp_path / "out", published, null_condition=tmp_path / "null.npy")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"not numbers", "not a .npy file"),
        (b"", "not a .npy file"),
        (np.zeros((1, 23)), r"shape \(1, 24\), it has shape \(1, 23\)"),
        (np.zeros(24), r"shape \(1, 24\), it has shape \(24,\)"),
        (np.full((1, 24), np.nan), "finite"),
        (np.array([["a"] * 24]), "not a .npy file"),
    ],
)
def test_wrong_null_condition(published, tmp_path, content, message):
    path = tmp_path / "other.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(UserError, match=message) as caught:
        import_published(tmp_path / "out", published, null_condition=path)
    assert "other.npy" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_without_a_null_condition_the_text_encoder_is_asked(published, tmp_path, monkeypatch):
    from tessera.weights import import_published as module

    class Encoder:
        null_condition = NULL

    asked = []
    monkeypatch.setattr(module, "load_text_encoder", lambda name: asked.append(name) or Encoder())
    import_published(tmp_path / "out", published)
    assert asked == ["google/flan-t5-xl"]
    assert torch.equal(load_export(tmp_path / "out")[1].null_condition, torch.from_numpy(NULL))

    def unavailable(name):
        raise UserError(f"unknown text encoder {name!r}")

    monkeypatch.setattr(module, "load_text_encoder", unavailable)
    with pytest.raises(UserError, match=r"flan-t5-xl cannot encode.*--null-condition FILE\.npy"):
        import_published(tmp_path / "other", published)
    import_published(tmp_path / "out", published)  # done before: nobody is asked


@pytest.mark.parametrize("wrong", [{"sampling_steps": 0}, {"guidance_scale": float("nan")}, {"clip_denoised": 0.0}])
def test_config_refuses(wrong):
    (field,) = wrong
    with pytest.raises(UserError, match=field):
        ImportConfig(**wrong)


def test_verb(published, tmp_path, capsys):
    out = tmp_path / "export"
    args = ["import-published", str(published), "--out", str(out), "--null-condition", str(tmp_path / "null.npy")]
    with pytest.raises(SystemExit) as ended:
        main([*args, "--steps", "4"])
    assert ended.value.code == 0
    assert "parameters" in capsys.readouterr().out
    assert load_export(out)[1].sampling_steps == 4
