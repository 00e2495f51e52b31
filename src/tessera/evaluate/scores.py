"""scores.json: the one format of every judge's numbers, each with its interval and its protocol.

    {"format": 2, "kind": "quality", "name": "ta_ia", "num_images": null, "facts": {},
     "numbers": [{"metric", "value", "low", "high", "n", "clusters", "over", "interval",
                 "left_out": {"values", "sizes", "dealt"}, "protocol": {...}}],
     "items":   [{"prompt", "sample", "file", "tag", "values": {metric: value}, "correct", "reason", ...}]}

Numbers of different protocols do not compare: `comparable` names the fields that differ, `require_comparable` refuses.
Items are the single images behind the numbers: paired differences and the report's gallery need them. A distance to a
reference is no mean of items; its paired differences are made of `left_out`.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tessera.config import UserError, check_ranges, from_dict, to_dict
from tessera.files import read_json, write_json

FILE = "scores.json"
FORMAT = 2
Kind = Literal["quality", "geneval", "dpg", "miniature", "drawings", "questions", "copies"]
Over = Literal["items", "tags"]
Direction = Literal["higher", "lower"]


@dataclass(frozen=True, kw_only=True)
class Extender:
    """The model or rules that made prompts longer."""

    model: str
    """Name of the model or the rule set."""
    prompt: str
    """Its instruction (template), or the sha256 of it."""
    seed: int
    """Seed of its draws."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The conditions that decide a number besides the images. None = plays no part."""

    metric: str
    """The metric's name, for example "fid" or "geneval/overall"."""
    name: str
    """Name of the protocol, for example "paper", "full" or "legacy-cut"."""
    encoder: str | None = None
    """Id of the network whose features or verdicts are counted."""
    encoder_sha256: str | None = None
    """Hash of its weights."""
    resize: str | None = None
    """The resizing of images for the network."""
    rounding: str | None = None
    """Rounding of pixels in floating point to bytes; None where they were bytes from the start."""
    images: int | None = None
    """N, images judged."""
    reference: str | None = None
    """SHA-256 of the reference images or statistics."""
    reference_images: int | None = None
    """Number of those."""
    k: int | None = None
    """Neighbors of precision, recall, density and coverage."""
    prompts_sha256: str | None = None
    """Hash of the prompt set."""
    extender: Extender | None = None
    """The extender of the prompts; None = they were drawn as they are."""
    settings: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    """Other values that decide this metric, for example thresholds."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """The libraries' versions; recorded, not compared."""


@dataclass(frozen=True, kw_only=True)
class LeftOutBlocks:
    """A distance without each block of images, for its paired differences (`tessera.metrics.jackknife`)."""

    values: tuple[float, ...]
    """Without block 0, 1, ..."""
    sizes: tuple[int, ...]
    """Images in each block."""
    dealt: str | None
    """SHA-256 of every image's block and prompt; None = the prompts are not known, and a block is of images."""

    def __post_init__(self):
        if len(self.values) != len(self.sizes) or len(self.values) < 2:
            raise UserError(f"left_out: {len(self.values)} values of {len(self.sizes)} blocks; they are as many, >= 2")
        check_ranges(self, values="(-inf, inf)", sizes="[1, inf)")


@dataclass(frozen=True, kw_only=True)
class Number:
    """A value of a metric."""

    metric: str
    value: float
    low: float | None = None
    """Lower end of the 95% interval; None together with `high`: there is none."""
    high: float | None = None
    interval: str = ""
    """Method of the interval, or "none: ..." with the reason."""
    n: int
    """Images (or answers) that it is made of, at least 1."""
    clusters: int | None = None
    """Prompts that they belong to; None = they are not known, or the metric knows none."""
    over: Over | None = None
    """"items": the mean of the items' values of that metric; "tags": the mean of the tags' means; None = neither."""
    left_out: LeftOutBlocks | None = None
    """Given for a distance to a reference; None = it is none, or has too few prompts."""
    label: str | None = None
    """Its name in tables; None = the report's own."""
    direction: Direction | None = None
    """The better direction; None = the report's own."""
    protocol: Protocol

    def __post_init__(self):
        check_ranges(self, value="(-inf, inf)", low="(-inf, inf)", high="(-inf, inf)", n="[1, inf)")
        if (self.low is None) != (self.high is None):
            raise UserError(f"{self.metric}: an interval has two ends; give low and high, or neither")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise UserError(f"{self.metric}: an interval from {self.low} to {self.high} ends below where it begins")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The numbers of one model by one judge."""

    kind: Kind
    """The judge."""
    name: str
    """The model's, or arm's, name in tables."""
    numbers: tuple[Number, ...]
    items: tuple[Mapping[str, Any], ...] = ()
    """One object per image: "prompt" and "sample" (integers), "values" {metric: value}; where there are, "file"
    (relative to the samples), "text", "tag", "correct", "reason"."""
    num_images: int | None = None
    """Training images that the model had seen: its place on curves over training."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further results, such as the judge's own accuracy."""

    def __post_init__(self):
        check_ranges(self)
        names = [number.metric for number in self.numbers]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(f"{self.name}: the metric {min(twice)} occurs twice; give each its own name")

    def number(self, metric: str) -> Number | None:
        """Return the number of that metric; None if it was not measured."""
        return next((number for number in self.numbers if number.metric == metric), None)


def write_scores(path: Path, scores: Scores) -> None:
    """Write `path`, a directory or the file scores.json itself, atomically; equal scores are equal bytes."""
    path = Path(path)
    write_json(path if path.suffix == ".json" else path / FILE, {"format": FORMAT, **to_dict(scores)})


def read_scores(path: Path) -> Scores:
    """Return the scores of `path`, a directory or its scores.json. Raises UserError if it is damaged."""
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    data = read_json(path)
    found = data.pop("format", None) if isinstance(data, dict) else None
    if found != FORMAT:
        raise UserError(f"{path}: is not a scores.json of format {FORMAT} (its format: {found!r}); judge again")
    scores = from_dict(Scores, data, f"{path}")
    for i, item in enumerate(scores.items):
        _check_item(item, f"{path}: items[{i}]")
    return scores


def comparable(a: Number, b: Number) -> list[str]:
    """Return a line "field: a's value vs b's value" for each part of the protocols that differs; [] = they compare."""
    found = []
    for part in dataclasses.fields(Protocol):
        left, right = getattr(a.protocol, part.name), getattr(b.protocol, part.name)
        if part.name == "versions" or left == right:
            continue
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            for key in sorted(left.keys() | right.keys()):
                if left.get(key) != right.get(key):
                    found.append(f"{part.name}.{key}: {left.get(key)!r} vs {right.get(key)!r}")
        else:
            found.append(f"{part.name}: {_short(left)} vs {_short(right)}")
    return found


def require_comparable(a: Number, b: Number, force: bool = False) -> None:
    """Raise UserError, naming what differs, unless the two have the same protocol or `force`."""
    unlike = comparable(a, b)
    if unlike and not force:
        raise UserError(f"{a.metric}: the protocols differ ({'; '.join(unlike)}); --force compares them anyway")


def notes(scores: Scores) -> list[str]:
    """Return what readers of the numbers have to know of images, answers and captions, a line each."""
    facts = scores.facts
    found = [f"passed over: {facts['passed_over']}"] if "passed_over" in facts else []
    if facts.get("unclear"):
        found.append(f"{facts['unclear']:.1%} of the answers are neither yes nor no, and count as no")
    if facts.get("duplicates"):
        found.append(
            f"{facts['duplicates']} images of the yardstick are training images too, and left out of its bound"
        )
    if longer := facts.get("long_minus_short"):
        told = [
            f"{name} {each['value']:+.3f} ({each['low']:+.3f} to {each['high']:+.3f})" for name, each in longer.items()
        ]
        found.append(f"long minus short prompts on the same seeds: {', '.join(told)}")
    cut = {name.partition("/captions_")[0]: share for name, share in facts.items() if name.endswith("_truncated")}
    found += [f"{name}: {share:.1%} of the captions are cut to what it reads" for name, share in cut.items() if share]
    return found + [text for text in [judge_text(facts.get("judge") or {})] if text]


def judge_text(judge: Mapping[str, float]) -> str:
    """Return what the judge of the miniature takes for right of sound and spoiled renders, or how often a judge of
    drawings is right, or "" where neither was tried."""
    if "two_halves" in judge:
        drawn = "a style that it never saw" if judge.get("unseen_style") else "the styles that it learned from"
        told = f"{judge['one_object']:.2f} of scenes of one object and {judge['two_objects']:.2f} of two"
        seen = [f"{judge[name]:.2f}" for name in ("seen_one_object", "seen_two_objects") if name in judge]
        others = f" ({' and '.join(seen)} in those that it learned from)" if seen else ""
        return f"the judge is right about {told}, drawn in {drawn}{others}"
    sound = [judge[name] for name in ("one_object", "two_objects") if name in judge]
    spoiled = [f"{judge[name]:.2f} of {name}" for name in ("torn", "merged", "blurred") if name in judge]
    if not sound or not spoiled:
        return ""
    return f"the judge takes {min(sound):.2f} of sound renders for right, {', '.join(spoiled)} ones"


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that the metrics use."""
    from importlib.metadata import distributions  # `version` raises for a library that is not installed

    names = ("torch", "numpy", "pillow", "transformers")
    return {name: found.version for name in names for found in list(distributions(name=name))[:1]}


def _short(value: Any) -> str:
    text = repr(value)
    return f"{text[1:13]}..." if isinstance(value, str) and len(value) == 64 else text


def _check_item(item: Mapping[str, Any], where: str) -> None:
    """Raise UserError for an item without what tables, pairs and pages need."""
    values = item.get("values")
    if not isinstance(values, dict):
        raise UserError(f"{where}: must be an object with an object of values; judge again")
    fields = dict.fromkeys(("prompt", "sample"), (int, "a whole number"))
    fields |= dict.fromkeys(("file", "text", "tag", "reason"), (str | None, "a text"))
    for name, (kind, words) in fields.items():
        if not isinstance(item.get(name), kind):
            raise UserError(f"{where}.{name}: must be {words}, not {item.get(name)!r}; judge again")
    for name, value in values.items():
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            raise UserError(f"{where}.values.{name}: must be a number, not {value!r}; judge again")
