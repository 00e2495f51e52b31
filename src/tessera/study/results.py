"""The tables of a study: each variant's scores over its seeds, and its differences from another one.

Intervals are over prompts and training seeds (`tessera.metrics.shares`). Differences are taken picture by picture and
seed by seed: all variants draw the same prompts from the same noise.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.evaluate.miniature.evaluate import MEASURES, measured, read_scores
from tessera.evaluate.miniature.likeness import read_likeness
from tessera.files import read_json, sha256_file
from tessera.metrics import Interval, share_difference, share_interval
from tessera.run import is_complete
from tessera.stages import MANIFEST
from tessera.study.design import LIKENESS, Cell, Study, cells, plan

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
    parts = [measured(item["verdicts"], name) for item in scores]
    if not len(parts[0][0]):
        return None
    rows, prompts, seeds = _joined(parts)
    by_seed = [share_interval(part[0][:, 1], part[1], part[0][:, 0]).value for part in parts]
    return {
        **_as_json(share_interval(rows[:, 1], prompts, rows[:, 0], seeds)),
        "by_seed": [round(value, 6) for value in by_seed],
        "prompts": len(np.unique(prompts)),
    }


def _difference(pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]], name: str) -> dict[str, float] | None:
    mine, other = ([measured(pair[side]["verdicts"], name) for pair in pairs] for side in (0, 1))
    if not len(mine[0][0]):
        return None
    (a, prompts, seeds), (b, *_) = _joined(mine), _joined(other)
    return _as_json(share_difference(a[:, 1], b[:, 1], prompts, a[:, 0], seeds))


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(task, value) of every picture (N, 2), its prompt (N,) and its seed's number (N,), of all seeds."""
    rows, prompts = (np.concatenate(column) for column in zip(*parts))
    return rows, prompts, np.repeat(np.arange(len(parts)), [len(part[1]) for part in parts])


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
