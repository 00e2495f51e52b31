"""Processes of a run: torchrun's ranks, their exchange of gradients, and the signals that stop them."""

import atexit
import contextlib
import functools
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from tessera.config import UserError
from tessera.devices import rank, world_size
from tessera.signals import heeded

if TYPE_CHECKING:
    from tessera.train.optim.master import MasterOptimizer

PATIENCE = timedelta(hours=2)
"""Time for which a rank waits for the others: they may be reading whole sets, downloading or compiling."""
TIME_TO_STOP = 120
"""Seconds that a step and a checkpoint may take after a signal to stop."""


def warn_of_short_stops(environment: Mapping[str, str]) -> str | None:
    """Return a warning if torchrun kills its processes before they can have written a checkpoint; None if not."""
    given = environment.get(name := "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30")
    if "TORCHELASTIC_RUN_ID" not in environment or not given.isdecimal() or int(given) >= TIME_TO_STOP:
        return None
    return f"torchrun kills a run {given} s after telling it to stop, maybe before it is saved; export {name}=600"


def join(device: torch.device) -> bool:
    """Join torchrun's processes, if there are several. Return whether this is rank 0: only it writes files.
    Raises UserError where they have GPUs of different models.

    Once per process, for its whole life: a second group cannot be formed at the same address. Gloo's threads have to
    be gone when Python ends; NCCL's group stays as it is, because leaving could wait for ranks that an error has ended.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if world_size() > 1 and not dist.is_initialized():
        own = device if device.type == "cuda" and device.index is not None else None
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE, device_id=own)
        if device.type != "cuda":
            atexit.register(dist.destroy_process_group)
        else:
            _check_gpus(torch.cuda.get_device_name(device))
    return rank() == 0


def _check_gpus(name: str) -> None:
    """Raise UserError, on all ranks, unless their GPUs are of one model: all would wait for the slowest in each step,
    and differ in how many samples fit."""
    names: list[Any] = [None] * world_size()
    dist.all_gather_object(names, name)
    if len(set(names)) > 1:
        found = ", ".join(f"{names.count(each)} x {each}" for each in sorted(set(names)))
        raise UserError(
            f"the ranks have GPUs of different models: {found}; start one run on GPUs of one model"
            " (CUDA_VISIBLE_DEVICES, or Slurm's --constraint)"
        )


def broadcast_from_rank0(value: int, device: torch.device) -> int:
    """Return rank 0's value, on every rank."""
    if world_size() == 1:
        return value
    shared = torch.tensor([value], device=device)
    dist.broadcast(shared, 0)
    return int(shared)


@torch.no_grad()
def all_reduce_sum(*tensors: torch.Tensor) -> None:
    """Replace each fp32 tensor by its sum over the ranks, in one exchange."""
    if world_size() == 1:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors])):
        tensor.copy_(part.view_as(tensor))


def owners_of(sizes: Sequence[int]) -> list[int]:
    """Return the rank that steps each of a network's tensors (ZeRO-1): runs of neighbors with nearly equal sums."""
    middles = np.cumsum(sizes) - np.asarray(sizes) / 2
    return np.minimum(middles * world_size() // max(1, sum(sizes)), world_size() - 1).astype(int).tolist()


def send_rows(matrix: torch.Tensor, starts: Sequence[int], owners: Sequence[int]) -> None:
    """Let each rank send the rows of its tensors to the others, in place. starts: the tensors' first rows, and the
    number of rows."""
    sent = []
    for owner in sorted(set(owners)):
        first, end = owners.index(owner), len(owners) - owners[::-1].index(owner)
        sent.append(dist.broadcast(matrix[starts[first] : starts[end]], owner, async_op=True))
    for work in sent:
        work.wait()


BUCKET_NUMBERS = 8_000_000  # gradients in one exchange: 32 MB


class GradientExchange:
    """Sum of the gradients over the ranks, exchanged while the backward pass still computes others.

    Neighbors in the optimizer's matrix of gradients form buckets, the last layers' first, since they are ready first.
    During the step's last backward pass each gradient is added to the matrix as soon as it exists, and a full bucket is
    sent; always in the same order on all ranks. In fp32, whatever the network computes in. Where each tensor has an
    owner (ZeRO-1), a bucket goes to its owner alone.
    """

    def __init__(self, optimizer: "MasterOptimizer", bucket: int = BUCKET_NUMBERS) -> None:
        self.optimizer, self.reduced = optimizer, optimizer.split == "optimizer"
        starts, owners = optimizer.rows.starts, optimizer.owners
        matrix = optimizer.gradients_of_network
        self.members: list[list[int]] = []
        size = 0
        for i in reversed(range(len(owners))):
            numel = (starts[i + 1] - starts[i]) * matrix.shape[1]
            if not self.members or (size + numel > bucket) or owners[self.members[-1][0]] != owners[i]:
                self.members.append([])
                size = 0
            self.members[-1].append(i)
            size += numel
        self.bucket_of = {i: b for b, members in enumerate(self.members) for i in members}
        self.parts = [matrix[starts[members[-1]] : starts[members[0] + 1]] for members in self.members]
        self.owners = [owners[members[0]] for members in self.members]
        self.armed = False
        for i, parameter in enumerate(optimizer.network):
            parameter.register_post_accumulate_grad_hook(functools.partial(self._ready, i))

    def begin(self) -> None:
        """Set all gradients to zero before a step's first backward pass."""
        self.optimizer.gradients_of_network.zero_()
        self.optimizer.present = [True] * len(self.optimizer.present)

    def arm(self) -> None:
        """Start sending full buckets: called before the last backward pass."""
        self.missing = [len(members) for members in self.members]
        self.sent: list[Any] = []
        self.armed = True

    def _ready(self, i: int, parameter: torch.Tensor) -> None:
        if not self.armed:
            return
        if parameter.grad is not None:
            self.optimizer.grad_views[i].add_(parameter.grad)
            parameter.grad = None
        self.missing[self.bucket_of[i]] -= 1
        self._send()

    def _send(self, every: bool = False) -> None:
        while len(self.sent) < len(self.parts) and (every or self.missing[len(self.sent)] == 0):
            part, owner = self.parts[len(self.sent)], self.owners[len(self.sent)]
            work = dist.reduce(part, owner, async_op=True) if self.reduced else dist.all_reduce(part, async_op=True)
            self.sent.append(work)

    def finish(self) -> None:
        """Wait until the owners' gradients, or all, are the sums. Parameters that got no gradient count as zero."""
        self.armed = False
        self._send(every=True)
        for work in self.sent:
            work.wait()


@contextlib.contextmanager
def delayed_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C, SIGTERM, SIGHUP (a lost terminal, unless nohup has it ignored) and SIGUSR1 (Slurm's notice before
    preemption) in a list instead of stopping at once: half a step cannot be resumed. A second Ctrl-C or SIGTERM raises
    KeyboardInterrupt immediately."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may set handlers
        return

    def note(number: int, _frame: FrameType | None) -> None:
        urgent = (signal.SIGINT, signal.SIGTERM)
        if number in urgent and any(earlier in urgent for earlier in caught):
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, note) for number in heeded("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
