"""A trial of an export: a small fixed set of prompts, drawn by some sampling settings and scored by chosen metrics.

    PLACE/samples/  PLACE/scores/METRIC/  PLACE/values.json, written last

Scores of real images are those of `evaluate quality` against a directory of reference images; a reference that
`collect` made of the miniature world brings its own prompts and its judge. Trials of one set of prompts compare: image
i has the same noise in all of them.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.config import UserError, check_ranges, choose, compare, from_dict, part_id, to_dict
from tessera.devices import set_threads
from tessera.evaluate.miniature.evaluate import MEASURES
from tessera.evaluate.quality.metrics import METRICS, load_metric
from tessera.files import atomic_path, read_json, write_json
from tessera.jobs import work
from tessera.prompts.geneval import TASKS
from tessera.report.tables import add_label
from tessera.stages import MANIFEST, made_otherwise, read_manifest

if TYPE_CHECKING:
    from tessera.generate.folder import GenerateConfig
    from tessera.generate.pipeline import Pipeline
    from tessera.train.config import JudgeOptions

VALUES = "values.json"
PROMPTS = "prompts.jsonl"
JUDGE, LIKENESS = "miniature", "likeness"
"""The miniature's judge, and its distance to held-out images, as names of metrics."""


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """The images of a trial and the metrics that score them."""

    prompts: str | None = None
    """As `tessera generate` takes them; None = the miniature's own."""
    extended: bool = False
    """Draw the prompts' extended texts."""
    reference: str | None = None
    """Directory of real images, or of their features, for distances; or of the miniature, for its judge."""
    metrics: tuple[str, ...] = ()
    """Names of `tessera.evaluate.quality.metrics.METRICS`, "miniature", "likeness", or FILE.py:NAME of one's own. None
    given: fid and clip_score; for the miniature its judge and likeness."""
    networks: Mapping[str, str] = field(default_factory=dict)
    """Weights of the metrics' networks, by the keys of `tessera.pretrained.features.networks.NETWORKS`."""
    images: int = 500
    """Images, one for each prompt, at least 2; of a file with more prompts so many, evenly."""
    seed: int = 0
    """Image i is a function of (seed, i)."""
    batch_size: int = 32
    """Images drawn, and images judged, at once; at least 1."""
    device: str | None = None
    """None = the best there is."""
    threads: int | None = None
    """CPU threads, at least 1. None = torch's own choice."""

    def __post_init__(self):
        check_ranges(self, images="[2, inf)", seed="[0, 2**64)", batch_size="[1, inf)", threads="[1, inf)")


class Trial:
    """The prompts, the networks and the reference that trials have in common."""

    def __init__(self, config: TrialConfig) -> None:
        """Read prompts and metrics; load no network. Raises UserError for whatever could not be drawn or scored."""
        self.config = config
        self.reference = None if config.reference is None else Path(config.reference)
        self.is_miniature = self.reference is not None and is_miniature(self.reference)
        default = (JUDGE, LIKENESS) if self.is_miniature else ("fid", "clip_score")
        self.metrics = config.metrics or default
        own = [name for name in self.metrics if name in (JUDGE, LIKENESS)]
        if own and not self.is_miniature:
            given = "none is given" if self.reference is None else f"{self.reference} is another one"
            raise UserError(f"metrics: {own[0]} needs a reference made by collect from the miniature; {given}")
        self.quality = {name: load_metric(name) for name in self.metrics if name not in own}
        for metric in self.quality.values():
            for name, about in metric.shows.items():
                add_label(name, *about)
        distances = [name for name, metric in self.quality.items() if not metric.captioned]
        if distances and self.reference is None:
            raise UserError(f"metrics: {distances[0]} compares with real images; give their directory as the reference")
        if distances and self.is_miniature:
            raise UserError(f"metrics: {distances[0]} compares with photographs; use {LIKENESS} for the miniature")
        if self.reference is not None and not self.reference.is_dir():
            raise UserError(f"{self.reference}: there is no such directory of reference images")
        if distances and self.reference is not None and not any(p.is_file() for p in self.reference.rglob("*")):
            raise UserError(f"{self.reference}: holds no images; give the directory of the real ones")
        from tessera.pretrained.features.networks import NETWORKS

        for name in config.networks:
            choose(name, NETWORKS, "network")
        self.lines = self._prompts()
        self.loaded: dict[str, Any] = {}

    @property
    def images_drawn(self) -> int:
        """Images of a trial: of the prompts, and of held-out captions."""
        asked = len(self.lines) if self.quality or JUDGE in self.metrics else 0
        return asked + (self.config.images if LIKENESS in self.metrics else 0)

    @property
    def numbers(self) -> list[str]:
        """The names of the metrics' numbers, in order; the judge leaves out what no prompt asks for."""
        found: list[str] = []
        for name in self.metrics:
            if name in self.quality:
                found += [number + "/full" * (name == "prdc") for number in self.quality[name].shows]
            else:
                found += MEASURES if name == JUDGE else [name]
        return found

    @property
    def described(self) -> dict[str, Any]:
        """Everything but the networks and the reference, which are in the numbers' protocols."""
        text = "".join(_line(line) for line in self.lines)
        return {
            "prompts": {"count": len(self.lines), "sha256": hashlib.sha256(text.encode()).hexdigest()},
            "extended": self.config.extended,
            "metrics": [part_id(name, (*METRICS, JUDGE, LIKENESS)) for name in self.metrics],
            "images": self.config.images,
            "seed": self.config.seed,
        }

    def _prompts(self) -> list[dict[str, Any]]:
        """Return the prompts' metadata: of a file with more prompts than images so many of them, evenly."""
        config = self.config
        if config.prompts is None:
            if self.reference is None or not self.is_miniature:
                raise UserError("prompts: give a file of prompts, as for `tessera generate --prompts`")
            from tessera.prompts.miniature import PromptConfig, draw_prompts, world_of

            per_task = max(1, config.images // len(TASKS))
            return draw_prompts(world_of(self.reference), PromptConfig(per_task=per_task, seed=config.seed))
        from tessera.prompts.read import load_prompts

        rows = load_prompts(config.prompts, config.extended).rows
        count = min(config.images, len(rows))
        if count < 2:
            raise UserError(f"{config.prompts}: holds {count} prompt, scores need at least 2")
        return [rows[i * len(rows) // count][0] for i in range(count)]

    def run(
        self,
        place: Path,
        export: Path,
        pipeline: "Pipeline | None" = None,
        *,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        steps: int | None = None,
    ) -> dict[str, Any]:
        """Draw the prompts by `export` below `place`, score them, and return what `place`/values.json holds:

        {"settings", "scores": {number: {value, low, high}}, "protocols": {number: {...}}}. What is there already is
        neither drawn nor scored again. Settings that are None are the export's own.
        """
        from tessera.generate.folder import GenerateConfig, generate

        if (place / VALUES).is_file():
            return read_json(place / VALUES)
        config = self.config
        settings: dict[str, Any] = {"guidance_scale": guidance_scale, "guidance_interval": guidance_interval}
        settings["steps"] = steps
        draw = GenerateConfig(
            per_prompt=1,
            extended=config.extended,
            seed=config.seed,
            batch_size=config.batch_size,
            threads=config.threads,
            **settings,
        )
        with atomic_path(place / PROMPTS) as temporary:
            temporary.write_text("".join(map(_line, self.lines)), encoding="utf-8", newline="\n")
        samples, found = place / "samples", {}
        if self.quality or JUDGE in self.metrics:
            generate(samples, export, place / PROMPTS, draw, device=config.device, pipeline=pipeline)
        if self.quality:
            found |= self._quality(place / "scores" / "quality", samples)
        if JUDGE in self.metrics:
            found |= _judged(place / "scores" / JUDGE, samples, config.threads)
        if LIKENESS in self.metrics:
            found |= self._likeness(place, export, pipeline, dataclasses.replace(draw, extended=False))
        scores, protocols = ({name: number[part] for name, number in found.items()} for part in ("score", "protocol"))
        values = {"settings": settings, "scores": scores, "protocols": protocols}
        write_json(place / VALUES, values)
        return read_json(place / VALUES)

    def _quality(self, out: Path, samples: Path) -> dict[str, Any]:
        from tessera.devices import pick_device
        from tessera.evaluate.quality.evaluate import evaluate_quality
        from tessera.evaluate.quality.metrics import QualityConfig
        from tessera.pretrained.features.networks import NETWORKS

        config, device = self.config, pick_device(self.config.device)
        for key in {metric.network for metric in self.quality.values()} - self.loaded.keys():
            self.loaded[key] = NETWORKS[key].load(config.networks.get(key, NETWORKS[key].model), device)
        settings = QualityConfig(metrics=tuple(self.quality), prdc=("full",), batch_size=config.batch_size)
        evaluate_quality(out, samples, self.reference or samples, self.loaded, settings)
        return _numbers(out)

    def _likeness(
        self, place: Path, export: Path, pipeline: "Pipeline | None", draw: "GenerateConfig"
    ) -> dict[str, Any]:
        from tessera.evaluate.miniature.likeness import LikenessConfig, held_out_prompts, likeness, read_likeness
        from tessera.generate.folder import generate

        assert self.reference is not None
        count = self.config.images
        settings = LikenessConfig(prompts=count, references=4 * count, threads=self.config.threads)
        prompts, samples, scores = place / "held_out", place / "held_out_samples", place / "scores" / LIKENESS
        held_out_prompts(prompts, self.reference, settings)
        generate(samples, export, prompts / PROMPTS, draw, device=self.config.device, pipeline=pipeline)
        likeness(scores, samples, self.reference, settings)
        found = read_likeness(scores)
        return {LIKENESS: {"score": {"value": found["distance"]}, "protocol": found["protocol"]}}


def named_networks(given: Sequence[str]) -> dict[str, str]:
    """Return {network: weights} of words such as "inception=FILE"; UserError for another word."""
    pairs = [word.partition("=") for word in given]
    for word, (name, _, weights) in zip(given, pairs):
        if not name or not weights:
            raise UserError(f"networks: {word!r} names no weights; give words such as inception=FILE")
    return {name: weights for name, _, weights in pairs}


def _judged(out: Path, samples: Path, threads: int | None) -> dict[str, Any]:
    from tessera.evaluate.miniature.evaluate import EvaluateConfig, evaluate

    evaluate(out, samples, EvaluateConfig(judge_renders=0, threads=threads))
    return _numbers(out)


def _numbers(scores: Path) -> dict[str, Any]:
    """Return {number: {score, protocol}} of a directory with scores.json."""
    from tessera.evaluate.scores import read_scores

    return {
        number.metric: {
            "score": {name: getattr(number, name) for name in ("low", "value", "high")},
            "protocol": {name: value for name, value in to_dict(number.protocol).items() if name != "versions"},
        }
        for number in read_scores(scores).numbers
    }


def is_miniature(reference: Path) -> bool:
    """Return whether `collect` made the directory of the miniature world."""
    if not (reference / MANIFEST).is_file():
        return False
    manifest = read_manifest(reference)
    return manifest.stage == "collect" and manifest.config.get("world") is not None


def _line(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, sort_keys=True, ensure_ascii=False) + "\n"


def judge_options(
    evaluate_every_images: int,
    *,
    reference: Path | None,
    metrics: Sequence[str],
    networks: Sequence[str],
    wait: bool,
    **options: Any,
) -> "JudgeOptions":
    """Return a training's judge: a trial of its weights in a process of its own.

    options: fields of `TrialConfig`. metrics: none = clip_score, with real images mind too; the miniature's judge.
    Raises UserError for what could not be drawn or scored.
    """
    from tessera.train.config import JudgeOptions

    if not metrics:
        metrics = ("clip_score",) if reference is None else ("clip_score", "mind")
        metrics = (JUDGE,) if reference is not None and is_miniature(reference) else metrics
    place = None if reference is None else str(reference.resolve())
    config = TrialConfig(reference=place, metrics=tuple(metrics), networks=named_networks(networks), **options)
    return JudgeOptions(
        evaluate_every_images=evaluate_every_images,
        command=(sys.executable, "-m", "tessera.study.trial", json.dumps(to_dict(config))),
        described=Trial(config).described,
        wait=wait,
    )


def judge(config: Mapping[str, Any], place: Path) -> None:
    """Draw and score `place`/export in `place`, an evaluation of a training (`tessera.train.config.JudgeOptions`).

    config: a TrialConfig as data. Raises UserError if its prompts or metrics are not those of the training's start.
    """
    trial = Trial(from_dict(TrialConfig, config, "judge"))
    if pairs := compare(read_json(place.parent / "judge.json"), trial.described):
        raise made_otherwise(place.parent, pairs[:3])
    set_threads(trial.config.threads)
    trial.run(place, place / "export")


if __name__ == "__main__":
    sys.exit(work(lambda: judge(json.loads(sys.argv[1]), Path(sys.argv[2]))))
