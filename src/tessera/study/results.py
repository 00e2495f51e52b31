"""The tables of a study: each variant's scores over its seeds, and its differences from another one.

Intervals are over prompts and training seeds (`tessera.metrics.shares`). Differences are taken image by image and seed
by seed: all variants draw the same prompts from the same noise.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.evaluate.intervals import Measured, measured, paired_values
from tessera.evaluate.miniature.chance import chance_level
from tessera.evaluate.miniature.likeness import read_likeness
from tessera.evaluate.miniature.memorized import MEASURES as COPIES
from tessera.evaluate.scores import FILE, Scores, comparable, read_scores
from tessera.files import read_json, sha256_file
from tessera.metrics import Interval, share_difference, share_interval
from tessera.stages import MANIFEST, is_complete
from tessera.study.design import LIKENESS, Cell, Study, cells, plan, scores_of


def results(study: Study, out: Path) -> dict[str, Any]:
    """Return everything that the tables and plots show, of the cells that are done.

    {plan, machine-independent tables by kind: {arms: {name: {seeds, scores}}, chance, differences, judge, protocol},
    cells}.
    """
    found: dict[str, Any] = {"plan": json.loads(json.dumps(plan(study))), "tables": {}, "cells": {}}
    for kind in study.kinds:
        if scores := _read(study, out, kind):
            found["tables"][kind] = _table(study, scores)
    if study.likeness is not None:
        found["likeness"] = _likeness(study, out)
    for cell in cells(study):
        run = out / "cells" / cell.folder / "runs" / cell.variant.arm.name
        done = [kind for kind in study.kinds if is_complete(scores_of(study, cell, out, kind))]
        if done:
            files = {kind: sha256_file(scores_of(study, cell, out, kind) / FILE) for kind in done}
            found["cells"][cell.name] = {"run_sha256": sha256_file(run / MANIFEST), "scores_sha256": files}
    found["missing"] = [cell.name for cell in cells(study) if cell.name not in found["cells"]]
    return found


def speeds(study: Study, out: Path) -> dict[str, dict[str, Any]]:
    """Return cell -> seconds and images/s of its training, the share that waited for data, and each stage's seconds."""
    found = {}
    for cell in cells(study):
        place = out / "cells" / cell.folder
        log = place / "runs" / cell.variant.arm.name / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
        if not (lines := [line for line in lines if "seconds" in line]):  # scores of images have lines of their own
            continue
        images, seconds = lines[-1]["num_images"], lines[-1]["seconds"]
        found[cell.name] = {
            "num_images": images,
            "train_seconds": round(seconds, 1),
            "images_per_second": round(images / seconds, 1),
            "data_wait": round(float(np.mean([line["data_wait"] for line in lines])), 4),
            "stages": {path.stem: read_json(path)["seconds"] for path in sorted((place / "timings").glob("*.json"))},
        }
    return found


def _read(study: Study, out: Path, kind: str) -> dict[tuple[str, int], Scores]:
    """Return (variant, seed) -> its scores, of the cells that are judged. Raises UserError where protocols differ."""
    scores: dict[tuple[str, int], Scores] = {}
    for cell in cells(study):
        folder = scores_of(study, cell, out, kind)
        if is_complete(folder):
            scores[cell.variant.name, cell.seed] = read_scores(folder)
    for (name, seed), item in scores.items():
        for number in item.numbers:
            same = next(iter(scores.values())).number(number.metric)
            unlike = [] if same is None else comparable(number, same)
            if number.metric.split("_ratio")[0] in COPIES:  # of different training images, which a study may vary
                unlike = [line for line in unlike if not line.startswith("reference")]
            if unlike:
                raise UserError(f"study {study.name}: {name} seed {seed} was judged otherwise: {'; '.join(unlike)}")
    return scores


def _table(study: Study, scores: dict[tuple[str, int], Scores]) -> dict[str, Any]:
    arms, differences = {}, {}
    for variant in study.variants:
        seeds = [seed for seed in study.seeds if (variant.name, seed) in scores]
        if not seeds:
            continue
        mine = [scores[variant.name, seed] for seed in seeds]
        arms[variant.name] = {"seeds": seeds, "scores": {name: _scored(mine, name) for name in study.measures}}
        both = [seed for seed in seeds if (variant.against, seed) in scores]
        if variant.against is not None and both:
            pairs = [(scores[variant.name, seed], scores[variant.against, seed]) for seed in both]
            differences[f"{variant.name} - {variant.against}"] = {
                "seeds": both,
                "scores": {name: _difference(pairs, name) for name in study.measures},
            }
    first = next(iter(scores.values()))
    about = dataclasses.asdict(first.numbers[0].protocol) | dict(first.facts)
    judge = about.pop("judge")
    config = study.variants[0].config
    world, prompts = config.collect.world, config.prompts
    levels = {} if world is None or prompts is None else chance_level(first, world, prompts)
    found = {"arms": arms, "chance": levels, "differences": differences}
    return {**found, "judge": judge, "protocol": about}


def _scored(scores: list[Scores], name: str) -> dict[str, Any] | None:
    """Return {low, value, high, by_seed, prompts} of one measure; None where it was not measured."""
    if scores[0].number(name) is None:
        return None
    parts = [measured(item, name) for item in scores]
    values, labels = _joined(parts)
    by_seed = [round(share_interval(part.values, part.prompts, part.tags).value, 6) for part in parts]
    prompts = {prompt for part in parts for prompt in part.prompts}
    return {**_as_json(share_interval(values, *labels)), "by_seed": by_seed, "prompts": len(prompts)}


def _difference(pairs: list[tuple[Scores, Scores]], name: str) -> dict[str, float] | None:
    if pairs[0][0].number(name) is None:
        return None
    mine, other = zip(*[paired_values(a, b, name) for a, b in pairs])
    values, labels = _joined(mine)
    return _as_json(share_difference(values, np.concatenate([part.values for part in other]), *labels))


def _joined(parts: Sequence[Measured]) -> tuple[np.ndarray, tuple[list[int], list[str] | None, np.ndarray]]:
    """Return the values of all seeds (N,), and the prompt, tag and seed's number of each."""
    prompts = [prompt for part in parts for prompt in part.prompts]
    tags = None if parts[0].tags is None else [tag for part in parts for tag in part.tags or ()]
    seeds = np.repeat(np.arange(len(parts)), [len(part.values) for part in parts])
    return np.concatenate([part.values for part in parts]), (prompts, tags, seeds)


def _likeness(study: Study, out: Path) -> dict[str, Any]:
    """Return {arms: {name: {seeds, value, by_seed}}, floor, protocol}: distances to held-out images."""
    arms: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for variant in study.variants:
        folders = {seed: scores_of(study, Cell(variant, seed), out, LIKENESS) for seed in study.seeds}
        done = {seed: read_likeness(folder) for seed, folder in folders.items() if is_complete(folder)}
        if done:
            by_seed = [item["distance"] for item in done.values()]
            arms[variant.name] = {"seeds": list(done), "value": round(float(np.mean(by_seed)), 6), "by_seed": by_seed}
            rest = {name: value for name, value in next(iter(done.values())).items() if name != "distance"}
    return {"arms": arms, **rest}


def _as_json(interval: Interval) -> dict[str, float]:
    return {name: round(getattr(interval, name), 6) for name in ("low", "value", "high")}
