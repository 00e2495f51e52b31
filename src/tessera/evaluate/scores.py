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

from tessera.config import UserError, from_dict, nearest
from tessera.files import read_json, write_json

FILE = "scores.json"
FORMAT = 2
KINDS = ("quality", "geneval", "dpg", "miniature")
Over = Literal["items", "tags"]
Direction = Literal["higher", "lower"]
_NOT_COMPARED = ("versions",)
"""Recorded, but another version of a library is not another protocol."""


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
        if not all(math.isfinite(value) for value in self.values) or min(self.sizes) < 1:
            raise UserError("left_out: values must be finite, and sizes at least 1")


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
    """Prompts that they belong to; None = the metric knows no prompts."""
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
        numbers = [x for x in (self.value, self.low, self.high) if x is not None]
        if not all(math.isfinite(x) for x in numbers):
            raise UserError(f"{self.metric}: {numbers} must be finite")
        if (self.low is None) != (self.high is None):
            raise UserError(f"{self.metric}: an interval has two ends; give low and high, or neither")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise UserError(f"{self.metric}: an interval from {self.low} to {self.high} ends below where it begins")
        if self.n < 1:
            raise UserError(f"{self.metric}: n is {self.n}, a number is of at least 1 image")
        if self.over not in (None, "items", "tags"):
            raise UserError(f"{self.metric}: over is {self.over!r}; known: items, tags, null")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The numbers of one model by one judge."""

    kind: str
    """The judge; one of KINDS."""
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

    def number(self, metric: str) -> Number | None:
        """Return the number of that metric; None if it was not measured."""
        return next((number for number in self.numbers if number.metric == metric), None)


def write_scores(path: Path, scores: Scores) -> None:
    """Write `path`, a directory or the file scores.json itself, atomically; equal scores are equal bytes."""
    if scores.kind not in KINDS:
        raise UserError(f"kind is {scores.kind!r};{nearest(scores.kind, KINDS)} known: {', '.join(KINDS)}")
    names = [number.metric for number in scores.numbers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: the metric {twice[0]} occurs twice; give each its own name")
    data: dict[str, Any] = {
        "format": FORMAT,
        "kind": scores.kind,
        "name": scores.name,
        "num_images": scores.num_images,
        "facts": dict(scores.facts),
        "numbers": [dataclasses.asdict(number) for number in scores.numbers],
        "items": [dict(item) for item in scores.items],
    }
    path = Path(path)
    write_json(path if path.suffix == ".json" else path / FILE, data)


def read_scores(path: Path) -> Scores:
    """Return the scores of `path`, a directory or its scores.json. Raises UserError if it is damaged."""
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise UserError(f"{path}: is not a scores.json of format {FORMAT} (its format: {found!r}); judge again")
    if data.get("kind") not in KINDS:
        raise UserError(f"{path}: kind is {data.get('kind')!r}; known: {', '.join(KINDS)}")
    numbers, items = data.get("numbers"), data.get("items")
    if not isinstance(numbers, list) or not isinstance(items, list):
        raise UserError(f"{path}: numbers and items must be lists; judge again")
    facts, num_images = data.get("facts", {}), data.get("num_images")
    if not isinstance(facts, dict) or type(num_images) not in (int, type(None)):
        raise UserError(f"{path}: facts must be an object, num_images a whole number or null; judge again")
    return Scores(
        kind=data["kind"],
        name=str(data.get("name", path.parent.name)),
        numbers=tuple(_number(number, f"{path}: numbers[{i}]") for i, number in enumerate(numbers)),
        items=tuple(_item(item, f"{path}: items[{i}]") for i, item in enumerate(items)),
        num_images=num_images,
        facts=facts,
    )


def comparable(a: Number, b: Number) -> list[str]:
    """Return a line "field: a's value vs b's value" for each part of the protocols that differs; [] = they compare."""
    found = []
    for part in dataclasses.fields(Protocol):
        left, right = getattr(a.protocol, part.name), getattr(b.protocol, part.name)
        if part.name in _NOT_COMPARED or left == right:
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


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that the metrics use."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "numpy", "pillow", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return f"{text[1:13]}..." if isinstance(value, str) and len(value) == 64 else text


def _number(data: Any, where: str) -> Number:
    """Return a number as written. Raises UserError for a field that is missing, unknown or of another type."""
    protocol = data.get("protocol") if isinstance(data, dict) else None
    if not isinstance(protocol, dict):
        raise UserError(f"{where}: must be an object with a protocol that is one")
    open_ended = {name: protocol.get(name, {}) for name in ("settings", "versions")}
    for name, value in open_ended.items():
        if not isinstance(value, dict):
            raise UserError(f"{where}.protocol.{name}: must be an object, not {value!r}")
    strict = {name: value for name, value in protocol.items() if name not in open_ended}
    number = from_dict(Number, {**data, "protocol": strict}, where)
    return dataclasses.replace(number, protocol=dataclasses.replace(number.protocol, **open_ended))


def _item(data: Any, where: str) -> Mapping[str, Any]:
    """Return the item of one image, checked as far as tables, pairs and pages need it."""
    if not isinstance(data, dict) or not isinstance(data.get("values"), dict):
        raise UserError(f"{where}: must be an object with an object of values; judge again")
    for name in ("prompt", "sample"):
        if type(data.get(name)) is not int:
            raise UserError(f"{where}.{name}: must be a whole number, not {data.get(name)!r}; judge again")
    for name, value in data["values"].items():
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            raise UserError(f"{where}.values.{name}: must be a number, not {value!r}; judge again")
    for name in ("file", "text", "tag", "reason"):
        if not isinstance(data.get(name), str | None):
            raise UserError(f"{where}.{name}: must be a text, not {data[name]!r}; judge again")
    return data
