"""Optimizers over fp32 master weights, parameter groups, gradient clipping, and the average of the weights.

Three kinds of parameter:
| kind | which | decay | AdamW, LAMB | Muon |
|---|---|---|---|---|
| hidden | 2-D `.weight` inside a list of blocks | yes | decay group (LAMB: trust ratio) | Muon |
| matrix | other `.weight` of 2 or more dimensions: patches in and out, text, time | yes | decay group | AdamW |
| other | norms, biases, LayerScale, learned tables and tokens | no | no decay, no trust ratio | AdamW |
"""

# pyright: reportPrivateImportUsage=false
# torch's own optimizers are made of the _foreach_ functions; they have no public name.

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from tessera.config import UserError
from tessera.train.optim.config import OptimConfig
from tessera.train.optim.lamb import Lamb
from tessera.train.optim.muon import Muon


def kind(name: str, parameter: Tensor) -> Literal["hidden", "matrix", "other"]:
    """Return the kind of a network's parameter of this name; see the table above."""
    *path, leaf = name.split(".")
    if leaf != "weight" or parameter.ndim < 2:
        return "other"
    return "hidden" if parameter.ndim == 2 and any(part.endswith("blocks") for part in path) else "matrix"


def part_of(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor that is split over the ranks (the same memory); any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


class MasterOptimizer:
    """The master weights in fp32, whatever the network computes in, and the step on them.

    For an fp32 network the masters are its own parameters. For a bf16 network they are fp32 copies: `add_gradients`
    adds the network's gradients to theirs, `step` rounds the new weights into the network. For a network that is split
    over the ranks they are this rank's parts of its fp32 parameters.
    """

    def __init__(
        self,
        network: nn.Module,
        config: OptimConfig,
        compute: torch.dtype = torch.float32,
        sum_over_ranks: Callable[[Tensor], None] | None = None,
    ) -> None:
        """Convert `network`, in fp32, to `compute`, unless it is split over the ranks: then `sum_over_ranks` sums a
        tensor over them, in place."""
        self.config, self.sum_over_ranks = config, sum_over_ranks
        own: dict[str, Tensor] = dict(network.named_parameters())
        self.names = list(own)
        self.copied = sum_over_ranks is None and compute != torch.float32
        if sum_over_ranks is not None:
            if config.name == "muon":
                raise UserError("optim.name: muon needs whole matrices; train without --shard, or with adamw or lamb")
            self.masters: list[Tensor] = [part_of(p.detach()) for p in own.values()]
        elif self.copied:
            self.masters = [p.detach().clone() for p in own.values()]
            network.to(compute)
        else:
            self.masters = list(own.values())
        self.network: list[Tensor] = list(network.parameters())
        self.optimizers = self._build([kind(*entry) for entry in own.items()], compute)
        only = self.optimizers[0]
        self.scaled = only if isinstance(only, AdamW) and only.defaults["fused"] else None
        """The optimizer that clips within its own step, if there is one."""
        self.buffers: dict[Tensor, Tensor] = {}
        """Memory of each copied gradient, reused by the next step: fresh pages cost a CPU more than the sum."""
        self.masked = self.masters[0].device.type == "cuda"
        """True: a step is skipped on the device, so that the host does not wait for its outcome."""

    def _build(self, kinds: list[str], compute: torch.dtype) -> list[Optimizer]:
        hidden, matrix, other = (
            [m for m, k in zip(self.masters, kinds) if k == wanted] for wanted in ("hidden", "matrix", "other")
        )
        c = self.config
        muon = c.name == "muon" and bool(hidden)
        decayed = matrix if muon else hidden + matrix
        groups = [{"params": decayed, "weight_decay": c.weight_decay}, {"params": other, "weight_decay": 0.0}]
        groups = [g for g in groups if g["params"]]
        if c.name == "lamb":
            adapted = [g | {"adapt": g["params"] is decayed} for g in groups]
            return [Lamb(adapted, c.betas, sum_over_ranks=self.sum_over_ranks)]
        fused = self.masters[0].device.type in ("cpu", "cuda")
        adamw = AdamW(groups, lr=c.lr, betas=c.betas, fused=fused or None)
        if not muon:
            return [adamw]
        return [Muon(hidden, c.weight_decay, dtype=compute), adamw]

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add the network's gradients to the masters' and clear the network's; called once per backward pass."""
        if not self.copied and self.sum_over_ranks is None:
            return  # autograd has added them already
        pairs = [(m, part_of(p.grad)) for m, p in zip(self.masters, self.network) if p.grad is not None]
        added = [(m.grad, g) for m, g in pairs if m.grad is not None]
        if added:
            torch._foreach_add_([m for m, _ in added], [g for _, g in added])
        for master, grad in pairs:
            if master.grad is None:  # in the first pass
                buffer = self.buffers.get(master)
                copied = grad.to(master.dtype, copy=True) if buffer is None else buffer.copy_(grad)
                self.buffers[master] = master.grad = copied
        for parameter in self.network:
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """Return the masters' gradients; zero where none was computed, so that the split of a batch does not matter."""
        for master in self.masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        return [m.grad for m in self.masters if m.grad is not None]

    def clip(self) -> Tensor:
        """Clip the whole gradient to `clip_norm`; return its norm before that, a scalar on the device. A fused AdamW
        without Muon divides by the scale within `step`: that saves a pass over all gradients."""
        norm = torch.nn.utils.get_total_norm(self.gradients())
        if self.sum_over_ranks is not None:
            square = norm.square()
            self.sum_over_ranks(square)
            norm = square.sqrt()
        limit = self.config.clip_norm
        if limit is not None and self.scaled is not None:
            self.scaled.grad_scale = ((norm + 1e-6) / limit).clamp_min(1.0)  # type: ignore[attr-defined]
        elif limit is not None:
            torch.nn.utils.clip_grads_with_norm_(self.masters, limit, norm)
        return norm

    @torch.no_grad()
    def step(self, lr_fraction: float, skip: Tensor | None = None) -> None:
        """Make one step at this fraction of the peak learning rates; clear the gradients. skip: a bool on the device;
        where it is True nothing changes. None = False."""
        if skip is not None and not self.masked:
            if skip:
                self.zero_grad()
                return
            skip = None
        for optimizer in self.optimizers:
            optimizer.found_inf = None if skip is None else skip.float()  # type: ignore[attr-defined]
            peak = self.config.muon_lr if isinstance(optimizer, Muon) else self.config.lr
            for group in optimizer.param_groups:
                group["lr"] = peak * lr_fraction
            optimizer.step()
        if self.scaled is not None:
            self.scaled.grad_scale = None  # type: ignore[attr-defined]
        self.refresh()
        self.zero_grad()

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the masters into the network, if that has copies of its own."""
        if self.copied:
            torch._foreach_copy_(self.network, self.masters)

    @contextlib.contextmanager
    def using(self, weights: list[Tensor]) -> Iterator[None]:
        """Let the network compute with these fp32 weights, such as an EMA, inside the context."""
        saved = [] if self.copied else [m.detach().clone() for m in self.masters]
        with torch.no_grad():
            torch._foreach_copy_(self.network if self.copied else self.masters, weights)
        try:
            yield
        finally:
            with torch.no_grad():
                if saved:
                    torch._foreach_copy_(self.masters, saved)
            self.refresh()

    def zero_grad(self) -> None:
        """Clear the gradients of masters and network."""
        for tensor in (*self.masters, *self.network):
            tensor.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return master/NAME and optim/NAME/FIELD: everything that a step depends on. Before the first step the latter
        are zeros, which is equivalent."""
        state = {f"master/{n}": m.detach() for n, m in zip(self.names, self.masters)}
        for optimizer, name, master in self._members():
            zeros = master.detach().new_zeros
            held = optimizer.state.get(master) or {  # AdamW's
                "step": zeros(()),
                "exp_avg": zeros(master.shape),
                "exp_avg_sq": zeros(master.shape),
            }
            state |= {f"optim/{name}/{field}": value for field, value in held.items()}
        return state

    def _members(self) -> list[tuple[Optimizer, str, Tensor]]:
        """Return each optimizer's masters with their names, in its own order."""
        name_of = {id(m): n for n, m in zip(self.names, self.masters)}
        return [(o, name_of[id(p)], p) for o in self.optimizers for group in o.param_groups for p in group["params"]]

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load a state of `state_dict`; names and shapes are those of the same network and config."""
        for name, master in zip(self.names, self.masters):
            master.copy_(state[f"master/{name}"])
        fields: dict[str, dict[str, Tensor]] = {name: {} for name in self.names}
        for key in state:
            if key.startswith("optim/"):
                _, name, field = key.split("/")
                fields[name][field] = state[key]
        for optimizer in self.optimizers:
            # By the optimizer's own loader, which puts the step count on the device where it has to be.
            own = [fields[name] for other, name, _ in self._members() if other is optimizer]
            optimizer.load_state_dict(optimizer.state_dict() | {"state": dict(enumerate(own))})
        self.refresh()


class EMA:
    """Averaged weights: ema <- d * ema + (1 - d) * weights after each step.

    At step n = 0, 1, ... d = min(decay, (1 + n) / (10 + n)), so that a short run's average forgets the random start.
    """

    def __init__(self, weights: list[Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = [w.detach().clone() for w in weights]

    @torch.no_grad()
    def update(self, weights: list[Tensor], step: int, skip: Tensor | None = None) -> None:
        """Average in the weights after step number `step`. skip: a bool on the device; True: nothing changes."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [w.detach() for w in weights]
        if skip is None:
            torch._foreach_lerp_(self.weights, current, 1 - decay)
        else:
            share = torch.where(skip, 0.0, 1 - decay)
            for average, weight in zip(self.weights, current):
                average.lerp_(weight, share)
