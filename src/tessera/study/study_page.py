"""The page of a study: its question, scores with intervals and differences, plots, images, losses, speed, plan.

It is the report's page (`tessera.report.run_page`) of variants; it loads nothing from anywhere.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tessera.progress import duration_text
from tessera.report.arms import KINDS, Arm, ScoresPart, arm_scores, describe_arms, loss_plot, time_bars
from tessera.report.differences import STAR
from tessera.report.gallery import prompt_groups
from tessera.report.grid import by_measure, judge_note, table_plot, tiles
from tessera.report.plots import ARM_COLORS, Curve, Series, curve_plot, value_plot
from tessera.report.run_page import Page
from tessera.report.tables import MEANINGS, Cell, Table, cell_of, name_of
from tessera.study.design import Cell as StudyCell
from tessera.study.design import Study
from tessera.study.results import speeds
from tessera.study.study_text import study_table

PROMPTS, MORE = 2, 6
"""Prompts of each task whose images are shown at once, and folded away."""
PANELS = 6
"""Measures that are plotted over what is varied, if that is done on several lines."""
MANY = ARM_COLORS
"""More arms than this would share colors in the plot of all scores, which is then left to the tables."""
_TILES = ("color_score", "overall", "single_object")


def write_page(study: Study, out: Path, found: Mapping[str, Any]) -> None:
    """Write `out`/STUDY/report/index.html of the results `found` (of `tessera.study.results.results`)."""
    study_page(study, out, found).write(out / study.name / "report" / "index.html")


def study_page(study: Study, out: Path, found: Mapping[str, Any]) -> Page:
    """Return the page of the results `found`, with images, losses and times of the cells below `out`."""
    arms = describe_arms([variant.name for variant in study.variants])
    done, total = len(found["cells"]), len(found["cells"]) + len(found["missing"])
    left = f" So far {done} of {total} cells are done." if done < total else ""
    places = [_place(out, study, variant) / "runs" / variant.arm.name for variant in study.variants]
    return Page(
        title=study.title,
        lead=f"{study.question}{left}",
        arms=arms,
        scores=_scores(study, found, {arm.name: arm for arm in arms}),
        samples=_samples(study, out, arms),
        samples_about=f"Seed {study.seeds[0]}: all arms draw the same prompts from the same noise; the first prompts of"
        " each task, nothing was selected.",
        loss=loss_plot(
            [(arm, place / "log.jsonl") for arm, place in zip(arms, places)], f"Training loss, seed {study.seeds[0]}"
        ),
        loss_about="Mean loss since the last point, a line for each cell. Arms with CutMix images, or another"
        " prediction or noise schedule, learn from different data: the heights of their curves do not compare.",
        times=time_bars(
            {
                name: (
                    item["train_seconds"],
                    f"{duration_text(item['train_seconds'])}, {item['images_per_second']:.0f} images/s,"
                    f" {item['data_wait']:.0%} waiting for data",
                )
                for name, item in speeds(study, out).items()
            }
        ),
        times_note="Training of each cell; cells ran at the same time as each other and as whatever else the machine"
        " did.",
        configs=[("plan", json.dumps(found["plan"], indent=2, sort_keys=True, ensure_ascii=False))],
        configs_about="What was fixed before the runs.",
    )


def _scores(study: Study, found: Mapping[str, Any], shown: Mapping[str, Arm]) -> ScoresPart | None:
    if not found["tables"]:
        return None
    metrics = tuple(dict.fromkeys((*study.scores, *MEANINGS)))
    tables, colors, grids = {}, {}, []
    for kind, data in found["tables"].items():
        title = KINDS[kind]
        table, pairs = study_table(title, data, metrics, {name: arm.label for name, arm in shown.items()})
        tables[title], colors[title] = table, [shown[name].color for name in data["arms"]]
        grids.append(by_measure(table, (), colors[title], data["judge"], _about(data, shown)))
        if pairs:
            differences = Table(f"{title}: differences", metrics, ())
            grids.append(by_measure(differences, pairs, (), data["judge"], "paired by prompt and seed"))
    first, data = next(iter(tables.items())), next(iter(found["tables"].values()))
    over = _over_values(study, data)
    plot = Markup("")
    if not over or len(data["arms"]) <= MANY:
        plot = table_plot(tables, colors, study.title)
    starred = any("*" in cell["value"] for grid in grids for row in grid.rows for cell in row.cells)
    return ScoresPart(
        about="Share of images that show what their prompt asks, as an automatic judge sees it, with 95% confidence"
        " intervals over prompts and training seeds. Two seeds say little about seeds: each seed's own value is in"
        " results.json.",
        tiles=tiles(first[1], colors[first[0]], _TILES),
        plot=_likeness(study, found) + over + plot,
        tables=grids,
        note=" ".join([STAR] * starred + [judge_note(data["judge"])]),
        protocol="\n\n".join(
            f"{KINDS[kind]}\n{json.dumps(table['protocol'], indent=2, sort_keys=True, ensure_ascii=False)}"
            for kind, table in found["tables"].items()
        ),
    )


def _about(data: Mapping[str, Any], shown: Mapping[str, Arm]) -> str:
    """Return how many images and seeds the numbers of a table are of."""
    protocol, seeds = data["protocol"], {name: len(arm["seeds"]) for name, arm in data["arms"].items()}
    counts = ", ".join(f"{shown[name].label} {number}" for name, number in seeds.items())
    of = counts if len(set(seeds.values())) > 1 else next(iter(seeds.values()))
    return f"{protocol['images']:,} images of {protocol['prompts']:,} prompts for each cell; seeds: {of}"


def _over_values(study: Study, table: Mapping[str, Any]) -> Markup:
    """Return the scores over what is varied, where that is a number: a line for each measure, or, if variants are on
    several lines, a panel for each measure."""
    there = [v for v in study.variants if v.value is not None and v.name in table["arms"]]
    lines = list(dict.fromkeys(variant.line for variant in there))
    if study.axis is None or len({variant.value for variant in there}) < 2:
        return Markup("")

    def series(name: str, color: int, measure: str, line: str) -> Series:
        of_line = [variant for variant in there if variant.line == line]
        cells = [(v.value, cell_of(table["arms"][v.name]["scores"][measure]) or Cell(0)) for v in of_line]
        kept = [(x, cell.bounds()) for x, cell in cells if x is not None and cell.low is not None]
        return Series(name=name, color=color, x=tuple(x for x, _ in kept), y=tuple(y for _, y in kept if y))

    if len(lines) == 1:
        panels = {"": [series(name_of(name), n, name, lines[0]) for n, name in enumerate(study.scores[:5])]}
    else:
        panels = {
            name_of(measure): [series(line, n, measure, line) for n, line in enumerate(lines)]
            for measure in study.scores[:PANELS]
        }
    measured = {title: [line for line in drawn if line.x] for title, drawn in panels.items()}
    return value_plot(
        {title: drawn for title, drawn in measured.items() if drawn}, study.axis, f"{study.title}: over {study.axis}"
    )


def _likeness(study: Study, found: Mapping[str, Any]) -> Markup:
    """Return the distance to held-out images over what is varied, a line for each line of variants."""
    arms = found.get("likeness", {}).get("arms", {})
    there = [variant for variant in study.variants if variant.name in arms and variant.value is not None]
    if not there:
        return Markup("")
    curves = []
    for number, line in enumerate(dict.fromkeys(variant.line for variant in there)):
        x, y = zip(*((v.value, arms[v.name]["value"]) for v in there if v.line == line))
        curves.append(Curve(arm=line, color=number, x=x, y=y))
    x = tuple(sorted({variant.value for variant in there if variant.value is not None}))
    floor = (found["likeness"]["floor"],) * len(x)
    curves.append(Curve(arm="held-out renders", color=len(curves), x=x, y=floor))
    about = f"{study.title}: distance to held-out images"
    return curve_plot(curves, "distance to held-out", about, study.axis or "value")


def _place(out: Path, study: Study, variant: Any) -> Path:
    """Return the folder of the cell of the first seed."""
    return out / "cells" / StudyCell(variant, study.seeds[0]).folder


def _samples(study: Study, out: Path, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return the images of the first seed, by kind of prompts."""
    shown = []
    for kind in study.kinds:
        folders, scores = {}, {}
        for variant, arm in zip(study.variants, arms):
            place = _place(out, study, variant)
            found = arm_scores(place / "scores" / variant.arm.name / kind, arm)
            if found is not None:
                folders[variant.name], scores[variant.name] = place / "samples" / variant.arm.name / kind, found
        groups = prompt_groups(folders, arms, scores, PROMPTS, MORE) if folders else []
        if groups:
            shown.append({"title": KINDS[kind], "folded": bool(shown), "groups": groups})
    return shown
