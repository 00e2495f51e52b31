"""Options of `evaluate quality`."""

from dataclasses import dataclass
from typing import Literal

from tessera.config import UserError, check_ranges, nearest
from tessera.evaluate.quality.metrics import METRICS, PRDC_PROTOCOLS


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """The metrics to measure, and their options."""

    metrics: tuple[str, ...] = ("fid", "kid", "fd_dinov2", "prdc", "cmmd", "clip_score")
    """Names of METRICS, or FILE.py:NAME of one's own."""
    prdc: tuple[str, ...] = ("paper", "full", "dgm-eval")
    """Protocols of precision, recall, density and coverage, of PRDC_PROTOCOLS."""
    rounding: Literal["round", "truncate"] = "round"
    """Rounding of .npy images in floating point to bytes; `truncate` reproduces the paper."""
    kid_subsets: int = 100
    """Random subsets of KID, of 1000 images each (fewer where there are fewer); at least 1."""
    batch_size: int = 32
    """Images in one forward, at least 1."""
    resamples: int = 1000
    """Bootstrap resamples for the intervals, at least 100."""
    seed: int = 0
    """Seed of the bootstrap, of the blocks, and of the random subsets."""

    def __post_init__(self):
        if not self.metrics:
            raise UserError(f"metrics is empty; give some of {', '.join(METRICS)}")
        for field, known in (("metrics", METRICS), ("prdc", PRDC_PROTOCOLS)):
            for name in getattr(self, field):
                if name not in known and not (field == "metrics" and ":" in name):
                    own = ", or FILE.py:NAME" if field == "metrics" else ""
                    raise UserError(f"{field}: unknown {name!r};{nearest(name, known)} known: {', '.join(known)}{own}")
        check_ranges(self, kid_subsets="[1, inf)", batch_size="[1, inf)", resamples="[100, inf)", seed="[0, 2**64)")
