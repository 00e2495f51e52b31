"""Stored features of patches: those of the network on the very images that are encoded, mixes composed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from curate.test_grown import noting
from tessera.config import UserError
from tessera.curate import encode as encode_module
from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.encode import EncodeConfig, encode
from tessera.curate.image_features import describe_features, load_vision_network, patch_features
from tessera.curate.index import Composer, list_entries, read_images, read_recipe
from tessera.encoded.record import dequantize
from tessera.encoded.store import open_encoded
from tessera.miniature import WorldConfig
from tessera.pretrained.features.encoder import square_of
from tessera.workers import HERE, Engine
from tiny.encoders import blocky_image, save_dino, save_vision

IMAGES = [np.asarray(blocky_image()), np.asarray(blocky_image())[::-1].copy()]


def test_patches_of_dinov2_are_its_tokens_without_the_first(tmp_path):
    network = load_vision_network(f"dinov2:{save_dino(tmp_path / 'dino')}", "cpu", "features")
    batch = torch.stack([network.prepare(image) for image in IMAGES])
    with torch.inference_mode():
        states = network.network(pixel_values=batch).last_hidden_state[:, 1:].numpy()
    for (codes, scale), expected in zip(patch_features(network, IMAGES), states, strict=True):
        assert codes.dtype == np.int8
        error = np.abs(dequantize(codes, scale) - expected)
        assert error.max() <= 0.57 * scale.astype(np.float32).max()
    facts, shape = describe_features(network)
    assert shape == states.shape[1:]
    assert facts == {"features": network.id, "features_sha256": network.sha256}


@pytest.mark.parametrize("kind", ["mae", "siglip2", "clip_vision", "convnextv2"])
def test_other_networks_give_squares_of_patches(kind, tmp_path):
    """Of 64 pixels in patches of 8; ConvNeXt halves them five times."""
    network = load_vision_network(f"{kind}:{save_vision(tmp_path / kind, kind, 64)}", "cpu", "features")
    side = 2 if kind == "convnextv2" else 8
    (codes, _), (other, _) = patch_features(network, IMAGES)
    assert codes.shape == (side**2, 16)
    assert not np.array_equal(codes, other)


def test_a_large_square_is_averaged_down(tmp_path):
    """32 x 32 patches to 16 x 16."""
    network = load_vision_network(f"mae:{save_vision(tmp_path / 'mae', 'mae', 256)}", "cpu", "features")
    codes, scale = patch_features(network, IMAGES[:1])[0]
    assert codes.shape == (256, 16)
    with torch.inference_mode():
        grid = network.patches(network.prepare(IMAGES[0])[None])
    expected = grid.unflatten(3, (16, 2)).unflatten(2, (16, 2)).mean((3, 5)).flatten(2)[0].T.numpy()
    assert np.abs(dequantize(codes, scale) - expected).max() <= 0.57 * scale.astype(np.float32).max()


def test_a_square_behind_a_class_token():
    tokens = torch.arange(2 * 10 * 3).reshape(2, 10, 3)
    assert torch.equal(square_of(tokens).flatten(2).transpose(1, 2), tokens[:, 1:])
    assert torch.equal(square_of(tokens[:, 1:]), square_of(tokens))


def test_a_network_without_patches_or_unknown_is_told_in_one_line():
    with pytest.raises(UserError, match=r"features: pixels:16 gives none of patches; use dinov2, clip_vision"):
        describe_features(load_vision_network("pixels", "cpu", "features"))
    with pytest.raises(UserError, match=r"embeddings: unknown network 'pixel'; did you mean 'pixels'\?"):
        load_vision_network("pixel", "cpu", "embeddings")
    with pytest.raises(UserError, match=r"features: unknown network 'dinov3'; did you mean 'dinov2'\?"):
        load_vision_network("dinov3", "cpu", "features")


def test_encoded_sets_hold_features_of_their_images_and_mixes(tmp_path, monkeypatch):
    """Of a network that one process loads once. Again where they are copied from an earlier directory (--reuse)."""
    images, recipe, dino = tmp_path / "images", tmp_path / "recipe", save_dino(tmp_path / "dino")
    collect(images, CollectConfig(size=32, world=WorldConfig(num_images=12)))
    augment(recipe, images, AugmentConfig(pattern="half"))
    config = EncodeConfig(features=f"dinov2:{dino}", shard_size=8)
    network, composer = load_vision_network(f"dinov2:{dino}", "cpu", "features"), Composer(images)
    loaded = []
    monkeypatch.setattr(
        encode_module, "load_vision_network", noting(load_vision_network, loaded, lambda spec, *_: [spec])
    )
    for name, rows in (("plain", None), ("mixed", recipe)):
        caption(tmp_path / f"{name}-captions", images, CaptionConfig(captioner="scene"), recipe=rows)
        encode(tmp_path / name, images, tmp_path / f"{name}-captions", config, recipe=rows, device="cpu")
        store = open_encoded(tmp_path / name)
        assert store.features == (256, 64)
        assert store.facts["features"] == network.id
        entries = list_entries(read_images(images), rows and read_recipe(rows).rows)
        wanted = {entry.key: patch_features(network, [composer(entry)])[0] for entry in entries}
        for number in range(len(store)):
            record = store.read(number, features=True)
            codes, scale = wanted[record.key]
            assert record.features is not None
            assert record.features_scale is not None
            assert np.allclose(dequantize(record.features, record.features_scale), dequantize(codes, scale), atol=0.05)
            assert store[number].features is None
    assert len(loaded) == 2
    again = tmp_path / "again"
    encode(again, images, tmp_path / "plain-captions", config, device="cpu", reuse=tmp_path / "plain")
    assert shards(again) == shards(tmp_path / "plain")


@pytest.mark.slow
def test_processes_load_the_network_for_themselves(images, tmp_path):
    caption(tmp_path / "captions", images, CaptionConfig())
    config = EncodeConfig(features=f"dinov2:{save_dino(tmp_path / 'dino')}")
    for name, engine in (("here", HERE), ("process", Engine(kind="processes", workers=1))):
        encode(tmp_path / name, images, tmp_path / "captions", config, device="cpu", engine=engine)
    assert shards(tmp_path / "process") == shards(tmp_path / "here")


def shards(encoded: Path) -> list[bytes]:
    return [shard.path.read_bytes() for shard in open_encoded(encoded).shards()]
