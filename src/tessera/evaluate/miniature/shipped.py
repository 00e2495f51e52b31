"""The detector that ships with tessera, its file and identity, without torch."""

import functools
import hashlib
from importlib import resources

WEIGHTS = "miniature_detector.safetensors"


def detector_weights() -> bytes:
    """Return the bytes of the shipped file."""
    return (resources.files("tessera") / "assets" / WEIGHTS).read_bytes()


@functools.cache
def detector_sha256() -> str:
    """Return the SHA-256 of the shipped weights, part of every score's protocol."""
    return hashlib.sha256(detector_weights()).hexdigest()
