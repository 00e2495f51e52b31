"""report: one self-contained HTML page about a workspace, the folder in which the stages of one run lie side by side.

    images/  recipe/  captions/NAME/  encoded/NAME/  runs/ARM/  export/ARM/
    samples/ARM/short/  samples/ARM/extended/  scores/ARM/short/  scores/ARM/extended/  stages.json

Only what is there is shown; an arm needs its run or its samples. The page loads nothing from anywhere.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import tessera
from tessera.config import UserError, nearest, to_dict
from tessera.files import atomic_path, read_json
from tessera.progress import duration_text
from tessera.report.comparison import ArmScores, compare_arms, load_arm
from tessera.report.examples import mixed_examples, noise_settings, noise_strip, plain_examples
from tessera.report.gallery import Arm, prompt_groups
from tessera.report.plots import ARM_COLORS, Curve, curve_plot
from tessera.stages import MANIFEST, Manifest, open_stage, read_manifest

KINDS = {"extended": "Extended prompts", "short": "Short prompts"}
"""The two kinds of prompts, as folders under samples/ARM and scores/ARM. Long captions in training make `extended` the
fitting ones (paper section 4.2), so they come first."""

ARMS = {
    "aio": ("AIO", "captions that only name the class: \u201cAn image of <class>\u201d"),
    "ta": ("TA", "text augmentation: long captions that say color, size, texture, place and background"),
    "ta_ia": ("TA+IA", "text and image augmentation: long captions, and CutMix pictures of two classes at high noise"),
}
"""Arm -> how the paper calls it, and what it means."""

_COUNT = {2: "Two", 3: "Three", 4: "Four"}
_CURVE_POINTS = 200


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the page shows."""

    title: str | None = None
    """Headline; None = made of the arms' names."""
    prompts_per_task: int = 6
    """Prompts of each task shown at once, at least 1."""
    more_per_task: int = 14
    """Further prompts of each task, folded away, at least 0."""
    examples: int = 8
    """Training pictures shown, at least 1."""

    def __post_init__(self):
        for name, least in (("prompts_per_task", 1), ("more_per_task", 0), ("examples", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: give at least {least}")


def report(
    out: str | Path, workspace: str | Path, arms: Sequence[str] = (), config: ReportConfig = ReportConfig()
) -> None:
    """Writes `out`/index.html about `arms` (none = all of the workspace); does nothing when it is there already.

    Raises UserError for a workspace without any run or samples, an unknown arm, or unfinished inputs.
    """
    out, workspace = Path(out), Path(workspace)
    names = _find_arms(workspace, arms)
    inputs = {str(path.relative_to(workspace)): path for path in _stage_directories(workspace, names)}
    stage = open_stage(out, stage="report", config=to_dict(config) | {"arms": names}, inputs=inputs)
    if stage.done:
        return
    manifests = {name: read_manifest(path) for name, path in inputs.items()}
    page = _page(workspace, describe_arms(names), manifests, config)
    html = render_page(page)
    with atomic_path(out / "index.html") as temporary:
        temporary.write_text(html, encoding="utf-8", newline="\n")
    stage.finish(counts={"arms": len(names)})


def render_page(page: dict[str, Any]) -> str:
    """The HTML of a page, of all that the template names."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("tessera").joinpath("assets", "report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(page=page)


def _find_arms(workspace: Path, asked: Sequence[str]) -> list[str]:
    there = sorted(
        {path.name for kind in ("runs", "samples") for path in (workspace / kind).glob("*") if path.is_dir()},
        key=lambda name: (list(ARMS).index(name) if name in ARMS else len(ARMS), name),
    )
    if not there:
        raise UserError(f"{workspace}: there is no runs/ARM or samples/ARM; give the folder in which the stages lie")
    for name in asked:
        if name not in there:
            raise UserError(f"{workspace}: has no arm {name!r};{nearest(name, there)} there are: {', '.join(there)}")
    return list(dict.fromkeys(asked)) or there


def _stage_directories(workspace: Path, arms: Sequence[str]) -> list[Path]:
    """The directories with manifests that the page tells about, in the order of the work."""
    found = [workspace / name for name in ("images", "recipe", "prompts")]
    found += sorted(
        path for kind in ("captions", "encoded") for path in [workspace / kind, *(workspace / kind).glob("*")]
    )
    for arm in arms:
        found += [workspace / "runs" / arm, workspace / "export" / arm]
        found += [workspace / kind / arm / prompts for kind in ("samples", "scores") for prompts in KINDS]
    return [path for path in found if (path / MANIFEST).is_file()]


def describe_arms(names: Sequence[str]) -> list[Arm]:
    """The paper's arms have the same colours on every page; others take those that are left."""
    fixed = {"ta": 0, "ta_ia": 1, "aio": 2}
    taken = {fixed[name] for name in names if name in fixed}
    left = itertools.chain((n for n in range(ARM_COLORS) if n not in taken), itertools.cycle(range(ARM_COLORS)))
    colors = [fixed[name] if name in fixed else next(left) for name in names]
    words = [ARMS.get(name, (name, "")) for name in names]
    return [
        Arm(name=name, label=label, meaning=meaning, color=color)
        for name, (label, meaning), color in zip(names, words, colors)
    ]


def _page(workspace: Path, arms: list[Arm], manifests: dict[str, Manifest], config: ReportConfig) -> dict[str, Any]:
    """All that the template shows."""
    scores = {kind: _read_scores(workspace, arms, kind) for kind in KINDS}
    samples = _samples(workspace, arms, scores, config)
    mixed = mixed_examples(workspace, config.examples)
    plain = [] if mixed else plain_examples(workspace, config.examples)
    shots = max(
        (len(arm["shots"]) for kind in samples for g in kind["groups"] for p in g["prompts"] for arm in p["arms"]),
        default=1,
    )
    columns = min(shots, 2)
    times = _times(workspace)
    page: dict[str, Any] = {
        "version": tessera.__version__,
        "title": config.title or _title(arms),
        "lead": _lead(arms, manifests, bool(any(scores.values()))),
        "arms": [arm for arm in arms if arm.meaning],
        "scores": compare_arms({KINDS[kind]: list(found.values()) for kind, found in scores.items()}),
        "many": len(arms) > 1,
        **_strip(samples),
        "samples": samples,
        "samples_about": "All arms draw the same prompts from the same noise."
        if len(arms) > 1
        else "Drawn by the trained model.",
        "loss": _loss(workspace, arms),
        "loss_about": _loss_about(arms, manifests),
        "examples": mixed,
        "plain": plain,
        "noise": _noise(workspace, arms, mixed, plain),
        "times": times,
        "times_note": "Wall-clock time; stages of different arms may have run side by side.",
        **_rejects(manifests),
        "configs": [
            (name, json.dumps(manifest.config, indent=2, sort_keys=True, ensure_ascii=False))
            for name, manifest in manifests.items()
        ],
        # Each arm is given the width of its pictures; a card holds all arms side by side.
        "shot_columns": columns,
        "arm_rem": 4.4 * columns,
        "card_rem": min(max(4.4 * columns * len(arms) + len(arms) + 2, 14), 40),
    }
    page["sections"] = [
        (anchor, name)
        for anchor, name, there in (
            ("scores", "Scores", page["scores"]),
            ("pictures", "Pictures", samples),
            ("training", "Training", page["loss"]),
            ("data", "Training pictures", mixed or plain),
            ("noise", "Noise levels", page["noise"]),
            ("work", "Work", times or page["rejects"]),
            ("configuration", "Configuration", page["configs"]),
        )
        if there
    ]
    return page


def _title(arms: Sequence[Arm]) -> str:
    return "Text-to-image model" if len(arms) == 1 else " against ".join(arm.label for arm in arms)


def _lead(arms: Sequence[Arm], manifests: dict[str, Manifest], judged: bool) -> str:
    """Two sentences: what was trained on what, and how the page shows it."""
    collected = manifests.get("images")
    made = (
        "A text-to-image model was"
        if len(arms) == 1
        else f"{_COUNT.get(len(arms), len(arms))} text-to-image models were"
    )
    on = ""
    if collected is not None:
        counts = collected.counts
        on = f" on {counts['images']:,} pictures" if "images" in counts else " on a folder of labelled pictures"
        on += f" of {counts['classes']} classes" if "classes" in counts else ""
        on += ", each with a single object" if collected.config.get("source") == "miniature" else ""
    first = f"{made} trained from scratch{on}."
    if judged and len(arms) > 1:
        return f"{first} They differ only in what is listed below; most prompts ask for what no training picture shows."
    if judged:
        return f"{first} Most prompts ask for what no training picture shows."
    return f"{first} Below is what it draws, what it learned from and how long that took."


def _read_scores(workspace: Path, arms: Sequence[Arm], kind: str) -> dict[str, ArmScores]:
    """Arm -> its scores, of the arms that have them."""
    found = {arm.name: load_arm(workspace / "scores" / arm.name / kind, arm.label, arm.color) for arm in arms}
    return {name: scores for name, scores in found.items() if scores is not None}


def _samples(
    workspace: Path, arms: Sequence[Arm], scores: dict[str, dict[str, ArmScores]], config: ReportConfig
) -> list[dict[str, Any]]:
    """The kinds of prompts that were drawn, the first one open: [{title, folded, groups}]."""
    shown = []
    for kind, title in KINDS.items():
        folders = {arm.name: workspace / "samples" / arm.name / kind for arm in arms}
        folders = {name: folder for name, folder in folders.items() if folder.is_dir()}
        groups = prompt_groups(folders, arms, scores[kind], config.prompts_per_task, config.more_per_task)
        if groups:
            shown.append({"title": title, "folded": bool(shown), "groups": groups})
    return shown


def _strip(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The pictures at the top: the first prompt of each task; none where there are no tasks."""
    groups = samples[0]["groups"] if samples else []
    about = "The first prompt of each task"
    about += f" ({samples[0]['title'].lower()})" if len(samples) > 1 else ""
    prompts = [group["prompts"][0] for group in groups] if len(groups) > 1 else []
    return {"strip": prompts, "strip_about": f"{about}, the first picture of each; nothing was selected."}


def _loss(workspace: Path, arms: Sequence[Arm]) -> str | None:
    curves = []
    for arm in arms:
        points = log_points(workspace / "runs" / arm.name / "log.jsonl")
        if points:
            x, y = zip(*points)
            curves.append(Curve(arm=arm.label, color=arm.color, x=x, y=y))
    return curve_plot(curves, "loss", f"Training loss of {', '.join(c.arm for c in curves)}") if curves else None


def log_points(path: Path) -> list[tuple[float, float]]:
    """(images seen, loss) of a run, averaged over neighbouring lines where there are more than a plot can show."""
    if not path.is_file():
        return []
    points = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record.get("loss") is not None:
            points.append((record["num_images"], record["loss"]))
    step = -(-len(points) // _CURVE_POINTS) or 1
    groups = [points[i : i + step] for i in range(0, len(points), step)]
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]


def _loss_about(arms: Sequence[Arm], manifests: dict[str, Manifest]) -> str:
    runs = [manifests[f"runs/{arm.name}"] for arm in arms if f"runs/{arm.name}" in manifests]
    kinds = sorted({run.config["prediction"] for run in runs})
    text = f"Mean loss since the last point; the network predicts {' or '.join(kinds)}." if runs else ""
    if len({"augmented" in run.inputs for run in runs}) > 1:
        text += " Curves of arms with and without CutMix pictures are of different data: their heights do not compare."
    return text


def _noise(workspace: Path, arms: Sequence[Arm], mixed: Sequence[Any], plain: Sequence[Any]) -> dict[str, Any] | None:
    """The strip of noise levels: one plain and up to four augmented pictures, one of each pattern where there are."""
    settings = noise_settings(workspace, [arm.name for arm in arms])
    if settings is None or not (mixed or plain):
        return None
    named = [("plain", mixed[0].base_pixels if mixed else plain[0].pixels, False)]
    by_pattern = {example.pattern: example for example in reversed(mixed)}
    chosen = sorted(mixed, key=lambda example: by_pattern[example.pattern] is not example)[:4]
    named += [(example.pattern, example.pixels, True) for example in chosen]
    about = f"What the network sees at noise level t on the schedule {settings.schedule!r}, decoded to pixels."
    if settings.augmented:
        about += (
            f" CutMix pictures are used only above \u03c4 = {settings.tau:g}, where noise hides their seams;"
            " the faded ones are never shown to it."
        )
    return {"about": about, **noise_strip(named, settings)}


def _times(workspace: Path) -> list[dict[str, Any]]:
    if not (workspace / "stages.json").is_file():
        return []
    stages = read_json(workspace / "stages.json")
    longest = max((entry["seconds"] for entry in stages), default=0) or 1
    return [
        {
            "stage": entry["stage"],
            "shown": duration_text(entry["seconds"]),
            "share": round(100 * entry["seconds"] / longest, 1),
        }
        for entry in stages
    ]


def _rejects(manifests: dict[str, Manifest]) -> dict[str, Any]:
    """What `collect` left out, grouped by reason, the most frequent first."""
    rejects = manifests["images"].rejects if "images" in manifests else {}
    groups: dict[str, list[str]] = {}
    for key, reason in sorted(rejects.items()):
        groups.setdefault(reason, []).append(key)
    rows = [
        {
            "reason": reason,
            "count": len(keys),
            "names": ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else ""),
        }
        for reason, keys in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    ]
    return {"rejects": rows, "rejects_note": f"{len(rejects)} left out by collect"}
