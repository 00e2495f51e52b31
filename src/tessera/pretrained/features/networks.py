"""The table of the networks that metrics compare images and captions by: one entry adds one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tessera.pretrained.features.clip import CLIP, CLIP_336, load_clip
from tessera.pretrained.features.dinov2 import DINOV2, load_dino
from tessera.pretrained.features.encoder import ImageEncoder
from tessera.pretrained.features.inception import FILE, SIDE, load_inception
from tessera.pretrained.features.jina import JINA, load_jina


@dataclass(frozen=True)
class FeatureNetwork:
    """An entry of the table."""

    load: Callable[..., ImageEncoder]
    """Called as load(model, device, **options); a model is a file, a folder, or a repository of the Hub."""
    model: str
    """The model that is meant where the user gives none."""
    side: int
    """Side in pixels of the images that this model takes."""


def _load_cmmd(model: str, device: Any = "cpu") -> ImageEncoder:
    return load_clip(model, device, crop_first=True)


NETWORKS = {
    "inception": FeatureNetwork(load_inception, FILE, SIDE),
    "dinov2": FeatureNetwork(load_dino, DINOV2, 224),
    "clip": FeatureNetwork(load_clip, CLIP, 224),
    "clip336": FeatureNetwork(_load_cmmd, CLIP_336, 336),
    "jina": FeatureNetwork(load_jina, JINA, 512),
}
"""Metrics name networks by these keys."""
