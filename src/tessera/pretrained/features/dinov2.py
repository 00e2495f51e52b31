"""DINOv2 as FD-DINOv2 means it: its own way to resize the position table; the original weights or transformers'."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tessera.config import UserError
from tessera.files import sha256_file
from tessera.hub import find_model
from tessera.images import to_uint8
from tessera.pretrained.features.encoder import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder, normalized, square_of
from tessera.pretrained.load import load_network, quiet
from tessera.pretrained.tensors import load_tensors, renamed

DINOV2 = "facebook/dinov2-large"


class DinoEncoder(ImageEncoder):
    """DINOv2 without registers: the class token after the last norm.

    network: transformers' Dinov2Model. Its position table is resized as the original code does it, by the factor
    (side / patch + 0.1) / 37, not to the size as transformers does: the features differ.
    """

    resizing = "Pillow bicubic to 224 x 224"

    def __init__(self, network: Any, name: str, sha256: str, device: torch.device | str = "cpu", side: int = 224):
        self.side = side
        table = resized_positions(network.embeddings.position_embeddings, side // network.config.patch_size)
        network.embeddings.interpolate_pos_encoding = lambda embeddings, height, width: table.to(embeddings)
        super().__init__(network, name, sha256, device)

    def prepare(self, image: NDArray[Any]) -> Tensor:
        """Return float32 (3, 224, 224), normalized by ImageNet's mean and deviation."""
        resized = Image.fromarray(to_uint8(image)).resize((self.side, self.side), Image.Resampling.BICUBIC)
        return normalized(resized, IMAGENET_MEAN, IMAGENET_STD)

    def embed(self, batch: Tensor) -> Tensor:
        """Compute (B, D), D = 1024 for ViT-L."""
        return self.network(pixel_values=batch).last_hidden_state[:, 0]

    def patches(self, batch: Tensor) -> Tensor:
        """Compute (B, D, 16, 16)."""
        return square_of(self.network(pixel_values=batch).last_hidden_state)


def resized_positions(table: Tensor, cells: int, offset: float = 0.1) -> Tensor:
    """Resize DINOv2's position table (1, 1 + M^2, D) to a grid of `cells` x `cells`: float32 (1, 1 + cells^2, D).

    Bicubic by the scale factor (cells + 0.1) / M, as the published code resizes it for any size but its own.
    """
    size = round((table.shape[1] - 1) ** 0.5)
    if size == cells:
        return table.detach().float()
    grid = table.detach()[:, 1:].float().reshape(1, size, size, -1).permute(0, 3, 1, 2)
    factor = (cells + offset) / size
    grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")  # (1, D, cells, cells)
    assert grid.shape[-2:] == (cells, cells), f"{size} cells by {factor} are {tuple(grid.shape[-2:])}"
    return torch.cat([table.detach()[:, :1].float(), grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def load_dino(name: str = DINOV2, device: torch.device | str = "cpu") -> DinoEncoder:
    """Load DINOv2 of a folder or of the Hub for transformers, or of the original file `dinov2_vitl14_pretrain.pth`."""
    if Path(name).is_file():
        path = Path(name)
        return DinoEncoder(from_original(load_tensors(path, "dinov2")), path.stem, sha256_file(path), device)
    model = find_model(name, ["*.safetensors"], "dinov2")
    model.config("dinov2", "model_type", "dinov2", "DINOv2")
    return DinoEncoder(load_network("transformers.Dinov2Model", model, "dinov2"), model.id, model.sha256, device)


_BLOCK, _OUR_BLOCK = r"blocks\.(\d+)\.", r"encoder.layer.\1."
_NAMES = [
    ("cls_token$", "embeddings.cls_token"),
    ("mask_token$", "embeddings.mask_token"),
    ("pos_embed$", "embeddings.position_embeddings"),
    (r"patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"norm\.", "layernorm."),
    (rf"{_BLOCK}(norm1|norm2|mlp\.fc1|mlp\.fc2)\.", rf"{_OUR_BLOCK}\2."),
    (rf"{_BLOCK}attn\.qkv\.", rf"{_OUR_BLOCK}attention.attention.QKV."),
    (rf"{_BLOCK}attn\.proj\.", rf"{_OUR_BLOCK}attention.output.dense."),
    (rf"{_BLOCK}ls([12])\.gamma$", rf"{_OUR_BLOCK}layer_scale\2.lambda1"),
]
"""Beginnings of original names, as patterns, and of transformers'. QKV: the rows are queries, keys and values."""
HEAD = 64
"""Width of an attention head in every DINOv2."""


def transformers_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under transformers' names; UserError for one that DINOv2 without registers does not have."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = renamed(name, _NAMES)
        if new is None:
            raise UserError(f"dinov2: unknown tensor {name}; give DINOv2 without registers")
        if "QKV" in new:
            parts = zip(("query", "key", "value"), tensor.chunk(3))
            out |= {new.replace("QKV", part): third.clone() for part, third in parts}
        else:
            out[new] = tensor
    return out


def from_original(tensors: Mapping[str, Tensor]) -> Any:
    """Return a transformers Dinov2Model with the tensors of `dinov2_vitl14_pretrain.pth`, strictly."""
    from transformers import Dinov2Config, Dinov2Model

    for name in ("pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"):
        if name not in tensors:
            raise UserError(f"dinov2: the file has no {name}; give DINOv2's dinov2_vitl14_pretrain.pth, or a folder")
    width, patch = tensors["pos_embed"].shape[-1], tensors["patch_embed.proj.weight"].shape[-1]
    blocks = {int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=len(blocks),
        num_attention_heads=max(1, width // HEAD),
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] // width,
        image_size=round((tensors["pos_embed"].shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
    )
    # The names in transformers' files last from version to version, those of its classes do not: its loading maps them.
    with quiet("transformers"):
        loaded: Any = Dinov2Model.from_pretrained(
            None, config=config, state_dict=transformers_names(tensors), output_loading_info=True, dtype=torch.float32
        )
    network, info = loaded
    kinds = ("missing", "unexpected", "mismatched")
    faults = [f"{kind} {name}" for kind in kinds for name in sorted(map(str, info[f"{kind}_keys"]))]
    if faults:
        raise UserError(f"dinov2: not the state dict of DINOv2: {faults[0]} ({len(faults)} faults)")
    return network
