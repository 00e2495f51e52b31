"""Exports of one tiny network of each kind, and images of their diffusers pipelines as arrays."""

from dataclasses import replace

import numpy as np
import torch

from tessera.models.build import build_network
from tessera.models.dit import DiTConfig
from tessera.models.rin import RINConfig
from tessera.pretrained.text_encoders import load_text_encoder
from tessera.weights.export import ExportInfo, save_export

NETWORKS = {
    "dit": DiTConfig(latent_channels=48, latent_size=4, width=16, depth=1, heads=2, text_width=8, refiner_depth=1),
    "rin": RINConfig(
        latent_channels=48,
        latent_size=4,
        interface_width=16,
        num_latent_tokens=4,
        latent_width=16,
        blocks=1,
        layers_per_block=1,
        read_write_heads=2,
        compute_heads=2,
        text_width=8,
        refiner_depth=1,
        refiner_heads=2,
        text_registers=2,
    ),
}
INFO = ExportInfo(
    noise_schedule="linear",
    prediction="x0",
    latent_codec="pixel-unshuffle:4",
    text_encoder="words:8",
    image_size=16,
    guidance_scale=2.0,
    sampling_steps=3,
    clip_denoised=1.0,
    arm="ta_ia",
    num_images=1234,
    inputs=(("plain", "0" * 64),),
    null_condition=torch.from_numpy(load_text_encoder("words:8").null_condition),
)
PROMPTS = ["a red circle", "a blue square to the left of a green heart on pale yellow sand", "two moons"]
ADDRESSES = [(0, 0), (1, 0), (7, 3)]


def save_network(directory, kind, **changes):
    torch.manual_seed(0)
    network = build_network(NETWORKS[kind] if isinstance(kind, str) else kind)
    with torch.no_grad():
        for parameter in network.parameters():  # a fresh network's output layer is zero
            parameter += 0.2 * torch.randn_like(parameter)
    save_export(directory, network, replace(INFO, **changes))
    return directory


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + k) for k in range(count)]


def levels(pipe, *arguments, **options):
    return np.rint(pipe(*arguments, output_type="np", **options).images * 255).astype(int)


def pixels(pipe, noise):
    return np.stack([np.asarray(image) for image in pipe(PROMPTS, latents=noise).images])
