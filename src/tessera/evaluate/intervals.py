"""95% intervals over prompts: of shares, and of the paired difference between two models.

Shares (GenEval, DPG-Bench, the miniature's measures) have score intervals (`tessera.metrics.shares`), means of
CLIPScores the bootstrap's. A distance to a reference is no mean: its difference has the jackknife's interval, the same
block of prompts left out of both models (`tessera.metrics.jackknife`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.evaluate.scores import Number, Over, Protocol, Scores, comparable, require_comparable
from tessera.metrics import Interval, LeftOut, paired_bootstrap, paired_jackknife, share_difference, share_interval
from tessera.prompts.geneval import TASKS

WILSON = "Wilson's score interval"
"""The method of a share's interval, over prompts or over images."""
MOST = {"geneval": 1.0, "dpg": 100.0, "miniature": 1.0, "drawings": 1.0, "questions": 1.0, "copies": 1.0}
"""Kinds of scores whose items have values from 0 to this."""


def mean_interval(
    values: Sequence[float] | np.ndarray,
    prompts: Sequence[Any] | None,
    tags: Sequence[Any] | None = None,
    most: float = 1.0,
) -> Interval:
    """Return the mean of `values` in 0..`most`, or with tags the mean of the tags' means, and its 95% interval.

    prompts: of each value; None = unknown, and the interval is over the values.
    """
    return _times(share_interval(np.asarray(values) / most, prompts, tags), most)


def share_number(
    metric: str,
    values: Sequence[float],
    prompts: Sequence[Any] | None,
    protocol: Protocol,
    *,
    tags: Sequence[Any] | None = None,
    most: float = 1.0,
    over: Over | None = "items",
) -> Number:
    """Return the number `metric`: the mean of `values` as in `mean_interval`. over: "tags" if tags are given."""
    return Number(
        metric=metric,
        **dataclasses.asdict(mean_interval(values, prompts, tags, most)),
        interval=f"{WILSON} over {'images' if prompts is None else 'prompts'}",
        n=len(values),
        clusters=None if prompts is None else len(set(prompts)),
        over=over if tags is None else "tags",
        protocol=dataclasses.replace(protocol, metric=metric),
    )


def bootstrap_ends(found: Interval, clusters: int, unit: str, more: str = "") -> dict[str, Any]:
    """Return {low, high, interval} of a number by the bootstrap over `clusters` of `unit`, "prompts" or "images".

    Of a single one there is no interval: all resamples are the same.
    """
    if clusters < 2:
        return {"low": None, "high": None, "interval": f"none: 1 {unit[:-1]}, at least 2 are needed"}
    return {"low": found.low, "high": found.high, "interval": f"bootstrap over {unit}{more}"}


def task_numbers(
    items: Sequence[Mapping[str, Any]], metrics: Sequence[str], protocol: Protocol, group: Callable[[str], Any] = str
) -> tuple[Number, ...]:
    """Return the number of each of `metrics`, with its 95% interval over prompts; none where no image was judged by it.

    Overall is the mean of the six tasks' accuracies over images, and left out unless all six are there. group: what the
    tags are ordered by.
    """
    numbers = []
    for metric in metrics:
        rows = [item for item in items if item["values"].get(metric) is not None]
        tags = [group(item["tag"]) for item in rows] if metric.endswith("overall") else None
        if rows and (tags is None or len(set(tags)) == len(TASKS)):
            values, prompts = [item["values"][metric] for item in rows], [item["prompt"] for item in rows]
            numbers.append(share_number(metric, values, prompts, protocol, tags=tags))
    return tuple(numbers)


@dataclass(frozen=True)
class Measured:
    """The values of one metric, one entry per image, by prompt and sample."""

    images: list[tuple[int, int]]
    """(prompt, sample)."""
    texts: list[str | None]
    """The prompts' texts, where the items say them."""
    values: np.ndarray
    """(N,) float64."""
    tags: list[str] | None
    """Given for a mean of the tags' means; None = a mean of the images."""

    @property
    def prompts(self) -> list[int]:
        """The prompt of each image."""
        return [prompt for prompt, _ in self.images]


def measured(scores: Scores, metric: str) -> Measured:
    """Return the values behind the number `metric`, a mean of items."""
    rows = [item for item in scores.items if item["values"].get(metric) is not None]
    rows.sort(key=lambda item: (item["prompt"], item["sample"]))
    values = np.array([item["values"][metric] for item in rows], dtype=np.float64)
    most = MOST.get(scores.kind)
    if most is not None and not ((values >= 0) & (values <= most)).all():
        raise UserError(f"{metric}: {scores.name} has images with values outside 0..{most:g}; judge them again")
    number = scores.number(metric)
    tags = [str(item.get("tag")) for item in rows] if number is not None and number.over == "tags" else None
    texts = [item.get("text") for item in rows]
    return Measured([(item["prompt"], item["sample"]) for item in rows], texts, values, tags)


def paired_values(a: Scores, b: Scores, metric: str) -> tuple[Measured, Measured]:
    """Return the values of two models' images, row by row of the same prompt and sample; UserError if they differ."""
    first, second = measured(a, metric), measured(b, metric)
    if first.images != second.images:
        raise UserError(f"{metric}: {a.name} and {b.name} judged different images; draw the same prompts in both")
    one, other = a.number(metric), b.number(metric)
    if one and other and not comparable(one, other) and first.texts != second.texts:
        raise UserError(
            f"{metric}: {a.name} and {b.name} drew the prompts in different orders; draw both from one file"
        )
    return first, second


def paired_difference(
    a: Scores, b: Scores, metric: str, force: bool = False, resamples: int = 1000, seed: int = 0
) -> Interval | None:
    """Return b's value minus a's with its 95% interval, over the prompts that both drew.

    resamples, seed: of the bootstrap, where it is one. None where the metric is no mean of items and no distance.
    Raises UserError where the two do not pair: different protocols (unless `force`), images or prompts, prompts that
    are not known, a single one for the bootstrap, a distance without the values that its interval is made of.
    """
    first, second = a.number(metric), b.number(metric)
    if first is None or second is None:
        raise UserError(f"{metric}: was not measured in {(a if first is None else b).name}")
    require_comparable(first, second, force)
    most = MOST.get(a.kind)
    if most is None and first.protocol.reference is not None and second.protocol.reference is not None:
        return _difference_of_distances(a.name, first, b.name, second)
    if first.over is None or first.over != second.over or (first.over == "tags" and most is None):
        return None
    for name, number in ((a.name, first), (b.name, second)):
        if number.clusters is None:
            raise UserError(f"{metric}: the prompts of {name} are not known; give them by --prompts")
    before, after = paired_values(a, b, metric)
    if not before.images:
        return None
    if most is None:
        if len(set(before.prompts)) < 2:
            raise UserError(f"{metric}: all images are of 1 prompt, at least 2 are needed")
        return paired_bootstrap(after.values, before.values, before.prompts, n=resamples, seed=seed)
    return _times(share_difference(after.values / most, before.values / most, before.prompts, before.tags), most)


def _difference_of_distances(a: str, first: Number, b: str, second: Number) -> Interval:
    """Return the second model's number minus the first's; a, b: their names."""
    found = []
    for name, number in ((a, first), (b, second)):
        if number.left_out is None:
            reason = "its values without blocks are missing" if number.low is not None else number.interval
            raise UserError(f"{first.metric}: {name} has no interval: {reason.removeprefix('none: ')}")
        if number.left_out.dealt is None:
            raise UserError(f"{first.metric}: the prompts of {name} are not known; give them by --prompts")
        found.append((number.left_out, LeftOut(number.value, np.array(number.left_out.values))))
    (mine, before), (other, after) = found
    if (mine.dealt, mine.sizes) != (other.dealt, other.sizes):
        raise UserError(f"{first.metric}: {a} and {b} drew other prompts, or their blocks were dealt by another seed")
    if (interval := paired_jackknife(after, before, mine.sizes)) is None:
        raise UserError(f"{first.metric}: the difference is the same without any of the blocks")
    return interval


def _times(interval: Interval, factor: float) -> Interval:
    return Interval(interval.low * factor, interval.value * factor, interval.high * factor)
