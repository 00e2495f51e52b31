"""Random features, plain and degenerate."""

import math

import numpy as np


def features(rows, width, seed=0, rank=None):
    rng = np.random.default_rng(seed)
    rank = rank or width
    mixing = rng.normal(size=(rank, width)) / math.sqrt(rank)
    return rng.normal(size=(rows, rank)) @ mixing + rng.normal(size=width)


def degenerate(kind, rows, width, seed):
    x = features(rows, width, seed)
    if kind == "duplicated rows":
        x[rows // 3 :] = x[np.arange(rows - rows // 3) % (rows // 3)]
    elif kind == "constant columns":
        x[:, width // 2 :] = 7.0
    return x


DEGENERATE = [
    ("duplicated rows", 90, 12),
    ("duplicated rows", 60, 40),
    ("constant columns", 80, 20),
    ("fewer than widths", 15, 40),
]
