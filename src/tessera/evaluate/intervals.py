"""95% intervals over prompts: of shares, and of the difference between two models, paired.

Shares (GenEval, DPG-Bench, the miniature's measures) have score intervals (`tessera.metrics.shares`), means of
CLIPScores the bootstrap's. A distance to a reference is no mean: its difference has the jackknife's interval, the same
block of prompts left out of both models (`tessera.metrics.jackknife`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.evaluate.scores import Number, Scores, require_comparable
from tessera.metrics import Interval, LeftOut, paired_bootstrap, paired_jackknife, share_difference, share_interval

WILSON = "Wilson's score interval over prompts"
"""How the interval of a share came about."""
MOST = {"geneval": 1.0, "dpg": 100.0, "miniature": 1.0}
"""Kinds of scores whose items have values from 0 to this."""


def mean_interval(
    values: Sequence[float] | np.ndarray, prompts: Sequence[Any], tags: Sequence[str] | None = None, most: float = 1.0
) -> Interval:
    """The mean of `values` in 0..`most` with its 95% interval over prompts; with tags, the mean of the tags' means."""
    return _times(share_interval(np.asarray(values) / most, prompts, tags), most)


def paired_difference(
    a: Scores, b: Scores, metric: str, force: bool = False, resamples: int = 1000, seed: int = 0
) -> Interval | None:
    """b's value minus a's with its 95% interval, over the prompts that both drew.

    resamples, seed: of the bootstrap, where it is one. None where the metric is no mean of items and no distance.
    UserError, saying why, where the two do not pair: unlike protocols (unless `force`), other pictures or prompts, a
    distance without the values that its interval is made of.
    """
    first, second = a.number(metric), b.number(metric)
    if first is None or second is None:
        raise UserError(f"{metric}: was not measured in {(a if first is None else b).name}")
    require_comparable(first, second, force)
    if first.protocol.reference is not None and second.protocol.reference is not None:
        return _difference_of_distances(a.name, first, b.name, second)
    over, most = first.over, MOST.get(a.kind)
    if over is None or over != second.over or (over == "tags" and most is None):
        return None
    of = [{(x["prompt"], x["sample"]): x for x in s.items if x["values"].get(metric) is not None} for s in (a, b)]
    if of[0].keys() != of[1].keys():
        raise UserError(f"{metric}: {a.name} and {b.name} judged different pictures; draw the same prompts in both")
    keys = sorted(of[0])
    if not keys:
        return None
    tags = [str(of[0][key].get("tag")) for key in keys] if over == "tags" else None
    before, after = (np.array([side[key]["values"][metric] for key in keys], dtype=np.float64) for side in of)
    prompts = [key[0] for key in keys]
    for scores, values in ((a, before), (b, after)):
        if most is not None and not ((values >= 0) & (values <= most)).all():
            raise UserError(f"{metric}: {scores.name} has pictures with values outside 0..{most:g}; judge them again")
    if most is None:
        return paired_bootstrap(after, before, prompts, n=resamples, seed=seed)
    return _times(share_difference(after / most, before / most, prompts, tags), most)


def _difference_of_distances(a: str, first: Number, b: str, second: Number) -> Interval:
    """The names and numbers of two models -> the second's minus the first's."""
    metric = first.metric
    for name, number in ((a, first), (b, second)):
        if number.left_out is None and number.interval and number.interval.startswith("none: "):
            raise UserError(f"{metric}: {name} has no interval: {number.interval.removeprefix('none: ')}")
        if number.left_out is None:
            raise UserError(
                f"{metric}: {name} was measured by an earlier version, which kept no values without blocks of prompts;"
                " measure it again into another --out"
            )
        if number.left_out.dealt is None:
            raise UserError(f"{metric}: nothing is known of the prompts of {name}; give them by --prompts")
    assert first.left_out is not None
    assert second.left_out is not None
    if (first.left_out.dealt, first.left_out.sizes) != (second.left_out.dealt, second.left_out.sizes):
        raise UserError(f"{metric}: {a} and {b} drew other prompts, or their blocks were dealt by another seed")
    left = [LeftOut(number.value, np.array(number.left_out.values)) for number in (second, first) if number.left_out]
    interval = paired_jackknife(left[0], left[1], first.left_out.sizes)
    if interval is None:
        raise UserError(f"{metric}: the difference is the same without any of the blocks")
    return interval


def _times(interval: Interval, factor: float) -> Interval:
    return Interval(interval.low * factor, interval.value * factor, interval.high * factor)
