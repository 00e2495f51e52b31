"""Clip, LAMB, EMA and the network's own copy, of this tree against another: python bench/optimizer.py [OTHER]

OTHER: the `src` folder of another version, as for bench/versions.py. CAD-I L at one block of three layers, in bf16, on
one thread: the median processor time of a step by turns, and the bytes that a step moves between memory and a cache of
16 MB, by a dispatch mode that follows each operation's operands through it.
"""

import argparse
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from versions import ready, start, turn

CACHE_BYTES = 16 * 2**20
LINE = 2**16
"""Bytes that are read or written together; larger than a processor's, so that following them is quick."""


class Traffic(TorchDispatchMode):
    """Counter of the bytes that operations read from memory and write to it, past a cache that holds what was used
    last."""

    def __init__(self, cache_bytes: int = CACHE_BYTES) -> None:
        super().__init__()
        self.lines, self.cached = cache_bytes // LINE, OrderedDict[int, bool]()
        self.bytes = self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        written = {id(t) for t in tree_leaves(out) if isinstance(t, Tensor)}
        views = not func._schema.is_mutable and any(a.alias_info for a in func._schema.arguments)
        if func._schema.is_mutable:
            named = dict(zip((a.name for a in func._schema.arguments), args)) | (kwargs or {})
            names = [a.name for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
            written |= {id(t) for name in names for t in tree_leaves(named.get(name)) if isinstance(t, Tensor)}
        # Written without being read: new results, and what copies and `out=` overwrite.
        inputs = {id(t) for t in tree_leaves(args) if isinstance(t, Tensor)}
        overwrites = "copy_" in func._schema.name
        blind = {i for i in written if i not in inputs or overwrites}
        if not views and "empty" not in func._schema.name:  # memory of nothing yet
            self.calls += 1
            operands = {id(t): t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)}
            # Operations over lists work on one tensor of each after another.
            lists = [a for a in args if isinstance(a, list | tuple) and a and isinstance(a[0], Tensor)]
            groups = [list(g) for g in zip(*lists, *([out] if isinstance(out, list) else []))] if lists else []
            groups.append([t for i, t in operands.items() if i not in {id(t) for g in groups for t in g}])
            for group in groups:
                self._touch(group, written, blind)
        return out

    def _touch(self, group: list[Tensor], written: set[int], blind: set[int]) -> None:
        parts = [(t.data_ptr() // LINE, -(-(t.data_ptr() + t.nbytes) // LINE), id(t)) for t in group]
        for offset in range(max((end - first for first, end, _ in parts), default=0)):
            for first, end, key in parts:
                if first + offset < end:
                    self._line(first + offset, key in written, key not in blind)

    def _line(self, line: int, writes: bool, reads: bool) -> None:
        if line not in self.cached and reads:
            self.bytes += LINE
        self.cached[line] = self.cached.pop(line, False) or writes
        if len(self.cached) > self.lines:
            _, dirty = self.cached.popitem(last=False)
            self.bytes += LINE * dirty

    def finish(self) -> int:
        """Write back what is still in the cache; return the sum."""
        self.bytes += LINE * sum(self.cached.values())
        self.cached.clear()
        return self.bytes


class Steps:
    """A network's optimizer and EMA, of either version."""

    def __init__(self, network: torch.nn.Module, config: Any, compute: torch.dtype) -> None:
        from tessera.train.optim.master import EMA, MasterOptimizer

        self.network, self.optimizer = network, MasterOptimizer(network, config, compute)
        self.older = hasattr(EMA, "update")
        weights: Any = self.optimizer.masters if self.older else self.optimizer.weights
        self.ema: Any = EMA(weights, 0.9999)

    def gradients(self) -> None:
        """Give the masters gradients."""
        for i, parameter in enumerate(self.network.parameters()):
            parameter.grad = torch.full_like(parameter, 1e-3 + 1e-5 * (i % 7))
        self.optimizer.add_gradients()

    def step(self) -> None:
        """Clip, step, average."""
        self.optimizer.clip()
        if self.older:
            self.optimizer.step(1.0)
            self.ema.update(self.optimizer.masters, 10**6)
        else:
            self.optimizer.step(1.0, None, self.ema, 10**6)


def bytes_of_step(steps: Steps, cache_bytes: int = CACHE_BYTES) -> float:
    """Return the bytes that a step moves, for each parameter."""
    steps.gradients()
    with Traffic(cache_bytes) as traffic:
        steps.step()
    return traffic.finish() / sum(p.numel() for p in steps.network.parameters())


def serve() -> None:
    """Make as many steps as each line of the input says; answer the processor time, or at 0 the bytes of one."""
    from dataclasses import replace

    from tessera import devices
    from tessera.models.build import build_network
    from tessera.models.rin import CAD_I_L
    from tessera.train.optim.config import OptimConfig

    torch.set_num_threads(1)
    if hasattr(devices, "reuse_memory"):  # as a training does
        devices.reuse_memory()
    network = build_network(replace(CAD_I_L, blocks=1, layers_per_block=3, refiner_depth=1))
    steps = Steps(network, OptimConfig(name="lamb"), torch.bfloat16)
    print("ready", flush=True)
    for line in sys.stdin:
        if int(line) == 0:
            print(bytes_of_step(steps), flush=True)
            continue
        spent = 0.0
        for _ in range(int(line)):
            steps.gradients()
            began = time.process_time()
            steps.step()
            spent += time.process_time() - began
        print(spent / int(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, nargs="?", help="the other version's src folder")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    sources = [Path(__file__).resolve().parents[1] / "src"]
    sources += [arguments.other.resolve()] if arguments.other else []
    processes = [start(Path(__file__), source) for source in sources]
    for process in processes:
        ready(process)
        turn(process, 3)  # warm
    times = np.array([[turn(process, 1) for process in processes] for _ in range(arguments.rounds)])
    for source, seconds, process in zip(sources, np.median(times, 0), processes):
        print(f"{source}: {1e3 * seconds:.0f} ms a step, {turn(process, 0):.0f} bytes a parameter")
        process.kill()
        process.wait()
    if arguments.other:
        low, middle, high = np.quantile(times[:, 0] / times[:, 1], (0.25, 0.5, 0.75))
        print(f"ratio of the times {middle:.3f} (quarters of the rounds {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve()
    else:
        main()
