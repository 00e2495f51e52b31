"""report: one self-contained HTML page about a workspace, the folder in which the stages of one run lie side by side.

    images/  recipe/  captions/NAME/  encoded/NAME/  runs/ARM/  export/ARM/
    samples/ARM/short/  samples/ARM/extended/  scores/ARM/short/  scores/ARM/extended/  stages.json

Only what is there is shown; an arm needs its run or its samples. The page loads nothing from anywhere.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.config import UserError, check_ranges, nearest, to_dict
from tessera.evaluate.scores import Scores
from tessera.files import read_json
from tessera.progress import duration_text
from tessera.report.arms import (
    ARMS,
    KINDS,
    Arm,
    ScoresPart,
    describe_arms,
    loss_plot,
    scores_of,
    scores_part,
    time_bars,
)
from tessera.report.examples import (
    MixedExample,
    PlainExample,
    mixed_examples,
    noise_settings,
    noise_strip,
    plain_examples,
)
from tessera.report.gallery import prompt_groups
from tessera.report.render import group_rejects, render, write_text
from tessera.stages import MANIFEST, Manifest, open_stage, read_manifest

_COUNT = {2: "Two", 3: "Three", 4: "Four"}


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Contents of the page."""

    title: str | None = None
    """Headline; None = made of the arms' names."""
    prompts_per_task: int = 6
    """Prompts of each task shown at once, at least 1."""
    more_per_task: int = 14
    """Further prompts of each task, folded away, at least 0."""
    examples: int = 8
    """Training images shown, at least 1."""

    def __post_init__(self):
        check_ranges(self, prompts_per_task="[1, inf)", more_per_task="[0, inf)", examples="[1, inf)")


@dataclass(frozen=True, kw_only=True)
class Page:
    """Contents of the page of a run or a study; parts that are empty are left out."""

    title: str
    lead: str
    arms: Sequence[Arm] = ()
    many: bool = True
    """Name the arm of each image."""
    strip: Sequence[Mapping[str, Any]] = ()
    """Prompts whose first images are shown at the top."""
    strip_about: str = ""
    scores: ScoresPart | None = None
    samples: Sequence[Mapping[str, Any]] = ()
    """Kinds of prompts: {title, folded, groups of `prompt_groups`}."""
    samples_about: str = ""
    loss: Any = None
    loss_about: str = ""
    mixed: Sequence[MixedExample] = ()
    plain: Sequence[PlainExample] = ()
    noise: Mapping[str, Any] | None = None
    """The strip of noise levels (`noise_strip`) and "about"."""
    times: Sequence[Mapping[str, Any]] = ()
    times_note: str = ""
    rejects: Sequence[Mapping[str, Any]] = ()
    configs: Sequence[tuple[str, str]] = ()
    configs_about: str = ""
    shot_columns: int = 2
    """Images of an arm in a row."""
    arm_rem: float = 6.5
    """Width of an arm's images; a card holds all arms side by side."""
    card_rem: float = 40

    @property
    def sections(self) -> list[tuple[str, str]]:
        """(anchor, name) of the parts that are there."""
        parts = (
            ("scores", "Scores", self.scores),
            ("images", "Images", self.samples),
            ("training", "Training", self.loss),
            ("data", "Training images", self.mixed or self.plain),
            ("noise", "Noise levels", self.noise),
            ("work", "Work", self.times or self.rejects),
            ("configuration", "Configuration", self.configs),
        )
        return [(anchor, name) for anchor, name, there in parts if there]

    def write(self, path: Path) -> None:
        """Write the page as HTML."""
        write_text(path, render("run.html.j2", self))


def report(
    out: str | Path, workspace: str | Path, arms: Sequence[str] = (), config: ReportConfig = ReportConfig()
) -> None:
    """Write `out`/index.html about `arms` (none = all of the workspace); do nothing when it is there already.

    Raises UserError for a workspace without any run or samples, an unknown arm, or unfinished inputs.
    """
    out, workspace = Path(out), Path(workspace)
    names = _find_arms(workspace, arms)
    inputs = {str(path.relative_to(workspace)): path for path in _stage_directories(workspace, names)}
    stage = open_stage(out, stage="report", config=to_dict(config) | {"arms": names}, inputs=inputs)
    if stage.done:
        return
    manifests = {name: read_manifest(path) for name, path in inputs.items()}
    _page(workspace, describe_arms(names), manifests, config).write(out / "index.html")
    stage.finish(counts={"arms": len(names)})


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
    """Return the directories with manifests that the page tells about, in the order of the work."""
    found = [workspace / name for name in ("images", "recipe", "prompts")]
    found += sorted(
        path for kind in ("captions", "encoded") for path in [workspace / kind, *(workspace / kind).glob("*")]
    )
    for arm in arms:
        found += [workspace / "runs" / arm, workspace / "export" / arm]
        found += [workspace / kind / arm / prompts for kind in ("samples", "scores") for prompts in KINDS]
    return [path for path in found if (path / MANIFEST).is_file()]


def _page(workspace: Path, arms: list[Arm], manifests: dict[str, Manifest], config: ReportConfig) -> Page:
    scores = {kind: scores_of(workspace, arms, kind) for kind in KINDS}
    samples = _samples(workspace, arms, scores, config)
    mixed = mixed_examples(workspace, config.examples)
    plain = [] if mixed else plain_examples(workspace, config.examples)
    drawn = [arm for kind in samples for group in kind["groups"] for p in group["prompts"] for arm in p["arms"]]
    columns = min(max((len(arm["shots"]) for arm in drawn), default=1), 2)
    strip = [group["prompts"][0] for group in samples[0]["groups"]] if samples else []
    title = samples[0]["title"].lower() if len(samples) > 1 else ""
    return Page(
        title=config.title or _title(arms),
        lead=_lead(arms, manifests, any(scores.values())),
        arms=arms,
        many=len(arms) > 1,
        strip=strip if len(strip) > 1 else [],
        strip_about=f"The first prompt of each task{f' ({title})' if title else ''}, the first image of each; nothing"
        " was selected.",
        scores=scores_part(arms, scores),
        samples=samples,
        samples_about="All arms draw the same prompts from the same noise."
        if len(arms) > 1
        else "Drawn by the trained model.",
        loss=loss_plot(
            [(arm, workspace / "runs" / arm.name / "log.jsonl") for arm in arms],
            f"Training loss of {', '.join(arm.label for arm in arms)}",
        ),
        loss_about=_loss_about(arms, manifests),
        mixed=mixed,
        plain=plain,
        noise=_noise(workspace, arms, mixed, plain),
        times=_times(workspace),
        times_note="Wall-clock time; stages of different arms may have run side by side.",
        rejects=group_rejects(manifests["images"].rejects) if "images" in manifests else [],
        configs=[
            (name, json.dumps(manifest.config, indent=2, sort_keys=True, ensure_ascii=False))
            for name, manifest in manifests.items()
        ],
        configs_about="The configuration of each directory, from its manifest.",
        shot_columns=columns,
        arm_rem=4.4 * columns,
        card_rem=min(max(4.4 * columns * len(arms) + len(arms) + 2, 14), 40),
    )


def _title(arms: Sequence[Arm]) -> str:
    return "Text-to-image model" if len(arms) == 1 else " against ".join(arm.label for arm in arms)


def _lead(arms: Sequence[Arm], manifests: Mapping[str, Manifest], judged: bool) -> str:
    """Return two sentences: what was trained on what, and what the page shows."""
    collected = manifests.get("images")
    made = "A text-to-image model was"
    if len(arms) > 1:
        made = f"{_COUNT.get(len(arms), len(arms))} text-to-image models were"
    on = ""
    if collected is not None:
        counts = collected.counts
        on = f" on {counts['images']:,} images" if "images" in counts else " on a folder of labeled images"
        on += f" of {counts['classes']} classes" if "classes" in counts else ""
        on += ", each with a single object" if collected.config.get("source") == "miniature" else ""
    first = f"{made} trained from scratch{on}."
    if judged and len(arms) > 1:
        return f"{first} They differ only in what is listed below; most prompts ask for what no training image shows."
    if judged:
        return f"{first} Most prompts ask for what no training image shows."
    return f"{first} Below is what it draws, what it learned from and how long that took."


def _samples(
    workspace: Path, arms: Sequence[Arm], scores: Mapping[str, Mapping[str, Scores]], config: ReportConfig
) -> list[dict[str, Any]]:
    """Return the kinds of prompts that were drawn, the first one open: [{title, folded, groups}]."""
    shown = []
    for kind, title in KINDS.items():
        folders = {arm.name: workspace / "samples" / arm.name / kind for arm in arms}
        folders = {name: folder for name, folder in folders.items() if folder.is_dir()}
        groups = prompt_groups(folders, arms, scores[kind], config.prompts_per_task, config.more_per_task)
        if groups:
            shown.append({"title": title, "folded": bool(shown), "groups": groups})
    return shown


def _loss_about(arms: Sequence[Arm], manifests: Mapping[str, Manifest]) -> str:
    runs = [manifests[f"runs/{arm.name}"] for arm in arms if f"runs/{arm.name}" in manifests]
    kinds = sorted({run.config["prediction"] for run in runs})
    text = f"Mean loss since the last point; the network predicts {' or '.join(kinds)}." if runs else ""
    if len({"augmented" in run.inputs for run in runs}) > 1:
        text += " Arms with and without CutMix images learn from different data: the heights of their curves do not"
        text += " compare."
    return text


def _noise(
    workspace: Path, arms: Sequence[Arm], mixed: Sequence[MixedExample], plain: Sequence[PlainExample]
) -> dict[str, Any] | None:
    """Return the strip of noise levels: one plain and up to four augmented images, one of each pattern if possible."""
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
            f" CutMix images are used only above \u03c4 = {settings.tau:g}, where noise hides their seams;"
            " the faded ones are never shown to it."
        )
    return {"about": about, **noise_strip(named, settings)}


def _times(workspace: Path) -> list[dict[str, Any]]:
    if not (workspace / "stages.json").is_file():
        return []
    stages = read_json(workspace / "stages.json")
    return time_bars({entry["stage"]: (entry["seconds"], duration_text(entry["seconds"])) for entry in stages})
