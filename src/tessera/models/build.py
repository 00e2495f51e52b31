"""Networks built from their configs, and compiled blocks."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessera.models.dit import DiT, DiTConfig
from tessera.models.rin import RIN, RINConfig
from tessera.models.text_refiner import TextCache
from tessera.records import DenoiserState, TextEncoding

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Precisions in which a network can compute, by their names in configs."""
PROGRAMS = 64
"""Largest number of compiled programs of one kind of block in a process: networks of other shapes, calls with gradients
or without, for one row or several, with null rows or none each need their own. torch's default is 8."""


def build_network(config: DiTConfig | RINConfig) -> DiT | RIN:
    """Build the network of a config, with its initial values (drawn from torch's global generator)."""
    return DiT(config) if isinstance(config, DiTConfig) else RIN(config)


def compile_blocks(network: DiT | RIN, programs: int = PROGRAMS) -> None:
    """Compile each block's forward by `torch.compile`, in place: names of parameters and results do not change.

    Blocks of one shape share one compiled program, made at the first call in about a minute; text of another length
    makes a second one, for all lengths. Calls beyond `programs` programs run uncompiled, and torch warns.
    """
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, programs)
    for block in cast(nn.ModuleList, network.blocks):
        block.compile()  # with fullgraph=True, a call beyond the limit would end the run


def compile_whole(network: DiT | RIN, programs: int = PROGRAMS) -> None:
    """Compile the network's forward and `encode_text`, each as one program, in place.

    The compiler then sees the text refiner, the keys and values of all blocks, modulation and both ends too. A program
    is for one number of rows, and for texts of all lengths, which are padded before it. With gradients, all of them are
    there at the end of the backward pass alone, so that ranks exchange nothing meanwhile.
    """
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, programs)
    forward, encode = torch.compile(network.forward), torch.compile(network.encode_text)

    def prepared(text: TextEncoding) -> TextEncoding:
        return text if torch.compiler.is_compiling() else _any_length(network.pad_text(text))

    def encode_text(text: TextEncoding, *more: Any) -> TextCache:
        cache = encode(prepared(text), *more)
        return cache if torch.compiler.is_compiling() else _any_length_cached(cache)

    def whole(
        x: Tensor, alpha_bar: Tensor, text: TextEncoding, state: DenoiserState | None = None
    ) -> tuple[Tensor, DenoiserState]:
        cached = state is not None and state.text_cache is not None
        return forward(x, alpha_bar, text if cached else prepared(text), state)

    network.encode_text, network.forward = encode_text, whole  # type: ignore[method-assign]


def _any_length(text: TextEncoding) -> TextEncoding:
    """Tell the compiler that the length of the text (B, L) varies: else the first one gets a program of its own."""
    from torch._dynamo import maybe_mark_dynamic

    for tensor in (text.embeddings, text.mask):
        maybe_mark_dynamic(tensor, 1)
    return text


def _any_length_cached(cache: TextCache) -> TextCache:
    from torch._dynamo import maybe_mark_dynamic

    for tensor, dimension in ((cache.tokens, 1), (cache.bias, 3), *((t, 2) for t in (*cache.keys, *cache.values))):
        maybe_mark_dynamic(tensor, dimension)
    return cache


def compiler_fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return in one line why nothing can be compiled for `device` in `dtype` on this machine; None = it can.

    Tries it on a one-line function, in seconds. Compilation needs Triton, which torch does not have on Windows, a C
    compiler, which is missing in small containers, and a GPU with the dtype: bfloat16 needs NVIDIA's Ampere or later.
    """
    try:
        torch.compile(lambda x: F.gelu(x) * x, fullgraph=True)(torch.ones(8, device=device, dtype=dtype))
    except Exception as error:  # of the compiler, Triton or the operating system: there is no common type
        lines = [line for line in str(error).splitlines() if line.strip() and not line.endswith("raised:")]
        return next(iter(lines), type(error).__name__)
    return None


def resize_positions(table: Tensor, patches: int) -> Tensor:
    """Interpolate (bicubic) a learned table of positions (N, W) of a square grid to `patches` of another: (patches, W).
    Training at another resolution starts from it."""
    side, wanted = round(len(table) ** 0.5), round(patches**0.5)
    assert (side**2, wanted**2) == (len(table), patches), (len(table), patches)
    if side == wanted:
        return table
    grid = table.float().T.reshape(1, -1, side, side)  # (1, W, side, side)
    # Antialiased means Keys' kernel with a = -0.5, which alone leaves a linear table linear.
    grid = F.interpolate(grid, (wanted, wanted), mode="bicubic", align_corners=False, antialias=True)
    return grid.flatten(2)[0].T.to(table.dtype).contiguous()  # (patches, W)
