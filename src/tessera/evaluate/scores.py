"""scores.json: the one format of every metric's numbers, each with its interval and the protocol it came about by.

    {"format": 1, "kind": "quality", "name": "ta_ia", "num_images": null, "facts": {},
     "numbers": [{"metric", "value", "low", "high", "n", "clusters", "over", "interval",
                 "left_out": {"values", "sizes", "dealt"}, "protocol": {...}}],
     "items":   [{"prompt", "sample", "file", "tag", "values": {metric: value}, "correct", "reason", ...}]}

Numbers of unlike protocols do not compare: `comparable` names the fields that differ, `require_comparable` refuses.
Items are the single pictures behind the numbers: what paired differences and the report's drill-down need. A distance
to a reference is no mean of items; its paired differences are made of `left_out`.
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
FORMAT = 1
KINDS = ("quality", "geneval", "dpg", "miniature")
Over = Literal["items", "tags"]
OLD_INTERVAL = "bootstrap over prompts"
"""How all intervals came about before files said how."""
_UNCOMPARED = ("versions",)
"""Recorded, but no reason to refuse: another version of a library is not another protocol."""


@dataclass(frozen=True, kw_only=True)
class Extender:
    """What made prompts longer."""

    model: str
    """Name of the model or the rule set."""
    prompt: str
    """Its instruction (template), or the sha256 of it."""
    seed: int
    """Seed of its draws."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """All that decides a number beside the pictures themselves. None = plays no part."""

    metric: str
    """The metric's name, for example "fid" or "geneval/overall"."""
    name: str
    """Name of the protocol, for example "paper", "full" or "legacy-cut"."""
    encoder: str | None = None
    """Id of the network whose features or verdicts are counted."""
    encoder_sha256: str | None = None
    """Of its weights."""
    resize: str | None = None
    """How pictures come to the network's size."""
    rounding: str | None = None
    """How pixels in floating point became bytes; None where they were bytes from the start."""
    images: int | None = None
    """N, pictures judged."""
    reference: str | None = None
    """SHA-256 of the reference pictures or statistics."""
    reference_images: int | None = None
    """How many those are."""
    k: int | None = None
    """Neighbours of precision, recall, density and coverage."""
    prompts_sha256: str | None = None
    """Of the prompt set."""
    extender: Extender | None = None
    """What extended the prompts; None = they were drawn as they are."""
    settings: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    """What else decides this metric, for example thresholds."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries; written down, not compared."""


@dataclass(frozen=True, kw_only=True)
class LeftOutBlocks:
    """A distance without each block of pictures, for its paired differences (`tessera.metrics.jackknife`)."""

    values: tuple[float, ...]
    """Without block 0, 1, ..."""
    sizes: tuple[int, ...]
    """Pictures in each block."""
    dealt: str | None
    """SHA-256 of every picture's block and prompt; None = nothing is known of prompts, and a block is of pictures."""

    def __post_init__(self):
        if len(self.values) != len(self.sizes) or len(self.values) < 2:
            raise UserError(f"left_out: {len(self.values)} values of {len(self.sizes)} blocks; they are as many, >= 2")
        if not all(math.isfinite(value) for value in self.values) or min(self.sizes) < 1:
            raise UserError("left_out: values must be finite, and sizes at least 1")


@dataclass(frozen=True, kw_only=True)
class Number:
    """One value of one metric."""

    metric: str
    value: float
    low: float | None = None
    """Lower end of the 95% interval; None together with `high`: there is none."""
    high: float | None = None
    interval: str | None = None
    """How the two came about, or "none: ..." with the reason; None = an old file's number that has neither."""
    n: int
    """Pictures (or answers) that it is made of, at least 1."""
    clusters: int | None = None
    """Prompts that they belong to; None = the metric knows no prompts."""
    over: Over | None = None
    """"items": the mean of the items' values of that metric; "tags": the mean of the tags' means; None = neither."""
    left_out: LeftOutBlocks | None = None
    """Of a distance to a reference; None = it is none, has too few prompts, or an old file."""
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
            raise UserError(f"{self.metric}: n is {self.n}, a number is of at least 1 picture")
        if self.over not in (None, "items", "tags"):
            raise UserError(f"{self.metric}: over is {self.over!r}; known: items, tags, null")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All numbers of one model by one judge."""

    kind: str
    """Which judge; one of KINDS."""
    name: str
    """The model's, or arm's, name in tables."""
    numbers: tuple[Number, ...]
    items: tuple[Mapping[str, Any], ...] = ()
    """One object a picture: "prompt" and "sample" (integers), "values" {metric: value}; where there are, "file"
    (relative to the samples), "text", "tag", "correct", "reason"."""
    num_images: int | None = None
    """Training images that the model had seen: its place on curves over training."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Anything else worth keeping."""

    def number(self, metric: str) -> Number | None:
        """The number of that metric; None if it was not measured."""
        return next((number for number in self.numbers if number.metric == metric), None)


def write_scores(path: Path, scores: Scores) -> None:
    """Writes `path`, a directory or the file scores.json itself, atomically; equal scores are equal bytes."""
    if scores.kind not in KINDS:
        raise UserError(f"kind is {scores.kind!r};{nearest(scores.kind, KINDS)} known: {', '.join(KINDS)}")
    names = [number.metric for number in scores.numbers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: the metric {twice[0]} stands there twice; give each its own name")
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
    """The scores of `path`, a directory or its file, those of `evaluate miniature` too. UserError if damaged."""
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    data = read_json(path)
    if isinstance(data, dict) and "format" not in data and "verdicts" in data and "protocol" in data:
        try:
            return _of_miniature(data, path)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{path}: is damaged ({type(error).__name__}: {error}); judge again") from error
    if not isinstance(data, dict) or "numbers" not in data or "kind" not in data:
        raise UserError(f"{path}: is not a scores.json of `tessera evaluate`; give the --out of one")
    if data.get("format") != FORMAT:
        raise UserError(f"{path}: has format {data.get('format')!r}, this version reads {FORMAT}; judge again")
    if data["kind"] not in KINDS:
        raise UserError(f"{path}: kind is {data['kind']!r}; known: {', '.join(KINDS)}")
    if not isinstance(data["numbers"], list) or not isinstance(data.get("items", []), list):
        raise UserError(f"{path}: numbers and items must be lists; judge again")
    facts, num_images = data.get("facts", {}), data.get("num_images")
    if not isinstance(facts, dict) or type(num_images) not in (int, type(None)):
        raise UserError(f"{path}: facts must be an object, num_images a whole number or null; judge again")
    return Scores(
        kind=data["kind"],
        name=str(data.get("name", path.parent.name)),
        numbers=tuple(_number(item, f"{path}: numbers[{i}]") for i, item in enumerate(data["numbers"])),
        items=tuple(_item(item, f"{path}: items[{i}]") for i, item in enumerate(data.get("items", []))),
        num_images=num_images,
        facts=facts,
    )


def comparable(a: Number, b: Number) -> list[str]:
    """One line "field: a's value vs b's value" for each part of the protocols that differs; [] = they compare."""
    found = []
    for part in dataclasses.fields(Protocol):
        left, right = getattr(a.protocol, part.name), getattr(b.protocol, part.name)
        if part.name in _UNCOMPARED or left == right:
            continue
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            for key in sorted(left.keys() | right.keys()):
                if left.get(key) != right.get(key):
                    found.append(f"{part.name}.{key}: {left.get(key)!r} vs {right.get(key)!r}")
        else:
            found.append(f"{part.name}: {_short(left)} vs {_short(right)}")
    return found


def require_comparable(a: Number, b: Number, force: bool = False) -> None:
    """UserError, naming what differs, unless the two came about by the same protocol or `force`."""
    unlike = comparable(a, b)
    if unlike and not force:
        raise UserError(f"{a.metric}: the protocols differ ({'; '.join(unlike)}); --force compares them all the same")


def library_versions() -> dict[str, str]:
    """Versions of what the metrics are made with."""
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
    """A number as it is written; UserError for a field that is missing, unknown or of another type."""
    protocol = data.get("protocol") if isinstance(data, dict) else None
    if not isinstance(protocol, dict):
        raise UserError(f"{where}: must be an object with a protocol that is one")
    open_ended = {name: protocol.get(name, {}) for name in ("settings", "versions")}
    for name, value in open_ended.items():
        if not isinstance(value, dict):
            raise UserError(f"{where}.protocol.{name}: must be an object, not {value!r}")
    strict = {name: value for name, value in protocol.items() if name not in open_ended}
    number = from_dict(Number, {**data, "protocol": strict}, where)
    if number.interval is None and number.low is not None:
        number = dataclasses.replace(number, interval=OLD_INTERVAL)
    return dataclasses.replace(number, protocol=dataclasses.replace(number.protocol, **open_ended))


def _item(data: Any, where: str) -> Mapping[str, Any]:
    """What is behind one picture, as far as tables, pairs and the page need it."""
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


def _of_miniature(data: Mapping[str, Any], path: Path) -> Scores:
    """The scores of `evaluate miniature`, whose file keeps verdicts of its own shape."""
    old = data["protocol"]
    extenders = old.get("extenders") or []
    extender = None
    if len(extenders) == 1:
        only = extenders[0]
        extender = Extender(model=str(only["extender"]), prompt=str(only["template"]), seed=int(only["seed"] or 0))
    settings = {name: old.get(name) for name in ("extended", "min_score", "min_score_counting", "seam_visible_above")}
    numbers, measured = [], []
    for metric, interval in data.items():
        if not isinstance(interval, dict) or not {"low", "value", "high", "images", "prompts"} <= interval.keys():
            continue
        measured.append(metric)
        protocol = Protocol(
            metric=metric,
            name=old["metric"],
            encoder=old.get("detector"),
            encoder_sha256=old.get("detector_sha256"),
            images=old.get("images"),
            prompts_sha256=old.get("prompts_sha256"),
            extender=extender,
            settings=settings,
            versions=old.get("versions", {}),
        )
        ends = {name: interval[name] for name in ("low", "value", "high")}
        over: Over = "tags" if metric == "overall" else "items"
        counts = {"n": interval["images"], "clusters": interval["prompts"]}
        how = old.get("interval", {}).get("method", OLD_INTERVAL).removeprefix("95%").lstrip(", ")
        numbers.append(Number(metric=metric, **ends, **counts, over=over, interval=how, protocol=protocol))
    items = []
    for verdict in data["verdicts"]:
        values = {name: verdict.get(name) for name in ("color_score", "both_colors", "colors_in_relation", "seam")}
        if verdict.get("tag") in measured:
            values |= {"overall": verdict["correct"], verdict["tag"]: verdict["correct"]}
        if verdict.get("seam") is not None and old.get("seam_visible_above") is not None:
            values["seam_visible"] = verdict["seam"] > old["seam_visible_above"]
        items.append(
            {key: verdict.get(key) for key in ("prompt", "sample", "file", "tag", "correct", "reason")}
            | {"values": {name: float(value) for name, value in values.items() if value is not None}}
        )
    parent = path.parent
    name = parent.parent.name if parent.name in ("short", "extended") else parent.name
    return Scores(
        kind="miniature", name=name, numbers=tuple(sorted(numbers, key=lambda x: x.metric)), items=tuple(items)
    )
