"""SSCD against transformers' ResNet-50 with its weights, and the files that it takes."""

import re

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from tessera.config import UserError
from tessera.pretrained.features.sscd import PREFIX, load_sscd
from tiny.encoders import blocky_image, save_sscd

NAMES = (
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"^layer(\d)\.", lambda match: f"encoder.stages.{int(match[1]) - 1}."),
    (r"(stages\.\d\.)(\d+)\.", r"\1layers.\2."),
    (r"downsample\.0\.", "shortcut.convolution."),
    (r"downsample\.1\.", "shortcut.normalization."),
    (r"(layers\.\d+\.)conv(\d)\.", lambda match: f"{match[1]}layer.{int(match[2]) - 1}.convolution."),
    (r"(layers\.\d+\.)bn(\d)\.", lambda match: f"{match[1]}layer.{int(match[2]) - 1}.normalization."),
)


def test_it_is_a_resnet_50_with_the_generalized_mean(tmp_path):
    encoder = load_sscd(save_sscd(tmp_path / "sscd_disc_mixup.torchvision.pt"))
    state = torch.load(tmp_path / "sscd_disc_mixup.torchvision.pt", weights_only=True)
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix(PREFIX)
        for pattern, new in NAMES:
            name = re.sub(pattern, new, name)
        renamed[name] = tensor
    weight, bias = renamed.pop("fc.weight"), renamed.pop("fc.bias")
    trunk = transformers.ResNetModel(transformers.ResNetConfig()).eval()  # ResNet-50
    trunk.load_state_dict(renamed)
    image = blocky_image(2, (60, 88))
    x = encoder.prepare(image)[None]
    small = np.asarray(Image.fromarray(image).resize((320, 320), Image.Resampling.BILINEAR)) / 255
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(x[0].permute(1, 2, 0), (small - mean) / deviation, atol=1e-5)
    with torch.inference_mode():
        cells = trunk(x).last_hidden_state.double().flatten(2)  # (1, 2048, 100)
        pooled = cells.clamp(min=1e-6).pow(3).mean(2).pow(1 / 3)
        wanted = pooled @ weight.double().T + bias.double()
        wanted /= wanted.norm()
    np.testing.assert_allclose(encoder.features(x), wanted, atol=1e-5)


def test_safetensors_with_or_without_the_prefix_are_the_same_network(tmp_path):
    path = save_sscd(tmp_path / "sscd.pt")
    state = torch.load(path, weights_only=True)
    save_file(state, tmp_path / "a.safetensors")
    save_file({name.removeprefix(PREFIX): tensor for name, tensor in state.items()}, tmp_path / "b.safetensors")
    files = (path, tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    first, *others = [load_sscd(file).network.state_dict() for file in files]
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript itself
def test_a_program_and_other_weights_are_refused(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(tmp_path / "a.torchscript.pt"))
    with pytest.raises(UserError, match=r"sscd: .*a\.torchscript\.pt: cannot be read as a file of tensors"):
        load_sscd(tmp_path / "a.torchscript.pt")
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"not the weights of SSCD's ResNet-50 .*missing bn1\.bias"):
        load_sscd(tmp_path / "b.safetensors")
