"""What `evaluate quality` can measure, by which networks, and how."""

from dataclasses import dataclass
from typing import Literal, get_args

from tessera.config import UserError, nearest
from tessera.evaluate.quality.distances import PRDC_PROTOCOLS

Metric = Literal["fid", "kid", "fd_dinov2", "prdc", "cmmd", "clip_score", "jina_clip_score"]
METRICS: tuple[Metric, ...] = get_args(Metric)
NETWORK: dict[Metric, str] = {
    "fid": "inception",
    "kid": "inception",
    "fd_dinov2": "dinov2",
    "prdc": "dinov2",
    "cmmd": "clip336",
    "clip_score": "clip",
    "jina_clip_score": "jina",
}
"""Which network each metric needs."""
CAPTIONED = ("clip_score", "jina_clip_score")


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """What to measure, and how."""

    metrics: tuple[Metric, ...] = ("fid", "kid", "fd_dinov2", "prdc", "cmmd", "clip_score")
    """Which of METRICS."""
    prdc: tuple[Literal["paper", "full", "dgm-eval"], ...] = ("paper", "full", "dgm-eval")
    """Protocols of precision, recall, density and coverage."""
    rounding: Literal["round", "truncate"] = "round"
    """How .npy pictures in floating point become bytes; `truncate` reproduces the paper."""
    kid_subsets: int = 100
    """Random subsets of KID, of 1000 pictures each (fewer where there are fewer)."""
    batch_size: int = 32
    """Pictures in one forward, at least 1."""
    resamples: int = 1000
    """Bootstrap resamples for the intervals, at least 100."""
    seed: int = 0
    """Seed of the bootstrap, of the blocks, and of the random subsets."""

    def __post_init__(self):
        for name, known in (("metrics", METRICS), ("prdc", tuple(PRDC_PROTOCOLS))):
            for item in getattr(self, name):
                if item not in known:
                    raise UserError(f"{name}: unknown {item!r};{nearest(item, known)} known: {', '.join(known)}")
        if not self.metrics:
            raise UserError(f"metrics is empty: give some of {', '.join(METRICS)}")
        for name, least in (("kid_subsets", 1), ("batch_size", 1), ("resamples", 100)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: give at least {least}")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed is {self.seed}: give a number in [0, 2**64)")
