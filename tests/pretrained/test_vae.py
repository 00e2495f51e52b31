"""The pretrained VAE: what diffusers gives when called by hand, for any batch, and clear errors."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

from tessera.config import UserError
from tessera.hub import content_hash
from tessera.pretrained import vae as module
from tessera.pretrained.vae import load_codec
from tiny.models import save_vae

IMAGES = np.random.default_rng(3).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def codec(vae_folder):
    return load_codec(str(vae_folder), "cpu")


def by_hand(folder):
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder).eval()


@torch.inference_mode()
def test_encode_is_diffusers_posterior(codec, vae_folder):
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 127.5 - 1
    posterior = by_hand(vae_folder).encode(pixels).latent_dist
    mean, std = codec.encode(IMAGES)
    assert mean.dtype == std.dtype == np.float32
    assert mean.shape == std.shape == (5, *codec.latent_shape(32)) == (5, 4, 8, 8)
    np.testing.assert_allclose(mean, posterior.mean.numpy(), rtol=0, atol=1e-6 * np.abs(mean).max())
    np.testing.assert_allclose(std, posterior.std.numpy(), rtol=1e-5)
    assert mean.std() > 0.05
    assert len(np.unique(std)) > 100


@torch.inference_mode()
def test_decode_is_diffusers_image(codec, vae_folder):
    from diffusers.image_processor import VaeImageProcessor

    latents = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 4, 8, 8)).astype(np.float32))
    sample = by_hand(vae_folder).decode(latents).sample
    expected = VaeImageProcessor().postprocess(sample, output_type="np")
    decoded = codec.decode(latents)
    assert decoded.dtype == np.uint8
    assert decoded.shape == (3, 32, 32, 3)
    assert np.abs(decoded - expected * 255.0).max() <= 0.501
    assert decoded.std() > 5
    assert np.array_equal(codec.decode(latents.numpy()), decoded)


def test_a_batch_is_its_pictures(codec, monkeypatch):
    mean, std = codec.encode(IMAGES)
    monkeypatch.setattr(module, "BATCH_PIXELS", 2 * 32 * 32)
    parts = codec.encode(IMAGES)
    np.testing.assert_allclose(parts[0], mean, atol=1e-5)
    np.testing.assert_allclose(parts[1], std, rtol=1e-4)
    alone = [codec.encode(image[None])[0][0] for image in IMAGES]
    np.testing.assert_allclose(alone, mean, atol=1e-5)
    assert np.abs(codec.decode(mean).astype(int) - codec.decode(mean[::-1].copy())[::-1]).max() <= 1


def test_bfloat16_is_near(codec, vae_folder):
    mean, std = codec.encode(IMAGES)
    low = load_codec(str(vae_folder), torch.device("cpu"), torch.bfloat16)
    low_mean, low_std = low.encode(IMAGES)
    assert low_mean.dtype == low_std.dtype == np.float32
    assert 1e-4 < np.abs(low_mean - mean).mean() / mean.std() < 0.05
    np.testing.assert_allclose(low_std, std, rtol=0.3)


def test_the_hash_of_what_is_here_is_known_and_nothing_is_fetched(codec, vae_folder, tmp_path, monkeypatch):
    import huggingface_hub

    def known(name):
        return content_hash(name, module.VAE_FILES)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert known("owner/tiny-vae") is None
    revision = "a" * 40
    shutil.copytree(vae_folder, tmp_path / "models--owner--tiny-vae" / "snapshots" / revision)
    (tmp_path / "models--owner--tiny-vae" / "refs").mkdir()
    (tmp_path / "models--owner--tiny-vae" / "refs" / "main").write_text(revision)
    assert known("owner/tiny-vae") == known(f"owner/tiny-vae@{revision}") == known(str(vae_folder)) == codec.sha256
    monkeypatch.setenv("TESSERA_MODELS", str(vae_folder.parent))
    assert known(codec.id) == codec.sha256
    assert known("tiny-vae@" + "0" * 12) is known("pixel-unshuffle:4") is None


def test_id_says_what_the_folder_holds_and_not_where_it_lies(codec, vae_folder, tmp_path, monkeypatch):
    assert codec.id == f"tiny-vae@{codec.sha256[:12]}"
    elsewhere = shutil.copytree(vae_folder, tmp_path / "models" / "tiny-vae")
    (elsewhere / "README.md").write_text("not a part of the model")
    (elsewhere / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"a second copy")
    assert load_codec(str(elsewhere), "cpu").id == codec.id
    monkeypatch.setenv("TESSERA_MODELS", f"{tmp_path}:{elsewhere.parent}")
    found = load_codec(codec.id, "cpu")
    assert np.array_equal(found.encode(IMAGES)[0], codec.encode(IMAGES)[0])
    monkeypatch.delenv("TESSERA_MODELS")
    with pytest.raises(UserError, match=rf"{codec.id} is not here; set TESSERA_MODELS to the folder that holds tiny"):
        load_codec(codec.id)
    monkeypatch.chdir(elsewhere.parent)
    assert load_codec(codec.id, "cpu").sha256 == codec.sha256
    shutil.rmtree(elsewhere)
    other = save_vae(elsewhere, seed=1)
    with pytest.raises(UserError, match="is not here; tiny-vae has other contents"):
        load_codec(codec.id)
    assert load_codec(str(other), "cpu").id != codec.id


def test_a_folder_of_the_hubs_cache_is_named_as_the_hub_does(vae_folder, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = shutil.copytree(vae_folder, tmp_path / "models--some-lab--their-vae" / "snapshots" / commit)
    assert load_codec(str(folder), "cpu").id == f"some-lab/their-vae@{commit}"


def test_a_repository_comes_from_the_local_cache(vae_folder, codec, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="some-lab/their-vae: there is no such folder, and fetching it failed") as error:
        load_codec("some-lab/their-vae")
    assert "\n" not in str(error.value)
    repository = tmp_path / "models--some-lab--their-vae"
    shutil.copytree(vae_folder, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    found = load_codec("some-lab/their-vae", "cpu")
    assert (found.id, found.sha256) == ("some-lab/their-vae", codec.sha256)
    pinned = load_codec(f"some-lab/their-vae@{'a' * 40}", "cpu")
    assert pinned.id == f"some-lab/their-vae@{'a' * 40}"


def test_what_is_no_vae(vae_folder, tmp_path):
    def fails(name, message):
        with pytest.raises(UserError, match=message) as error:
            load_codec(str(name), "cpu")
        assert "\n" not in str(error.value)

    fails(tmp_path, "has no config.json")
    copy = shutil.copytree(vae_folder, tmp_path / "copy")
    weights = copy / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.rename(copy / "diffusion_pytorch_model.bin")
    fails(copy, "has no safetensors weights")
    weights.write_bytes(whole[: len(whole) // 2])
    fails(copy, "cannot be loaded")
    weights.write_bytes(whole)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderTiny"}))
    fails(copy, "is AutoencoderTiny, wanted is an AutoencoderKL of diffusers")
    (copy / "config.json").write_text(json.dumps(config | {"layers_per_block": 2}))
    fails(copy, "is missing weights required by its config.json: .*resnets.2")
    (copy / "config.json").write_text("{")
    fails(copy, "config.json: is not JSON")
    fails("no-such-folder", "unknown image codec.*a Hugging Face repository")
    with pytest.raises(UserError, match="a VAE computes in float32 or bfloat16, not float16"):
        load_codec(str(vae_folder), "cpu", torch.float16)


def test_wrong_shapes(codec):
    with pytest.raises(UserError, match="multiple of 4, not 30"):
        codec.latent_shape(30)
    with pytest.raises(ValueError, match=r"\(B, 4, h, w\), not \(1, 3, 8, 8\)"):
        codec.decode(np.zeros((1, 3, 8, 8)))
    with pytest.raises(ValueError, match="not finite"):
        codec.decode(np.full((1, 4, 8, 8), np.inf))
    with pytest.raises(ValueError, match="images must be uint8"):
        codec.encode(IMAGES.astype(np.float32))


def test_without_the_libraries(vae_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.autoencoder_kl", None)
    with pytest.raises(UserError, match=r'pip install .*"diffusers>='):
        load_codec(str(vae_folder))
