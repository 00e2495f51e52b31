"""The study of Figure 7, without training: what noise hides of a CutMix picture at each t, and what it leaves.

Two questions are put to an ideal observer, who knows both pictures that it may be and sees one of them noised:

- artefact: the CutMix picture, or the same two objects on one background, without a seam and without cuts?
- content: the two objects with their own colours, or with each other's?

For two known signals a, b in white noise (Eq. 1) it is right with probability Phi(|a - b| sqrt(alpha_bar) /
(2 sqrt(1 - alpha_bar))): 0.5 is guessing. So the numbers are exact, and no network or judge comes in. A good gate tau
lies where the artefact is hidden and the content is not yet.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import tessera
from tessera.config import UserError, to_dict
from tessera.cutmix import PATTERNS, HalfView, compose, draw_placement, label_of
from tessera.files import atomic_path, write_json
from tessera.metrics import bootstrap
from tessera.miniature import WorldConfig, draw_scene, mix_scene, render
from tessera.randomness import philox
from tessera.records import Scene
from tessera.report.comparison import value_cell
from tessera.report.examples import NoiseSettings, noise_strip
from tessera.report.plots import Series, value_plot
from tessera.report.run_page import render_page

QUESTIONS = {"artefact": "the CutMix artefact", "content": "which object has which color"}
_ENCODED = 256  # pictures encoded at once


@dataclass(frozen=True, kw_only=True)
class NoiseStudy:
    """What is noised, and how."""

    world: WorldConfig
    name: str = "noise"
    latents: str = "pixel-unshuffle:4"
    """The codec; a folder or Hub id of a VAE is one too."""
    latent_scale: float = 0.2
    """As in training; a smaller one drowns pictures earlier."""
    schedules: tuple[str, ...] = ("cosine", "linear")
    times: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Within (0, 1)."""
    pairs: int = 300
    """CutMix pictures of each pattern, at least 2."""
    half_view: HalfView = "centre"
    seed: int = 21

    def __post_init__(self):
        if self.pairs < 2:
            raise UserError(f"pairs is {self.pairs}: give at least 2")
        if not all(0 < t < 1 for t in self.times):
            raise UserError(f"times are {list(self.times)}: give numbers between 0 and 1")
        if len(self.world.shapes) < 2 or len(self.world.colors) < 2:
            raise UserError("world needs at least two shapes and two colors")


def run_noise(study: NoiseStudy, out: Path) -> Path:
    """Writes `out`/noise/results.json and report/index.html; returns the page's path. Seconds, so always anew."""
    found = measure(study)
    folder = Path(out) / study.name
    write_json(folder / "results.json", found)
    page = folder / "report" / "index.html"
    with atomic_path(page) as temporary:
        temporary.write_text(render_page(_page(study, found)), encoding="utf-8", newline="\n")
    return page


def measure(study: NoiseStudy) -> dict[str, Any]:
    """{config, tables: {schedule: {question: {pattern: [{t, alpha_bar, low, value, high}]}}}}."""
    import torch

    from tessera.diffusion.schedule import get_schedule

    apart = {pattern: _distances(study, pattern) for pattern in PATTERNS}
    times = torch.tensor(study.times, dtype=torch.float64)
    tables: dict[str, Any] = {}
    for schedule in study.schedules:
        levels = get_schedule(schedule)(times).tolist()
        tables[schedule] = {
            question: {
                pattern: [
                    {"t": t, "alpha_bar": round(level, 6), **_accuracy(apart[pattern][question], level)}
                    for t, level in zip(study.times, levels)
                ]
                for pattern in PATTERNS
            }
            for question in QUESTIONS
        }
    return {"config": to_dict(study), "tables": tables}


def accuracy(distance: float, alpha_bar: float) -> float:
    """How often an ideal observer is right about two signals `distance` apart, noised to `alpha_bar` in [0, 1)."""
    return (1 + math.erf(distance * math.sqrt(alpha_bar / (1 - alpha_bar)) / (2 * math.sqrt(2)))) / 2


def _accuracy(distances: np.ndarray, alpha_bar: float) -> dict[str, float]:
    interval = bootstrap([accuracy(distance, alpha_bar) for distance in distances])
    return {name: round(getattr(interval, name), 4) for name in ("low", "value", "high")}


def _distances(study: NoiseStudy, pattern: str) -> dict[str, np.ndarray]:
    """Of each CutMix picture of `pattern`, how far the two answers to each question lie apart in scaled latents."""
    from tessera.pretrained.vae import load_codec

    codec = load_codec(study.latents)
    made = [_pictures(study, pattern, number) for number in range(study.pairs)]
    mixed, whole, swapped = (np.stack(pictures) for pictures in zip(*made))

    def encoded(pictures: np.ndarray) -> np.ndarray:
        parts = [codec.encode(pictures[i : i + _ENCODED])[0] for i in range(0, len(pictures), _ENCODED)]
        return np.concatenate(parts).astype(np.float64).reshape(len(pictures), -1) * study.latent_scale

    a, b, c = encoded(mixed), encoded(whole), encoded(swapped)
    return {"artefact": np.linalg.norm(a - b, axis=1), "content": np.linalg.norm(b - c, axis=1)}


def _pictures(study: NoiseStudy, pattern: str, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CutMix picture `number`, its objects on the base's background, and those with each other's colours."""
    world = replace(study.world, seed=study.seed)
    rng = philox(study.seed, f"noise/{pattern}", number)
    first = int(rng.integers(2**31))
    while True:
        second = int(rng.integers(2**31))
        base, partner = draw_scene(world, first), draw_scene(world, second)
        a, b = base.objects[0], partner.objects[0]
        if a.shape != b.shape and a.color != b.color:
            break
    placement = draw_placement(pattern, world.size, rng)
    mixed = compose(render(base, world.size), render(partner, world.size), placement, study.half_view)
    objects = mix_scene(base, partner, placement, study.half_view).objects
    exchanged = tuple(replace(one, color=other.color) for one, other in zip(objects, objects[::-1]))

    def shown(things: tuple[Any, ...]) -> np.ndarray:
        return render(Scene(objects=things, backgrounds=base.backgrounds, seed=base.seed), world.size)

    return mixed, shown(objects), shown(exchanged)


def _page(study: NoiseStudy, found: dict[str, Any]) -> dict[str, Any]:
    plots, tables = "", []
    for schedule, questions in found["tables"].items():
        series = [
            Series(
                name=f"{label_of(pattern)}: {question}",
                color=n,
                x=study.times,
                y=tuple((point["low"], point["value"], point["high"]) for point in questions[question][pattern]),
            )
            for n, (question, pattern) in enumerate(
                [(question, pattern) for question in QUESTIONS for pattern in ("half", "quarter", "sixteenth")]
            )
        ]
        plots += value_plot({"": series}, f"t on the {schedule} schedule", f"Ideal observer, {schedule} schedule")
        for question, what in QUESTIONS.items():
            rows = [
                {
                    "label": label_of(pattern),
                    "title": "",
                    "strong": False,
                    "cells": [value_cell((p["low"], p["value"], p["high"])) for p in points],
                    "judge": "",
                }
                for pattern, points in questions[question].items()
            ]
            tables.append(
                {
                    "title": f"Schedule {schedule}: {what}",
                    "note": f"how often an ideal observer is right, {study.pairs:,} pictures each; 0.5 is guessing",
                    "head": "pattern",
                    "judged": False,
                    "arms": [],
                    "differences": [f"t = {t:g}" for t in study.times],
                    "unpaired": "",
                    "rows": rows,
                }
            )
    settings = NoiseSettings(
        schedule=study.schedules[0], codec=study.latents, tau=0.4, augmented=True, scale=(study.latent_scale,)
    )
    examples = {pattern: _pictures(study, pattern, 0) for pattern in PATTERNS}
    named = [("no seam", examples["half"][1], False)]
    named += [(label_of(pattern), mixed, True) for pattern, (mixed, _, _) in examples.items()]
    return {
        "version": tessera.__version__,
        "title": "What noise hides",
        "lead": "CutMix pictures are shown above a noise level tau only, where noise is to hide that they are"
        " composites while their contents still matter. How much of either does noise leave?",
        "arms": [],
        "many": False,
        "strip": [],
        "strip_about": "",
        "scores": {
            "about": "Share of right answers of an ideal observer, who knows the two pictures that it may be: the"
            " CutMix picture or the same objects on one background; the two objects' colors as they are or exchanged."
            " Ranges are 95% intervals over pictures.",
            "tiles": [],
            "plot": plots,
            "tables": tables,
            "note": "",
            "protocol": "",
        },
        "samples": [],
        "samples_about": "",
        "loss": None,
        "loss_about": "",
        "examples": [],
        "plain": [],
        "noise": {
            "about": f"What the network sees at noise level t on the schedule {study.schedules[0]!r}, decoded to"
            " pixels; the faded ones lie below the paper's tau = 0.4.",
            **noise_strip(named, settings),
        },
        "times": [],
        "times_note": "",
        "rejects": [],
        "rejects_note": "",
        "configs": [("noise", json.dumps(found["config"], indent=2, sort_keys=True))],
        "shot_columns": 2,
        "arm_rem": 6.5,
        "card_rem": 40,
        "sections": [("scores", "Scores"), ("noise", "Noise levels"), ("configuration", "Configuration")],
    }
