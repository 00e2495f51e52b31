"""DINOv2 against its published formula, CLIP on long captions, bytes and floats, negatives, hostile loading."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPModel

from tessera.config import UserError
from tessera.pretrained.features.clip import load_clip
from tessera.pretrained.features.dinov2 import (
    DinoEncoder,
    from_original,
    load_dino,
    resized_positions,
    transformers_names,
)
from tessera.pretrained.features.inception import load_inception
from tiny.encoders import dino, save_clip, save_dino, save_inception

LONG = "a red fox sits on the snow beside a small house of grey stone under a pale sky "


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


def picture(seed=0, size=(40, 48)):
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.kron(low, np.ones((size[0] // 4, size[1] // 4, 1), np.uint8))


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
    x = torch.stack([encoder.prepare(picture(n)) for n in range(2)])
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
    x = encoder.prepare(picture())[None]
    np.testing.assert_allclose(encoder.features(x), DinoEncoder(dino(layers=3), "", "").features(x), atol=1e-5)
    with pytest.raises(UserError, match="unknown tensor register_tokens"):
        from_original(original | {"register_tokens": torch.zeros(1)})
    original.pop("blocks.1.norm2.weight")
    with pytest.raises(UserError, match=r"no encoder\.layer\.1\.norm2\.weight"):
        from_original(original)


def test_clip_is_transformers_own_on_short_captions(clip_folder):
    encoder = load_clip(str(clip_folder))
    model, tokenizer = CLIPModel.from_pretrained(clip_folder), AutoTokenizer.from_pretrained(clip_folder)
    texts = ["a fox", "a red fox on snow", ""]
    with torch.inference_mode():
        rows = [model.get_text_features(**tokenizer([text], return_tensors="pt")) for text in texts]
    expected = torch.cat([row if isinstance(row, torch.Tensor) else row.pooler_output for row in rows])
    found = encoder.captions(texts)
    np.testing.assert_allclose(found.features, expected, atol=1e-5)
    assert found.truncated == 0
    np.testing.assert_allclose(encoder.captions(texts, batch=1).features, found.features, atol=1e-5)


def test_long_captions_keep_their_end_token_and_differ(clip_folder):
    """Cut off, every long caption has the embedding of the start token alone."""
    texts = [LONG * 2, "b" + LONG * 2, "the end of " + LONG * 2]
    kept, cut = (load_clip(str(clip_folder), cut=how).captions(texts) for how in ("keep-end", "legacy-cut"))
    assert kept.truncated == cut.truncated == 3
    assert np.abs(cut.features - cut.features[0]).max() < 1e-6
    assert min(np.abs(kept.features[i] - kept.features[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-3
    model, tokenizer = CLIPModel.from_pretrained(clip_folder), AutoTokenizer.from_pretrained(clip_folder)
    with torch.inference_mode():
        expected = model.get_text_features(**tokenizer(texts[:1], truncation=True, max_length=77, return_tensors="pt"))
    expected = expected if isinstance(expected, torch.Tensor) else expected.pooler_output
    np.testing.assert_allclose(kept.features[:1], expected, atol=1e-5)
    mixed = load_clip(str(clip_folder), cut="legacy-cut").captions([texts[0], "a fox"])
    np.testing.assert_allclose(mixed.features[0], cut.features[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["inception", "dinov2", "clip", "clip336"])
def test_bytes_and_floats_agree_and_a_negative_does_not(kind, tmp_path, clip_folder):
    encoder = {
        "inception": lambda: load_inception(save_inception(tmp_path / "i.safetensors")),
        "dinov2": lambda: load_dino(str(save_dino(tmp_path / "dino"))),
        "clip": lambda: load_clip(str(clip_folder)),
        "clip336": lambda: load_clip(str(clip_folder), crop_first=True),
    }[kind]()
    pixels = picture(1)
    forms = [pixels, pixels / np.float32(255), pixels / 255, 255 - pixels]
    features = encoder.features(torch.stack([encoder.prepare(form) for form in forms]))
    np.testing.assert_allclose(features[1:3], features[[0, 0]], rtol=1e-4, atol=1e-4 * np.abs(features).max())
    assert np.abs(features[3] - features[0]).max() > 1e-2 * np.abs(features).max()


def test_cmmd_sees_the_middle_square_by_pillow(clip_folder):
    """As its published code reads pictures: the square is cut out, then Pillow's bicubic, which smooths to shrink."""
    encoder = load_clip(str(clip_folder), crop_first=True)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 201, 3), dtype=np.uint8)
    square = Image.fromarray(np.ascontiguousarray(pixels[:, 55:145])).resize((32, 32), Image.Resampling.BICUBIC)
    mean, deviation = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    expected = (np.asarray(square) / 255 - mean) / deviation
    np.testing.assert_allclose(encoder.prepare(pixels).permute(1, 2, 0), expected, atol=1e-5)
    assert encoder.resizing == "middle square, Pillow bicubic to 32 x 32"
    wide = load_clip(str(clip_folder)).prepare(pixels).permute(1, 2, 0)  # CLIPScore's: Pillow's, then cut
    assert np.abs(wide.numpy() - expected).max() > 0.01


def test_a_folder_of_another_model_is_refused(clip_folder, tmp_path):
    with pytest.raises(UserError, match=r"dinov2: .* is clip"):
        load_dino(str(clip_folder))
    with pytest.raises(UserError, match="clip: "):
        load_clip(str(tmp_path))
