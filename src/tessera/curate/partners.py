"""Partners that are not drawn at random (not the paper's): by coverage, or far from their base.

By coverage: every ordered pair of classes, in every box of a pattern, equally often. Drawn at random, some of a set's
pairs never meet: 1,000 classes have 999,000 ordered pairs. Here each class deals its images out to the other classes in
turn, and each of those its own images.

Far: of some random images of other classes, the one whose embedding is least like that of the base.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

CANDIDATES = 8
"""Random images of other classes among which the least similar one is chosen."""

Numbers = NDArray[np.int64]


def balanced(classes: Numbers, dealt: Numbers, first: NDArray, second: NDArray) -> tuple[Numbers, Numbers]:
    """Return for each of n images of two classes or more its partner, an image of another class, and its turn.

    Of the images of one class and pattern, the numbers of those that get each other class differ by one at most, and so
    do those that get a class at each turn modulo any number of boxes; the images of a class are partners equally often,
    up to one.

    classes (n,): the number of each image's class, from 0, in ascending order. dealt (n,): that of its pattern. first,
    second (n,): draws by which images and partners are ordered.
    """
    sizes = np.bincount(classes)
    others, starts = len(sizes) - 1, np.cumsum(sizes) - sizes
    rank, leader = _ranked(classes * (int(dealt.max()) + 1) + dealt, first)
    step = rank + (first[leader] % others).astype(np.int64)  # so that not all classes begin with the same one
    wanted = step % others
    wanted += wanted >= classes  # its own class is left out
    asked, _ = _ranked(wanted, second)
    by_class = np.lexsort((second, classes))
    return by_class[starts[wanted] + asked % sizes[wanted]], step // others


def _ranked(group: Numbers, draws: NDArray) -> tuple[Numbers, Numbers]:
    """Return each element's place in its group by its draw, from 0, and the element at place 0."""
    order = np.lexsort((draws, group))
    place = np.arange(len(group))
    start = np.maximum.accumulate(np.where(np.diff(group[order], prepend=-1) != 0, place, 0))
    rank, leader = np.empty_like(place), np.empty_like(place)
    rank[order], leader[order] = place - start, order[start]
    return rank, leader


def far(features: NDArray[np.float16], candidate: Callable[[int], Numbers]) -> Numbers:
    """Return for each of n images the candidate whose features are least like its own, the first of equal ones.

    features (n, D) of length 1. candidate(k), k < CANDIDATES: a random image of another class for each (n,).
    """
    best, least = candidate(0), np.full(len(features), np.inf, np.float32)
    for number in range(CANDIDATES):
        other = candidate(number)
        for first in range(0, len(features), 4096):  # so that the products take little memory
            some = slice(first, first + 4096)
            likeness = np.einsum("nd,nd->n", features[some], features[other[some]], dtype=np.float32)
            nearer = likeness < least[some]
            best[some] = np.where(nearer, other[some], best[some])
            least[some] = np.where(nearer, likeness, least[some])
    return best
