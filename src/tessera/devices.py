"""The device, threads, ranks and memory of this process."""

import ctypes
import functools
import os
import re
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from tessera.config import UserError

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
R = TypeVar("R")

PEAK_TFLOPS = {
    "GB200": 2500,
    "B200": 2250,
    "GH200": 989,
    "H200 NVL": 835,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H20": 148,
    "A100": 312,
    "A30": 165,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 3090": 71,
    "RTX 4090": 165,
}
"""Peak of a GPU model in TFLOP/s: dense bf16 matrix products, by NVIDIA's data sheets. The first one found in the
device's name counts."""
_OTHER_MODEL = r"(?! (?:Ti|D|SUPER|Laptop))(?!.* MIG)"


def peak_tflops(name: str) -> float | None:
    """Return the dense bf16 peak in TFLOP/s of the GPU that torch calls `name`; None for a model not in PEAK_TFLOPS."""
    found = (peak for model, peak in PEAK_TFLOPS.items() if re.search(rf"\b{model}\b{_OTHER_MODEL}", name))
    return next(found, None)


def rank() -> int:
    """Return this process's number among those of torchrun, 0 without it."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes started by torchrun, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


UNSEEN, UNSEEN_FIX = "a driver is there, but this torch sees no GPU", "pip install --force-reinstall torch"
"""Fault of a machine with an NVIDIA GPU that torch was not built for, and the command against it."""


@functools.cache
def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def pick_device(name: "str | torch.device | None" = None) -> "torch.device":
    """Return the device called `name` (one that is a torch.device already, as it is), or the best there is.

    The best is cuda, then mps, then cpu; where that is the CPU of a machine with an unused GPU, a line on stderr says
    so. Under torchrun, "cuda" is this rank's own GPU.
    """
    import torch

    if isinstance(name, torch.device):
        return name
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        name = next(kind for kind, there in available.items() if there)
        if name == "cpu" and shutil.which("nvidia-smi"):
            _tell(f"this runs on the CPU: {UNSEEN}: {UNSEEN_FIX}")
    kind, colon, index = name.partition(":")
    if kind not in available or (colon and not index.isdecimal()):
        raise UserError(f"unknown device {name!r}; known: cuda, cuda:N, mps, cpu")
    if not available[kind]:
        others = ", ".join(other for other, there in available.items() if there)
        fix = f"; {UNSEEN}: {UNSEEN_FIX}" if kind == "cuda" and shutil.which("nvidia-smi") else ""
        raise UserError(f"device {name!r} is not available here; available: {others}{fix}")
    gpus, local = torch.cuda.device_count(), os.environ.get("LOCAL_RANK")
    if kind == "cuda" and colon and int(index) >= gpus:
        raise UserError(f"device {name!r} is not available here; this machine has {gpus} GPUs")
    if name != "cuda" or local is None:
        return torch.device(name)
    if gpus == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:  # Slurm shows each process its own GPU alone
        return torch.device("cuda:0")
    if int(local) >= gpus:
        raise UserError(
            f"rank {local} of this machine finds {gpus} GPUs; start no more processes than there are GPUs in sight"
            " (torchrun --nproc-per-node, CUDA_VISIBLE_DEVICES)"
        )
    return torch.device(f"cuda:{local}")


def is_fast_in_bf16(device: "torch.device") -> bool:
    """Return whether matrix products are faster in bf16 than in fp32 on a device: GPUs that have it, CPUs with AMX, and
    AMD's with AVX-512 BF16. What bf16 costs on others: docs/results.md, "Speed"."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        has = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot say
        return bool(has.get("amx_bf16") or (has.get("avx512_bf16") and "Intel" not in has.get("cpu_name", "")))
    return True


def few_shapes(device: "torch.device") -> bool:
    """Return whether tensors on `device` should have few shapes: where kernels are planned or compiled for each one, so
    on all but CPUs."""
    return device.type != "cpu"


def usual_defaults(function: Callable[P, R]) -> Callable[P, R]:
    """Let `function` make tensors on the CPU and in fp32 where it names neither device nor type, whatever the program
    that calls it has chosen by `torch.set_default_device` or `torch.set_default_dtype`."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        torch: Any = sys.modules.get("torch")
        if torch is None or (torch.get_default_device().type, torch.get_default_dtype()) == ("cpu", torch.float32):
            return function(*args, **kwargs)
        chosen = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with torch.device("cpu"):
                return function(*args, **kwargs)
        finally:
            torch.set_default_dtype(chosen)

    return wrapped


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads of torch's operations; None leaves torch's own choice."""
    if threads is None:
        return
    if threads < 1:
        raise UserError(f"threads must be at least 1, not {threads}")
    import torch

    torch.set_num_threads(threads)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`."""
REUSED_BYTES = 2**25
"""Blocks below this size are reused; glibc's own limit for those that are not mapped alone."""


def reuse_memory() -> None:
    """Let glibc keep freed memory for this process's next blocks, for the rest of its life, instead of returning it.

    Fresh pages of memory take a tenth of a small network's step on a CPU. Other C libraries are left as they are.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_MMAP_THRESHOLD, REUSED_BYTES)
