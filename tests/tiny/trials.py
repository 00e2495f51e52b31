"""A tiny export, real images and networks without weights, for trials and sweeps."""

from pathlib import Path

import numpy as np
from PIL import Image

from tessera.curate.collect.collect import CollectConfig, collect
from tessera.miniature import WorldConfig
from tessera.pretrained.features.networks import NETWORKS, FeatureNetwork
from tiny.quality import Moments


def make_miniature(folder: Path, seed: int = 0) -> Path:
    """Renders of 16 px."""
    collect(folder, CollectConfig(size=16, world=WorldConfig(size=16, num_images=12, seed=seed)))
    return folder


def make_photographs(folder: Path, seed: int = 0, count: int = 24) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number:03d}.png")
    return folder


def without_weights(monkeypatch, cache: Path) -> None:
    """Let metrics load `Moments` in place of pretrained networks, and keep features in `cache`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for name in ("inception", "clip"):
        network = FeatureNetwork(lambda model, device, name=name: Moments(name), name)  # type: ignore[arg-type]
        monkeypatch.setitem(NETWORKS, name, network)
