"""Which detector ships with tessera, told without torch, and whether finished scores are by it."""

import functools
import hashlib
from importlib import resources
from pathlib import Path

from tessera.config import compare
from tessera.files import read_json
from tessera.stages import made_otherwise

WEIGHTS = "miniature_detector.safetensors"


def detector_weights() -> bytes:
    """The shipped file."""
    return (resources.files("tessera") / "assets" / WEIGHTS).read_bytes()


@functools.cache
def detector_sha256() -> str:
    """SHA-256 of the shipped weights: part of every score's protocol."""
    return hashlib.sha256(detector_weights()).hexdigest()


def check_judge(scores: Path, metric: str) -> None:
    """UserError unless the protocol in the file `scores` names the rules `metric` and the shipped detector.

    A stage's configuration does not say which judge came with tessera, so a finished directory may be of an older one.
    """
    now = {"metric": metric, "detector_sha256": detector_sha256()}
    then = read_json(scores)["protocol"]
    if pairs := compare({name: then[name] for name in now if name in then}, now):
        raise made_otherwise(scores.parent, pairs)
