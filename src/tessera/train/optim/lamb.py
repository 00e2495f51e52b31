"""LAMB, as a torch optimizer over lists of tensors."""

# pyright: reportPrivateImportUsage=false
# torch's own optimizers are made of the _foreach_ functions; they have no public name.

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def zero_skipped(tensors: Sequence[Tensor], skip: Tensor | None) -> None:
    """Set gradients or updates to zero where `skip` is 1: by selection, because 0 times NaN is NaN."""
    if skip is not None:
        for tensor in tensors:
            tensor.masked_fill_(skip > 0, 0.0)


def update_means(means: list[Tensor], grads: list[Tensor], beta: float, skip: Tensor | None) -> None:
    """Set means to beta means + (1 - beta) grads; unchanged where `skip` is 1, since then the gradients are zero."""
    if skip is None:
        torch._foreach_lerp_(means, grads, 1 - beta)
    else:
        torch._foreach_mul_(means, torch.where(skip > 0, 1.0, beta))
        torch._foreach_add_(means, grads, alpha=1 - beta)


class Lamb(Optimizer):
    """LAMB (You et al. 2020, Algorithm 2): Adam's step times |w| / |step|, unclipped, where a group has `adapt`.

    `sum_over_ranks`: sums squared norms over the ranks that hold parts of the weights, in place; None = one holds all.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        betas: tuple[float, float],
        eps: float = 1e-6,
        sum_over_ranks: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.sum_over_ranks = sum_over_ranks
        super().__init__(params, {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0, "adapt": True})
        for p in (p for group in self.param_groups for p in group["params"]):
            step = torch.zeros((), device=p.device)
            self.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        skip = getattr(self, "found_inf", None)
        for group in self.param_groups:
            params: list[Tensor] = group["params"]
            grads: list[Any] = [p.grad for p in params]
            steps, mean, square = ([self.state[p][k] for p in params] for k in ("step", "exp_avg", "exp_avg_sq"))
            beta1, beta2 = group["betas"]
            zero_skipped(grads, skip)
            torch._foreach_add_(steps, 1 if skip is None else 1 - skip)
            # A first step that is skipped leaves the count at 0: its update, which is not made, must be finite.
            count = float(steps[0]) if skip is None else steps[0].double().clamp_min(1)
            update_means(mean, grads, beta1, skip)
            torch._foreach_mul_(square, beta2 if skip is None else torch.where(skip > 0, 1.0, beta2))
            torch._foreach_addcmul_(square, grads, grads, 1 - beta2)
            below = torch._foreach_sqrt(square)
            torch._foreach_div_(below, (1 - beta2**count) ** 0.5)
            torch._foreach_add_(below, group["eps"])
            update = torch._foreach_div(mean, below)
            torch._foreach_div_(update, 1 - beta1**count)
            if group["weight_decay"]:
                torch._foreach_add_(update, params, alpha=group["weight_decay"])
            if group["adapt"]:
                norms = torch.stack([*torch._foreach_norm(params), *torch._foreach_norm(update)])
                if self.sum_over_ranks is not None:
                    squares = norms.square()
                    self.sum_over_ranks(squares)
                    norms = squares.sqrt()
                weights, changes = norms.chunk(2)
                trust = torch.where((weights > 0) & (changes > 0), weights / changes, torch.ones_like(weights))
                torch._foreach_mul_(update, list(trust.unbind()))
            zero_skipped(update, skip)
            torch._foreach_add_(params, update, alpha=-group["lr"])
