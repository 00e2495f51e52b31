"""The page of a study: its question, scores with intervals and differences, plots, images, losses, speed, plan.

It is the report's page (`tessera.report.run_page`) of variants; it loads nothing from anywhere. `text_tables` has its
first tables as markdown that reads well in a terminal too: a row for each arm and for each difference, a column for
each of the study's first measures.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tessera.progress import duration_text
from tessera.report.arms import KINDS, Arm, ScoresPart, arm_scores, describe_arms, loss_plot, time_bars
from tessera.report.differences import Pair
from tessera.report.gallery import prompt_groups
from tessera.report.grid import by_measure, notes, table_plot, tiles
from tessera.report.plots import ARM_COLORS, Curve, curve_plot, value_plot
from tessera.report.render import json_text
from tessera.report.run_page import Page
from tessera.report.tables import MEANINGS, Row, Table, cell_of, name_of
from tessera.report.text_tables import aligned, difference_text, value_text
from tessera.study.answer import answer
from tessera.study.design import Cell as StudyCell
from tessera.study.design import Study
from tessera.study.results import speeds

_PROMPTS, _MORE = 2, 6  # prompts of each task whose images are shown at once, and folded away
_PANELS = 6  # measures that are plotted over what is varied, if that is done on several lines
_TILES = ("color_score", "overall", "single_object")


def study_page(study: Study, out: Path, found: Mapping[str, Any]) -> Page:
    """Return the page of the results `found`, with images, losses and times of the cells below `out`."""
    arms = describe_arms([variant.name for variant in study.variants])
    judged = {name for table in found["tables"].values() for name in table["arms"]}
    # The folder of each variant's cell of the first seed.
    places = [out / "cells" / StudyCell(variant, study.seeds[0]).folder for variant in study.variants]
    logs = [place / "runs" / variant.arm.name / "log.jsonl" for place, variant in zip(places, study.variants)]
    times = {}
    for name, item in speeds(study, out).items():
        text = f"{duration_text(item['train_seconds'])}, {item['images_per_second']:.0f} images/s,"
        times[name] = (item["train_seconds"], f"{text} {item['data_wait']:.0%} waiting for data")
    return Page(
        title=study.title,
        lead=study.question,
        answer=answer(study, found, {arm.name: arm.label for arm in arms}),
        arms=[arm for arm in arms if arm.name in judged or not judged],
        scores=_scores(study, found, {arm.name: arm for arm in arms}),
        samples=_samples(study, places, arms),
        samples_about=f"Seed {study.seeds[0]}: all arms draw the same prompts from the same noise; the first prompts of"
        " each task, nothing was selected.",
        loss=loss_plot(zip(arms, logs), f"Training loss, seed {study.seeds[0]}"),
        loss_about="Mean loss since the last point, a line for each cell. Arms with CutMix images, or another"
        " prediction or noise schedule, learn from different data: the heights of their curves do not compare.",
        times=time_bars(times),
        times_note="Training of each cell; cells ran at the same time as each other and as whatever else the machine"
        " did.",
        configs=[("plan", json_text(found["plan"]))],
        configs_about="What was fixed before the runs.",
    )


def _scores(study: Study, found: Mapping[str, Any], shown: Mapping[str, Arm]) -> ScoresPart | None:
    if not found["tables"]:
        return None
    metrics = tuple(dict.fromkeys((*study.scores, *MEANINGS)))
    tables, grids, levels = [], [], []
    for kind, data in found["tables"].items():
        title, colors = KINDS[kind], [shown[name].color for name in data["arms"]]
        table, pairs = study_table(title, data, metrics, {name: arm.label for name, arm in shown.items()})
        tables.append((title, table, colors))
        protocol, seeds = data["protocol"], {name: len(arm["seeds"]) for name, arm in data["arms"].items()}
        counts = ", ".join(f"{shown[name].label} {number}" for name, number in seeds.items())
        of = counts if len(set(seeds.values())) > 1 else next(iter(seeds.values()))
        about = f"{protocol['images']:,} images of {protocol['prompts']:,} prompts for each cell; seeds: {of}"
        levels.append(data.get("chance", {}))
        grids.append(by_measure(table, (), colors, data["judge"], about, levels[-1]))
        if pairs:
            differences = Table(f"{title}: differences", metrics, ())
            grids.append(by_measure(differences, pairs, (), data["judge"], "paired by prompt and seed"))
    data = next(iter(found["tables"].values()))
    plot, over = Markup(""), _over_values(study, data)
    if not over or len(data["arms"]) <= ARM_COLORS:  # more would share colors, and are left to the tables
        plot = table_plot(tables, study.title, levels)
    return ScoresPart(
        about="Share of images that show what their prompt asks, as an automatic judge sees it, with 95% confidence"
        " intervals over prompts and training seeds. Each seed's own value is in results.json.",
        tiles=tiles(tables[0][1], tables[0][2], _TILES, chance=levels[0]),
        plot=_likeness(study, found) + over + plot,
        tables=grids,
        note=notes(grids, data["judge"], any(levels)),
        protocol="\n\n".join(f"{KINDS[k]}\n{json_text(table['protocol'])}" for k, table in found["tables"].items()),
    )


def _over_values(study: Study, table: Mapping[str, Any]) -> Markup:
    """Return the scores over what is varied, where that is a number: a line for each measure, or, if variants are on
    several lines, a panel for each measure."""
    there = [v for v in study.variants if v.value is not None and v.name in table["arms"]]
    lines = list(dict.fromkeys(variant.line for variant in there))
    if study.axis is None or len({variant.value for variant in there}) < 2:
        return Markup("")
    panels: dict[str, list[Curve]] = {}
    drawn = study.scores[:5] if len(lines) == 1 else study.scores[:_PANELS]
    for (m, measure), (n, line) in itertools.product(enumerate(drawn), enumerate(lines)):
        cells = [(v.value, cell_of(table["arms"][v.name]["scores"][measure])) for v in there if v.line == line]
        points = [(x, cell.bounds()) for x, cell in cells if cell is not None and cell.low is not None]
        if points:
            x, y = zip(*points)
            title, name, color = ("", name_of(measure), m) if len(lines) == 1 else (name_of(measure), line, n)
            level = table.get("chance", {}).get(measure)
            panels.setdefault(title, []).append(Curve(arm=name, color=color, x=x, y=y, chance=level))
    return value_plot(panels, study.axis, f"{study.title}: over {study.axis}") if panels else Markup("")


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
    y = (found["likeness"]["floor"],) * len(x)
    curves.append(Curve(arm="held-out renders", color=len(curves), x=x, y=y))
    about = f"{study.title}: distance to held-out images"
    return curve_plot(curves, "distance to held-out", about, study.axis or "value")


def _samples(study: Study, places: Sequence[Path], arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return the images of the cells in `places`, by kind of prompts."""
    shown = []
    for kind in study.kinds:
        folders, scores = {}, {}
        for place, variant, arm in zip(places, study.variants, arms):
            found = arm_scores(place / study.scored / variant.arm.name / kind, arm)
            if found is not None:
                folders[variant.name], scores[variant.name] = place / "samples" / variant.arm.name / kind, found
        groups = prompt_groups(folders, arms, scores, _PROMPTS, _MORE)
        if groups:
            shown.append({"title": KINDS[kind], "folded": bool(shown), "groups": groups})
    return shown


def study_table(
    title: str, found: Mapping[str, Any], metrics: Sequence[str], labels: Mapping[str, str]
) -> tuple[Table, list[Pair]]:
    """Return one kind's part of results.json as a table of `metrics`, and its differences. labels: arm -> its name."""

    def cells(scores: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(cell_of(scores.get(metric)) for metric in metrics)

    rows = tuple(Row(labels[name], cells(arm["scores"])) for name, arm in found["arms"].items())
    pairs = [
        Pair(" \u2212 ".join(labels[name] for name in names.split(" - ")), cells(pair["scores"]))
        for names, pair in found["differences"].items()
    ]
    return Table(title, tuple(metrics), rows), pairs


def text_tables(study: Study, found: Mapping[str, Any]) -> str:
    """Return markdown of the results `found` (of `tessera.study.results.results`), the answer to the question first.

    "0.91 (0.87 to 0.95)" is a value with its 95% interval; a star marks a difference whose interval leaves 0 out; each
    row has its number of seeds in brackets.
    """
    lines = [f"# {study.title}", "", study.question, ""]
    told = answer(study, found, {variant.name: variant.name for variant in study.variants})
    lines += [*(f"- {sentence}".replace("\u2212", "-") for sentence in told), ""]
    for kind, data in found["tables"].items():
        metrics = [metric for metric in study.scores if any(arm["scores"][metric] for arm in data["arms"].values())]
        table, pairs = study_table(KINDS[kind], data, metrics, {name: name for name in data["arms"]})
        rows = [
            [f"{row.model} ({len(arm['seeds'])})", *(value_text(cell, 1.0) for cell in row.cells)]
            for row, arm in zip(table.rows, data["arms"].values())
        ]
        rows += [
            [f"{name} ({len(data['differences'][name]['seeds'])})"]
            + [difference_text(cell, 1.0).replace("\u2212", "-") for cell in pair.cells]
            for name, pair in zip(data["differences"], pairs)
        ]
        if levels := data.get("chance"):
            shown_levels = [f"{levels[metric]:.2f}" if metric in levels else "-" for metric in metrics]
            rows.insert(len(table.rows), ["chance", *shown_levels])
        protocol = data["protocol"]
        lines += [f"## {table.title}", ""]
        lines += [f"{protocol['images']:,} images of {protocol['prompts']:,} prompts for each cell.", ""]
        lines += [*aligned(["arm (seeds)", *map(name_of, metrics)], rows), ""]
    if "likeness" in found and found["likeness"]["arms"]:
        likeness = found["likeness"]
        rows = [[f"{name} ({len(arm['seeds'])})", f"{arm['value']:.3f}"] for name, arm in likeness["arms"].items()]
        rows.append(["held-out renders", f"{likeness['floor']:.3f}"])
        lines += ["## Distance to held-out images", "", *aligned(["arm (seeds)", "distance"], rows), ""]
    return "\n".join(lines).rstrip() + "\n"
