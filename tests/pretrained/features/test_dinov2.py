"""DINOv2 against its published formula, and its original weights under transformers' names."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from tessera.config import UserError
from tessera.pretrained.features.dinov2 import (
    DinoEncoder,
    from_original,
    load_dino,
    resized_positions,
    transformers_names,
)
from tiny.encoders import blocky_image, dino, save_clip, save_dino


@pytest.mark.parametrize("cells", [16, 20])
def test_dinov2_s_positions_by_the_published_formula(cells):
    """scale_factor (16 + 0.1) / 37 moves where each cell is read from; resizing to the size does not."""
    table = torch.randn(1, 1 + 37**2, 8, generator=torch.Generator().manual_seed(0))
    grid = table[0, 1:].reshape(37, 37, 8).double().numpy()

    def weights(t):  # Keys' cubic, a = -0.75
        a, x = -0.75, np.abs(np.array([1 + t, t, 1 - t, 2 - t]))
        near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        return np.where(x <= 1, near, far)

    matrix = np.zeros((cells, 37))
    for i in range(cells):
        at = (i + 0.5) / ((cells + 0.1) / 37) - 0.5
        low = int(np.floor(at))
        for tap, weight in zip(range(low - 1, low + 3), weights(at - low)):
            matrix[i, min(max(tap, 0), 36)] += weight
    expected = np.einsum("ai,bj,ijd->abd", matrix, matrix, grid).reshape(-1, 8)
    found = resized_positions(table, cells)
    np.testing.assert_allclose(found[0, 1:], expected, atol=2e-5)
    torch.testing.assert_close(found[:, :1], table[:, :1])
    by_size = F.interpolate(table[:, 1:].reshape(1, 37, 37, 8).permute(0, 3, 1, 2), size=(cells, cells), mode="bicubic")
    assert (by_size.permute(0, 2, 3, 1).reshape(-1, 8) - found[0, 1:]).abs().max() > 0.01
    assert torch.equal(resized_positions(table, 37), table)


def test_dinov2_uses_that_table_and_the_class_token(tmp_path):
    network = dino()
    table = resized_positions(network.embeddings.position_embeddings, 16)
    encoder = load_dino(str(save_dino(tmp_path / "dino")))
    x = torch.stack([encoder.prepare(blocky_image(n)) for n in range(2)])
    with torch.inference_mode():
        tokens = network.embeddings.patch_embeddings(x)
        tokens = torch.cat([network.embeddings.cls_token.expand(2, -1, -1), tokens], 1) + table
        for layer in network.encoder.layer:
            tokens = layer(tokens)
            tokens = tokens[0] if isinstance(tokens, tuple) else tokens
        expected = network.layernorm(tokens)[:, 0].numpy()
        plain = network(pixel_values=x).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(encoder.features(x), expected, atol=1e-4)
    assert np.abs(plain - expected).max() > 1e-3  # transformers resizes otherwise
    assert encoder.id.startswith("dino@")


def test_the_original_names_of_dinov2_map_one_to_one(tmp_path):
    network = dino(layers=3)
    original = {}
    names = {"attention.output.dense": "attn.proj", "layer_scale1.lambda1": "ls1.gamma"}
    names |= {"layer_scale2.lambda1": "ls2.gamma", "embeddings.cls_token": "cls_token"}
    names |= {"embeddings.mask_token": "mask_token", "embeddings.position_embeddings": "pos_embed"}
    names |= {"embeddings.patch_embeddings.projection": "patch_embed.proj", "encoder.layer.": "blocks."}
    names |= {"layernorm.": "norm."}
    network.save_pretrained(tmp_path / "saved")
    state = load_file(tmp_path / "saved" / "model.safetensors")  # the names of files outlast those of classes
    for name, tensor in state.items():
        if "attention.attention.query" in name:
            parts = [state[name.replace("query", part)] for part in ("query", "key", "value")]
            block = name.split(".")[2]
            original[f"blocks.{block}.attn.qkv.{name.rpartition('.')[2]}"] = torch.cat(parts)
        elif "attention.attention." not in name:
            for new, old in names.items():
                name = name.replace(new, old)
            original[name] = tensor
    assert transformers_names(original).keys() == state.keys()
    for name, tensor in from_original(original).state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name
    torch.save(original, tmp_path / "dinov2_vitl14_pretrain.pth")
    encoder = load_dino(str(tmp_path / "dinov2_vitl14_pretrain.pth"))
    x = encoder.prepare(blocky_image())[None]
    np.testing.assert_allclose(encoder.features(x), DinoEncoder(dino(layers=3), "", "").features(x), atol=1e-5)
    with pytest.raises(UserError, match="unknown tensor register_tokens"):
        from_original(original | {"register_tokens": torch.zeros(1)})
    original.pop("blocks.1.norm2.weight")
    with pytest.raises(UserError, match=r"missing encoder\.layer\.1\.norm2\.weight"):
        from_original(original)


def test_a_folder_of_another_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"dinov2: .* is clip"):
        load_dino(str(save_clip(tmp_path / "clip")))
