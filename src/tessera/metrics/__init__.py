"""The mathematics of the scores: Frechet distance, neighbors, kernels, cosine scores, intervals.

Everything takes features (N, d), N images of width d, as NumPy arrays or torch tensors, and works in float64; which
network made them is the caller's. Bad input raises UserError.
"""

from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.metrics.arrays import as_features
from tessera.metrics.frechet import Moments, frechet_distance, frechet_from_moments, frechet_left_out
from tessera.metrics.jackknife import LeftOut, deal_blocks, jackknife, paired_jackknife
from tessera.metrics.kernels import cmmd, cmmd_left_out, kid, kid_left_out
from tessera.metrics.neighbors import PRDC, nearest, prdc, prdc_left_out
from tessera.metrics.resampling import Interval, bootstrap, bootstrap_median, paired_bootstrap
from tessera.metrics.shares import share_difference, share_interval
from tessera.metrics.sliced import mind, mind_left_out

__all__ = [
    "PRDC",
    "Interval",
    "LeftOut",
    "Moments",
    "bootstrap",
    "bootstrap_median",
    "cmmd",
    "cmmd_left_out",
    "cosine_scores",
    "deal_blocks",
    "frechet_distance",
    "frechet_from_moments",
    "frechet_left_out",
    "jackknife",
    "kid",
    "kid_left_out",
    "mind",
    "mind_left_out",
    "nearest",
    "paired_bootstrap",
    "paired_jackknife",
    "prdc",
    "prdc_left_out",
    "share_difference",
    "share_interval",
]


def cosine_scores(images: Any, texts: Any) -> np.ndarray:
    """Return the cosine of each image's embedding (N, d) with its text's (N, d), -1..1. (N,)"""
    images, texts = as_features(images, "images"), as_features(texts, "texts")
    if images.shape != texts.shape:
        raise UserError(f"texts: embeddings of shape {texts.shape}, those of images {images.shape}; they go in pairs")
    norms = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
    if not norms.all():
        raise UserError("images, texts: an embedding is zero and has no direction")
    return (images * texts).sum(1) / norms
