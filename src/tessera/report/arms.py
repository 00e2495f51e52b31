"""The arms of a page: names, colors, and their scores and loss curves as every page shows them."""

import contextlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tessera.evaluate.miniature.chance import chance_in
from tessera.evaluate.scores import FILE, Scores, read_scores
from tessera.report.differences import pairs_of
from tessera.report.grid import Grid, by_measure, notes, table_plot, tiles
from tessera.report.measured import measured_tables, protocol_text
from tessera.report.plots import ARM_COLORS, Curve, curve_plot

KINDS = {"captions": "Captions of the set", "extended": "Extended prompts", "short": "Short prompts"}
"""The kinds of prompts, as folders under samples/ARM and scores/ARM. Long captions in training make `extended` the
fitting ones (paper section 4.2), so they come first."""

SAYING = " that say color, size, texture, place and background"
"""The contents of the miniature's long captions."""
ARMS = {
    "aio": ("AIO", "captions that only name the class: \u201cAn image of <class>\u201d"),
    "ta": ("TA", f"text augmentation: long captions{SAYING}"),
    "ta_ia": ("TA+IA", "text and image augmentation: long captions, and CutMix images of two classes at high noise"),
}
"""Arm -> the paper's name for it, and its meaning."""
FAMILIES = {"cad": "CAD-I", "eps": "eps"}
"""Beginning of an arm's name in a study of several networks or predictions -> what its label begins with."""

_TILES = ("both_colors", "colors_in_relation", "single_object")
_CURVE_POINTS = 200


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A model of the page."""

    name: str
    """The name of its folders."""
    label: str
    meaning: str
    color: int
    """Number of its color on the page."""


@dataclass(frozen=True, kw_only=True)
class ScoresPart:
    """The scores of a page."""

    about: str
    tiles: Sequence[Mapping[str, Any]] = ()
    plot: Markup | None = None
    tables: Sequence[Grid]
    note: str = ""
    protocol: str = ""


def find_arms(workspace: Path, *kinds: str) -> list[str]:
    """Return the names of all folders in the folders `kinds` of a workspace, the paper's arms first."""
    names = {path.name for kind in kinds for path in (workspace / kind).glob("*") if path.is_dir()}
    return [name for name in ARMS if name in names] + sorted(names - ARMS.keys())


def describe_arms(names: Sequence[str]) -> list[Arm]:
    """Return the arms with the paper's names and the same colors on every page; others take the colors left."""
    fixed = {"ta": 0, "ta_ia": 1, "aio": 2}
    taken = {fixed[name] for name in names if name in fixed}
    left = itertools.chain((n for n in range(ARM_COLORS) if n not in taken), itertools.cycle(range(ARM_COLORS)))
    described = [(name, *_told(name), fixed[name] if name in fixed else next(left)) for name in names]
    return [Arm(name=name, label=label, meaning=meaning, color=n) for name, label, meaning, n in described]


def _told(name: str) -> tuple[str, str]:
    """Return an arm's label and its meaning."""
    family, _, arm = name.partition("_")
    if family in FAMILIES and arm in ARMS:
        return f"{FAMILIES[family]} {ARMS[arm][0]}", ""
    return ARMS.get(name, (name, ""))


def arm_scores(path: Path, arm: Arm) -> Scores | None:
    """Return the scores in the directory `path` under the arm's label; None without a scores.json."""
    return replace(read_scores(path), name=arm.label) if (path / FILE).is_file() else None


def scores_of(workspace: Path, arms: Sequence[Arm], kind: str) -> dict[str, Scores]:
    """Return arm -> its scores/ARM/`kind`, of the arms that have them."""
    found = {arm.name: arm_scores(workspace / "scores" / arm.name / kind, arm) for arm in arms}
    return {name: scores for name, scores in found.items() if scores is not None}


def scores_part(arms: Sequence[Arm], kinds: Mapping[str, Mapping[str, Scores]], prompts: Path) -> ScoresPart | None:
    """Return the part about scores, {kind of prompts: {arm: its scores}}; None without any. The first kind's are big.

    Each arm is compared with the one before it; arms with other protocols have a table of their own. prompts: their
    directory, for chance level; it may be missing.
    """
    by_label = {arm.label: arm.color for arm in arms}
    tables, grids, big, judges, levels, protocols = [], [], [], [], [], []
    for kind, scores in kinds.items():
        found = measured_tables(list(scores.values()))
        for number, table in enumerate(found):
            table = replace(table, title=KINDS[kind] if len(found) == 1 else f"{KINDS[kind]}: {table.title}")
            colors = [by_label[item.name] for item in table.members]
            first = table.members[0]
            count = len({item["prompt"] for item in first.items})
            about = f"{len(first.items):,} images of {count:,} prompts for each arm"
            judges.append(first.facts.get("judge"))
            levels.append(chance_in(prompts, first))
            grids.append(by_measure(table, pairs_of(table), colors, judges[-1], about, levels[-1]))
            tables.append((table.title, table, colors))
            if not big and number == 0:
                big = tiles(table, colors, _TILES, KINDS[kind].lower(), levels[-1])
        protocols += [f"{KINDS[kind]}, {item.name}\n{protocol_text(item)}" for item in scores.values()]
    if not grids:
        return None
    return ScoresPart(
        about="Share of images that show what their prompt asks, as an automatic judge sees it, with 95% confidence"
        " intervals over prompts. Each arm was trained once: another training seed moves its scores too.",
        tiles=big,
        plot=table_plot(tables, f"Scores of {', '.join(by_label)}", levels),
        tables=grids,
        note=notes(grids, next(filter(None, judges), None), any(levels)),
        protocol="\n\n".join(protocols),
    )


def loss_plot(logs: Iterable[tuple[Arm, Path]], alt: str) -> Markup | None:
    """Return the loss curves of runs (arm, its log.jsonl); None where nothing is logged."""
    curves = []
    for arm, path in logs:
        points = loss_points(path)
        if points:
            x, y = zip(*points)
            curves.append(Curve(arm=arm.label, color=arm.color, x=x, y=y))
    return curve_plot(curves, "loss", alt) if curves else None


def loss_points(path: Path) -> list[tuple[float, float]]:
    """Return (images seen, loss) of a log.jsonl, averaged over neighbors where there are more than a plot can show.

    A line that is cut short is skipped: the training may be writing it. [] without the file.
    """
    points = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and record.get("loss") is not None:
                points.append((record["num_images"], record["loss"]))
    step = -(-len(points) // _CURVE_POINTS) or 1
    groups = [points[i : i + step] for i in range(0, len(points), step)]
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]


def time_bars(stages: Mapping[str, tuple[float, str]]) -> list[dict[str, Any]]:
    """Return the rows of a chart of durations: name -> (seconds, text)."""
    longest = max((seconds for seconds, _ in stages.values()), default=0) or 1
    return [{"stage": name, "shown": text, "share": round(100 * s / longest, 1)} for name, (s, text) in stages.items()]
