"""The table of metrics of `evaluate quality`: one entry adds one, and so does a function of a user's own file.

Intervals are over prompts: the bootstrap's of scores over captions; the delete-a-block jackknife's of distances to a
reference, which is held fixed (`tessera.metrics.jackknife`). Distances without each block go into scores.json, so that
the difference of two models has an interval too.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tessera import metrics
from tessera.config import UserError, blaming, check_ranges, choose, load_part, nearest, part_id
from tessera.evaluate import scores
from tessera.evaluate.intervals import bootstrap_ends
from tessera.evaluate.scores import Direction, LeftOutBlocks, Number
from tessera.metrics import LeftOut, sliced
from tessera.metrics.jackknife import BLOCKS
from tessera.randomness import philox

PRDC_PROTOCOLS: dict[str, int] = {"paper": 3, "full": 3, "dgm-eval": 5}
"""Name -> k. paper: both sets cut into 5 chunks in order (torch.chunk), averaged; full: all at once; dgm-eval: as many
of both, 10,000 or the smaller set's number."""
CHUNKS = 5
KID_SUBSET = 1000


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """The metrics to measure, and their options."""

    metrics: tuple[str, ...] = ("fid", "kid", "fd_dinov2", "prdc", "cmmd", "clip_score")
    """Names of METRICS, or FILE.py:NAME of one's own; at least one."""
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
        for name in self.prdc:
            if name not in PRDC_PROTOCOLS:
                known = ", ".join(PRDC_PROTOCOLS)
                raise UserError(f"prdc: unknown {name!r};{nearest(name, PRDC_PROTOCOLS)} known: {known}")
        check_ranges(self, kid_subsets="[1, inf)", batch_size="[1, inf)", resamples="[100, inf)", seed="[0, 2**64)")


class OwnMetric(Protocol):
    """A metric of a user's file: a function with these attributes, or a class that is called without arguments."""

    network: str
    """The network whose features it compares, a key of `tessera.pretrained.features.networks.NETWORKS`."""
    label: str
    """Its name in tables."""
    direction: Direction
    """The better direction."""

    def __call__(self, samples: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
        """Return the value of features (N, d) of samples against (M, d) of the reference.

        For the interval it is called again on the samples without each of 20 blocks of prompts.
        """
        ...


@dataclass(frozen=True)
class Blocks:
    """Generated images in blocks of whole prompts, to be left out one after the other."""

    labels: NDArray[np.int64] | None
    """The block of each image; None = too few prompts."""
    how: str
    """The method of an interval over them, or the reason for none."""
    dealt: str | None = None
    """SHA-256 of every image's block and prompt; None = the prompts are not known."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of a metric."""

    config: QualityConfig
    network: Any
    """The encoder of the features."""
    samples: NDArray[np.float32]
    """(N, d)."""
    reference: NDArray[np.float32]
    """(M, d); (0, d) for a captioned metric."""
    blocks: Blocks
    captions: Sequence[str] | None
    """The samples' captions; None = unknown."""


@dataclass(frozen=True)
class Result:
    """The numbers of a metric, whose protocols say what only the metric knows: its name, k and settings."""

    numbers: list[Number]
    values: dict[str, list[float]] = field(default_factory=dict)
    """Number's name -> the value of each sample, of a mean over them."""
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """An entry of the table."""

    network: str
    """A key of `tessera.pretrained.features.networks.NETWORKS`."""
    shows: Mapping[str, tuple[str, Direction]]
    """Its numbers: name -> (label in tables, the better direction)."""
    measure: Callable[[Inputs, str], Result]
    """Called with the inputs and the metric's name in the table."""
    captioned: bool = False
    """Compares images with their captions, not with a reference."""


def blocks_of(images: int, captions: Sequence[str] | None, seed: int) -> Blocks:
    """Return blocks of whole prompts; of single images, where the prompts are not known."""
    unit = "images" if captions is None else "prompts"
    labels = metrics.deal_blocks(np.arange(images) if captions is None else captions, seed=seed)
    if labels is None:
        count = images if captions is None else len(set(captions))
        return Blocks(None, f"none: {count} {unit}, at least {BLOCKS} are needed")
    dealt = None
    if captions is not None:
        lines = "".join(f"{block} {caption}\n" for block, caption in zip(labels, captions, strict=True))
        dealt = hashlib.sha256(lines.encode()).hexdigest()
    return Blocks(labels, f"jackknife over {unit}, {BLOCKS} blocks of them, the reference held fixed", dealt)


def _frechet(x: Inputs, name: str) -> Result:
    found = metrics.frechet_left_out(x.reference, x.samples, x.blocks.labels)
    return Result([_distance(x, name, found, "full", {"covariance": "unbiased, float64"}, least=0.0)])


def _kid(x: Inputs, name: str) -> Result:
    subsets, seed = x.config.kid_subsets, x.config.seed
    found = metrics.kid_left_out(x.reference, x.samples, x.blocks.labels, subsets, KID_SUBSET, seed)
    if x.blocks.labels is not None and not np.isfinite(found.without).all():
        x = replace(x, blocks=Blocks(None, "none: the subsets have too few images to leave some out"))
    settings = {"subsets": subsets, "size": min(KID_SUBSET, len(x.reference), len(x.samples)), "seed": seed}
    return Result([_distance(x, name, found, "subsets", settings)])


def _cmmd(x: Inputs, name: str) -> Result:
    found = metrics.cmmd_left_out(x.reference, x.samples, x.blocks.labels)
    return Result([_distance(x, name, found, "full", {"sigma": 10.0, "scale": 1000.0}, least=0.0)])


def _mind(x: Inputs, name: str) -> Result:
    found, chosen = metrics.mind_left_out(x.reference, x.samples, x.blocks.labels)
    if x.blocks.labels is not None:
        labels = x.blocks.labels[chosen]
        whole = np.bincount(labels, minlength=BLOCKS).all()
        blocks = replace(x.blocks, labels=labels) if whole else Blocks(None, "none: a block holds none of the images")
        x = replace(x, blocks=blocks)
    settings = {"directions": sliced.DIRECTIONS, "seed": sliced.SEED}
    return Result([_distance(x, name, found, "torch-fidelity", settings, least=0.0)])


def _prdc(x: Inputs, name: str) -> Result:
    return Result([number for protocol in x.config.prdc for number in prdc_by(x, protocol)])


def prdc_by(x: Inputs, protocol: str, subset: int = 10_000) -> list[Number]:
    """Return precision, recall, density and coverage by one of PRDC_PROTOCOLS; subset: most images of dgm-eval."""
    k, labels, how, seed = PRDC_PROTOCOLS[protocol], x.blocks.labels, x.blocks.how, x.config.seed
    real, fake, settings, parts = x.reference, x.samples, {}, 1
    if protocol == "paper":
        parts = CHUNKS
        if any(len(cut := chunks(x, parts)) < parts or len(cut[-1]) <= k for x in (real, fake)):
            raise UserError(
                f"prdc: the protocol 'paper' cuts both sets into {parts} chunks as torch.chunk does, of more than {k}"
                f" images each; {len(real)} and {len(fake)} images are too few for it; leave it out of --prdc"
            )
    elif min(len(real), len(fake)) <= k:
        raise UserError(
            f"prdc: the protocol {protocol!r} needs more than {k} images of each set; {len(real)} and {len(fake)}"
            " images are too few for it; leave it out of --prdc"
        )
    elif protocol == "dgm-eval":
        subset = min(subset, len(real), len(fake))
        chosen, settings = dgm_eval_rows(len(fake), seed, "fake", subset), {"seed": seed, "images": subset}
        real, fake = real[dgm_eval_rows(len(real), seed, "real", subset)], fake[chosen]
        labels = None if labels is None else labels[chosen]
    if labels is not None:
        sizes = [np.bincount(part, minlength=BLOCKS) for part in chunks(labels, parts)]
        if any(part.sum() - part.max() <= k for part in sizes) or not np.sum(sizes, axis=0).all():
            labels, how = None, "none: a block holds nearly all images of a part, or none at all"
    x = replace(x, blocks=replace(x.blocks, labels=labels, how=how))
    cut = [None] * parts if labels is None else chunks(labels, parts)
    pairs = zip(chunks(real, parts), chunks(fake, parts), cut)
    found = [metrics.prdc_left_out(a, b, k, blocks, None if blocks is None else BLOCKS) for a, b, blocks in pairs]
    numbers = []
    for name in found[0]:
        without = np.mean([result[name].without for result in found], axis=0)
        value = LeftOut(float(np.mean([result[name].value for result in found])), without)
        most = math.inf if name == "density" else 1.0
        numbers.append(_distance(x, f"{name}/{protocol}", value, protocol, settings, 0.0, most, k))
    return numbers


def chunks(x: NDArray[Any], parts: int) -> list[NDArray[Any]]:
    """Cut the first axis as torch.chunk does: all but the last are of one size, rounded up; there may be fewer."""
    size = -(-len(x) // parts)
    return [x[start : start + size] for start in range(0, len(x), size)]


def dgm_eval_rows(count: int, seed: int, name: str, subset: int) -> NDArray[np.int64]:
    """Return `subset` rows without replacement, ascending; all, where there are no more."""
    if count <= subset:
        return np.arange(count)
    return np.sort(philox(seed, f"dgm-eval/{name}").choice(count, subset, replace=False))


def _caption_score(x: Inputs, name: str) -> Result:
    """Return the mean of the network's scale times cos, at least 0, with each image's; the share of captions cut."""
    assert x.captions is not None
    texts = list(dict.fromkeys(x.captions))
    embedded, cut = x.network.captions(texts), x.network.cut
    rows = {text: row for row, text in enumerate(texts)}
    order = [rows[text] for text in x.captions]
    values = x.network.scale * metrics.cosine_scores(x.samples, embedded.features[order])
    resamples, seed = x.config.resamples, x.config.seed
    found = metrics.bootstrap(values, order, resamples, seed)
    found = metrics.Interval(*(max(each, 0.0) for each in (found.low, found.value, found.high)))
    number = Number(
        metric=name if cut == "keep-end" else f"{name}/{cut}",
        value=found.value,
        **bootstrap_ends(found, len(texts), "prompts", f", {resamples} resamples"),
        n=len(x.samples),
        clusters=len(texts),
        over="items",
        protocol=scores.Protocol(metric=name, name=cut, settings={"resamples": resamples, "seed": seed}),
    )
    facts = {f"{number.metric}/captions_truncated": embedded.truncated / len(texts)}
    return Result([number], {number.metric: values.tolist()}, facts)


def _distance(
    x: Inputs,
    metric: str,
    found: LeftOut,
    protocol: str,
    settings: Mapping[str, str | int | float],
    least: float = -math.inf,
    most: float = math.inf,
    k: int | None = None,
) -> Number:
    """Return a distance's number, with its interval cut to least..most where blocks were left out."""
    about = scores.Protocol(metric=metric.split("/")[0], name=protocol, k=k, settings=settings)
    number = Number(metric=metric, value=float(found.value), interval=x.blocks.how, n=len(x.samples), protocol=about)
    if x.blocks.labels is None:
        return number
    sizes, values = np.bincount(x.blocks.labels), tuple(found.without.tolist())
    without = LeftOutBlocks(values=values, sizes=tuple(sizes.tolist()), dealt=x.blocks.dealt)
    interval = metrics.jackknife(found, sizes, least, most)
    if interval is None:
        return replace(number, interval="none: it is the same without any of the blocks", left_out=without)
    return replace(number, low=interval.low, high=interval.high, left_out=without)


FURTHER = {
    "dinov2": "DINOv2",
    "convnextv2": "ConvNeXtV2",
    "mae": "MAE",
    "siglip2": "SigLIP2",
    "clip_vision": "CLIP",
}
"""Networks of FDr6 but Inception -> their names in tables."""


def _of_further(prefix: str, title: str, measure: Callable[[Inputs, str], Result]) -> dict[str, Metric]:
    """Return a distance of the features of each of FURTHER by its name in the table."""
    names = {network: f"{prefix}_{network.removesuffix('_vision')}" for network in FURTHER}
    return {
        name: Metric(network=network, shows={name: (f"{title} {FURTHER[network]}", "lower")}, measure=measure)
        for network, name in names.items()
    }


METRICS: dict[str, Metric] = {
    "fid": Metric(network="inception", shows={"fid": ("FID", "lower")}, measure=_frechet),
    "kid": Metric(network="inception", shows={"kid": ("KID", "lower")}, measure=_kid),
    "mind": Metric(network="inception", shows={"mind": ("MIND", "lower")}, measure=_mind),
    **_of_further("fd", "FD", _frechet),
    **_of_further("mind", "MIND", _mind),
    "prdc": Metric(
        network="dinov2",
        shows={name: (name.capitalize(), "higher") for name in ("precision", "recall", "density", "coverage")},
        measure=_prdc,
    ),
    "cmmd": Metric(network="clip336", shows={"cmmd": ("CMMD", "lower")}, measure=_cmmd),
    "clip_score": Metric(
        network="clip", shows={"clip_score": ("CLIPScore", "higher")}, measure=_caption_score, captioned=True
    ),
    "pick_score": Metric(
        network="pickscore", shows={"pick_score": ("PickScore", "higher")}, measure=_caption_score, captioned=True
    ),
    "hpsv2": Metric(network="hpsv2", shows={"hpsv2": ("HPSv2", "higher")}, measure=_caption_score, captioned=True),
    "jina_clip_score": Metric(
        network="jina", shows={"jina_clip_score": ("jina-CLIPScore", "higher")}, measure=_caption_score, captioned=True
    ),
}
"""Name, as --metrics takes it -> the metric."""


def load_metric(spec: str) -> Metric:
    """Return an entry of METRICS, or NAME of a user's file for "my_parts.py:NAME", an OwnMetric."""
    found = load_part(spec, METRICS, "metric")
    if isinstance(found, Metric):
        return found
    with blaming(spec, "metric"):
        own = found() if isinstance(found, type) else found
    missing = [name for name in ("network", "label", "direction") if not hasattr(own, name)]
    if missing:
        raise UserError(f"metric {spec}: has no {missing[0]}; docs/extending.md shows a whole metric")
    from tessera.pretrained.features.networks import NETWORKS

    choose(own.network, NETWORKS, f"metric {spec}: network")
    if own.direction not in ("higher", "lower"):
        raise UserError(f"metric {spec}: direction is {own.direction!r}; give 'higher' or 'lower', the better one")

    def value(x: Inputs, chosen: Any = slice(None)) -> float:
        with blaming(spec, "metric"):
            value = float(own(x.samples[chosen], x.reference))
        if not math.isfinite(value):
            raise UserError(f"metric {spec}: gave {value}, not a finite number")
        return value

    def measure(x: Inputs, name: str) -> Result:
        labels, blocks = x.blocks.labels, range(0 if x.blocks.labels is None else BLOCKS)
        result = LeftOut(value(x), np.array([value(x, labels != block) for block in blocks]))
        return Result([_distance(x, name.rpartition(":")[2], result, part_id(spec, METRICS), {})])

    return Metric(network=own.network, shows={spec.rpartition(":")[2]: (own.label, own.direction)}, measure=measure)
