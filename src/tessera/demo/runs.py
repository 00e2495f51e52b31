"""The runs of a working folder as markup: loss curves, and scores with intervals where they were judged."""

from pathlib import Path

from tessera.config import UserError
from tessera.demo.studio import notice
from tessera.report.arms import ARMS, KINDS, describe_arms, loss_plot, scores_of, scores_part
from tessera.report.render import render


def show_runs(workspace: Path) -> str:
    """Return all runs/NAME and scores/NAME/KIND of `workspace`; what is damaged or missing is said instead."""
    names = sorted({path.name for kind in ("runs", "scores") for path in (workspace / kind).glob("*") if path.is_dir()})
    names.sort(key=lambda name: list(ARMS).index(name) if name in ARMS else len(ARMS))
    if not names:
        return notice("There are no runs in this working folder yet.")
    arms = describe_arms(names)
    logs = [(arm, workspace / "runs" / arm.name / "log.jsonl") for arm in arms]
    plot = loss_plot(logs, f"Training loss of {', '.join(arm.label for arm in arms)}")
    curves = f'<div class="plotcard">{plot}</div>' if plot else notice("No training has logged anything here yet.")
    try:
        part = scores_part(arms, {kind: scores_of(workspace, arms, kind) for kind in KINDS})
        scores = render("scores_part.html.j2", part) if part else notice("Nothing was judged here yet.")
    except UserError as error:
        scores = notice(str(error))
    return f"<h2>Training loss</h2>{curves}<h2>Scores</h2>{scores}"
