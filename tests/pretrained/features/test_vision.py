"""FDr6's networks: each one's features against another class of transformers with the same weights."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tessera.config import UserError
from tessera.pretrained.features.vision import KINDS, load_vision
from tiny.encoders import blocky_image, save_dino, save_vision


def expected(kind, folder, x):
    """The features of the whole model, by its parts that are published for other uses."""
    if kind == "convnextv2":  # its pooler_output is the norm of the mean
        network = transformers.ConvNextV2Model.from_pretrained(folder)
        return network, lambda features: network.layernorm(features), network(x).pooler_output
    if kind == "mae":  # a ViT of the same names, which masks nothing
        network = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False)
        return network, lambda features: features, network(x).last_hidden_state[:, 0]
    if kind == "siglip2":
        network = transformers.SiglipModel.from_pretrained(folder)
        found = network.get_image_features(pixel_values=x)
        return network, lambda features: features, getattr(found, "pooler_output", found)
    network = transformers.CLIPModel.from_pretrained(folder)
    found = network.get_image_features(pixel_values=x)
    return network, lambda features: network.visual_projection(features), getattr(found, "pooler_output", found)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_whole_model(tmp_path, kind):
    folder = save_vision(tmp_path / "model", kind)
    encoder = load_vision(str(folder), kind=kind)
    x = torch.stack([encoder.prepare(blocky_image(n)) for n in range(3)])
    features = encoder.features(x)
    assert features.dtype == np.float32
    assert features.std(0).max() > 1e-3  # of three images
    with torch.inference_mode():
        _, then, wanted = expected(kind, folder, x)
        np.testing.assert_allclose(then(torch.from_numpy(features)), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(encoder.features(x), features)  # no draw decides
    np.testing.assert_allclose(encoder.features(x[1:2]), features[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_squashed_and_normalized(tmp_path, kind):
    encoder = load_vision(str(save_vision(tmp_path / "model", kind)), kind=kind)
    image = blocky_image(1, (40, 64))
    small = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)) / 255
    mean, deviation = KINDS[kind].mean, KINDS[kind].deviation
    np.testing.assert_allclose(encoder.prepare(image).permute(1, 2, 0), (small - mean) / deviation, atol=1e-5)
    assert encoder.resizing == "Pillow bicubic to 32 x 32"


def test_another_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"mae: .*is dinov2, wanted is a ViTMAEModel"):
        load_vision(str(save_dino(tmp_path / "dino")), kind="mae")
