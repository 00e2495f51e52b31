"""Overfitting: the loss on held-out images over training, of the weights and of their EMA, by quarters of t."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tessera.report.arms import Arm
from tessera.report.plots import Curve, loss_panels

WHOLE = "All t"
KINDS = {"validation": "weights", "validation_ema": "EMA"}


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The section of the page."""

    plot: Markup
    lines: Sequence[str]
    """A sentence for each arm: where its EMA was best."""


def held_out(logs: Iterable[tuple[Arm, Path]]) -> HeldOut | None:
    """Return the section of runs (arm, its log.jsonl); None where no loss on held-out images was measured."""
    panels: dict[str, list[Curve]] = {}
    lines = []
    for arm, path in logs:
        measured = _measured(path)
        for kind, name in KINDS.items():
            for title, points in _by_t([(line["num_images"], line[kind]) for line in measured]).items():
                x, y = zip(*points)
                panels.setdefault(title, []).append(Curve(arm=f"{arm.label}, {name}", color=arm.color, x=x, y=y))
        whole = _by_t([(line["num_images"], line["validation_ema"]) for line in measured]).get(WHOLE)
        if whole:
            images, lowest = min(whole, key=lambda point: point[1])
            text = f"{arm.label}: the EMA's loss is lowest after {images:,} images, {lowest:.4g}"
            if images < whole[-1][0]:
                text += f"; at the end it is {whole[-1][1] / lowest - 1:.1%} higher"
            lines.append(f"{text}.")
    if not panels:
        return None
    return HeldOut(plot=loss_panels(panels, "Loss on held-out images"), lines=lines)


def _measured(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log.jsonl with both losses; one that is cut short is skipped."""
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and line.keys() >= KINDS.keys():
            found.append(line)
    return found


def _by_t(measured: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, list[tuple[int, float]]]:
    """Return panel -> (images seen, loss) where the loss was finite; panels without any are left out."""
    panels: dict[str, list[tuple[int, float]]] = {}
    for images, loss in measured:
        quarters = loss["loss_by_t"]
        count = len(quarters)
        named = {WHOLE: loss["loss"]} | {f"t {q / count:g} to {(q + 1) / count:g}": x for q, x in enumerate(quarters)}
        for title, value in named.items():
            if value is not None:
                panels.setdefault(title, []).append((images, value))
    return panels
