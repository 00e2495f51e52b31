"""DiT-I's forward in bfloat16 against diffusers' PixArtTransformer2DModel: python bench/dit_forward.py [--threads 1]

Width, heads and MLP of DiT-I L/2 and S/2 at reduced depth, L = 190 text tokens, batch 2, random weights, no gradients.
Both get ready text: DiT-I has its keys and values computed anew in each call, as PixArt does, but no refiner
(PixArt has none). By turns, the best of several calls each, in processor time if there is one thread. PixArt has
neither QK-norm nor LayerScale. Runs on the GPU where there is one, otherwise on the CPU in about half a minute.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

from tessera.models.dit import DIT_I_L2, DIT_I_S2, DiT, DiTConfig
from tessera.records import TextEncoding

LENGTH = 190  # text tokens
BATCH = 2
ROUNDS = 7
CASES = {
    "DiT-I S/2, 6 blocks": replace(DIT_I_S2, depth=6, refiner_depth=0),
    "DiT-I L/2, 4 blocks": replace(DIT_I_L2, depth=4, refiner_depth=0),
}


def make_pixart(config: DiTConfig) -> torch.nn.Module:
    return PixArtTransformer2DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.width // config.heads,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        num_layers=config.depth,
        cross_attention_dim=config.width,
        sample_size=config.latent_size,
        patch_size=config.patch_size,
        caption_channels=config.text_width,
        use_additional_conditions=False,
    )


def best_of(calls: list[Callable[[], object]], clock: Callable[[], float]) -> list[float]:
    """Return the seconds of the fastest of ROUNDS rounds of each call, made by turns."""
    best = [math.inf] * len(calls)
    for _ in range(ROUNDS):
        for i, call in enumerate(calls):
            began = clock()
            call()
            best[i] = min(best[i], clock() - began)
    return best


def measure(config: DiTConfig, device: str, clock: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Return the seconds of our forward and PixArt's, and the millions of parameters of both."""
    torch.manual_seed(0)
    dit = DiT(config).to(device, torch.bfloat16).eval()
    pixart = make_pixart(config).to(device=device, dtype=torch.bfloat16).eval()
    shape = (BATCH, config.latent_channels, config.latent_size, config.latent_size)
    x = torch.randn(shape, device=device, dtype=torch.bfloat16)
    words = torch.randn(BATCH, LENGTH, config.text_width, device=device, dtype=torch.bfloat16)
    mask = torch.ones(BATCH, LENGTH, device=device, dtype=torch.bool)
    text = TextEncoding(words, mask)
    alpha_bar, timestep = torch.full((BATCH,), 0.5, device=device), torch.full((BATCH,), 500, device=device)
    calls = [
        lambda: dit(x, alpha_bar, text),
        lambda: pixart(x, words, timestep, {}, encoder_attention_mask=mask.to(x.dtype)),
    ]
    millions = [sum(p.numel() for p in network.parameters()) / 1e6 for network in (dit, pixart)]
    return best_of(calls, clock), millions


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time() if threads == 1 else time.perf_counter()

    for name, config in CASES.items():
        (ours, theirs), millions = measure(config, device, clock)
        print(
            f"{name}, bfloat16 on {device}, {threads} thread(s): {1000 * ours:.1f} ms against PixArt's "
            f"{1000 * theirs:.1f} ms, ratio {theirs / ours:.2f} "
            f"({millions[0]:.1f}M and {millions[1]:.1f}M parameters)",
            flush=True,
        )


if __name__ == "__main__":
    main()
