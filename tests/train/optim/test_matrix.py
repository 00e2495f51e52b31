"""Tensors in a matrix of rows: their places, views and sums."""

import pytest
import torch

from tessera.train.optim.matrix import WIDTH, Rows

SHAPES = [(3,), (2, WIDTH), (WIDTH - 1, 3), ()]


def test_tensors_begin_rows_and_share_the_matrix():
    rows = Rows([torch.empty(shape) for shape in SHAPES])
    matrix = rows.zeros()
    assert rows.starts == [0, 1, 3, 6, 7]
    assert matrix.shape == (7, WIDTH)
    for number, (view, shape) in enumerate(zip(rows.views(matrix), SHAPES, strict=True), start=1):
        assert view.shape == shape
        view.fill_(number)
    assert matrix.count_nonzero() == 3 + 2 * WIDTH + 3 * (WIDTH - 1) + 1
    assert [row.max().item() for row in matrix] == [1, 2, 2, 3, 3, 3, 4]


def test_sums_are_over_each_tensor():
    rows = Rows([torch.empty(shape) for shape in SHAPES])
    matrix = rows.zeros()
    values = [torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n, shape in enumerate(SHAPES)]
    torch._foreach_copy_(rows.views(matrix), values)
    expected, squares = torch.stack([v.square().sum() for v in values]), matrix.square().sum(1)
    torch.testing.assert_close(rows.sums(squares, rows.tensor), expected)
    found = rows.sums(squares[1:6], rows.tensor[1:6])
    torch.testing.assert_close(found, expected * torch.tensor([0, 1, 1, 0]))


@pytest.mark.parametrize(
    ("least", "ends"), [(1, [1, 3, 6, 7]), (2, [3, 6, 7]), (3, [3, 6, 7]), (4, [6, 7]), (7, [7]), (9, [7])]
)
def test_groups_are_of_whole_tensors(least, ends):
    groups = Rows([torch.empty(shape) for shape in [*SHAPES, (0,)]]).groups(least)
    assert [group.stop for group in groups] == ends
    assert [group.start for group in groups] == [0, *ends[:-1]]
