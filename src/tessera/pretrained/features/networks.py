"""The table of the networks that metrics compare images and captions by: one entry adds one."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tessera.pretrained.features.clip import CLIP, CLIP_336, HPSV2, PICKSCORE, load_clip, load_preference
from tessera.pretrained.features.dinov2 import DINOV2, load_dino
from tessera.pretrained.features.encoder import ImageEncoder
from tessera.pretrained.features.inception import FILE, load_inception
from tessera.pretrained.features.jina import JINA, load_jina
from tessera.pretrained.features.vision import CONVNEXTV2, MAE, SIGLIP2, load_vision


class FeatureNetwork(NamedTuple):
    """An entry of the table."""

    load: Callable[..., ImageEncoder]
    """Called as load(model, device, **options); a model is a file, a folder, or a repository of the Hub."""
    model: str
    """The model that is meant where the user gives none."""


NETWORKS = {
    "inception": FeatureNetwork(load_inception, FILE),
    "dinov2": FeatureNetwork(load_dino, DINOV2),
    "clip": FeatureNetwork(load_clip, CLIP),
    "clip336": FeatureNetwork(partial(load_clip, crop_first=True), CLIP_336),
    "pickscore": FeatureNetwork(partial(load_preference, by_logits=True), PICKSCORE),
    "hpsv2": FeatureNetwork(load_preference, HPSV2),
    "jina": FeatureNetwork(load_jina, JINA),
    "convnextv2": FeatureNetwork(partial(load_vision, kind="convnextv2"), CONVNEXTV2),
    "mae": FeatureNetwork(partial(load_vision, kind="mae"), MAE),
    "siglip2": FeatureNetwork(partial(load_vision, kind="siglip2"), SIGLIP2),
    "clip_vision": FeatureNetwork(partial(load_vision, kind="clip_vision"), CLIP),
}
"""Metrics name networks by these keys."""
