"""Pixel-unshuffle: exact in float16 too, torch's operator. The VAE: what diffusers gives by hand; clear errors."""

import json
import shutil
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tessera.config import UserError
from tessera.hub import content_hash
from tessera.pretrained import load
from tessera.pretrained.vae import VAE_FILES, Autoencoder, PixelUnshuffle, load_codec, shape_of_latents
from tiny.models import save_vae


def test_all_256_values_survive_float16():
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    codec = PixelUnshuffle(factor=4)
    mean, std = codec.encode(image)
    assert mean.dtype == std.dtype == np.float32
    assert (mean.min(), mean.max()) == (-1.0, 1.0)
    assert not std.any()
    assert len(np.unique(mean.astype(np.float16))) == 256
    for stored in (mean, mean.astype(np.float16), torch.from_numpy(mean)):
        assert np.array_equal(codec.decode(stored), image)


@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from([1, 2, 3, 4, 8]), st.integers(0, 2**31))
def test_round_trip_and_shape(count, blocks, factor, seed):
    side = blocks * factor
    images = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    codec = PixelUnshuffle(factor=factor)
    mean, _ = codec.encode(images)
    assert mean.shape == (count, *codec.latent_shape(side))
    assert np.array_equal(codec.decode(mean), images)


def test_same_order_as_torch():
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    mean, _ = PixelUnshuffle(factor=3).encode(images)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(torch.from_numpy(mean), torch.nn.functional.pixel_unshuffle(pixels, 3))


def test_decode_clamps_and_refuses_what_is_not_finite():
    codec = PixelUnshuffle(factor=1)
    assert codec.decode(np.array([-7.0, 0.0, 9.0]).reshape(1, 3, 1, 1)).tolist() == [[[[0, 128, 255]]]]
    with pytest.raises(ValueError, match="not finite"):
        codec.decode(np.full((1, 3, 1, 1), np.nan))
    with pytest.raises(ValueError, match=r"\(B, 3, h, w\), not \(1, 4, 1, 1\)"):
        codec.decode(np.zeros((1, 4, 1, 1)))


def test_load_by_id():
    assert load_codec("pixel-unshuffle:8") == PixelUnshuffle(factor=8)
    assert load_codec("pixel-unshuffle") == load_codec(PixelUnshuffle().id)
    for unknown in ("vae", "pixel-unshuffle:", "pixel-unshuffle:four", "pixel-unshuffle:-4"):
        with pytest.raises(UserError, match=r"unknown image codec.*pixel-unshuffle:<factor>"):
            load_codec(unknown)
    with pytest.raises(UserError, match="factor from 1 to 64, not 0"):
        load_codec("pixel-unshuffle:0")
    with pytest.raises(UserError, match="multiple of 4, not 30"):
        load_codec("pixel-unshuffle:4").latent_shape(30)


def test_images_of_the_wrong_kind():
    with pytest.raises(ValueError, match="uint8"):
        PixelUnshuffle().encode(np.zeros((1, 8, 8, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(1, 8, 4, 4\)"):
        PixelUnshuffle().encode(np.zeros((1, 8, 4, 4), np.uint8))
    with pytest.raises(UserError, match="multiple of 4, not 6"):
        PixelUnshuffle().encode(np.zeros((1, 8, 6, 3), np.uint8))


def test_images_that_are_no_squares():
    """Every pixel is where it was."""
    wide = np.random.default_rng(0).integers(0, 256, (2, 8, 20, 3), dtype=np.uint8)
    mean, _ = PixelUnshuffle().encode(wide)
    assert mean.shape == (2, 48, 2, 5) == (2, *shape_of_latents(PixelUnshuffle(), 20, 8))
    assert np.array_equal(PixelUnshuffle().decode(mean), wide)
    left, _ = PixelUnshuffle().encode(wide[:, :, :8])
    assert np.array_equal(mean[..., :2], left)


# ---- the VAE

IMAGES = np.random.default_rng(3).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def codec(vae_folder):
    return load_codec(str(vae_folder), "cpu")


def by_hand(folder) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder).eval()


@pytest.mark.parametrize("width", [32, 20])
@torch.inference_mode()
def test_encode_is_diffusers_posterior(codec, vae_folder, width):
    images = IMAGES[:, :, :width]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    posterior = by_hand(vae_folder).encode(pixels).latent_dist
    mean, std = codec.encode(images)
    assert mean.dtype == std.dtype == np.float32
    assert mean.shape == std.shape == (5, *shape_of_latents(codec, width, 32)) == (5, 4, 8, width // 4)
    np.testing.assert_allclose(mean, posterior.mean.numpy(), rtol=0, atol=1e-6 * np.abs(mean).max())
    np.testing.assert_allclose(std, posterior.std.numpy(), rtol=1e-5)
    assert mean.std() > 0.05
    assert len(np.unique(std)) > 100


@torch.inference_mode()
def test_decode_is_diffusers_image(codec, vae_folder):
    from diffusers.image_processor import VaeImageProcessor

    latents = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 4, 8, 8)).astype(np.float32))
    sample = by_hand(vae_folder).decode(latents).sample
    expected: Any = VaeImageProcessor().postprocess(sample, output_type="np")
    decoded = codec.decode(latents)
    assert decoded.dtype == np.uint8
    assert decoded.shape == (3, 32, 32, 3)
    assert np.abs(decoded - expected * 255.0).max() <= 0.501
    assert decoded.std() > 5
    assert np.array_equal(codec.decode(latents.numpy()), decoded)


def test_a_batch_is_its_images(codec, vae_folder):
    mean, std = codec.encode(IMAGES)
    parts = Autoencoder(str(vae_folder), "cpu", batch_pixels=2 * 32 * 32).encode(IMAGES)
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
        return content_hash(name, VAE_FILES)

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

    fails(tmp_path, "has no config.json; give the folder or repository of one model, of a pipeline its subfolder")
    copy = shutil.copytree(vae_folder, tmp_path / "copy")
    weights = copy / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.rename(copy / "diffusion_pytorch_model.bin")
    fails(copy, "has no safetensors weights")
    weights.write_bytes(whole[: len(whole) // 2])
    fails(copy, "cannot be loaded")
    weights.write_bytes(whole)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderOobleck"}))
    fails(copy, "is AutoencoderOobleck, wanted is a VAE of diffusers: AutoencoderKL, AutoencoderKLQwenImage")
    (copy / "config.json").write_text(json.dumps(config | {"layers_per_block": 2}))
    fails(copy, "is missing weights required by its config.json: .*resnets.2")
    (copy / "config.json").write_text("{")
    fails(copy, "config.json: is not JSON")
    fails("no-such-folder", "unknown image codec.*a Hugging Face repository")
    with pytest.raises(UserError, match="a VAE computes in float32 or bfloat16, not float16"):
        load_codec(str(vae_folder), "cpu", torch.float16)


OTHER_VAES = {
    "AutoencoderKL": {"latent_channels": 16, "use_quant_conv": False, "scaling_factor": 0.5, "shift_factor": 0.25},
    "AutoencoderKLQwenImage": {
        "base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 2], "num_res_blocks": 1, "temperal_downsample": [False, True],
        "latents_mean": [0.5, 0, 0, 1], "latents_std": [2, 1, 4, 1],
    },
    "AutoencoderDC": {
        "latent_channels": 4, "attention_head_dim": 4, "encoder_block_types": "ResBlock",
        "decoder_block_types": "ResBlock", "encoder_block_out_channels": (8, 8, 16),
        "decoder_block_out_channels": (8, 8, 16), "encoder_layers_per_block": (1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1), "encoder_qkv_multiscales": ((), (), ()),
        "decoder_qkv_multiscales": ((), (), ()), "downsample_block_type": "conv", "scaling_factor": 0.4,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8),
        "num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1),
    },
}  # fmt: skip
NORMALIZATIONS = {
    "AutoencoderKL": ((0.25,), (0.5,)),
    "AutoencoderKLQwenImage": ((0.5, 0, 0, 1), (0.5, 1, 0.25, 1)),
    "AutoencoderDC": ((0,), (0.4,)),
    "AutoencoderTiny": ((0,), (1,)),
}


@pytest.mark.parametrize("name", OTHER_VAES)
@torch.inference_mode()
def test_vaes_of_every_class_are_diffusers(name, tmp_path):
    import diffusers

    folder = save_vae(tmp_path / "vae", cls=name, **OTHER_VAES[name])
    codec, vae = load_codec(str(folder), "cpu"), getattr(diffusers, name).from_pretrained(folder).eval()
    channels = OTHER_VAES[name].get("latent_channels", 4)
    assert codec.latent_shape(32) == (channels, 8, 8)
    assert codec.normalization == NORMALIZATIONS[name]
    video = name == "AutoencoderKLQwenImage"
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 127.5 - 1
    coded = vae.encode(pixels[:, :, None] if video else pixels)
    mean, std = codec.encode(IMAGES)
    if "latent_dist" in coded:
        expected = coded.latent_dist.mean.reshape(mean.shape)
        np.testing.assert_allclose(std, coded.latent_dist.std.reshape(std.shape), rtol=1e-4)
    else:
        expected = coded.latent if name == "AutoencoderDC" else coded.latents
        assert not std.any()
    np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-5 * np.abs(mean).max())
    assert mean.std() > 0.01
    image = vae.decode(expected[:, :, None] if video else expected).sample.reshape(5, 3, 32, 32).permute(0, 2, 3, 1)
    assert np.abs(codec.decode(mean) - (image.clamp(-1, 1).numpy() + 1) * 127.5).max() <= 0.51


def test_a_config_without_normalization_means_the_default_of_its_class_or_none(vae_folder, tmp_path):
    """sd-vae-ft-ema's names no scaling_factor; diffusers takes 0.18215."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    copy = shutil.copytree(vae_folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    del config["scaling_factor"], config["latents_mean"], config["latents_std"]
    (copy / "config.json").write_text(json.dumps(config))
    assert load_codec(str(copy), "cpu", load=False).normalization == ((0,), (0.18215,))
    assert AutoencoderKL.from_pretrained(copy).config["scaling_factor"] == 0.18215
    (copy / "config.json").write_text(json.dumps(config | {"scaling_factor": None}))
    assert load_codec(str(copy), "cpu", load=False).normalization is None
    (copy / "config.json").write_text(json.dumps(config | {"latents_mean": [0.0], "latents_std": [0.0]}))
    with pytest.raises(UserError, match=r"the config.json of copy@.* is not an AutoencoderKL's"):
        load_codec(str(copy), "cpu", load=False)


def test_wrong_shapes(codec):
    with pytest.raises(UserError, match="multiple of 4, not 30"):
        codec.latent_shape(30)
    with pytest.raises(ValueError, match=r"\(B, 4, h, w\), not \(1, 3, 8, 8\)"):
        codec.decode(np.zeros((1, 3, 8, 8)))
    with pytest.raises(ValueError, match="not finite"):
        codec.decode(np.full((1, 4, 8, 8), np.inf))
    with pytest.raises(ValueError, match="images must be uint8"):
        codec.encode(IMAGES.astype(np.float32))


def test_a_vae_without_the_libraries(vae_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.autoencoder_kl", None)
    with pytest.raises(UserError, match=r'pip install .*"diffusers>='):
        load_codec(str(vae_folder))


class Convolutions(TorchDispatchMode):
    """The dtype of every convolution that runs within, and the memory format of its weights."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "conv" in func.__name__ and args[1].shape[-1] > 1:
            self.seen.add((args[1].dtype, args[1].is_contiguous(memory_format=torch.channels_last)))
        return func(*args, **(kwargs or {}))


def test_convolutions_on_cuda_are_in_the_fastest_layout(vae_folder, monkeypatch):
    expected, _ = Autoencoder(str(vae_folder), "cpu", torch.bfloat16).encode(IMAGES)
    codec = Autoencoder(str(vae_folder), torch.device("cuda", 0), torch.bfloat16, load=False)
    monkeypatch.setattr(load, "load_network", lambda *a, device, _load=load.load_network, **o: _load(*a, **o))
    _ = codec.network
    codec.device = torch.device("cpu")
    with Convolutions() as convolutions:
        found, _ = codec.encode(IMAGES)
    assert convolutions.seen == {(torch.bfloat16, True)}
    np.testing.assert_allclose(found, expected, atol=0.1)
