"""The runs of a working folder as markup: loss curves, and scores with intervals where they were judged."""

import html
import json
from pathlib import Path

from tessera.config import UserError
from tessera.report.comparison import compare_arms, load_arm
from tessera.report.plots import Curve, curve_plot
from tessera.report.run_page import ARMS, KINDS

_POINTS = 200  # of a curve at most


def show_runs(workspace: Path) -> str:
    """All runs/NAME and scores/NAME/KIND of `workspace`; what is damaged or not there is said instead."""
    names = sorted({path.name for kind in ("runs", "scores") for path in (workspace / kind).glob("*") if path.is_dir()})
    names.sort(key=lambda name: list(ARMS).index(name) if name in ARMS else len(ARMS))
    if not names:
        return '<p class="notice">There are no runs in this working folder yet.</p>'
    labels = {name: ARMS.get(name, (name, ""))[0] for name in names}
    return f"<h2>Training loss</h2>{_curves(workspace, labels)}<h2>Scores</h2>{_scores(workspace, labels)}"


def _curves(workspace: Path, labels: dict[str, str]) -> str:
    curves = []
    for color, (name, label) in enumerate(labels.items()):
        points = read_points(workspace / "runs" / name / "log.jsonl")
        if points:
            x, y = zip(*points)
            curves.append(Curve(arm=label, color=color, x=x, y=y))
    if not curves:
        return '<p class="notice">No training has logged anything here yet.</p>'
    plot = curve_plot(curves, "loss", f"Training loss of {', '.join(curve.arm for curve in curves)}")
    return f'<div class="plotcard">{plot}</div>'


def read_points(path: Path) -> list[tuple[float, float]]:
    """(images seen, loss) of a log.jsonl, thinned by averaging neighbours; a line cut short is passed over."""
    if not path.is_file():
        return []
    points = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("loss") is not None:
            points.append((record["num_images"], record["loss"]))
    step = -(-len(points) // _POINTS) or 1
    groups = [points[i : i + step] for i in range(0, len(points), step)]
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]


def _scores(workspace: Path, labels: dict[str, str]) -> str:
    try:
        kinds = {
            title: [
                arm
                for color, (name, label) in enumerate(labels.items())
                if (arm := load_arm(workspace / "scores" / name / kind, label, color)) is not None
            ]
            for kind, title in KINDS.items()
        }
        found = compare_arms(kinds)
    except UserError as error:
        return f'<p class="notice">{html.escape(str(error))}</p>'
    if found is None:
        return '<p class="notice">Nothing was judged here yet.</p>'
    parts = [f"<p>{html.escape(found['about'])}</p>"]
    for table in found["tables"]:
        heads = "".join(f'<th scope="col">{html.escape(arm["label"])}</th>' for arm in table["arms"])
        heads += "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table["differences"])
        rows = "".join(
            f'<tr><th scope="row">{html.escape(row["label"])}</th>'
            + "".join(f"<td>{_cell(cell)}</td>" for cell in row["cells"])
            + "</tr>"
            for row in table["rows"]
        )
        parts.append(
            f"<h3>{html.escape(table['title'])}</h3><p>{html.escape(table['note'])}</p>"
            f'<div class="wider" tabindex="0" role="region" aria-label="{html.escape(table["title"])}">'
            f'<table class="scores"><thead><tr><th scope="col">share of pictures</th>{heads}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    parts.append(f"<p><small>{html.escape(found['note'])}</small></p>")
    return "".join(parts)


def _cell(cell: dict[str, str]) -> str:
    interval = f" <small>{html.escape(cell['interval'])}</small>" if cell["interval"] else ""
    return f"{html.escape(cell['value'])}{interval}"
