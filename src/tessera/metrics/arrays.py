"""Tables of features, checked."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tessera.config import UserError


def as_features(features: Any, name: str, rows: int = 1) -> np.ndarray:
    """Return (N, d) float64, finite, with at least `rows` rows."""
    return as_floats(features, name, rows).astype(np.float64, copy=False)


def as_floats(features: Any, name: str, rows: int = 1) -> np.ndarray:
    """Return (N, d), finite, with at least `rows` rows; float32 as it is, all else in float64."""
    if hasattr(features, "detach"):  # a torch tensor, perhaps bfloat16 and on a GPU
        features = features.detach().cpu()
        features = (features if "float32" in str(features.dtype) else features.double()).numpy()
    array = np.asarray(features)
    array = array if array.dtype == np.float32 else np.asarray(array, dtype=np.float64)
    if array.ndim != 2:
        raise UserError(f"{name}: features must be a table (images, width), not of shape {array.shape}")
    if len(array) < rows:
        raise UserError(f"{name}: {len(array)} images are too few, at least {rows} are needed")
    if not all(np.isfinite(array[start : start + 4096]).all() for start in range(0, len(array), 4096)):
        raise UserError(f"{name}: features hold NaN or infinity")
    return array


def numbered(labels: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return the number 0, 1, ... of each label (N,) among those that there are, in ascending order.

    Without an array of the labels: NumPy would give every text the room of the longest one.
    """
    if isinstance(labels, np.ndarray):
        return np.unique(labels, return_inverse=True)[1]
    numbers = {label: number for number, label in enumerate(sorted(set(labels)))}
    return np.array([numbers[label] for label in labels], dtype=np.int64)


def same_width(real: int, fake: int) -> None:
    if real != fake:
        raise UserError(f"fake: features are {fake} wide, those of real {real}; use one network for both")
