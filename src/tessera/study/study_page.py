"""The page of a study: its question, scores with intervals and differences, plots, pictures, losses, speed, plan.

It is the report's page (`tessera.report.run_page`) with variants in the place of arms; it loads nothing from anywhere.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

import tessera
from tessera.files import atomic_path
from tessera.progress import duration_text
from tessera.report.comparison import (
    LOWER_IS_BETTER,
    ROWS,
    bounds_of,
    difference_cell,
    judge_note,
    judge_text,
    load_arm,
    range_text,
    value_cell,
)
from tessera.report.gallery import Arm, prompt_groups
from tessera.report.plots import ARM_COLORS, Curve, Dots, Series, curve_plot, score_plot, value_plot
from tessera.report.run_page import KINDS, describe_arms, log_points, render_page
from tessera.study.design import Cell, Study
from tessera.study.results import speeds

PROMPTS, MORE = 2, 6
"""Prompts of each task whose pictures are shown at once, and folded away."""
PANELS = 6
"""Measures that are plotted over what is varied, if that is done on several lines."""
MANY = ARM_COLORS
"""More arms than this would share colours in the plot of all scores, which is then left to the tables."""
_TILES = ("color_score", "overall", "single_object")


def write_page(study: Study, out: Path, found: Mapping[str, Any]) -> None:
    """Writes `out`/STUDY/report/index.html of the results `found` (of `tessera.study.results.results`)."""
    page = _page(study, out, found)
    with atomic_path(out / study.name / "report" / "index.html") as temporary:
        temporary.write_text(render_page(page), encoding="utf-8", newline="\n")


def _page(study: Study, out: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    arms = describe_arms([variant.name for variant in study.variants])
    shown = {arm.name: arm for arm in arms}
    samples = _samples(study, out, arms)
    loss = _loss(study, out, arms)
    times = _times(study, out)
    done, total = len(found["cells"]), len(found["cells"]) + len(found["missing"])
    left = f" So far {done} of {total} cells are done." if done < total else ""
    page: dict[str, Any] = {
        "version": tessera.__version__,
        "title": study.title,
        "lead": f"{study.question}{left}",
        "arms": [arm for arm in arms if arm.meaning],
        "scores": _scores(study, found, shown),
        "many": True,
        "strip": [],
        "strip_about": "",
        "samples": samples,
        "samples_about": f"Seed {study.seeds[0]}: all arms draw the same prompts from the same noise; the first"
        " prompts of each task, nothing was selected.",
        "loss": loss,
        "loss_about": "Mean loss since the last point, one line for each cell. Arms with CutMix pictures, or another"
        " prediction or noise schedule, learn from other data: their heights do not compare.",
        "examples": [],
        "plain": [],
        "noise": None,
        "times": times,
        "times_note": "Training of each cell; cells ran beside each other and beside whatever else the machine did.",
        "rejects": [],
        "rejects_note": "",
        "configs": [
            ("what was fixed before the runs", json.dumps(found["plan"], indent=2, sort_keys=True, ensure_ascii=False))
        ],
        "shot_columns": 2,
        "arm_rem": 6.5,
        "card_rem": 40,
    }
    parts = ("scores", "Scores"), ("samples", "Pictures"), ("loss", "Training"), ("times", "Work"), ("configs", "Plan")
    anchors = {"samples": "pictures", "loss": "training", "times": "work", "configs": "configuration"}
    page["sections"] = [(anchors.get(name, name), title) for name, title in parts if page[name]]
    return page


def _scores(study: Study, found: Mapping[str, Any], shown: Mapping[str, Arm]) -> dict[str, Any] | None:
    tables = found["tables"]
    if not tables:
        return None
    first = next(iter(tables.values()))
    rows = [*study.scores, *[name for name in ROWS if name not in study.scores]]
    plotted = [name for name in rows if name not in LOWER_IS_BETTER]
    panels = []
    for kind, table in tables.items():
        dots = [
            Dots(
                arm=shown[name].label,
                color=shown[name].color,
                values=tuple(bounds_of(arm["scores"][measure]) for measure in plotted),
            )
            for name, arm in table["arms"].items()
        ]
        panels.append((KINDS[kind], dots))
    over = _over_values(study, first)
    plot = Markup("")
    if not over or len(first["arms"]) <= MANY:
        plot = score_plot([ROWS[name][0] for name in plotted], panels, f"{study.title}: scores with 95% intervals")
    return {
        "about": "Share of pictures that show what their prompt asks, as an automatic judge sees it. The ranges are 95%"
        " intervals over prompts and training seeds; two seeds say little about seeds, so each seed's own value stands"
        " in results.json.",
        "tiles": _tiles(first, shown),
        "plot": _likeness(study, found) + over + plot,
        "tables": [part for kind, table in tables.items() for part in _tables(KINDS[kind], table, shown, rows)],
        "note": judge_note(first["judge"]),
        "protocol": "\n\n".join(
            f"{KINDS[kind]}\n{json.dumps(table['protocol'], indent=2, sort_keys=True, ensure_ascii=False)}"
            for kind, table in tables.items()
        ),
    }


def _tiles(table: Mapping[str, Any], shown: Mapping[str, Arm]) -> list[dict[str, Any]]:
    tiles = []
    for measure in _TILES:
        cells = []
        for name, arm in table["arms"].items():
            bounds = bounds_of(arm["scores"][measure])
            if bounds is not None:
                value = {"value": f"{bounds[1]:.2f}", "interval": range_text(bounds)}
                cells.append({"label": shown[name].label, "color": shown[name].color, **value})
        tiles.append({"label": ROWS[measure][0], "about": ROWS[measure][1], "cells": cells})
    return tiles


def _over_values(study: Study, table: Mapping[str, Any]) -> Markup:
    """The scores over what is varied, where that is a number: one line a measure, or of several lines of variants a
    panel a measure."""
    there = [v for v in study.variants if v.value is not None and v.name in table["arms"]]
    lines = list(dict.fromkeys(variant.line for variant in there))
    if study.axis is None or len({variant.value for variant in there}) < 2:
        return Markup("")

    def series(name: str, color: int, measure: str, line: str) -> Series:
        points = [
            (variant.value, bounds_of(table["arms"][variant.name]["scores"][measure]))
            for variant in there
            if variant.line == line
        ]
        kept = [(x, y) for x, y in points if x is not None and y is not None]
        return Series(name=name, color=color, x=tuple(x for x, _ in kept), y=tuple(y for _, y in kept))

    if len(lines) == 1:
        panels = {"": [series(ROWS[name][0], n, name, lines[0]) for n, name in enumerate(study.scores[:5])]}
    else:
        panels = {
            ROWS[measure][0]: [series(line, n, measure, line) for n, line in enumerate(lines)]
            for measure in study.scores[:PANELS]
        }
    measured = {title: [line for line in drawn if line.x] for title, drawn in panels.items()}
    return value_plot(
        {title: drawn for title, drawn in measured.items() if drawn}, study.axis, f"{study.title}: over {study.axis}"
    )


def _likeness(study: Study, found: Mapping[str, Any]) -> Markup:
    """The distance to held-out pictures over what is varied, one line for each line of variants."""
    arms = found.get("likeness", {}).get("arms", {})
    there = [variant for variant in study.variants if variant.name in arms and variant.value is not None]
    if not there:
        return Markup("")
    curves = []
    for number, line in enumerate(dict.fromkeys(variant.line for variant in there)):
        x, y = zip(*((v.value, arms[v.name]["value"]) for v in there if v.line == line))
        curves.append(Curve(arm=line, color=number, x=x, y=y))
    floor = found["likeness"]["floor"]
    x = tuple(sorted({variant.value for variant in there if variant.value is not None}))
    curves.append(Curve(arm="held-out renders", color=len(curves), x=x, y=(floor,) * len(x)))
    about = f"{study.title}: distance to held-out pictures"
    return curve_plot(curves, "distance to held-out", about, study.axis or "value")


def _tables(
    title: str, table: Mapping[str, Any], shown: Mapping[str, Arm], rows: Sequence[str]
) -> list[dict[str, Any]]:
    """The scores of the arms, and the differences between them."""
    protocol, judge = table["protocol"], table["judge"]
    note = f"{protocol['images']:,} pictures of {protocol['prompts']:,} prompts for each cell"

    def part(
        name: str, about: str, heads: Mapping[str, Any], bodies: Sequence[Sequence[dict[str, str]]]
    ) -> dict[str, Any]:
        made = [
            {
                "label": ROWS[measure][0],
                "title": ROWS[measure][1],
                "strong": measure in rows[:1],
                "cells": cells,
                "judge": judge_text(judge, measure),
            }
            for measure, cells in zip(rows, bodies)
            if any(cell["value"] != "\u2013" for cell in cells)
        ]
        return {"title": name, "note": about, "unpaired": "", "rows": made, **heads}

    arms = [{"label": shown[name].label, "color": shown[name].color} for name in table["arms"]]
    values = [[value_cell(bounds_of(arm["scores"][m])) for arm in table["arms"].values()] for m in rows]
    seeds = {name: len(arm["seeds"]) for name, arm in table["arms"].items()}
    counts = ", ".join(f"{shown[name].label} {number}" for name, number in seeds.items())
    about = f"{note}; seeds: {counts if len(set(seeds.values())) > 1 else next(iter(seeds.values()))}"
    parts = [part(title, about, {"arms": arms, "differences": []}, values)]
    if table["differences"]:
        names = [" \u2212 ".join(shown[name].label for name in pair.split(" - ")) for pair in table["differences"]]
        cells = [
            [difference_cell(bounds_of(found["scores"][m]), m) for found in table["differences"].values()] for m in rows
        ]
        parts.append(
            part(f"{title}: differences", "paired by prompt and seed", {"arms": [], "differences": names}, cells)
        )
    return parts


def _place(out: Path, cell: Cell) -> Path:
    return out / "cells" / cell.folder


def _samples(study: Study, out: Path, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """The pictures of the first seed, by kind of prompts."""
    shown = []
    by_name = {arm.name: arm for arm in arms}
    for kind in study.kinds:
        folders, scores = {}, {}
        for variant in study.variants:
            place, name = _place(out, Cell(variant, study.seeds[0])), variant.arm.name
            found = load_arm(place / "scores" / name / kind, by_name[variant.name].label, by_name[variant.name].color)
            if found is not None:
                folders[variant.name], scores[variant.name] = place / "samples" / name / kind, found
        groups = prompt_groups(folders, arms, scores, PROMPTS, MORE) if folders else []
        if groups:
            shown.append({"title": KINDS[kind], "folded": bool(shown), "groups": groups})
    return shown


def _loss(study: Study, out: Path, arms: Sequence[Arm]) -> Markup | None:
    curves = []
    for variant, arm in zip(study.variants, arms):
        points = log_points(_place(out, Cell(variant, study.seeds[0])) / "runs" / variant.arm.name / "log.jsonl")
        if points:
            x, y = zip(*points)
            curves.append(Curve(arm=arm.label, color=arm.color, x=x, y=y))
    return curve_plot(curves, "loss", f"Training loss, seed {study.seeds[0]}") if curves else None


def _times(study: Study, out: Path) -> list[dict[str, Any]]:
    found = speeds(study, out)
    longest = max((item["train_seconds"] for item in found.values()), default=0) or 1
    return [
        {
            "stage": name,
            "shown": f"{duration_text(item['train_seconds'])}, {item['images_per_second']:.0f} images/s,"
            f" {item['data_wait']:.0%} waiting for data",
            "share": round(100 * item["train_seconds"] / longest, 1),
        }
        for name, item in found.items()
    ]
