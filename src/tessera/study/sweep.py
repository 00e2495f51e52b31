"""sweep: one export drawn at several guidance scales, intervals of t and steps; the best become its defaults.

    OUT/cells/w2.0-t0.0-1.0-n25/   samples, scores and values.json of some settings (`tessera.study.trial`)
    OUT/results.json, table.md, report/index.html

Settings that are there are neither drawn nor scored again, so a sweep can be stopped, repeated and widened. The export
is changed at the end, at once: `tessera.weights.export.set_sampling`.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.config import UserError, check_ranges, compare, nearest, to_dict
from tessera.devices import pick_device, set_threads, world_size
from tessera.files import atomic_path, exclusive_lock, read_json, sha256_file, write_json
from tessera.report.tables import is_lower_better
from tessera.stages import find_stage, made_otherwise, open_stage, reopen
from tessera.study.trial import VALUES, Trial, TrialConfig

BUSY = "another sweep is working in this folder"
EVERYWHERE = (0.0, 1.0)
SAMPLING = ("guidance_scale", "guidance_interval", "sampling_steps", "sweep")
"""Fields of an export that a sweep chooses: everything else has to stay as it is."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The settings to draw by, every combination of them."""

    trial: TrialConfig
    guidance_scales: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    """w of uncond + w (cond - uncond), finite; 1 = off."""
    guidance_intervals: tuple[tuple[float, float], ...] = (EVERYWHERE,)
    """(low, high) in t, 0 = clean, 1 = noise, between which guidance acts."""
    steps: tuple[int, ...] = ()
    """Numbers of sampling steps, at least 1; none = the export's own."""

    def __post_init__(self):
        check_ranges(self, guidance_scales="(-inf, inf)", steps="[1, inf)")
        for name in ("guidance_scales", "guidance_intervals"):
            if not getattr(self, name):
                raise UserError(f"{name} is empty; give at least one")
        for low, high in self.guidance_intervals:
            if not 0 <= low <= high <= 1:
                raise UserError(f"guidance_intervals has ({low}, {high}); give low and high in [0, 1], low <= high")


@dataclass(frozen=True, order=True)
class Settings:
    """Sampling settings of a cell."""

    guidance_scale: float
    guidance_interval: tuple[float, float]
    steps: int

    @property
    def name(self) -> str:
        """The cell's folder."""
        low, high = self.guidance_interval
        return f"w{self.guidance_scale!r}-t{low!r}-{high!r}-n{self.steps}"

    @property
    def calls(self) -> int:
        """Evaluations of the network for an image: two where guidance acts."""
        from tessera.diffusion.guidance import acts_at

        guided = sum(acts_at(1 - k / self.steps, *self.guidance_interval) for k in range(self.steps))
        return self.steps + (guided if self.guidance_scale != 1 else 0)


@dataclass(frozen=True)
class Cell:
    """Settings with the scores of what they drew."""

    settings: Settings
    scores: Mapping[str, Mapping[str, float | None]]
    """Number -> {value, low, high}; ends may be missing."""
    folder: Path


def settings_of(config: SweepConfig, own_steps: int) -> list[Settings]:
    """Return the combinations, each once: without guidance its interval plays no part."""
    found = [
        Settings(float(scale), EVERYWHERE if scale == 1 else (float(interval[0]), float(interval[1])), steps)
        for steps in config.steps or (own_steps,)
        for interval in config.guidance_intervals
        for scale in config.guidance_scales
    ]
    return list(dict.fromkeys(found))


def sweep(out: Path, export: Path, config: SweepConfig, choose: str | None = None) -> Path:
    """Draw and score `export` by all settings in the folder `out`, set the best ones in the export, return the page.

    choose: the number whose best value counts; None = the first metric's first one. Of equal values the one of fewer
    network evaluations. Settings of earlier calls in `out` count too. Raises UserError for a folder of another export,
    prompts or metrics, for an unknown number, and under torchrun.
    """
    from tessera.weights.export import WEIGHTS_FILE, SweepRow, SweepTable, read_settings, set_sampling

    out, export = Path(out), Path(export)
    if world_size() > 1:
        raise UserError("sweep: draws in one process; start it without torchrun")
    own = read_settings(export)
    trial, todo = Trial(config.trial), settings_of(config, own.sampling_steps)
    chosen_by = choose or trial.numbers[0]
    _check_choice(chosen_by, trial.numbers)
    rest = {name: value for name, value in to_dict(own).items() if name not in SAMPLING}
    described = {"weights_sha256": sha256_file(export / WEIGHTS_FILE), "export": rest, **trial.described}
    with exclusive_lock(out, BUSY):
        found = find_stage(out, stage="sweep", config=described)
        stage = reopen(out, described) if found and found.done else open_stage(out, stage="sweep", config=described)
        _draw(out, export, trial, todo)
        cells, protocols = read_cells(out)
        ordered = in_order(cells, chosen_by)
        results = {
            "chosen_by": chosen_by,
            "images": len(trial.lines),
            "prompts": described["prompts"],
            "protocols": protocols,
            "cells": [
                {**vars(cell.settings), "calls": cell.settings.calls, "scores": cell.scores, "folder": cell.folder.name}
                for cell in ordered
            ],
        }
        write_json(out / "results.json", results)
        from tessera.study.sweep_page import sweep_page, text_table

        with atomic_path(out / "table.md") as temporary:
            temporary.write_text(text_table(ordered, chosen_by), encoding="utf-8", newline="\n")
        page = out / "report" / "index.html"
        sweep_page(export.resolve().name, ordered, results).write(page)
        rows = tuple(
            SweepRow(
                guidance_scale=cell.settings.guidance_scale,
                guidance_interval=cell.settings.guidance_interval,
                sampling_steps=cell.settings.steps,
                scores={name: score["value"] for name, score in cell.scores.items() if score["value"] is not None},
            )
            for cell in ordered
        )
        about = {"images": len(trial.lines), "results_sha256": sha256_file(out / "results.json")}
        set_sampling(export, rows[0], SweepTable(chosen_by=chosen_by, rows=rows, **about))
        stage.finish({"settings": len(ordered), "images": len(trial.lines)}, facts={"chosen": to_dict(rows[0])})
    return page


def _draw(out: Path, export: Path, trial: Trial, todo: Sequence[Settings]) -> None:
    """Draw and score the settings that are not done."""
    missing = [settings for settings in todo if not (out / "cells" / settings.name / VALUES).is_file()]
    if not missing:
        return
    images, calls = trial.images_drawn, sum(settings.calls for settings in missing)
    told = f"{len(missing)} settings, {images:,} images each, {images * calls:,} evaluations of the network"
    print(f"sweep: {told}; {len(todo) - len(missing)} settings are done", file=sys.stderr)
    from tessera.generate.pipeline import Pipeline

    set_threads(trial.config.threads)
    pipeline = Pipeline.load(export, pick_device(trial.config.device))
    for settings in missing:
        trial.run(out / "cells" / settings.name, export, pipeline, **vars(settings))


def read_cells(out: Path) -> tuple[list[Cell], dict[str, Any]]:
    """Return all cells of a folder that are done, and the protocols of their numbers; UserError where those differ."""
    cells: list[Cell] = []
    protocols: dict[str, Any] = {}
    for path in sorted((out / "cells").glob(f"*/{VALUES}")):
        values = read_json(path)
        if pairs := compare(protocols or values["protocols"], values["protocols"]):
            raise made_otherwise(path.parent, pairs[:3])
        protocols = values["protocols"]
        drawn = values["settings"]
        drawn["guidance_interval"] = tuple(drawn["guidance_interval"])
        cells.append(Cell(Settings(**drawn), values["scores"], path.parent))
    return cells, protocols


def in_order(cells: Sequence[Cell], chosen_by: str) -> list[Cell]:
    """Return the cells from the best value of a number to the worst; of equal ones that of fewer evaluations first."""
    _check_choice(chosen_by, list(dict.fromkeys(name for cell in cells for name in cell.scores)))
    sign = 1 if is_lower_better(chosen_by) else -1

    def key(cell: Cell) -> tuple[float, int, Settings]:
        value = cell.scores[chosen_by]["value"]
        assert value is not None
        return sign * value, cell.settings.calls, cell.settings

    return sorted(cells, key=key)


def _check_choice(chosen_by: str, known: Sequence[str]) -> None:
    """Raise UserError unless the number is one of `known`."""
    if chosen_by not in known:
        near = nearest(chosen_by, known)
        raise UserError(f"choose: no number is called {chosen_by!r};{near} there are: {', '.join(known)}")
