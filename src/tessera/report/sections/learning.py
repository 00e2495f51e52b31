"""Learning: the same prompts at checkpoints on the way, and the strict score against images seen.

learning/ARM/000000006720/samples/  learning/ARM/000000006720/scores/
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tessera.evaluate.miniature.chance import chance_in
from tessera.evaluate.scores import FILE, Scores, read_scores
from tessera.files import read_json
from tessera.images import read_rgb
from tessera.report.arms import Arm
from tessera.report.gallery import embed
from tessera.report.plots import Curve, value_plot
from tessera.stages import is_complete

FOLDER = "learning"
SAMPLES, SCORES = "samples", "scores"
_PROMPTS = 6


@dataclass(frozen=True, kw_only=True)
class Learning:
    """The section of the page."""

    about: str
    arms: Sequence[dict[str, Any]]
    """{label, color, steps: images seen at each checkpoint, rows: [{text, images}]}."""
    plot: Markup | None = None
    plot_about: str = ""


def checkpoints(workspace: Path, arm: str) -> list[tuple[int, Path]]:
    """Return (images seen, folder) of each checkpoint of an arm that was drawn from, in order."""
    folders = sorted(path for path in (workspace / FOLDER / arm).glob("*") if path.name.isdecimal())
    return [(int(path.name), path) for path in folders if is_complete(path / SAMPLES)]


def learning(workspace: Path, arms: Sequence[Arm]) -> Learning | None:
    """Return the section about the arms of which several checkpoints were drawn from; None without any."""
    shown, curves, judged = [], [], []
    for arm in arms:
        found = checkpoints(workspace, arm.name)
        if len(found) < 2:
            continue
        chosen = _prompts(found[-1][1] / SAMPLES)
        rows = []
        for number, text in chosen:
            places = [(images, path / SAMPLES / f"{number:05d}" / "samples" / "0000.png") for images, path in found]
            alts = [f"{arm.label} after {images:,} images draws: {text}" for images, _ in places]
            rows.append({"text": text, "images": [embed(read_rgb(p), alt) for (_, p), alt in zip(places, alts)]})
        steps = [f"{images:,}" for images, _ in found]
        shown.append({"label": arm.label, "color": arm.color, "steps": steps, "rows": rows})
        scores = [(n, read_scores(path / SCORES)) for n, path in found if (path / SCORES / FILE).is_file()]
        points = [(n, bounds) for n, each in scores if (bounds := _bounds(each)) is not None]
        if points:
            x, y = zip(*points)
            judged += [scores[-1][1]]
            level = chance_in(workspace / "few_prompts", judged[-1]).get("overall")
            curves.append(Curve(arm=arm.label, color=arm.color, x=x, y=y, chance=level))
    if not shown:
        return None
    about = f"The same {len(shown[0]['rows'])} prompts from the same noise, drawn by the EMA weights of checkpoints."
    if not curves:
        return Learning(about=about, arms=shown)
    images, prompts = len(judged[0].items), len({item["prompt"] for item in judged[0].items})
    return Learning(
        about=about,
        arms=shown,
        plot=value_plot({"Strict score, mean of the six tasks": curves}, "images seen", "Strict score over training"),
        plot_about=f"Judged on {images} images of {prompts} prompts at each checkpoint, with 95% intervals over"
        " prompts; the tables' scores are of more images.",
    )


def _bounds(scores: Scores) -> tuple[float, float, float] | None:
    number = scores.number("overall")
    if number is None or number.low is None or number.high is None:
        return None
    return number.low, number.value, number.high


def _prompts(samples: Path) -> list[tuple[int, str]]:
    """Return (number, text) of the first prompt of each task, or of the first ones where there are no tasks."""
    lines = {int(p.parent.name): read_json(p) for p in sorted(samples.glob("*/metadata.jsonl"))}
    first: dict[Any, int] = {}
    for number, line in lines.items():
        first.setdefault(line.get("tag"), number)
    numbers = list(first.values()) if len(first) > 1 else list(lines)
    return [(number, str(lines[number]["prompt"])) for number in numbers[:_PROMPTS]]
