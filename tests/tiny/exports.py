"""A tiny untrained export: enough to draw images that depend on everything they should depend on."""

from pathlib import Path
from typing import Any

import torch

from tessera.models.build import build_network
from tessera.models.dit import DiTConfig
from tessera.pretrained.text_encoders import load_text_encoder
from tessera.stages import open_stage
from tessera.weights.export import ExportInfo, save_export


def write_export(directory: Path, **changes: Any) -> Path:
    """An export of a 16 px model with random weights in every layer."""
    config = DiTConfig(latent_channels=48, latent_size=4, width=16, depth=1, heads=2, text_width=8, refiner_depth=1)
    torch.manual_seed(0)
    network = build_network(config)
    with torch.no_grad():
        for parameter in network.parameters():  # a fresh network's output layer is zero
            parameter += 0.2 * torch.randn_like(parameter)
    settings = {
        "noise_schedule": "linear",
        "prediction": "x0",
        "latent_codec": "pixel-unshuffle:4",
        "text_encoder": "words:8",
        "image_size": 16,
        "guidance_scale": 2.0,
        "sampling_steps": 3,
        "clip_denoised": 1.0,
        "null_condition": torch.from_numpy(load_text_encoder("words:8").null_condition),
    } | changes
    stage = open_stage(directory, stage="export", config={name: repr(value) for name, value in changes.items()})
    save_export(directory, network, ExportInfo(**settings))
    stage.finish(counts={})
    return directory
