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
from tessera.devices import rank, world_size
from tessera.train.distributed import all_reduce_sum, owners_of, send_rows
from tessera.train.optim.config import OptimConfig
from tessera.train.optim.eight_bit import TRANSIENT, adamw_8bit, dense
from tessera.train.optim.lamb import Lamb, chunks, finish, moments
from tessera.train.optim.matrix import Rows
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

    Masters and gradients lie in matrices of rows. For an fp32 network the masters are its own parameters. For a bf16
    network they are fp32 copies, which `step` rounds into it; so they are for a network that FSDP splits over the
    ranks (`split="network"`): then of this rank's parts. With `split="optimizer"` (ZeRO-1) this rank has the masters
    of its share of the tensors, and sends the new weights of these to the others.
    """

    def __init__(
        self,
        network: nn.Module,
        config: OptimConfig,
        compute: torch.dtype = torch.float32,
        split: Literal["network", "optimizer"] | None = None,
    ) -> None:
        """Convert `network`, in fp32, to `compute`, unless FSDP does."""
        self.config, self.split = config, split
        own: dict[str, Tensor] = dict(network.named_parameters())
        initial = [part_of(p.detach()) for p in own.values()]
        if split == "network" and config.name in ("muon", "adamw8bit"):
            raise UserError(
                f"optim.name: {config.name} needs whole tensors; train without --shard, or with adamw or lamb"
            )
        self.rows = Rows(initial)
        """Layout of the whole network, or of this rank's parts of it."""
        self.gradients_of_network = self.rows.zeros()
        self.grad_views = self.rows.views(self.gradients_of_network)
        self.present = [False] * len(initial)
        """True for each gradient that a backward pass of this step has reached."""
        self.owners = [0] * len(initial)
        """The rank that makes the step on each tensor, in ascending order."""
        if split == "optimizer":
            self.owners = owners_of([tensor.numel() for tensor in initial])
        mine = [i for i, owner in enumerate(self.owners) if split != "optimizer" or owner == rank()]
        if not mine:
            raise UserError(f"shard_optimizer: {len(initial)} tensors are too few for {world_size()} ranks")
        self.names = [name for i, name in enumerate(own) if i in set(mine)]
        """Names of the masters."""
        self.copied = split is not None or compute != torch.float32
        self.network: list[Tensor] = list(network.parameters())
        flat: Tensor | None = None
        if split != "network":
            network.to(compute)
            flat = self.rows.zeros(compute)
            for parameter, view in zip(self.network, self.rows.views(flat)):
                view.copy_(parameter.detach())
                parameter.data = view
        self.flat_network = flat
        """The network's parameters in one matrix; None where FSDP holds them."""
        part = slice(self.rows.starts[mine[0]], self.rows.starts[mine[-1] + 1])
        layout = Rows([initial[i] for i in mine])
        self.weights = layout.zeros() if self.copied or flat is None else flat
        """The masters in one matrix."""
        views = layout.views(self.weights)
        self.own_network = None if flat is None else flat[part]
        self.own_gradients = self.gradients_of_network[part]
        self.masters: list[Tensor] = views if self.copied else self.network
        if self.copied:
            torch._foreach_copy_(views, [initial[i] for i in mine])
        self.master_grads = [self.grad_views[i] for i in mine]
        self.layout = layout
        self.optimizers = self._build([kind(n, own[n]) for n in self.names], compute)
        only = self.optimizers[0]
        self.scaled = only if isinstance(only, AdamW) and only.defaults["fused"] else None
        """The AdamW that clips within its own step, if there is one."""
        self.lamb = only if isinstance(only, Lamb) else None
        self.finish: Callable[..., None] = finish
        self.masked = self.weights.device.type == "cuda" and config.name != "adamw8bit"
        """True: a step is skipped on the device, so that the host does not wait for its outcome."""
        self.margin = 2 * self.weights.numel()
        """Numbers of four bytes that a step may need beyond what is there before the first."""
        if config.name == "adamw8bit":
            self.margin = TRANSIENT * max(master.numel() for master in self.masters)

    def compile(self) -> None:
        """Compile LAMB and what follows a step into two programs that read and write each number once. Only where steps
        are skipped on the device: elsewhere the host's numbers, new in each step, would be part of the programs."""
        if self.masked:
            self.finish = torch.compile(finish, dynamic=False)
            if self.lamb is not None:
                self.lamb.moments = torch.compile(moments, dynamic=False)

    def _build(self, kinds: list[str], compute: torch.dtype) -> list[Optimizer]:
        hidden, matrix, other = (
            [m for m, k in zip(self.masters, kinds) if k == wanted] for wanted in ("hidden", "matrix", "other")
        )
        c = self.config
        if c.name == "lamb":
            total = all_reduce_sum if self.split == "network" else None
            adapted = [k != "other" for k in kinds]
            options = {"betas": c.betas, "weight_decay": c.weight_decay, "sum_over_ranks": total}
            return [Lamb(self.masters, self.layout, self.weights, self.own_gradients, adapted, **options)]
        muon = c.name == "muon" and bool(hidden)
        decayed = matrix if muon else hidden + matrix
        groups = [{"params": decayed, "weight_decay": c.weight_decay}, {"params": other, "weight_decay": 0.0}]
        groups = [g for g in groups if g["params"]]
        if c.name == "adamw8bit":
            return [adamw_8bit(groups, c.betas, self.weights.device)]
        fused = self.weights.device.type in ("cpu", "cuda")
        adamw = [AdamW(groups, lr=c.lr, betas=c.betas, fused=fused or None)] if groups else []
        return [Muon(hidden, c.weight_decay, dtype=compute), *adamw] if muon else [*adamw]

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add the network's gradients to the masters' and clear the network's; called once per backward pass."""
        reached = [i for i, p in enumerate(self.network) if p.grad is not None and p.grad is not self.grad_views[i]]
        pairs = [(i, part_of(self.network[i].grad)) for i in reached]  # type: ignore[arg-type]
        for present, combine in ((True, torch._foreach_add_), (False, torch._foreach_copy_)):
            some = [(self.grad_views[i], grad) for i, grad in pairs if self.present[i] == present]
            if some:
                combine([view for view, _ in some], [grad for _, grad in some])
        for i in reached:
            self.present[i], self.network[i].grad = True, None

    def gradients(self) -> list[Tensor]:
        """Return the masters' gradients; zero where none was computed, so that the split of a batch does not matter."""
        self.add_gradients()
        for i, view in enumerate(self.grad_views):
            if not self.present[i]:
                view.zero_()
                self.present[i] = True
        for master, grad in zip(self.masters, self.master_grads):
            master.grad = grad
        return self.master_grads

    def clip(self) -> Tensor:
        """Clip the whole gradient to `clip_norm`; return its norm before that, a scalar on the device. LAMB, and a
        fused AdamW without Muon, scale it within `step`: that saves a pass over all gradients."""
        norm = torch.nn.utils.get_total_norm(self.gradients())
        if self.split is not None:
            square = norm.square()
            all_reduce_sum(square)
            norm = square.sqrt()
        limit = self.config.clip_norm
        if limit is not None and self.lamb is not None:
            self.lamb.clip = (limit / (norm + 1e-6)).clamp_max(1.0)
        elif limit is not None and self.scaled is not None:
            self.scaled.grad_scale = ((norm + 1e-6) / limit).clamp_min(1.0)  # type: ignore[attr-defined]
        elif limit is not None:
            torch.nn.utils.clip_grads_with_norm_(self.masters, limit, norm)
        return norm

    @torch.no_grad()
    def step(
        self, lr_fraction: float, skip: Tensor | None = None, ema: "EMA | None" = None, number: int | None = None
    ) -> None:
        """Make one step at this fraction of the peak learning rates; clear the gradients; average the new weights into
        `ema` as those after step `number`. skip: a bool on the device; where it is True nothing changes. None =
        False."""
        if skip is not None and not self.masked:
            if skip:
                self.zero_grad()
                return
            skip = None
        self.gradients()
        for optimizer in self.optimizers:
            optimizer.found_inf = None if skip is None else skip.float()  # type: ignore[attr-defined]
            peak = self.config.muon_lr if isinstance(optimizer, Muon) else self.config.lr
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):  # torchao's
                    group["lr"].fill_(peak * lr_fraction)
                else:
                    group["lr"] = peak * lr_fraction
            if optimizer is not self.lamb:
                optimizer.step()
        share = 0.0 if ema is None else ema.share(number or 0, skip)
        average, network = None if ema is None else ema.weights, self.own_network if self.copied else None

        def finish(rows: slice, update: Tensor | None = None, factor: Tensor | None = None) -> None:
            weights, averaged, own = (m if m is None else m[rows] for m in (self.weights, average, network))
            parts = chunks(weights, update, factor, averaged, own)
            for w, u, f, a, n in reversed(parts):  # the last ones are in the cache
                self.finish(w, u, f, a, share, n)

        if self.lamb is not None:
            self.lamb.step(finish)
            self.lamb.clip = None
        else:
            finish(slice(None))
        if self.scaled is not None:
            self.scaled.grad_scale = None  # type: ignore[attr-defined]
        self._send()
        self.zero_grad()

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the masters into the network, if that has copies of its own."""
        if self.copied:
            self._use(self.weights)

    def _use(self, weights: Tensor) -> None:
        """Let the network have these weights, in a matrix like the masters'."""
        if self.own_network is not None:
            self.own_network.copy_(weights)
        self._send(weights)

    def _send(self, weights: Tensor | None = None) -> None:
        """Bring weights to where the network has them: from its part of them to the other ranks', or, with FSDP, from
        this matrix (None = the masters)."""
        if self.split == "optimizer" and self.flat_network is not None:
            send_rows(self.flat_network, self.rows.starts, self.owners)
        elif self.split == "network":
            views = self.masters if weights is None else self.layout.views(weights)
            torch._foreach_copy_([part_of(p.detach()) for p in self.network], views)

    @contextlib.contextmanager
    def using(self, weights: Tensor) -> Iterator[None]:
        """Let the network compute with these fp32 weights, such as an EMA's, inside the context. All ranks have to."""
        saved = self.weights if self.copied else self.weights.clone()
        with torch.no_grad():
            self._use(weights)
        try:
            yield
        finally:
            with torch.no_grad():
                self._use(saved)

    def zero_grad(self) -> None:
        """Clear the gradients of masters and network."""
        self.present = [False] * len(self.present)
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
            state |= {f"optim/{name}/{field}": value for field, value in dense(held).items()}
        return state

    def _members(self) -> list[tuple[Optimizer, str, Tensor]]:
        """Return each optimizer's masters with their names, in its own order."""
        name_of = {id(m): n for n, m in zip(self.names, self.masters)}
        return [(o, name_of[id(p)], p) for o in self.optimizers for group in o.param_groups for p in group["params"]]

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load a state of `state_dict`; names and shapes are those of the same network and config."""
        for name, master in zip(self.names, self.masters):
            master.detach().copy_(state[f"master/{name}"])
        fields: dict[str, dict[str, Tensor]] = {name: {} for name in self.names}
        for key in state:
            if key.startswith("optim/"):
                _, name, field = key.split("/")
                fields[name][field] = state[key]
        eight_bit = self.config.name == "adamw8bit"
        for optimizer, name, master in self._members() if eight_bit else ():
            for field, value in dense(optimizer.state[master]).items():
                value.copy_(fields[name][field])
        for optimizer in self.optimizers if not eight_bit else ():
            # By the optimizer's own loader, which puts the step count on the device where it has to be.
            own = [fields[name] for other, name, _ in self._members() if other is optimizer]
            optimizer.load_state_dict(optimizer.state_dict() | {"state": dict(enumerate(own))})
        self.refresh()


class EMA:
    """Averaged weights: ema <- d * ema + (1 - d) * weights after each step.

    At step n = 0, 1, ... d = min(decay, (1 + n) / (10 + n)), so that a short run's average forgets the random start.
    """

    def __init__(self, weights: Tensor, decay: float) -> None:
        self.decay = decay
        self.weights = weights.detach().clone()

    def share(self, step: int, skip: Tensor | None = None) -> float | Tensor:
        """Return 1 - d after step number `step`: `finish` averages in that share of the weights. 0 where `skip`, a
        bool on the device, is True."""
        decay = min(self.decay, (1 + step) / (10 + step))
        return 1 - decay if skip is None else torch.where(skip, 0.0, 1 - decay)
