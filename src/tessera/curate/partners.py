"""Partners that are not drawn at random (not the paper's): by coverage, or far from their base.

By coverage: every ordered pair of classes, in every box of a pattern, equally often. Drawn at random, some of a set's
pairs never meet: 1,000 classes have 999,000 ordered pairs. Here each class deals its images out to the other classes in
turn, and each of those its own images.

Far: of some random images of other classes, the one whose embedding is least like that of the base.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, nearest
from tessera.progress import progress

if TYPE_CHECKING:
    from tessera.pretrained.features.encoder import ImageEncoder

CANDIDATES = 8
"""Random images of other classes among which the least similar one is chosen."""
_BATCH = 64

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


def load_embeddings(spec: str, device: str | None) -> "ImageEncoder":
    """Return the network of `spec`: a name of `pretrained.features.networks`, or NAME:MODEL with its folder or
    repository; for "pixels" the images themselves, small. Raises UserError for an unknown name."""
    from tessera.devices import pick_device
    from tessera.pretrained.features.networks import NETWORKS
    from tessera.pretrained.features.pixels import SIDE, Pixels

    name, _, model = spec.partition(":")
    if spec in ("pixels", f"pixels:{SIDE}"):  # what the user types, and its id
        return Pixels()
    if name not in NETWORKS:
        raise UserError(
            f"embeddings: unknown network {name!r};{nearest(name, NETWORKS)} known: {', '.join(NETWORKS)}, pixels"
        )
    return NETWORKS[name].load(model or NETWORKS[name].model, pick_device(device))


def embed(network: "ImageEncoder", read: Callable[[str], NDArray[np.uint8]], files: list[str]) -> NDArray[np.float16]:
    """Return the network's features (n, D) of images, of length 1. read(file): uint8 (H, W, 3)."""
    import torch

    found = []
    with ThreadPoolExecutor(4) as readers, progress("embed", len(files)) as bar:
        for first in range(0, len(files), _BATCH):
            prepared = readers.map(lambda file: network.prepare(read(file)), files[first : first + _BATCH])
            features = network.features(torch.stack(list(prepared)))
            length = np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
            found.append((features / length).astype(np.float16))
            bar.advance(len(features))
    return np.concatenate(found)
