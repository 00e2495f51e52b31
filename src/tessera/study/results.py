"""The tables of a study: each variant's scores over its seeds, and its differences from another one.

A score's interval is the crossed bootstrap's over prompts and training seeds (`tessera.metrics.crossed_bootstrap`).
Differences are taken prompt by prompt and seed by seed: all variants draw the same prompts from the same noise.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.evaluate.likeness import read_likeness
from tessera.evaluate.miniature import MEASURES, measured, read_scores
from tessera.files import MANIFEST, read_json, sha256_file
from tessera.metrics import Interval, crossed_bootstrap
from tessera.run import is_complete
from tessera.study.plan import LIKENESS, Cell, Study, cells, plan

RESAMPLES = 2000
SAME = ("metric", "detector_sha256", "prompts_sha256", "extended", "images", "prompts")
"""Fields of the protocol in which the cells of one table may not differ."""


def results(study: Study, out: Path) -> dict[str, Any]:
    """Everything that the tables and plots show, of the cells that are done.

    {plan, machine-independent tables by kind: {arms: {name: {seeds, scores}}, differences, judge, protocol}, cells}.
    """
    found: dict[str, Any] = {"plan": json.loads(json.dumps(plan(study))), "tables": {}, "cells": {}}
    for kind in study.kinds:
        scores = _read(study, out, kind)
        if scores:
            found["tables"][kind] = _table(study, scores)
    if study.likeness is not None:
        found["likeness"] = _likeness(study, out)
    for cell in cells(study):
        run = out / "cells" / cell.folder / "runs" / cell.variant.arm.name
        done = [kind for kind in study.kinds if is_complete(_folder(out, cell, kind))]
        if done:
            files = {kind: sha256_file(_folder(out, cell, kind) / "scores.json") for kind in done}
            found["cells"][cell.name] = {"run_sha256": sha256_file(run / MANIFEST), "scores_sha256": files}
    found["missing"] = [cell.name for cell in cells(study) if cell.name not in found["cells"]]
    return found


def speeds(study: Study, out: Path) -> dict[str, dict[str, Any]]:
    """Cell -> training's seconds and images/s, the share of its time that waited for data, and each stage's seconds."""
    found = {}
    for cell in cells(study):
        place = out / "cells" / cell.folder
        log = place / "runs" / cell.variant.arm.name / "log.jsonl"
        if not log.is_file() or not (lines := [json.loads(line) for line in log.read_text().splitlines()]):
            continue
        images, seconds = lines[-1]["num_images"], lines[-1]["seconds"]
        stages = {path.stem: read_json(path)["seconds"] for path in sorted((place / "timings").glob("*.json"))}
        found[cell.name] = {
            "num_images": images,
            "train_seconds": round(seconds, 1),
            "images_per_second": round(images / seconds, 1),
            "data_wait": round(float(np.mean([line["data_wait"] for line in lines])), 4),
            "stages": stages,
        }
    return found


def _folder(out: Path, cell: Cell, kind: str) -> Path:
    return out / "cells" / cell.folder / "scores" / cell.variant.arm.name / kind


def _read(study: Study, out: Path, kind: str) -> dict[tuple[str, int], Mapping[str, Any]]:
    """(variant, seed) -> its scores.json, of the cells that are judged; UserError where protocols differ."""
    scores: dict[tuple[str, int], Mapping[str, Any]] = {}
    for cell in cells(study):
        folder = _folder(out, cell, kind)
        if is_complete(folder):
            scores[cell.variant.name, cell.seed] = read_scores(folder)
    first = next(iter(scores.values()), None)
    for (name, seed), item in scores.items():
        for field in SAME:
            if first is not None and item["protocol"][field] != first["protocol"][field]:
                raise UserError(
                    f"study {study.name}: {name} seed {seed} was judged otherwise: protocol.{field} is"
                    f" {item['protocol'][field]!r}, elsewhere {first['protocol'][field]!r}"
                )
    return scores


def _table(study: Study, scores: dict[tuple[str, int], Mapping[str, Any]]) -> dict[str, Any]:
    arms, differences = {}, {}
    for variant in study.variants:
        seeds = [seed for seed in study.seeds if (variant.name, seed) in scores]
        if not seeds:
            continue
        mine = [scores[variant.name, seed] for seed in seeds]
        arms[variant.name] = {"seeds": seeds, "scores": {name: _scored(mine, name) for name in MEASURES}}
        both = [seed for seed in seeds if (variant.against, seed) in scores]
        if variant.against is not None and both:
            pairs = [(scores[variant.name, seed], scores[variant.against, seed]) for seed in both]
            differences[f"{variant.name} - {variant.against}"] = {
                "seeds": both,
                "scores": {name: _difference(pairs, name) for name in MEASURES},
            }
    first = next(iter(scores.values()))
    return {"arms": arms, "differences": differences, "judge": first["judge"], "protocol": first["protocol"]}


def _scored(scores: list[Mapping[str, Any]], name: str) -> dict[str, Any] | None:
    """{low, value, high, by_seed, prompts} of one measure; None where it was not measured."""
    tables = [by_prompt(item, name) for item in scores]
    if not len(tables[0][0]):
        return None
    values, tasks = np.stack([table[0] for table in tables]), tables[0][1]
    interval = crossed_bootstrap(values, tasks, RESAMPLES)
    by_seed = [crossed_bootstrap(row[None], tasks, 1).value for row in values]
    return {**_as_json(interval), "by_seed": [round(v, 6) for v in by_seed], "prompts": values.shape[1]}


def _difference(pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]], name: str) -> dict[str, float] | None:
    tables = [(by_prompt(mine, name), by_prompt(other, name)) for mine, other in pairs]
    if not len(tables[0][0][0]):
        return None
    values = np.stack([mine[0] - other[0] for mine, other in tables])
    return _as_json(crossed_bootstrap(values, tables[0][0][1], RESAMPLES))


def by_prompt(scores: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The mean of measure `name` over the pictures of each prompt that it counts for, (P,), and the prompts' tasks.

    Tasks matter to "overall" alone, the mean of six tasks; other measures have one. Empty where nothing was measured.
    """
    rows, prompts = measured(scores["verdicts"], name)
    numbers, place = np.unique(prompts, return_inverse=True)
    count = np.bincount(place, minlength=len(numbers))
    tasks, values = (np.bincount(place, rows[:, column], len(numbers)) / count for column in (0, 1))
    return values, tasks.astype(np.int64)


def _likeness(study: Study, out: Path) -> dict[str, Any]:
    """{arms: {name: {seeds, value, by_seed}}, floor, protocol}: distances to held-out pictures, means over seeds."""
    arms: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for variant in study.variants:
        done = {
            seed: read_likeness(_folder(out, Cell(variant, seed), LIKENESS))
            for seed in study.seeds
            if is_complete(_folder(out, Cell(variant, seed), LIKENESS))
        }
        if done:
            by_seed = [item["distance"] for item in done.values()]
            arms[variant.name] = {"seeds": list(done), "value": round(float(np.mean(by_seed)), 6), "by_seed": by_seed}
            rest = {name: value for name, value in next(iter(done.values())).items() if name != "distance"}
    return {"arms": arms, **rest}


def _as_json(interval: Interval) -> dict[str, float]:
    return {name: round(getattr(interval, name), 6) for name in ("low", "value", "high")}
