"""Near duplicates among images by a difference hash, confirmed by their colors."""

import numpy as np
from numpy.typing import NDArray

SIDE = 8
NEAR_BITS, NEAR_LEVELS, FAR_LEVELS = 4, 8.0, 48
_CHUNK = 512  # images compared with all others at a time
_PAIRS = 100_000  # pairs of near hashes whose colors are compared at a time


def cells(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean colors of an image (H, W, 3), each side 9 or more, in 8 rows of 9 cells: uint8 (8, 9, 3)."""
    found = pixels.astype(np.float32)
    for axis, count in ((0, SIDE), (1, SIDE + 1)):
        edges = np.linspace(0, found.shape[axis], count + 1).astype(int)
        found = np.add.reduceat(found, edges[:-1], axis) / np.expand_dims(
            np.diff(edges), (1, 2) if axis == 0 else (0, 2)
        )
    return found.round().astype(np.uint8)


def difference_hashes(colors: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return 64 bits for each image's cells (N, 8, 9, 3): whether a cell is brighter than its left neighbor, (N,)."""
    gray = colors.astype(np.int32).sum(3)
    bits = np.packbits((gray[:, :, 1:] > gray[:, :, :-1]).reshape(len(colors), -1), axis=1)
    return np.ascontiguousarray(bits).view(np.uint64)[:, 0]


def near_duplicates(colors: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the group of near duplicates that each image belongs to, numbered from 0, -1 for none: int32 (N,).

    colors: of `cells`, (N, 8, 9, 3). Two images are near if at most 4 of 64 bits of their hashes differ, and their
    cells by less than 8 of 255 levels on average, 48 in any: a small object on a plain ground is most of a drawing. A
    group holds what is near to any other of it.
    """
    different, of_image = np.unique(colors.reshape(len(colors), -1), axis=0, return_inverse=True)
    hashes, flat = difference_hashes(different.reshape(-1, SIDE, SIDE + 1, 3)), different.astype(np.int16)
    parent = np.arange(len(different))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for start in range(0, len(hashes), _CHUNK):
        apart = np.bitwise_count(hashes[start : start + _CHUNK, None] ^ hashes[None, start:])  # (chunk, N - start)
        first, second = np.nonzero(np.triu(apart <= NEAR_BITS, 1))
        for begin in range(0, len(first), _PAIRS):
            one, other = (start + side[begin : begin + _PAIRS] for side in (first, second))
            levels = np.abs(flat[one] - flat[other])
            near = (levels.mean(1) < NEAR_LEVELS) & (levels.max(1) < FAR_LEVELS)
            for i, j in zip(one[near].tolist(), other[near].tolist()):
                parent[root(j)] = root(i)
    roots = np.array([root(i) for i in range(len(parent))], dtype=np.int64)[of_image.reshape(-1)]
    _, first, place, counts = np.unique(roots, return_index=True, return_inverse=True, return_counts=True)
    numbers = np.full(len(counts), -1)
    several = np.flatnonzero(counts > 1)
    numbers[several[np.argsort(first[several])]] = np.arange(len(several))
    return numbers[place].astype(np.int32)
