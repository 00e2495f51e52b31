"""Bytes and floats, squares of images by Pillow and by torchvision's rounding, normalization."""

import numpy as np
import pytest
import torch
from PIL import Image

from tessera.pretrained.features.encoder import CLIP_MEAN, CLIP_STD, middle_square, normalized, square_first, to_tensor
from tessera.pretrained.features.networks import NETWORKS
from tiny.encoders import blocky_image, save_clip, save_dino, save_inception


@pytest.mark.parametrize("kind", ["inception", "dinov2", "clip", "clip336"])
def test_bytes_and_floats_agree_and_a_negative_does_not(kind, tmp_path):
    save = {"inception": lambda: save_inception(tmp_path / "i.safetensors"), "dinov2": lambda: save_dino(tmp_path)}
    encoder = NETWORKS[kind].load(str(save.get(kind, lambda: save_clip(tmp_path))()), "cpu")
    pixels = blocky_image(1)
    forms = [pixels, pixels / np.float32(255), pixels / 255, 255 - pixels]
    features = encoder.features(torch.stack([encoder.prepare(form) for form in forms]))
    np.testing.assert_allclose(features[1:3], features[[0, 0]], rtol=1e-4, atol=1e-4 * np.abs(features).max())
    assert np.abs(features[3] - features[0]).max() > 1e-2 * np.abs(features).max()


@pytest.mark.parametrize(("size", "offsets"), [((35, 20), (7, 8)), ((39, 20), (9, 10)), ((40, 20), (10, 10))])
def test_the_middle_square_halves_an_odd_margin_downwards_or_to_even(size, offsets):
    columns = Image.fromarray(np.tile(np.arange(size[0], dtype=np.uint8), (size[1], 1)))
    for image, up in ((columns, False), (columns.transpose(Image.Transpose.TRANSPOSE), True)):
        for as_torchvision, offset in zip((False, True), offsets):
            found = np.asarray(middle_square(image, 20, as_torchvision))
            assert found.shape == (20, 20)
            assert found.flat[0] == offset, (as_torchvision, up)


def test_the_square_is_cut_before_or_after_resizing():
    image = Image.fromarray(blocky_image(0, (40, 80)))
    first, after = square_first(image, 16), middle_square(image, 16)
    assert first.size == after.size == (16, 16)
    assert np.array_equal(np.asarray(first), np.asarray(image.crop((20, 0, 60, 40)).resize((16, 16), 3)))
    assert not np.array_equal(np.asarray(first), np.asarray(after))


def test_normalized_by_hand():
    pixels = np.array([[[0, 128, 255]]], np.uint8)
    found = normalized(Image.fromarray(pixels), CLIP_MEAN, CLIP_STD)
    expected = (pixels / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    np.testing.assert_allclose(found.permute(1, 2, 0), expected, rtol=1e-6)
    assert found.dtype == torch.float32


def test_features_of_a_tensor_and_of_an_output():
    class Output:
        pooler_output = torch.ones(1, 2, dtype=torch.bfloat16)

    for output in (Output(), Output.pooler_output):
        assert to_tensor(output).tolist() == [[1.0, 1.0]]
