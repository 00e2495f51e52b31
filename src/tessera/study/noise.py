"""The study of Figure 7, without training: what noise hides of a CutMix image at each t, and what it leaves.

Two questions are put to an ideal observer, who knows both images that it may be and sees one of them noised:

- artifact: the CutMix image, or the same two objects on one background, without a seam and without cuts?
- content: the two objects with their own colors, or with each other's?

For two known signals a, b in white noise (Eq. 1) it is right with probability Phi(|a - b| sqrt(alpha_bar) /
(2 sqrt(1 - alpha_bar))): 0.5 is guessing. So the numbers are exact, and no network or judge comes in. A good gate tau
lies where the artifact is hidden and the content is not yet.
"""

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from tessera.config import UserError, check_ranges, to_dict
from tessera.cutmix import PATTERNS, HalfView, compose, draw_placement, label_of
from tessera.files import write_json
from tessera.metrics import bootstrap
from tessera.miniature import WorldConfig, draw_scene, mix_scene, render
from tessera.randomness import philox
from tessera.report.arms import ScoresPart
from tessera.report.examples import NoiseSettings, noise_strip
from tessera.report.grid import Grid, Line, value_cell
from tessera.report.plots import Curve, value_plot
from tessera.report.render import json_text
from tessera.report.run_page import Page
from tessera.report.tables import cell_of

QUESTIONS = {"artifact": "the CutMix artifact", "content": "which object has which color"}
_ENCODED = 256  # images encoded at once


@dataclass(frozen=True, kw_only=True)
class NoiseStudy:
    """Settings of the study."""

    world: WorldConfig
    name: str = "noise"
    latents: str = "pixel-unshuffle:4"
    """The codec; a folder or Hub id of a VAE is one too."""
    latent_scale: float = 0.2
    """As in training; a smaller one drowns images earlier."""
    schedules: tuple[str, ...] = ("cosine", "linear")
    times: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Within (0, 1)."""
    pairs: int = 300
    """CutMix images of each pattern, at least 2."""
    half_view: HalfView = "centre"
    seed: int = 21

    def __post_init__(self):
        check_ranges(self, pairs="[2, inf)", times="(0, 1)")
        if len(self.world.shapes) < 2 or len(self.world.colors) < 2:
            raise UserError("world needs at least two shapes and two colors")


def run_noise(study: NoiseStudy, out: Path) -> Path:
    """Write `out`/noise/results.json and report/index.html, in seconds and so always anew; return the page's path."""
    found = measure(study)
    folder = Path(out) / study.name
    write_json(folder / "results.json", found)
    page = folder / "report" / "index.html"
    _page(study, found).write(page)
    return page


def measure(study: NoiseStudy) -> dict[str, Any]:
    """Return {config, tables: {schedule: {question: {pattern: [{t, alpha_bar, low, value, high}]}}}}."""
    import torch

    from tessera.diffusion.schedule import get_schedule

    apart = {pattern: _distances(study, pattern) for pattern in PATTERNS}
    times = torch.tensor(study.times, dtype=torch.float64)
    tables: dict[str, Any] = {}
    for schedule, question, pattern in itertools.product(study.schedules, QUESTIONS, PATTERNS):
        points = tables.setdefault(schedule, {}).setdefault(question, {}).setdefault(pattern, [])
        for t, level in zip(study.times, get_schedule(schedule)(times).tolist()):
            found = bootstrap([accuracy(distance, level) for distance in apart[pattern][question]])
            ends = {name: round(getattr(found, name), 4) for name in ("low", "value", "high")}
            points.append({"t": t, "alpha_bar": round(level, 6), **ends})
    return {"config": to_dict(study), "tables": tables}


def accuracy(distance: float, alpha_bar: float) -> float:
    """Return how often an ideal observer tells apart two signals at `distance`, noised to `alpha_bar` in [0, 1)."""
    return (1 + math.erf(distance * math.sqrt(alpha_bar / (1 - alpha_bar)) / (2 * math.sqrt(2)))) / 2


def _distances(study: NoiseStudy, pattern: str) -> dict[str, np.ndarray]:
    """Return how far the answers to each question lie apart in scaled latents, for each CutMix image of `pattern`."""
    from tessera.pretrained.vae import load_codec

    codec = load_codec(study.latents)
    latents = []
    for images in map(np.stack, zip(*(_images(study, pattern, number) for number in range(study.pairs)))):
        parts = [codec.encode(images[i : i + _ENCODED])[0] for i in range(0, len(images), _ENCODED)]
        latents.append(np.concatenate(parts).astype(np.float64).reshape(len(images), -1) * study.latent_scale)
    mixed, whole, swapped = latents
    return {"artifact": np.linalg.norm(mixed - whole, axis=1), "content": np.linalg.norm(whole - swapped, axis=1)}


def _images(study: NoiseStudy, pattern: str, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return CutMix image `number`, its objects on the base's background, and those with each other's colors."""
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
    whole, swapped = (render(replace(base, objects=things), world.size) for things in (objects, exchanged))
    return mixed, whole, swapped


def _page(study: NoiseStudy, found: dict[str, Any]) -> Page:
    plots, grids = Markup(""), []
    for schedule, questions in found["tables"].items():
        curves = []
        for question, pattern in itertools.product(QUESTIONS, ("half", "quarter", "sixteenth")):
            y = tuple((point["low"], point["value"], point["high"]) for point in questions[question][pattern])
            curves.append(Curve(arm=f"{label_of(pattern)}: {question}", color=len(curves), x=study.times, y=y))
        plots += value_plot({"": curves}, f"t on the {schedule} schedule", f"Ideal observer, {schedule} schedule")
        for question, what in QUESTIONS.items():
            rows = [
                Line(label=label_of(pattern), cells=[value_cell(cell_of(point)) for point in points])
                for pattern, points in questions[question].items()
            ]
            about = f"how often an ideal observer is right, {study.pairs:,} images each; 0.5 is guessing"
            columns = [Line(label=f"t = {t:g}") for t in study.times]
            title = f"Schedule {schedule}: {what}"
            grids.append(Grid(title=title, about=about, head="pattern", columns=columns, rows=rows))
    schedule, scale = study.schedules[0], (study.latent_scale,)
    settings = NoiseSettings(schedule=schedule, codec=study.latents, tau=0.4, augmented=True, scale=scale)
    examples = {pattern: _images(study, pattern, 0) for pattern in PATTERNS}
    named = [("no seam", examples["half"][1], False)]
    named += [(label_of(pattern), mixed, True) for pattern, (mixed, _, _) in examples.items()]
    return Page(
        title="What noise hides",
        lead="CutMix images are shown only above a noise level tau, where noise should hide that they are composites"
        " while their contents still matter. How much of either does noise leave?",
        scores=ScoresPart(
            about="Share of right answers of an ideal observer, who knows the two images that it may be: the CutMix"
            " image or the same objects on one background; the two objects' colors as they are or exchanged. With 95%"
            " confidence intervals over images.",
            plot=plots,
            tables=grids,
        ),
        noise=noise_strip(named, settings)
        | {
            "about": f"What the network sees at noise level t on the schedule {schedule!r}, decoded to pixels; the"
            " faded ones are below the paper's tau = 0.4."
        },
        configs=[("noise", json_text(found["config"]))],
        configs_about="The settings of this study.",
    )
