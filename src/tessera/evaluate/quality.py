"""evaluate quality: how good and how fitting a folder of pictures is, against a reference (paper section 4.1, Table 1).

FID and KID on Inception, FD and precision / recall / density / coverage on DINOv2, CLIPScore and CMMD on CLIP, and the
CLIPScore of jina-clip-v2, from one decoding of the pictures, into scores.json. Networks compute in float32, statistics
in float64. Intervals are over prompts: the bootstrap's of scores over captions, the jackknife's of distances.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from tessera import metrics
from tessera.config import UserError, nearest, to_dict
from tessera.evaluate.distances import (
    KID_SUBSET,
    PRDC_PROTOCOLS,
    Blocks,
    Estimate,
    blocks_of,
    cmmd,
    frechet,
    kid,
    prdc_by,
)
from tessera.evaluate.pictures import (
    FEATURES,
    Pictures,
    Reference,
    features_of,
    find_pictures,
    read_captions,
    read_picture,
    reference_of,
)
from tessera.evaluate.scores import Extender, Number, Protocol, Scores, library_versions, mean_interval, write_scores
from tessera.files import MANIFEST, open_stage, read_json, read_manifest

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


def default_cache() -> Path:
    """Where features of reference pictures are kept: tessera/reference of the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tessera" / "reference"


def evaluate_quality(
    out: Path,
    samples: Path,
    reference: Path,
    networks: Mapping[str, Any],
    config: QualityConfig = QualityConfig(),
    *,
    prompts: Path | None = None,
    name: str | None = None,
    num_images: int | None = None,
    cache: Path | None = None,
) -> bool:
    """Measures `samples` against `reference` into `out`/scores.json; goes on where it stopped. Whether it is complete.

    samples: a directory of `generate`, or of any pictures. reference: a directory of pictures, or of their features as
    the cache keeps them. networks: "inception", "dinov2", "clip", "clip336", "jina" -> encoder, those that the metrics
    need. prompts: a file with a caption for each picture, where the samples have none. name: in tables; the samples
    directory's by default. num_images: training images that the model had seen, for curves.
    """
    out, samples, reference = Path(out), Path(samples), Path(reference)
    needed = {NETWORK[metric]: networks[NETWORK[metric]] for metric in config.metrics}
    pictures = find_pictures(samples, "sample")
    captions = read_captions(pictures, prompts) if set(config.metrics) & set(CAPTIONED) else None
    if captions is None and (asked := [metric for metric in config.metrics if metric in CAPTIONED]):
        raise UserError(f"{samples}: has no captions for {asked[0]}; give --prompts, or leave {asked[0]} out")
    described = to_dict(config) | {
        "samples": pictures.sha256,
        "prompts": _sha256_of(captions) if captions else None,
        "networks": {
            key: [network.id, network.sha256, getattr(network, "cut", None)] for key, network in needed.items()
        },
        "reference": _reference_hash(reference),
        "name": name or samples.name,
        "num_images": num_images,
    }
    stage = open_stage(out, stage="evaluate quality", config=described, shared=True)
    if stage.done:
        return True
    work = out / "work"
    compared = {key: network for key, network in needed.items() if key in ("inception", "dinov2", "clip336")}
    found = None
    if compared:
        found = reference_of(
            reference, compared, cache or default_cache(), work / "reference", config.batch_size, config.rounding
        )
        if found is None:
            return False
    features = features_of(pictures, needed, work / "samples", config.batch_size, config.rounding, "quality")
    if features is None:
        return False
    blocks = blocks_of(len(pictures.files), captions or _known_captions(pictures, prompts), config.seed)
    measured = _Measured(config, pictures, features, found, needed, _extender(samples), captions, blocks)
    numbers, items, facts = measured.all()
    write_scores(
        out,
        Scores(
            kind="quality",
            name=name or samples.name,
            numbers=tuple(numbers),
            items=tuple(items),
            num_images=num_images,
            facts=facts | _named(pictures, reference, config.rounding),
        ),
    )
    shutil.rmtree(work, ignore_errors=True)
    counts = {"images": len(pictures.files), "numbers": len(numbers)}
    stage.finish(counts | ({"reference": found.images} if found else {}))
    return True


@dataclass(frozen=True)
class _Measured:
    """All that the numbers are made of."""

    config: QualityConfig
    pictures: Pictures
    features: Mapping[str, NDArray[np.float32]]
    reference: Reference | None
    networks: Mapping[str, Any]
    extender: Extender | None
    captions: Sequence[str] | None
    blocks: Blocks

    def all(self) -> tuple[list[Number], list[dict[str, Any]], dict[str, Any]]:
        """(numbers, items, facts)."""
        numbers, facts = [], {}
        items: list[dict[str, Any]] = []
        for metric in self.config.metrics:
            if metric in CAPTIONED:
                number, values, cut = self._caption_score(metric)
                numbers.append(number)
                facts[f"{number.metric}/captions_truncated"] = cut
                for row, value in enumerate(values):
                    if len(items) <= row:
                        items.append(self._item(row))
                    items[row]["values"][number.metric] = value
            else:
                numbers += self._distance(metric)
        return numbers, items, facts

    def _distance(self, metric: Metric) -> list[Number]:
        assert self.reference is not None
        key, seed = NETWORK[metric], self.config.seed
        real, fake = self.reference.features[key], self.features[key]
        if metric in ("fid", "fd_dinov2"):
            settings = {"covariance": "unbiased, float64"}
            return [self._distant(metric, frechet(real, fake, self.blocks), "full", settings)]
        if metric == "kid":
            found = kid(real, fake, self.blocks, self.config.kid_subsets, seed)
            size = min(KID_SUBSET, len(real), len(fake))
            settings = {"subsets": self.config.kid_subsets, "size": size, "seed": seed}
            return [self._distant(metric, found, "subsets", settings)]
        if metric == "cmmd":
            settings = {"sigma": 10.0, "scale": 1000.0}
            return [self._distant(metric, cmmd(real, fake, self.blocks), "full", settings)]
        numbers = []
        for name in self.config.prdc:
            settings = {"seed": seed} if name == "dgm-eval" else {}
            for part, found in prdc_by(name, real, fake, self.blocks, seed).items():
                numbers.append(self._distant(f"{part}/{name}", found, name, settings, k=PRDC_PROTOCOLS[name]))
        return numbers

    def _distant(self, metric: str, found: Estimate, protocol: str, settings: Mapping[str, Any], **rest: Any) -> Number:
        key = NETWORK["prdc" if "/" in metric else cast(Metric, metric)]
        return self._number(metric, found.value, protocol, key, settings=settings, **_ends(found), **rest)

    def _caption_score(self, metric: Metric) -> tuple[Number, list[float], float]:
        """The number, each picture's 100 cos, and the share of captions that were cut."""
        assert self.captions is not None
        key = NETWORK[metric]
        texts = list(dict.fromkeys(self.captions))
        embedded = self.networks[key].captions(texts)
        rows = {text: row for row, text in enumerate(texts)}
        order = [rows[text] for text in self.captions]
        values = 100 * metrics.cosine_scores(self.features[key], embedded.features[order])
        interval = mean_interval(values, order, None, self.config.resamples, self.config.seed)
        low, value, high = (max(x, 0.0) for x in (interval.low, interval.value, interval.high))
        cut = self.networks[key].cut
        number = self._number(
            metric if cut == "keep-end" else f"{metric}/{cut}",
            value,
            cut,
            key,
            low=low,
            high=high,
            clusters=len(texts),
            over="items",
            interval=f"bootstrap over prompts, {self.config.resamples} resamples",
            settings={"resamples": self.config.resamples, "seed": self.config.seed},
        )
        return number, values.tolist(), embedded.truncated / len(texts)

    def _item(self, row: int) -> dict[str, Any]:
        assert self.captions is not None
        file = self.pictures.files[row]
        folder, stem = Path(file).parent.parent.name, Path(file).stem
        drawn = folder.isdecimal() and stem.isdecimal()
        prompt, sample = (int(folder), int(stem)) if drawn else (row, 0)
        return {"prompt": prompt, "sample": sample, "file": file, "text": self.captions[row], "values": {}}

    def _number(self, metric: str, value: float, protocol: str, key: str, **rest: Any) -> Number:
        network, settings = self.networks[key], rest.pop("settings", {})
        captioned = metric.split("/")[0] in CAPTIONED
        against = None if captioned else self.reference
        about = Protocol(
            metric=metric.split("/")[0],
            name=protocol,
            encoder=network.id,
            encoder_sha256=network.sha256,
            resize=network.resizing,
            rounding=self.config.rounding if any(f.endswith(".npy") for f in self.pictures.files) else None,
            images=len(self.pictures.files),
            reference=against.sha256 if against else None,
            reference_images=against.images if against else None,
            k=rest.pop("k", None),
            prompts_sha256=_sha256_of(self.captions) if self.captions else None,
            extender=self.extender,
            settings=settings,
            versions=library_versions(),
        )
        return Number(metric=metric, value=float(value), n=len(self.pictures.files), protocol=about, **rest)


def _ends(found: Estimate) -> dict[str, Any]:
    return {"low": found.low, "high": found.high, "interval": found.interval}


def _known_captions(pictures: Pictures, prompts: Path | None) -> Sequence[str] | None:
    """Which pictures are of one prompt; None: nothing is known of prompts, as of a folder from elsewhere."""
    manifest = pictures.directory / MANIFEST
    if prompts is None and not (manifest.is_file() and read_manifest(pictures.directory).stage == "generate"):
        return None
    return read_captions(pictures, prompts)


def _sha256_of(texts: Sequence[str]) -> str:
    return hashlib.sha256("".join(f"{text}\n" for text in texts).encode()).hexdigest()


def _reference_hash(reference: Path) -> str:
    """What the manifest keeps of it: the names and sizes below; its content's hash stands in every protocol."""
    if not reference.is_dir():
        raise UserError(f"{reference}: there is no such directory of reference pictures or features")
    lines = sorted(f"{p.relative_to(reference)} {p.stat().st_size}\n" for p in reference.rglob("*") if p.is_file())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _named(pictures: Pictures, reference: Path, rounding: Literal["round", "truncate"]) -> dict[str, str]:
    """What tables call the pictures: their size, whose captions they were drawn by, the reference's folder."""
    first = pictures.directory / pictures.files[0]
    height, width, _ = read_picture(first, rounding).shape
    metadata = first.parent.parent / "metadata.jsonl"
    line = read_json(metadata) if metadata.is_file() else {}
    prompts = {"image_id": "COCO's captions", "key": "captions of one's own", "tag": "GenEval's prompts"}
    found = [words for field, words in prompts.items() if field in line]
    size = str(width) if width == height else f"{width} x {height}"
    kept = any(reference.glob(f"*{FEATURES}"))  # such a directory of features is called by a hash
    named = {} if kept else {"reference": reference.resolve().name}
    return named | {"size": size} | ({"prompts": found[0]} if found else {})


def _extender(samples: Path) -> Extender | None:
    """What extended the prompts that were drawn, by the first line's word."""
    if not (samples / MANIFEST).is_file() or not read_manifest(samples).config.get("extended"):
        return None
    first = min(samples.glob("*/metadata.jsonl"), default=None)
    entry = (read_json(first).get("extended") or {}) if first else {}
    prompt = str(entry.get("template_sha256") or entry.get("template"))
    return Extender(model=str(entry.get("extender")), prompt=prompt, seed=int(entry.get("seed") or 0))
