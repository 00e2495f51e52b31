"""report SCORES...: one self-contained page of measured tables beside the paper's; markdown and CSV of the same."""

import itertools
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tessera
from tessera.config import UserError
from tessera.evaluate.quality.features import find_pictures
from tessera.evaluate.scores import FILE, Scores, read_scores
from tessera.files import atomic_path, sha256_file
from tessera.images import read_rgb
from tessera.report.differences import (
    Pair,
    about,
    is_better,
    is_clear,
    pairs_of,
    signed_interval,
    signed_text,
    sizes_of,
    with_minus,
)
from tessera.report.examples import embed
from tessera.report.plots import ARM_COLORS, Curve, Dots, curve_plot, score_plot
from tessera.report.tables import (
    DISTANCES,
    Table,
    ablation_tables,
    curve_points,
    label,
    measured_tables,
    printed_tables,
    shown,
)
from tessera.report.text_tables import about_intervals, as_csv, as_markdown
from tessera.stages import MANIFEST, open_stage, read_manifest

NOTHING = {"value": "\u2013", "interval": "", "kind": ""}
"""A cell of what is not there."""
PROMPTS = 24
"""Prompts of the drill-down, those first in which the models differ most."""


def is_scores(path: Path) -> bool:
    """Whether `report` takes `path` for scores: a file, or a directory with scores.json in it; not a workspace."""
    return path.is_file() or (path / FILE).is_file()


def results(out: Path, paths: Sequence[Path], samples: Sequence[Path] = (), force: bool = False) -> None:
    """Writes `out`/index.html, tables.md and tables.csv about scores; does nothing when they are there already.

    samples: the pictures of each of `paths` in the same order, for the drill-down; none = numbers only. force: unlike
    protocols in one table all the same. UserError: a damaged file, another number of samples than of scores, or other
    pictures than were judged, as far as the scores' manifest tells.
    """
    out, paths = Path(out), [Path(path) for path in paths]
    files = [path / FILE if path.is_dir() else path for path in paths]
    scores = [read_scores(path) for path in files]
    if not any(item.numbers for item in scores):
        raise UserError(f"{files[0]}: holds no numbers; give scores of `tessera evaluate`")
    if samples and len(samples) != len(paths):
        raise UserError(f"samples: {len(samples)} directories for {len(paths)} scores; give one for each, in order")
    for path, folder in zip(paths, samples):
        _check_samples(path, Path(folder))
    config = {"scores": [sha256_file(file) for file in files], "force": force, "samples": len(samples)}
    stage = open_stage(out, stage="report", config=config)
    if stage.done:
        return
    measured = measured_tables(scores, force)
    tables = [*measured, *ablation_tables(scores, force), *printed_tables()]
    pairs = [pairs_of(table, force) for table in tables]
    colors = _colors(scores)
    page = {
        "title": "Scores of " + ", ".join(dict.fromkeys(item.name for item in scores)),
        "intervals": about_intervals(tables),
        "version": tessera.__version__,
        "measured": [_shown(table, own, colors) for table, own in zip(tables, pairs) if not table.printed],
        "printed": [_shown(table, (), {}) for table in tables if table.printed],
        "curves": _curves(scores),
        "prompts": _drill_down(scores, samples),
        "protocols": _protocols(scores),
    }
    for name, text in (
        ("tables.md", as_markdown(tables, pairs)),
        ("tables.csv", as_csv(tables, pairs)),
        ("index.html", _html(page)),
    ):
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    stage.finish({"scores": len(scores), "tables": len(measured)})


def _check_samples(path: Path, folder: Path) -> None:
    """UserError unless `folder` is there, and is what the scores of `path` were made of."""
    if not folder.is_dir():
        raise UserError(f"samples: {folder}: there is no such directory")
    home = path if path.is_dir() else path.parent
    for place, name in ((home, "samples"), (home.parent, home.name)):  # GenEval's scores lie below its manifest
        if not (place / MANIFEST).is_file():
            continue
        manifest = read_manifest(place, must_be_complete=False)
        made = manifest.inputs.get(name)
        if made is not None:
            found = sha256_file(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
        elif place == home and manifest.stage == "evaluate quality":
            made, found = manifest.config.get("samples"), find_pictures(folder, "sample").sha256
        else:
            continue
        if found != made:
            raise UserError(
                f"samples: {folder} is not what {path} judged; give the directories in the order of the scores"
            )
        return


def _html(page: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("tessera").joinpath("assets", "results.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(page=page)


def _colors(scores: Sequence[Scores]) -> dict[str, int]:
    """The colour of each model, one and the same in all plots and beside all pictures."""
    return {name: number % ARM_COLORS for number, name in enumerate(dict.fromkeys(item.name for item in scores))}


def _row_colors(table: Table, colors: Mapping[str, int]) -> list[int]:
    """Of each row; a model's own where it stands in one row alone."""
    names = [item.name for item in table.members] or [row.model for row in table.rows]
    alone = len(set(names)) == len(names)
    return [colors[name] if alone and name in colors else n % ARM_COLORS for n, name in enumerate(names)]


def _shown(table: Table, pairs: Sequence[Pair], colors: Mapping[str, int]) -> dict[str, Any]:
    """A table as the page has it, with a plot where all its measured values lie in 0..1."""
    rows, sizes = [], table.sizes()
    of_rows = _row_colors(table, colors)
    for row, color in zip(table.rows, of_rows):
        cells = [
            {"value": with_minus(cell.text(size)), "interval": with_minus(cell.interval(size))} if cell else NOTHING
            for cell, size in zip(row.cells, sizes)
        ]
        rows.append({"model": row.model, "color": color, "cells": cells, "note": row.note})
    return {
        "title": table.title,
        "note": table.note,
        "missing": table.missing,
        "columns": [label(metric) for metric in table.columns],
        "rows": rows,
        "pairs": _shown_pairs(table, pairs) if any(any(pair.cells) for pair in pairs) else [],
        "about_pairs": about(pairs),
        "unpaired": [line for pair in pairs for line in pair.reasons()],
        "plot": _plot(table, of_rows),
    }


def _shown_pairs(table: Table, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """The differences as further rows of the table."""
    rows, sizes = [], sizes_of(pairs)
    for pair in pairs:
        cells = []
        for metric, cell, size in zip(table.columns, pair.cells, sizes):
            if cell is None:
                cells.append(NOTHING)
                continue
            kind = "" if not is_clear(cell) else "clear" if is_better(cell, metric) else "clear worse"
            cells.append({"value": signed_text(cell, size), "interval": signed_interval(cell, size), "kind": kind})
        rows.append({"name": pair.name, "cells": cells})
    return rows


def _plot(table: Table, colors: Sequence[int]) -> Any:
    """Dots with intervals of the metrics that have them and lie in 0..1; "" where there are none."""
    chosen = [
        i
        for i, _ in enumerate(table.columns)
        if table.columns[i] not in DISTANCES
        and any(row.cells[i] for row in table.rows)
        and all(
            c is None or (c.low is not None and c.low >= 0 and (c.high or 0) <= 1)
            for c in (r.cells[i] for r in table.rows)
        )
    ]
    if table.printed or not chosen:
        return ""
    dots = []
    for color, row in zip(colors, table.rows):
        values = []
        for i in chosen:
            cell = row.cells[i]
            values.append(
                (cell.low, cell.value, cell.high) if cell and cell.low is not None and cell.high is not None else None
            )
        dots.append(Dots(arm=row.model, color=color, values=tuple(values)))
    names = [label(table.columns[i])[:-2] for i in chosen]
    return score_plot(names, [("", dots)], f"{table.title}: {', '.join(names)} with 95% intervals")


def _curves(scores: Sequence[Scores]) -> list[dict[str, Any]]:
    shown_curves = []
    colors = _colors(scores)
    for metric in dict.fromkeys(number.metric for item in scores for number in item.numbers):
        for apart, points in curve_points(scores, metric):
            curves = [
                Curve(arm=name, color=colors[name], x=tuple(float(x) for x, _ in line), y=tuple(y for _, y in line))
                for name, line in points.items()
            ]
            alt = f"{label(metric)[:-2]} over training of {', '.join(points)}"
            title = f"{label(metric)}, {apart}" if apart else label(metric)
            shown_curves.append({"title": title, "plot": curve_plot(curves, label(metric)[:-2], alt)})
    return shown_curves


def _drill_down(scores: Sequence[Scores], samples: Sequence[Path]) -> list[dict[str, Any]]:
    """Prompts with every model's pictures, those first whose values differ most between models; the judges in turn."""
    if not samples:
        return []
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    spread: dict[str, dict[int, float]] = {}
    judge: dict[str, str] = {}  # each has a scale of its own
    for number, (item, folder) in enumerate(zip(scores, samples)):
        for entry in item.items:
            text = str(entry.get("text") or entry.get("prompt"))
            path = Path(folder) / str(entry.get("file", ""))
            if not _inside(path, Path(folder)) or not path.is_file():
                continue
            values = {name: value for name, value in entry["values"].items() if value is not None}
            said = ", ".join(f"{label(name)[:-2]} {shown(value)}" for name, value in values.items())
            reason, correct = str(entry.get("reason") or ""), entry.get("correct")
            if reason:  # a mark says the value of what is right or wrong
                said = f"{said}. {reason}" if correct is None else reason
            shot = {"path": path, "correct": correct, "said": said}
            found.setdefault(text, {}).setdefault(number, []).append(shot)
            first = next(iter(values.values()), 0.0)
            spread.setdefault(text, {}).setdefault(number, 0.0)
            spread[text][number] += first
            judge.setdefault(text, item.kind)
    order = sorted(found, key=lambda text: (min(spread[text].values()) - max(spread[text].values()), text))
    of_judges = [[text for text in order if judge[text] == kind] for kind in dict.fromkeys(judge.values())]
    taken = [text for texts in itertools.zip_longest(*of_judges) for text in texts if text is not None][:PROMPTS]
    colors = _colors(scores)
    prompts = []
    for text in taken:
        models = []
        for number, shots in sorted(found[text].items()):
            pictures = [
                {
                    "picture": embed(read_rgb(shot["path"]), _alt(scores[number].name, text, shot)),
                    "correct": shot["correct"],
                    "said": shot["said"],
                }
                for shot in shots[:4]
            ]
            models.append({"name": scores[number].name, "color": colors[scores[number].name], "shots": pictures})
        prompts.append({"text": text, "models": models})
    return prompts


def _alt(name: str, text: str, shot: Mapping[str, Any]) -> str:
    judged = "" if shot["correct"] is None else f"judged {'right' if shot['correct'] else 'wrong'}: "
    return f"{name} draws: {text.rstrip('.')}. {judged}{shot['said']}"


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _protocols(scores: Sequence[Scores]) -> list[tuple[str, str]]:
    import dataclasses
    import json

    return [
        (
            f"{item.name}: {item.kind}",
            "\n\n".join(
                f"{number.metric} (n = {number.n})\n"
                + json.dumps(dataclasses.asdict(number.protocol), indent=2, sort_keys=True, ensure_ascii=False)
                for number in item.numbers
            ),
        )
        for item in scores
    ]
