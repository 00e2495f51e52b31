"""Speed of packed matrices on this processor: python bench/packing.py [--dtype bfloat16] [--threads 1]

One forward of 2 layers (CAD-I: 1 block) of each network at full width on 2 rows of 256 tokens (DINOv2: 4 images),
random weights, plain and inside `tessera.models.packing.packed_linears`, by turns; processor time on one thread. Half
a minute. Needs the extra `dev` (transformers).
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from statistics import median

import torch
from torch import nn

from tessera.models.build import build_network
from tessera.models.dit import DIT_I_L2
from tessera.models.packing import packed_linears
from tessera.models.rin import CAD_I_L
from tessera.records import TextEncoding

ROUNDS = 7


def denoiser(config) -> tuple[nn.Module, Callable[[nn.Module], object]]:
    text = TextEncoding.stack([torch.randn(190, config.text_width)] * 2)
    x = torch.randn(2, config.latent_channels, config.latent_size, config.latent_size)
    return build_network(config), lambda network: network(x, torch.full((2,), 0.5), text)


def dino() -> tuple[nn.Module, Callable[[nn.Module], object]]:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=1024, num_hidden_layers=2, num_attention_heads=16, image_size=224)
    images = torch.randn(4, 3, 224, 224)
    return Dinov2Model(config), lambda network: network(pixel_values=images.to(next(network.parameters()).dtype))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    torch.manual_seed(0)
    for name, make in {
        "DiT-I L/2": lambda: denoiser(replace(DIT_I_L2, depth=2, refiner_depth=1)),
        "CAD-I L": lambda: denoiser(replace(CAD_I_L, blocks=1, refiner_depth=1)),
        "DINOv2 L": dino,
    }.items():
        network, forward = make()
        network = network.eval().to(getattr(torch, arguments.dtype))
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(ROUNDS):
            for packed, taken in times.items():
                with packed_linears(network) if packed else nullcontext():
                    forward(network)
                    began = clock()
                    forward(network)
                    taken.append(clock() - began)
        plain, packed = (median(times[key]) for key in (False, True))
        print(
            f"{name}, {arguments.dtype}, {arguments.threads} thread(s): plain {plain * 1e3:.0f} ms, "
            f"packed {packed * 1e3:.0f} ms, ratio {plain / packed:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
