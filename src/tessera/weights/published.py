"""The published weights of CAD-I, loaded strictly into our RIN."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tessera.config import UserError
from tessera.files import read_json
from tessera.hub import CONFIG_FILE, fetch_repository
from tessera.models.rin import RIN, RINConfig
from tessera.pretrained.tensors import load_tensors, renamed, some_of
from tessera.weights.export import WEIGHTS_FILE, load_strictly

_BLOCKS = [
    (r"transformers_blocks\.(\d+)\.", r"text.blocks.\1."),
    (r"rin_blocks\.(\d+)\.retrieve_cond\.", r"blocks.\1.condition."),
    (r"rin_blocks\.(\d+)\.retriever_ca\.", r"blocks.\1.read."),
    (r"rin_blocks\.(\d+)\.processer_sa\.(\d+)\.", r"blocks.\1.compute.\2."),
    (r"rin_blocks\.(\d+)\.writer_ca\.", r"blocks.\1.write."),
]
_END = r"\.(?=(?:weight|bias)$)"
_PARTS = [
    ("layer_scale_1$", "attention_scale"),
    ("layer_scale_2$", "mlp_scale"),
    (rf"initial(?:_to)?_ln{_END}", "attention_norm."),
    (rf"middle_ln{_END}", "mlp_norm."),
    (rf"sa\.qkv{_END}", "attention.qkv."),
    (rf"[sc]a\.out{_END}", "attention.out."),
    (rf"ca\.q{_END}", "attention.query."),
    (rf"ca\.kv{_END}", "attention.key_value."),
    (rf"ffn\.0{_END}", "mlp.up."),
    (rf"ffn\.3{_END}", "mlp.down."),
]
_NAMES = [
    ("data_pos_embedding$", "interface_positions"),
    ("latents$", "latent_tokens"),
    ("text_registers$", "text.registers"),
    ("coherence_positional_embedding$", "coherence_position"),
    (rf"patch_extractor{_END}", "patch_embedding."),
    (rf"data_ln{_END}", "patch_norm."),
    (rf"(time|coherence)_embedder\.map_time\.0{_END}", r"\1.hidden."),
    (rf"(time|coherence)_embedder\.map_time\.2{_END}", r"\1.out."),
    (rf"map_text_tokens{_END}", "text.projection."),
    (rf"linear_previous\.0{_END}", "previous.norm."),
    (rf"linear_previous\.1\.0{_END}", "previous.mlp.up."),
    (rf"linear_previous\.1\.3{_END}", "previous.mlp.down."),
    (rf"ln_previous{_END}", "previous.out_norm."),
    (rf"map_tokens_to_patches\.0{_END}", "out_norm."),
    (rf"map_tokens_to_patches\.1{_END}", "out_projection."),
    *((block + part, ours + new) for block, ours in _BLOCKS for part, new in _PARTS),
]
"""Beginnings of the published class's names, as patterns, and ours."""
_CONSTANTS = re.compile(
    r"(.+\.attention_mask_dummy|(time|coherence)_embedder\.encode_time\.freqs|registers_coherence_mask|cond_mask)"
)
_FIELDS = {
    "latent_channels": "num_input_channels",
    "latent_size": "data_size",
    "patch_size": "path_size",
    "interface_width": "data_dim",
    "num_latent_tokens": "num_latents",
    "latent_width": "latents_dim",
    "blocks": "num_blocks",
    "layers_per_block": "num_processing_layers",
    "read_write_heads": "read_write_heads",
    "compute_heads": "compute_heads",
    "mlp_ratio": "latent_mlp_multiplier",
    "text_width": "label_dim",
    "text_registers": "num_text_registers",
}
"""Our config's fields, and the published class's constructor arguments."""
_FIXED = {
    "concat_cond_token_to_latents": False,
    "use_cond_token": True,
    "use_cond_rin_block": True,
    "use_biases": True,
    "modulate_conditioning": False,
    "time_scaling": 1000.0,
    "noise_embedding_type": "positional",
    "data_positional_embedding_type": "learned",
}
"""Its other arguments, with the one value that our RIN computes."""


def convert_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors (parameters, or their gradients) from the published names to ours. Constants (dummy masks,
    frequency tables) are dropped. UserError names keys that the published class does not have."""
    names = {key: renamed(key, _NAMES) for key in tensors if not _CONSTANTS.fullmatch(key)}
    if unknown := [key for key, name in names.items() if name is None]:
        raise UserError(f"not a published CAD-I state: unexpected {some_of(unknown)}")
    converted = {str(name): tensors[key] for key, name in names.items()}
    if (patches := converted.get("patch_embedding.weight")) is not None and patches.ndim == 4:
        converted["patch_embedding.weight"] = patches.permute(0, 2, 3, 1).flatten(1)  # (D, C, p, p) -> (D, p p C)
    return converted


def load_published_state(network: RIN, tensors: Mapping[str, Tensor], where: object = "published weights") -> None:
    """Load the published CAD-I class's state dict into `network`: 444 entries for L, 452 with the coherence token.

    Without `network.config.coherence` the coherence token's parameters are left out; every other name and shape must be
    right. UserError names those that are not.
    """
    converted = convert_published(tensors)
    token = [name for name in converted if name.startswith("coherence")]
    if token and len(token) != 5:
        raise UserError(f"{where}: has only a part of the coherence token: {some_of(token)}")
    if network.config.coherence and not token:
        raise UserError(f"{where}: has no coherence token; load it with coherence=False")
    for name in () if network.config.coherence else token:
        del converted[name]
    load_strictly(network, converted, where)


def published_config(data: Mapping[str, Any], coherence: bool = False, where: object = "config.json") -> RINConfig:
    """Return our config for the published class's constructor arguments."""
    for name in _FIELDS.values():
        if not isinstance(data.get(name), int):
            raise UserError(f"{where}: {name} must be an integer, not {data.get(name)!r}; is this a published CAD-I?")
    for name, value in {**_FIXED, "data_mlp_multiplier": data["latent_mlp_multiplier"]}.items():
        if data.get(name, value) != value:
            raise UserError(f"{where}: {name} = {data[name]!r} is not supported, only {value!r}")
    return RINConfig(**{ours: data[theirs] for ours, theirs in _FIELDS.items()}, coherence=coherence)


def load_published(path_or_repo: str | Path, coherence: bool = False) -> tuple[RIN, dict[str, Any]]:
    """Load the published CAD-I of a local folder or a Hugging Face repository such as "Lucasdegeorge/CAD-I".

    Reads config.json (constructor arguments) and model.safetensors. coherence=True keeps the coherence token, which the
    published pipeline feeds at every prompt though the paper's model was trained without it. Returns the network in
    float32 on the CPU and metadata: "config" (as published), "tensors" (their number), "has_coherence", and what the
    network needs to be sampled.
    """
    folder = published_folder(path_or_repo)
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    data = read_json(config_path)
    if not isinstance(data, dict):
        raise UserError(f"{config_path}: must hold the constructor arguments, not {type(data).__name__}")
    config = published_config(data, coherence, config_path)
    tensors = load_tensors(weights_path, "weights")
    with torch.device("meta"):
        network = RIN(config)
    load_published_state(network, tensors, weights_path)
    metadata = {
        "config": data,
        "tensors": len(tensors),
        "has_coherence": "coherence_positional_embedding" in tensors,
        "noise_schedule": "linear",
        "prediction": "eps",
        "latent_scale": 0.18215,
        "text_encoder": "google/flan-t5-xl",
    }
    return network.float().requires_grad_(False).eval(), metadata


def published_folder(path_or_repo: str | Path) -> Path:
    """Return the folder itself, or that of the local cache with the two files of a repository, which are fetched."""
    folder = Path(path_or_repo)
    return folder if folder.is_dir() else fetch_repository(str(path_or_repo), (CONFIG_FILE, WEIGHTS_FILE))
