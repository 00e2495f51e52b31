"""LAMB, as a torch optimizer over the rows of one matrix, and what follows every optimizer's step in the same pass."""

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tessera.train.optim.matrix import WIDTH, Rows

CHUNK_ROWS = 128
"""Rows that a CPU works on at a time, 0.5 MB of each matrix: they stay in a core's own cache from the first operation
to the last, so that each matrix is read and written once."""
GROUP_ROWS = 1024
"""Rows, at least, of the tensors whose weights a CPU changes as soon as their norms are known: 4 MB of weights and as
much of steps, which are then still in the cache that cores share."""


def chunks(*matrices: Tensor | None) -> list[tuple[Any, ...]]:
    """Return matrices of equally many rows in the chunks in which their device passes over them: a GPU all at once."""
    rows, device = next((len(m), m.device.type) for m in matrices if m is not None)
    size = CHUNK_ROWS if device == "cpu" else max(1, rows)
    return [*zip(*(repeat(None, max(1, -(-rows // size))) if m is None else m.split(size) for m in matrices))]


def moments(
    weights: Tensor,
    grads: Tensor,
    mean: Tensor,
    square: Tensor,
    decay: Tensor,
    numbers: dict[str, Any],
    skip: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Update Adam's means, put the step with its weight decay into `grads`, and return the norms of each row of weights
    and step (rows,). All (rows, WIDTH), but decay (rows, 1). numbers: floats or scalars on the device. Where `skip`
    is True the means stay and the step is 0: by selection, because 0 times NaN is NaN."""
    n = numbers
    if n["clip"] is not None:
        grads.mul_(n["clip"])
    if skip is not None:
        grads.masked_fill_(skip, 0.0)
    mean.lerp_(grads, n["share"])
    square.mul_(n["beta2"]).addcmul_(grads, grads, value=n["1 - beta2"])
    torch.div(mean, square.sqrt().mul_(n["scale"]).add_(n["eps"]), out=grads)
    grads.addcmul_(weights, decay)
    if skip is not None:
        grads.masked_fill_(skip, 0.0)
    return torch.linalg.vector_norm(weights, dim=1), torch.linalg.vector_norm(grads, dim=1)


def moments_of_cpu(
    weights: Tensor, grads: Tensor, mean: Tensor, square: Tensor, decay: Tensor, step: Tensor, numbers: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return what `moments` does without a `skip`, by torch's fused kernel of Adam, which adds its step to the weight
    decay in `step`. numbers: the kernel's."""
    torch.mul(weights, decay, out=step)
    norms = torch.linalg.vector_norm(weights, dim=1)
    fixed: Any = {"lr": -1.0, "weight_decay": 0.0, "amsgrad": False, "maximize": False}  # -1: added, not subtracted
    kernel: Any = torch._fused_adam_  # pyright: ignore[reportPrivateImportUsage]
    kernel([step], [grads], [mean], [square], [], **fixed, **numbers)
    return norms, torch.linalg.vector_norm(step, dim=1)


def finish(
    weights: Tensor,
    update: Tensor | None,
    factor: Tensor | None,
    average: Tensor | None,
    share: float | Tensor,
    network: Tensor | None,
) -> None:
    """Add factor (rows, 1) * update to the weights, average them in, and round them into the network's own copy; all
    else (rows, WIDTH). None = leave that out."""
    if update is not None and factor is not None:
        weights.addcmul_(update, factor)
    if average is not None:
        average.lerp_(weights, share)
    if network is not None:
        network.copy_(weights)


class Lamb(Optimizer):
    """LAMB (You et al. 2020, Algorithm 2): Adam's step times |w| / |step|, unclipped, for the tensors of `adapted`;
    these alone decay. `step` leaves the weights to its caller, who has more to do with them in the same pass.

    `sum_over_ranks`: sums squared norms over the ranks that hold parts of the weights, in place; None = one holds all.
    """

    def __init__(
        self,
        masters: Sequence[Tensor],
        rows: Rows,
        weights: Tensor,
        grads: Tensor,
        adapted: Sequence[bool],
        *,
        betas: tuple[float, float],
        weight_decay: float,
        eps: float = 1e-6,
        sum_over_ranks: Callable[[Tensor], None] | None = None,
    ) -> None:
        """Take the tensors `masters`, which lie in the matrix `weights` by the layout `rows`, as gradients in `grads`
        do."""
        super().__init__(masters, {"lr": 0.0})
        self.rows, self.weights, self.grads, self.sum_over_ranks = rows, weights, grads, sum_over_ranks
        self.betas, self.eps = betas, eps
        self.adapted = torch.tensor(adapted, device=weights.device)
        self.decay = (weight_decay * self.adapted)[rows.tensor][:, None]  # (rows, 1)
        self.mean, self.square = rows.zeros(), rows.zeros()
        self.steps = torch.zeros(len(masters), device=weights.device)
        for master, *held in zip(masters, self.steps, rows.views(self.mean), rows.views(self.square)):
            self.state[master] = dict(zip(("step", "exp_avg", "exp_avg_sq"), held))
        self.clip: Tensor | None = None
        """Factor of all gradients in the next step."""
        self.moments: Callable[..., tuple[Tensor, Tensor]] = moments

    @torch.no_grad()
    def step(self, finish: Callable[[slice, Tensor, Tensor], None]) -> None:  # type: ignore[override]
        """Call finish(rows, update, factor) once for all rows of the weights, or for group after group of them: factor
        (rows, 1) * update (rows, WIDTH) is to be added to these. The gradients are not kept."""
        found: Tensor | None = getattr(self, "found_inf", None)
        skip = None if found is None else found > 0
        self.steps += 1 if found is None else 1 - found
        matrices = (self.weights, self.grads, self.mean, self.square, self.decay)
        if self.weights.device.type == "cpu" and skip is None:
            self._step_in_cache(finish, matrices)
        else:
            norms = self.moments(*matrices, self._numbers(skip), skip)
            finish(slice(None), self.grads, self._factor(slice(None), norms))

    def _step_in_cache(self, finish: Callable[[slice, Tensor, Tensor], None], matrices: Sequence[Tensor]) -> None:
        """Make the step on a CPU, chunk by chunk, and finish each group of tensors before the next."""
        # Ranks add up their norms once, for all tensors.
        groups = [slice(0, len(self.weights))] if self.sum_over_ranks else self.rows.groups(GROUP_ROWS)
        numbers: dict[str, Any] = {"beta1": self.betas[0], "beta2": self.betas[1], "eps": self.eps}
        numbers["state_steps"] = [self.steps[0]]
        numbers["grad_scale"] = None if self.clip is None or self.clip == 1 else 1 / self.clip
        memory = self.weights.new_empty(max(group.stop - group.start for group in groups), WIDTH)
        for group in groups:
            steps = memory[: group.stop - group.start]
            norms = [moments_of_cpu(*part, numbers=numbers) for part in chunks(*(m[group] for m in matrices), steps)]
            finish(group, steps, self._factor(group, [torch.cat(side) for side in zip(*norms)]))

    def _numbers(self, skip: Tensor | None) -> dict[str, Any]:
        """Return the numbers of `moments`."""
        beta1, beta2 = self.betas
        numbers: dict[str, Any] = {"1 - beta2": 1 - beta2}
        if skip is None:
            count = float(self.steps[0])
            numbers |= {"share": 1 - beta1, "beta2": beta2, "clip": None if self.clip is None else float(self.clip)}
        else:  # a first step that is skipped leaves the count at 0: its step, which is not made, must be finite
            count = self.steps[0].double().clamp_min(1)
            numbers |= {"share": torch.where(skip, 0.0, 1 - beta1), "beta2": torch.where(skip, 1.0, beta2)}
            numbers["clip"] = self.clip
        unbiased = 1 - beta1**count
        scale, eps = unbiased / (1 - beta2**count) ** 0.5, self.eps * unbiased
        if isinstance(scale, Tensor):
            scale, eps = scale.float(), eps.float()
        return numbers | {"scale": scale, "eps": eps}

    def _factor(self, rows: slice, norms: Sequence[Tensor]) -> Tensor:
        """Return the factor of the step of these rows (rows, 1), of whole tensors, from the norms of their weights and
        of their steps, (rows,) each."""
        tensors = self.rows.tensor[rows]
        squares = torch.stack([self.rows.sums(side.square(), tensors) for side in norms])  # (2, tensors)
        if self.sum_over_ranks is not None:
            self.sum_over_ranks(squares)
        weights, changes = squares.sqrt()
        adapts = self.adapted & (weights > 0) & (changes > 0)
        trust = torch.where(adapts, weights / changes, torch.ones_like(weights))
        return (-self.param_groups[0]["lr"] * trust)[tensors][:, None]

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy the state of each master, in their order, into the matrices."""
        for master, held in zip(self.state, state_dict["state"].values()):
            for name, value in held.items():
                self.state[master][name].copy_(value)
