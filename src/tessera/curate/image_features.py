"""Vision networks that look at a set's images: embeddings of whole images, and features of their patches to align with.

Features are int8 in groups of 64 along their width with an fp16 scale each, as texts are, of at most `MOST_TOKENS`
patches: a network 768 wide takes 203 KB of disk for an image.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, nearest
from tessera.encoded.record import quantize
from tessera.progress import progress

if TYPE_CHECKING:
    from tessera.pretrained.features.encoder import ImageEncoder

MOST_TOKENS = 256
"""A larger square of patches is averaged down to 16 x 16."""
_BATCH = 64


def load_vision_network(spec: str, device: str | None, field: str) -> "ImageEncoder":
    """Return the network of `spec`: a name of `pretrained.features.networks`, or NAME:MODEL with its folder or
    repository; for "pixels" the images themselves, small. field: the beginning of the UserError for an unknown name."""
    from tessera.devices import pick_device
    from tessera.pretrained.features.networks import NETWORKS
    from tessera.pretrained.features.pixels import SIDE, Pixels

    name, _, model = spec.partition(":")
    if spec in ("pixels", f"pixels:{SIDE}"):  # what the user types, and its id
        return Pixels()
    if name not in NETWORKS:
        known = (*NETWORKS, "pixels")
        raise UserError(f"{field}: unknown network {name!r};{nearest(name, known)} known: {', '.join(known)}")
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


def describe_features(network: "ImageEncoder") -> tuple[dict[str, str], tuple[int, int]]:
    """Return a network as the facts "features", its id, and "features_sha256", and the number of tokens and the width
    of an image's features. UserError for a network that gives none of patches."""
    codes, _ = patch_features(network, [np.zeros((32, 32, 3), np.uint8)])[0]
    tokens, width = codes.shape
    return {"features": network.id, "features_sha256": network.sha256}, (tokens, width)


def patch_features(
    network: "ImageEncoder", images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
) -> list[tuple[NDArray[np.int8], NDArray[np.float16]]]:
    """Return codes (N, D) and scales (N, ceil(D / 64)) of the N patches of each image (H, W, 3), row by row. UserError
    for a network that gives no features of patches."""
    import torch
    import torch.nn.functional as F

    with torch.inference_mode():
        grid = network.patches(torch.stack([network.prepare(image) for image in images]).to(network.device))
        side = round(MOST_TOKENS**0.5)
        if grid.shape[-1] > side:  # (B, D, h, w)
            grid = F.adaptive_avg_pool2d(grid, side)
        tokens = grid.flatten(2).transpose(1, 2).float().cpu().numpy()
    return [quantize(each) for each in tokens]
