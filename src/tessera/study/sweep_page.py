"""The page of a sweep: the trade-off of its settings as a plot, their scores as a table, and the same prompts drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tessera.evaluate.scores import FILE, Scores, read_scores
from tessera.report.arms import ScoresPart, describe_arms
from tessera.report.gallery import prompt_groups
from tessera.report.grid import Grid, Line, value_cell
from tessera.report.plots import Curve, curve_plot, tradeoff_plot
from tessera.report.render import json_text
from tessera.report.run_page import Page
from tessera.report.tables import Cell as Shown
from tessera.report.tables import is_lower_better, label, name_of
from tessera.report.text_tables import aligned
from tessera.study.sweep import Cell, Settings
from tessera.study.trial import JUDGE

_DRAWN = 6  # settings whose images are shown
_PROMPTS, _MORE = 3, 6  # prompts of each task shown at once, and folded away


def sweep_page(export: str, cells: Sequence[Cell], results: Mapping[str, Any]) -> Page:
    """Return the page of the cells, best first. export: its name; results: what results.json holds."""
    best, names = cells[0], numbers_of(cells, results["chosen_by"])
    sizes = {name: max(_shown(cell, name).size for cell in cells) for name in names}
    rows = [
        Line(
            label=said(cell.settings),
            note=f"{cell.settings.calls:,} evaluations an image",
            strong=cell is best,
            cells=[value_cell(_shown(cell, name), sizes[name]) for name in names],
        )
        for cell in cells
    ]
    chosen_by, images = results["chosen_by"], results["images"]
    about = f"{images:,} images each, of the same prompts from the same noise; the best {name_of(chosen_by)} first"
    columns = [Line(label=label(name)) for name in names]
    lower = [name for name in names if is_lower_better(name)]
    return Page(
        title=f"Guidance of {export}",
        lead=f"The default of this model is now {said(best.settings)}: the best {name_of(chosen_by)} of"
        f" {len(cells)} settings.",
        scores=ScoresPart(
            about="Scores with 95% confidence intervals over prompts, where a number has one. Settings whose intervals"
            " overlap widely are hardly told apart by so few images; distances of few images are larger than those"
            " of many, and compare within this page alone.",
            plot=_plot(cells, names, lower),
            tables=[Grid(title="Settings", about=about, head="settings", columns=columns, rows=rows)],
            protocol=json_text(results["protocols"]),
        ),
        samples=_samples(cells),
        samples_about="The same prompts from the same noise, nothing was selected; guidance rises from left to right.",
        configs=[("results", json_text({**results, "protocols": "see above"}))],
        configs_about="All settings with their scores.",
    )


def numbers_of(cells: Sequence[Cell], chosen_by: str) -> list[str]:
    """Return the numbers that all cells have: `chosen_by`, the first one of the other direction, the others."""
    others = sorted(cells[0].scores, key=lambda name: (name != "overall", name))
    against = [name for name in others if is_lower_better(name) != is_lower_better(chosen_by)][:1]
    return list(dict.fromkeys([chosen_by, *against, *others]))


def said(settings: Settings) -> str:
    """Return settings in words."""
    low, high = settings.guidance_interval
    where = "" if (low, high) == (0, 1) else f" for t from {low:g} to {high:g}"
    return f"guidance {settings.guidance_scale:g}{where}, {settings.steps} step{'s' * (settings.steps != 1)}"


def text_table(cells: Sequence[Cell], chosen_by: str) -> str:
    """Return the scores as markdown that reads well in a terminal too."""
    names = numbers_of(cells, chosen_by)
    rows = []
    for cell in cells:
        texts = [(shown.text(), shown.interval()) for shown in (_shown(cell, name) for name in names)]
        rows.append([said(cell.settings), *(f"{value} ({ends})" if ends else value for value, ends in texts)])
    return "\n".join(aligned(["settings", *map(name_of, names)], rows)) + "\n"


def _shown(cell: Cell, name: str) -> Shown:
    score = cell.scores[name]
    value = score["value"]
    assert value is not None
    return Shown(value, score.get("low"), score.get("high"))


def _series(cells: Sequence[Cell]) -> list[tuple[str, list[Cell]]]:
    """Return the cells by steps and interval, by rising guidance; no guidance belongs to all intervals."""
    found: dict[tuple[int, tuple[float, float]], list[Cell]] = {}
    for cell in cells:
        if cell.settings.guidance_scale != 1:
            found.setdefault((cell.settings.steps, cell.settings.guidance_interval), []).append(cell)
    for cell in cells:
        if cell.settings.guidance_scale == 1:
            alike = [members for (steps, _), members in found.items() if steps == cell.settings.steps]
            for members in alike or [found.setdefault((cell.settings.steps, cell.settings.guidance_interval), [])]:
                members.append(cell)
    return [
        (f"t from {low:g} to {high:g}, {steps} steps", sorted(members, key=lambda cell: cell.settings.guidance_scale))
        for (steps, (low, high)), members in sorted(found.items())
    ]


def _plot(cells: Sequence[Cell], names: Sequence[str], lower: Sequence[str]) -> Markup:
    """Return the first distance against the first score of which more is better; without one of them, the first number
    over the guidance scale."""
    higher = [name for name in names if name not in lower]
    series = _series(cells)
    if not lower or not higher:
        curves = [
            Curve(arm=title, color=n, x=_scales(members), y=_values(members, names[0]))
            for n, (title, members) in enumerate(series)
        ]
        return curve_plot(curves, name_of(names[0]), f"{name_of(names[0])} over guidance", "guidance scale")
    x, y = lower[0], higher[0]
    curves = [
        Curve(arm=title, color=n, x=_values(members, x), y=_values(members, y))
        for n, (title, members) in enumerate(series)
    ]
    texts = [[f"{scale:g}" for scale in _scales(members)] for _, members in series]
    alt = f"{name_of(y)} against {name_of(x)}, a point for each guidance scale"
    return tradeoff_plot(curves, texts, (label(x), label(y)), alt)


def _scales(cells: Sequence[Cell]) -> tuple[float, ...]:
    return tuple(cell.settings.guidance_scale for cell in cells)


def _values(cells: Sequence[Cell], name: str) -> tuple[float, ...]:
    return tuple(_shown(cell, name).value for cell in cells)


def _samples(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the images of the best settings' interval and steps, by rising guidance."""
    best = cells[0].settings
    alike = next(members for _, members in _series(cells) if any(cell.settings == best for cell in members))
    shown = [cell for cell in alike if (cell.folder / "samples").is_dir()][:_DRAWN]
    arms = describe_arms([said(cell.settings) for cell in shown])
    folders = {arm.name: cell.folder / "samples" for arm, cell in zip(arms, shown)}
    scores = {arm.name: _judged(cell.folder, arm.label) for arm, cell in zip(arms, shown)}
    found = {name: each for name, each in scores.items() if each is not None}
    groups = prompt_groups(folders, arms, found, _PROMPTS, _MORE) if folders else []
    return [{"title": "Images", "folded": False, "groups": groups}] if groups else []


def _judged(folder: Path, name: str) -> Scores | None:
    path = folder / "scores" / JUDGE
    return replace(read_scores(path), name=name) if (path / FILE).is_file() else None
