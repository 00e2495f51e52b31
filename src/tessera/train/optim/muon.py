"""Muon, as a torch optimizer over lists of tensors."""

# pyright: reportPrivateImportUsage=false
# torch's own optimizers are made of the _foreach_ functions; they have no public name.

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95


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


class Muon(Optimizer):
    """Muon (Jordan et al. 2024): Nesterov momentum, its matrix made orthogonal by five Newton-Schulz steps, times
    sqrt(max(1, rows / columns)). `dtype`: precision of those five steps.

    The rule is that of torch.optim.Muon with its default settings. But matrices of one shape are processed together:
    half the time on the miniature's DiT, 8% of its whole training step (`bench/muon.py`); and torch's has no
    `found_inf`.
    """

    def __init__(
        self, params: Iterable[Tensor], weight_decay: float = 0.0, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        super().__init__(params, {"lr": 0.0, "momentum": MOMENTUM, "weight_decay": weight_decay})
        for p in self.param_groups[0]["params"]:
            self.state[p] = {"momentum_buffer": torch.zeros_like(p)}
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        skip = getattr(self, "found_inf", None)
        for group in self.param_groups:
            params: list[Tensor] = group["params"]
            grads: list[Any] = [p.grad for p in params]
            momentum = [self.state[p]["momentum_buffer"] for p in params]
            zero_skipped(grads, skip)
            update_means(momentum, grads, group["momentum"], skip)
            ahead = torch._foreach_lerp(grads, momentum, group["momentum"])
            shapes: dict[tuple[int, ...], list[int]] = {}
            for i, p in enumerate(params):
                shapes.setdefault(tuple(p.shape), []).append(i)
            shrink = group["lr"] * group["weight_decay"]
            torch._foreach_mul_(params, 1 - (shrink if skip is None else shrink * (1 - skip)))
            for (rows, columns), members in shapes.items():
                directions = orthogonalize(torch.stack([ahead[i] for i in members]).to(self.dtype)).float()
                zero_skipped([directions], skip)
                scale = group["lr"] * math.sqrt(max(1.0, rows / columns))
                torch._foreach_add_([params[i] for i in members], directions.unbind(), alpha=-scale)


def orthogonalize(x: Tensor) -> Tensor:
    """Return nearly U V^T of each matrix (n, rows, columns): singular values end near 0.7 to 1.2."""
    a, b, c = NEWTON_SCHULZ
    tall = x.size(-2) > x.size(-1)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x.mT @ x if tall else x @ x.mT  # (n, the smaller side, the same)
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, *((x, factor) if tall else (factor, x)), beta=a)
    return x
