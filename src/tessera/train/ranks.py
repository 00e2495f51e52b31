"""The processes of a run: torchrun's ranks, and the signals that stop them."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import torch
import torch.distributed as dist

from tessera.runtime import rank, world_size


def join(device: torch.device) -> bool:
    """Joins torchrun's processes, if there are several. Returns whether this one leads: only it writes files.

    Once in a process, for its whole life: a second group at the same address does not come about, and leaving the group
    would wait for ranks that an error may have ended.
    """
    if world_size() > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return rank() == 0


def leaders(value: int, device: torch.device) -> int:
    """Rank 0's value, on every rank."""
    if world_size() == 1:
        return value
    shared = torch.tensor([value], device=device)
    dist.broadcast(shared, 0)
    return int(shared)


@torch.no_grad()
def add_up(tensors: list[torch.Tensor]) -> None:
    """Replaces each fp32 tensor by its sum over the ranks, in one exchange."""
    if world_size() == 1:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    parts = flat.split([t.numel() for t in tensors])
    for tensor, part in zip(tensors, parts):
        tensor.copy_(part.view_as(tensor))


@contextlib.contextmanager
def delayed_signals() -> Iterator[list[int]]:
    """Notes Ctrl-C and SIGTERM in a list instead of stopping at once: half a step cannot be resumed. A second one
    raises KeyboardInterrupt where it finds the program."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may set handlers
        return

    def note(number: int, _frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
