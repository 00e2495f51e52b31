"""Tensors one after another in a matrix of rows, so that one call works on all of them."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

WIDTH = 1024
"""Numbers in a row. Each tensor begins a new row; the rest of its last one is 0 and stays 0."""


class Rows:
    """Layout of N tensors in a matrix (rows, WIDTH)."""

    def __init__(self, like: Sequence[Tensor]) -> None:
        self.shapes = [tensor.shape for tensor in like]
        self.device = like[0].device
        counts = [-(-shape.numel() // WIDTH) for shape in self.shapes]
        self.starts = [0, *accumulate(counts)]
        """First row of each tensor, and the number of rows at the end."""
        self.tensor = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(self.device)
        """Number of each row's tensor (rows,)."""

    def zeros(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a matrix of zeros."""
        return torch.zeros(self.starts[-1], WIDTH, dtype=dtype, device=self.device)

    def views(self, matrix: Tensor) -> list[Tensor]:
        """Return the tensors that lie in a matrix of this layout: the same memory."""
        parts = zip(self.starts, self.starts[1:], self.shapes)
        return [matrix[first:end].flatten()[: shape.numel()].view(shape) for first, end, shape in parts]

    def groups(self, rows: int) -> list[slice]:
        """Return all rows in groups of whole tensors, with this many rows or more, but for the last."""
        ends = [self.starts[0]]
        for end in self.starts[1:]:
            if end - ends[-1] >= rows or ends[-1] < end == self.starts[-1]:
                ends.append(end)
        return [slice(first, end) for first, end in pairwise(ends)]

    def sums(self, of_rows: Tensor, tensor: Tensor) -> Tensor:
        """Return the sum over each tensor's rows (N,) of a number for each of some rows (rows,); tensor: theirs."""
        return of_rows.new_zeros(len(self.shapes)).index_add_(0, tensor, of_rows)
