"""Bounds of the products of many points with many others, by int8 codes or in float32."""

import math
from typing import Any

import numpy as np

GROUP, PIECE = 64, 1024
"""Others are filled up to a multiple of; points prepared at once, few enough for a processor's cache."""


def toward(values: np.ndarray, direction: float) -> np.ndarray:
    """Return float32 values that are not less extreme than those in float64."""
    return np.nextafter(values.astype(np.float32), np.float32(direction))


class Products:
    """Centered points whose products with others are bounded by those of int8 codes, where the processor multiplies
    them at several times the rate of float32.

    Codes are of turned points, whose entries are of one size whatever the spectrum is, so that little is lost.
    """

    def __init__(self, rows: np.ndarray, center: np.ndarray, scale: float, alike: bool = False):
        """Prepare points (N, d); alike: the codes of each PIECE are of one step, the widest that its points need."""
        import torch

        self.rows = rows
        made = [_coded(rows[start : start + PIECE], center, scale, alike) for start in range(0, len(rows), PIECE)]
        self.table, self.steps, norms, error = (torch.cat(part) for part in zip(*made))
        self.norms, self.error = norms.double().numpy(), error.double().numpy()

    def upper_bounds(self, other: "Products", room: tuple[Any, Any]) -> Any:
        """Return at least (|a|^2 - distance^2) / 2 of all pairs, float32 (n, m); m is rounded up to whole GROUPs, whose
        further ones are -inf. Of at most a PIECE of points, whose codes are alike, in `room_for` n m entries."""
        import torch

        extra = -len(other.rows) % GROUP
        pad = torch.nn.functional.pad
        right = pad(other.table, (0, 0, 0, extra)) if extra else other.table
        # Of the codes; of the d products and their sum, of the d squares of each, and of centering.
        longest, unit = self.norms.max(), (self.rows.shape[1] + 16) * np.finfo(np.float32).eps / 2
        slack = self.error.max() * other.norms + (longest + self.error.max()) * other.error
        slack = (1 + 2 * unit) * slack + unit * np.square(longest + other.norms)
        rest = pad(torch.from_numpy(toward(slack - np.square(other.norms) / 2, np.inf)), (0, extra), value=-torch.inf)
        products, bounds = (part[: len(self.table) * len(right)].view(-1, len(right)) for part in room)
        if self.table.dtype == torch.float32:
            return torch.addmm(rest, self.table, right.T, out=bounds)
        torch._int_mm(self.table, right.T, out=products)  # pyright: ignore[reportPrivateImportUsage]
        steps = pad(other.steps[:, 0], (0, extra))
        return torch.addcmul(rest, bounds.copy_(products), steps, value=float(self.steps[0]), out=bounds)

    def halves(self, squares: np.ndarray) -> np.ndarray:
        """Return (|a|^2 - squares) / 2 of each row."""
        return (np.square(self.norms) - squares) / 2


def room_for(entries: int) -> tuple[Any, Any]:
    """Return memory for the products and bounds of so many pairs, int32 and float32, to be filled again and again:
    fresh pages cost as much time as the sums."""
    import torch

    return torch.empty(entries, dtype=torch.int32), torch.empty(entries)


def _coded(rows: np.ndarray, center: np.ndarray, scale: float, alike: bool) -> tuple[Any, Any, Any, Any]:
    """Return centered rows (n, d) as codes, the steps of the codes (n, 1), the norms, and the codes' errors (n,)."""
    import torch

    points = torch.from_numpy(rows) - torch.from_numpy(center.astype(rows.dtype))
    points = points.mul_(1 / scale).float()
    norms = torch.linalg.vector_norm(points, dim=1)
    if not torch.cpu._is_vnni_supported():
        return points, norms[:, None], norms, torch.zeros_like(norms)
    turned, unit = _turned(points)
    largest = turned.abs().amax(1, keepdim=True)
    largest = largest.amax().expand_as(largest) if alike else largest
    steps = (largest / 127).clamp_min_(torch.finfo(torch.float32).tiny)
    codes = (turned / steps).round_()
    error = torch.linalg.vector_norm(turned.addcmul_(codes, steps, value=-1), dim=1).add_(norms, alpha=unit)
    return torch.nn.functional.pad(codes.to(torch.int8), (0, -codes.shape[1] % 4)), steps, norms, error


def _turned(table: Any) -> tuple[Any, float]:
    """Turn points (N, d) so that none of their axes stands out: float32, in error by at most a share of each length.

    By random signs, then a cosine transform along both sides of d, written as a product.
    """
    import torch

    width = table.shape[1]
    short = next(side for side in range(math.isqrt(width), 0, -1) if width % side == 0)
    sides = short, width // short
    signs = torch.randint(0, 2, (width,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    first, second = (_cosines(side) for side in sides)
    turned = first @ (table * signs).view(-1, *sides) @ second.T
    return turned.reshape(-1, width), float(np.finfo(np.float32).eps) * sum(side**1.5 for side in sides)


def _cosines(side: int) -> Any:
    """Return the orthogonal cosine transform, (side, side)."""
    import torch

    place = torch.arange(side, dtype=torch.float64)
    table = torch.cos(place[:, None] * (place + 0.5) * (math.pi / side)) * math.sqrt(2 / side)
    table[0] /= math.sqrt(2)
    return table.float()
