"""Guided sampling against the naive loop of the same network: python bench/sampling.py [--steps 50] [--threads 1]

The naive loop refines the text and computes its keys and values at every step, and runs the conditional and the
unconditional branch one after the other, the null condition padded to the caption's length. Full width, L = 190 tokens,
random weights. A few steps of both are timed in turn; `--steps` steps are estimated from the first one, which encodes
the text, and the median of the others. GFLOP are counted by formula (FLOP = 2 x multiply-add).

On a GPU, where there is one, the whole networks, in the `--dtype` and `--batch` asked for, with their share of `--peak`
TFLOP/s; otherwise half the depth and half the refiner (so each part keeps its share), in processor time if there is one
thread.
Our sampler packs the network's matrices, as `tessera generate` does on a CPU; `--plain` leaves that out. `--compile`
lets it have `tessera generate --compile`'s network instead. The naive loop stays eager and plain. Takes about a minute
on one thread.
"""

import argparse
import contextlib
import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from tessera.diffusion.guidance import Guided
from tessera.diffusion.loss import Denoiser, null_text
from tessera.diffusion.sampler import ddim, grid
from tessera.diffusion.schedule import get_schedule
from tessera.models.build import build_network, compile_blocks
from tessera.models.dit import DIT_I_L2, DiT, DiTConfig
from tessera.models.packing import packed_linears
from tessera.models.rin import CAD_I_L, RIN, RINConfig
from tessera.records import DenoiserState, TextEncoding

LENGTH = 190  # text tokens
GUIDANCE = 3.0
CLIP = 3.0
TIMED_STEPS = 4
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WHOLE: dict[str, DiTConfig | RINConfig] = {"DiT-I L/2": DIT_I_L2, "CAD-I L": CAD_I_L}
HALF: dict[str, DiTConfig | RINConfig] = {
    "DiT-I L/2 at half depth": replace(DIT_I_L2, depth=DIT_I_L2.depth // 2, refiner_depth=1),
    "CAD-I L at half depth": replace(CAD_I_L, blocks=CAD_I_L.blocks // 2, refiner_depth=1),
}


def dit_flops(config: DiTConfig, length: int) -> tuple[float, float, float]:
    """Count the FLOP of one row: a step without the text, the text, and what the null row's constant saves."""
    d, n = config.width, (config.latent_size // config.patch_size) ** 2
    step = config.depth * (28 * n * d**2 + 4 * n**2 * d + 4 * n * length * d)
    refined = 2 * length * config.text_width * d + config.refiner_depth * (24 * length * d**2 + 4 * length**2 * d)
    saved = config.depth * (4 * n * d**2 + 4 * n * length * d)
    return step, refined + config.depth * 4 * length * d**2, saved


def rin_flops(config: RINConfig, length: int) -> tuple[float, float, float]:
    """Count as `dit_flops`; RIN's null row sees time and registers too, so nothing of it is constant."""
    d, w, z = config.latent_width, config.interface_width, config.num_latent_tokens
    n, keys = (config.latent_size // config.patch_size) ** 2, length + config.text_registers
    condition = 20 * z * d**2 + 4 * z * (keys + 1) * d
    read = 4 * z * d * w + 4 * n * w**2 + 4 * z * n * w + 16 * z * d**2
    compute = config.layers_per_block * (24 * z * d**2 + 4 * z**2 * d)
    write = 4 * n * w**2 + 4 * z * d * w + 4 * n * z * w + 16 * n * w**2
    refined = 2 * length * config.text_width * d + config.refiner_depth * (24 * keys * d**2 + 4 * keys**2 * d)
    step = config.blocks * (condition + read + compute + write) + 16 * z * d**2
    return step, refined + config.blocks * 4 * keys * d**2, 0.0


def make_network(config: DiTConfig | RINConfig) -> DiT | RIN:
    """Make a network of random weights; what starts at zero would hide differences."""
    torch.manual_seed(0)
    network = build_network(config).eval().requires_grad_(False)
    for parameter in network.parameters():
        if not parameter.any():
            parameter.normal_(std=0.02)
    return network


def naive_steps(network, noise: Tensor, text: TextEncoding, null: Tensor, steps: int) -> Iterator[Tensor]:
    """Yield the latents after each step of DDIM as in `tessera.diffusion.sampler`, with everything computed anew."""
    branches = (text, null_text(null, *text.mask.shape))
    tokens: list[Tensor | None] = [None, None]
    alpha_bars = torch.tensor(grid(get_schedule("linear"), steps)[1], device=noise.device)
    x = noise
    for now, after in pairwise(alpha_bars):
        outputs = []
        for i, branch in enumerate(branches):
            output, state = network(x, now.expand(len(x)), branch, DenoiserState(latent_tokens=tokens[i]))
            tokens[i] = state.latent_tokens
            outputs.append(output)
        eps = outputs[1] + GUIDANCE * (outputs[0] - outputs[1])
        x0 = ((x - (1 - now).sqrt() * eps) / now.sqrt()).clamp(-CLIP, CLIP)
        eps = (x - now.sqrt() * x0) / (1 - now).sqrt()
        x = after.sqrt() * x0 + (1 - after).sqrt() * eps
        yield x


def measure(
    network, plain, noise: Tensor, text: TextEncoding, null: Tensor, clock, packed: bool
) -> tuple[list[float], list[float], float]:
    """Time each step of our sampler on `network` and of the naive loop on `plain`, of the same weights, by turns.

    Return the seconds of both and how far apart their latents are.
    """
    ours, naive = [], []
    slow = naive_steps(plain, noise, text, null, TIMED_STEPS)
    theirs = noise
    began = clock()

    def one_naive_step(*_) -> None:
        nonlocal began, theirs
        middle = clock()
        theirs = next(slow)
        ended = clock()
        ours.append(middle - began)
        naive.append(ended - middle)
        began = clock()

    # As `Pipeline.sample` does; the time of packing is the first step's.
    with packed_linears(network) if packed else contextlib.nullcontext():
        guided = Guided(Denoiser(network, "eps"), text, null, GUIDANCE, clip=CLIP)
        latents = ddim(guided, noise, get_schedule("linear"), TIMED_STEPS, callback=one_naive_step)
    return ours, naive, float((latents - theirs).abs().max())


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--batch", type=int, default=1, help="images at once")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of the GPU, dense bf16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps, batch = arguments.steps, arguments.batch
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time() if arguments.threads == 1 else time.perf_counter()

    for name, config in (WHOLE if device == "cuda" else HALF).items():
        plain = make_network(config).to(device, DTYPES[arguments.dtype])
        network = copy.deepcopy(plain)
        generator = torch.Generator().manual_seed(1)
        shape = (batch, config.latent_channels, config.latent_size, config.latent_size)
        noise = torch.randn(shape, generator=generator).to(device)
        words = [torch.randn(LENGTH, config.text_width, generator=generator) for _ in range(batch)]
        text = TextEncoding.stack(words).to(device, torch.float32)
        null = torch.randn(1, config.text_width, generator=generator).to(device)
        plain(noise, torch.ones(batch, device=device), text)  # warm
        if arguments.compile:
            compile_blocks(network)
            ddim(Guided(Denoiser(network, "eps"), text, null, GUIDANCE), noise, get_schedule("linear"), 2)
        *times, difference = measure(network, plain, noise, text, null, clock, not arguments.plain)
        taken = [each[0] + (steps - 1) * median(each[1:]) for each in times]
        row, encoding, saved = dit_flops(config, LENGTH) if isinstance(config, DiTConfig) else rin_flops(config, LENGTH)
        flops = (batch * (2 * encoding + steps * (2 * row - saved)), batch * steps * 2 * (row + encoding))
        where = f"{arguments.threads} thread(s)"
        if device == "cuda":
            share = flops[0] / 1e12 / taken[0] / arguments.peak
            where = f"{torch.cuda.get_device_name()}, {batch / taken[0]:.2f} images/s, {share:.0%} of peak"
        print(
            f"{name}, {arguments.dtype}{', compiled' * arguments.compile}{', plain' * arguments.plain}, "
            f"batch {batch}, {steps} steps, {where}: "
            f"{taken[0]:.1f} s against {taken[1]:.1f} s, ratio {taken[1] / taken[0]:.2f}; "
            f"{flops[0] / 1e9:.0f} against {flops[1] / 1e9:.0f} GFLOP, ratio {flops[1] / flops[0]:.2f}; "
            f"{flops[0] / 1e9 / taken[0]:.0f} and {flops[1] / 1e9 / taken[1]:.0f} GFLOP/s; "
            f"largest difference of the latents after {TIMED_STEPS} steps {difference:.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
