"""Random networks of the true classes, saved as folders and files, small where the class lets them be."""

import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, Dinov2Config, Dinov2Model

from tessera.pretrained.features.inception import state_shapes
from tessera.pretrained.features.sscd import PREFIX, Sscd


def inception_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights that keep activations of one size through the 94 layers."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in state_shapes().items():
        value = torch.randn(shape, generator=generator)
        if name.endswith("conv.weight"):
            value /= (shape[1] * shape[2] * shape[3] / 2) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            value = 1 + 0.1 * value.abs()
        else:
            value *= 0.1
        state[name] = value
    return state


def save_inception(path: Path) -> Path:
    save_file(inception_state(), path)
    return path


def dino(side: int = 518, layers: int = 2) -> Dinov2Model:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=64, num_hidden_layers=layers, num_attention_heads=1, mlp_ratio=2, image_size=side, patch_size=14
    )
    model = Dinov2Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def save_dino(directory: Path) -> Path:
    dino().save_pretrained(directory)
    return directory


def save_clip(directory: Path, size: int = 32) -> Path:
    letters = sorted(string.ascii_lowercase + string.digits + "-.,'!?()")
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {name: number for number, name in enumerate(names)}
    text = {"vocab_size": len(vocab), "max_position_embeddings": 77, "bos_token_id": vocab["<|startoftext|>"]}
    text |= {"eos_token_id": vocab["<|endoftext|>"], "pad_token_id": vocab["<|endoftext|>"]}
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=shape | text, vision_config=shape | {"image_size": size, "patch_size": 8}, projection_dim=12
    )
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77).save_pretrained(directory)
    return directory


def save_vision(directory: Path, kind: str, side: int = 32) -> Path:
    """A small network of a kind of `tessera.pretrained.features.vision`, of the class whose files are published."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "image_size": side, "patch_size": 8}
    if kind == "convnextv2":
        config: Any = transformers.ConvNextV2Config(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1], image_size=side)
        model: Any = transformers.ConvNextV2ForImageClassification(config)
    elif kind == "mae":
        decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
        config = transformers.ViTMAEConfig(**shape, **decoder, decoder_intermediate_size=32)
        model = transformers.ViTMAEForPreTraining(config)
    elif kind == "siglip2":
        text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.SiglipConfig(text_config=text | {"vocab_size": 40}, vision_config=shape)
        model = transformers.SiglipModel(config)
    else:
        return save_clip(directory, side)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "position_embeddings" not in name:
                parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    return directory


def save_sscd(path: Path) -> Path:
    """Random weights of SSCD under its authors' names, as they publish them."""
    torch.manual_seed(0)
    network = Sscd()
    state = network.state_dict()
    for name, tensor in state.items():
        if "running" in name:
            tensor += 0.2 * torch.rand_like(tensor)
        elif tensor.ndim == 4:  # by the default of torch images are lost behind the biases
            torch.nn.init.kaiming_normal_(tensor, nonlinearity="relu")
    torch.save({f"{PREFIX}{name}": tensor for name, tensor in state.items()}, path)
    return path


def blocky_image(seed: int = 0, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    """Return uint8 (*size, 3) of 4 x 4 random colors."""
    low = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.kron(low, np.ones((size[0] // 4, size[1] // 4, 1), np.uint8))
