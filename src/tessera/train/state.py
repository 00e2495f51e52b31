"""What the steps of a run change: weights, optimiser, averages and counts; saved and loaded whole."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tessera.config import UserError
from tessera.devices import rank, world_size
from tessera.models.build import DTYPES, build_network, compile_blocks, compiler_fault
from tessera.randomness import address
from tessera.train import checkpoint
from tessera.train.config import Means, TrainConfig
from tessera.train.distributed import GradientExchange, add_up_one
from tessera.train.optim.ema import EMA
from tessera.train.optim.master import MasterOptimizer, part_of


class TrainState:
    """The network on its device, split over the ranks where `means` says so, and what goes with it."""

    def __init__(
        self, config: TrainConfig, device: torch.device, means: Means, start: dict[str, Tensor] | None = None
    ) -> None:
        """`start`: the first weights; None = random ones, by the config's seed."""
        self.config, self.device = config, device
        self.dtype = DTYPES[config.compute]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(address(config.seed, "initial weights"))
            network = build_network(config.model)
        if start is not None:
            network.load_state_dict(start)
        self.network = network.to(device)
        self.shards = self.exchange = None
        if means.shard and world_size() > 1:
            from tessera.train.fsdp import Shards

            self.shards = Shards(self.network, self.dtype)
        self.optimizer = MasterOptimizer(
            self.network, config.optim, self.dtype, add_up_one if self.shards is not None else None
        )
        if world_size() > 1 and self.shards is None:
            self.exchange = GradientExchange(self.optimizer.masters, self.optimizer.network)
        self.compiled = compiles(means, device, self.dtype, split=self.shards is not None)
        if self.compiled:
            compile_blocks(self.network)
        masters = self.optimizer.masters
        self.averages = {"ema": EMA(masters, config.ema_decay, config.ema_warmup)}
        self.averages |= {average_name(d): EMA(masters, d, config.ema_warmup) for d in config.ema_extra_decays}
        self.num_images = self.skipped = self.skipped_in_a_row = 0

    @property
    def parameters(self) -> int:
        """How many numbers the network learns."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def checkpoint_bytes(self) -> int:
        """At most: masters, averages and the optimiser's two, fp32."""
        return 4 * (3 + len(self.averages)) * self.parameters

    def save(self, run: Path, window: dict[str, Any] | None) -> None:
        """Writes a checkpoint of the run's directory; all ranks have to. `window`: the log's sums, rank 0's."""
        meta = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row, "window": window}
        keep, every = self.config.keep_checkpoints, self.config.keep_every_images
        checkpoint.save(run, self.num_images, self._tensors(), meta, keep, every)

    def load(self, directory: Path) -> dict[str, Any] | None:
        """Takes over a checkpoint's directory. Returns the log's sums."""
        saved = checkpoint.load(directory, self._tensors())
        self.optimizer.load_state_dict({name: part_of(tensor) for name, tensor in saved.tensors.items()})
        self.num_images = saved.num_images
        self.skipped, self.skipped_in_a_row = saved.meta["skipped"], saved.meta["skipped_in_a_row"]
        return saved.meta["window"]

    def _tensors(self) -> dict[str, Tensor]:
        """master/NAME, ema/NAME and optim/NAME/FIELD: the memory itself, but for an optimiser without a step."""
        state = self.optimizer.state_dict()
        for name, average in self.averages.items():
            state |= {f"{name}/{n}": w for n, w in zip(self.optimizer.names, average.weights)}
        if self.shards is not None:
            split = self.shards.split
            state = {key: split(_parameter_of(key), value) if value.ndim else value for key, value in state.items()}
        return state


def compiles(means: Means, device: torch.device, dtype: torch.dtype, *, split: bool) -> bool:
    """Whether the blocks, which compute in `dtype`, are compiled: unless told, on GPUs where that can be done.

    split: their weights lie with several ranks, and parts of a block are gathered one by one within it, which stands in
    no compiled program. UserError where that is asked for all the same.
    """
    if split and means.compile:
        raise UserError("compile: blocks whose weights are split cannot be compiled; leave out --compile or --shard")
    if means.compile is not None:
        return means.compile
    if device.type != "cuda" or split:
        return False
    fault = compiler_fault(device, dtype)
    if fault is not None and rank() == 0:
        print(f"train: goes on without compiling the network, which is slower: {fault}", file=sys.stderr)
    return fault is None


def average_name(decay: float) -> str:
    """What an extra average is called in checkpoints and in the log."""
    return f"ema@{decay!r}"


def _parameter_of(key: str) -> str:
    """The parameter of a checkpoint's tensor: master/NAME, ema/NAME, optim/NAME/FIELD."""
    kind, _, rest = key.partition("/")
    return rest.rpartition("/")[0] if kind == "optim" else rest
