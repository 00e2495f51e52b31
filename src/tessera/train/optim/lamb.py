"""LAMB, as a torch optimizer over the rows of one matrix, and what follows every optimizer's step in the same pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tessera.train.optim.matrix import Rows

CHUNK_ROWS = 512
"""Rows that a CPU works on at a time, 2 MB of each matrix: they stay in its cache from the first operation to the last,
so that each matrix is read and written once."""


def chunks(matrix: Tensor) -> list[slice]:
    """Return the rows of a matrix in the chunks in which its device passes over them: a GPU all at once."""
    size = CHUNK_ROWS if matrix.device.type == "cpu" else max(1, len(matrix))
    return [slice(first, first + size) for first in range(0, max(1, len(matrix)), size)]


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
    """Return what `moments` does without a `skip`, by torch's fused kernel of Adam: one pass adds its step to the
    weight decay. step: memory for as many rows or more. numbers: the kernel's."""
    step = torch.mul(weights, decay, out=step[: len(weights)])
    fixed: Any = {"lr": -1.0, "weight_decay": 0.0, "amsgrad": False, "maximize": False}  # -1: added, not subtracted
    kernel: Any = torch._fused_adam_  # pyright: ignore[reportPrivateImportUsage]
    kernel([step], [grads], [mean], [square], [], **fixed, **numbers)
    grads.copy_(step)
    return torch.linalg.vector_norm(weights, dim=1), torch.linalg.vector_norm(step, dim=1)


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
    these alone decay. `step` leaves the weights to `finish`, with `factor` and the gradients, then the steps.

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
        self.factor = torch.zeros(len(weights), 1, device=weights.device)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        found: Tensor | None = getattr(self, "found_inf", None)
        (beta1, beta2), skip = self.betas, None if found is None else found > 0
        self.steps += 1 if found is None else 1 - found
        matrices = (self.weights, self.grads, self.mean, self.square, self.decay)
        if self.weights.device.type == "cpu" and skip is None:
            parts = chunks(self.weights)
            kernel: dict[str, Any] = {"beta1": beta1, "beta2": beta2, "eps": self.eps, "state_steps": [self.steps[0]]}
            kernel["grad_scale"] = None if self.clip is None or self.clip == 1 else 1 / self.clip
            memory = torch.empty_like(self.weights[parts[0]])
            rows = (tuple(m[part] for m in matrices) for part in parts)
            self._adapt([moments_of_cpu(*each, step=memory, numbers=kernel) for each in rows])
            return
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
        numbers |= {"scale": scale, "eps": eps}
        if numbers["clip"] == 1.0 and skip is None:
            numbers["clip"] = None
        self._adapt([self.moments(*(m[part] for m in matrices), numbers, skip) for part in chunks(self.weights)])

    def _adapt(self, norms: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Set the factor of each row's step from the norms of weights and steps, (rows,) each, of all chunks."""
        squares = torch.stack([self.rows.sums(torch.cat(side).square()) for side in zip(*norms)])  # (2, tensors)
        if self.sum_over_ranks is not None:
            self.sum_over_ranks(squares)
        weights, changes = squares.sqrt()
        adapts = self.adapted & (weights > 0) & (changes > 0)
        trust = torch.where(adapts, weights / changes, torch.ones_like(weights))
        self.factor = (-self.param_groups[0]["lr"] * trust)[self.rows.tensor][:, None]

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy the state of each master, in their order, into the matrices."""
        for master, held in zip(self.state, state_dict["state"].values()):
            for name, value in held.items():
                self.state[master][name].copy_(value)
