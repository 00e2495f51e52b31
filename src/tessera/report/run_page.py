"""report: one self-contained HTML page about a workspace, the folder in which the stages of one run lie side by side.

    images/  recipe/  captions/NAME/  encoded/NAME/  runs/ARM/  export/ARM/
    samples/ARM/short/  samples/ARM/extended/  scores/ARM/short/  scores/ARM/extended/
    learning/ARM/NUMBER/  stages.json

Only what is there is shown; an arm needs its run or its samples. The page loads nothing from anywhere.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tessera.config import UserError, check_ranges, nearest, to_dict
from tessera.files import read_json, write_text
from tessera.images import read_rgb
from tessera.progress import duration_text
from tessera.report.arms import (
    KINDS,
    SAYING,
    Arm,
    ScoresPart,
    describe_arms,
    find_arms,
    loss_plot,
    loss_points,
    scores_of,
    scores_part,
    time_bars,
)
from tessera.report.examples import Example, noise_settings, noise_strip, training_examples
from tessera.report.gallery import embed, prompt_groups
from tessera.report.render import group_rejects, json_text, render
from tessera.report.sections.held_out import HeldOut, held_out
from tessera.report.sections.learning import FOLDER, SAMPLES, SCORES, Learning, checkpoints, learning
from tessera.report.sections.nearest_pairs import COPIES, NearestPairs, nearest_of_each, nearest_pairs, searched_kind
from tessera.report.sections.opening import Budget, strips, too_small, what_is_drawn
from tessera.report.sections.training_set import TrainingSet, next_steps, training_set
from tessera.stages import MANIFEST, Manifest, is_complete, open_stage, read_manifest

SO_FAR = "report-so-far"
"""Folder of the page about unfinished runs."""
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
    answer: Sequence[str] = ()
    """Sentences that answer a study's question by its scores."""
    arms: Sequence[Arm] = ()
    strips: Sequence[Mapping[str, Any]] = ()
    """Prompts whose first images are shown at the top, of `strips`."""
    drawn: str = ""
    """A sentence about what is drawn rightly and what is not."""
    so_far: Sequence[Mapping[str, Any]] = ()
    """{text, grid} of each unfinished run."""
    too_small: str = ""
    """Said of a budget that was too small to draw anything."""
    learning: Learning | None = None
    nearest: NearestPairs | None = None
    scores: ScoresPart | None = None
    samples: Sequence[Mapping[str, Any]] = ()
    """Kinds of prompts: {title, folded, groups of `prompt_groups`}."""
    samples_about: str = ""
    loss: Any = None
    loss_about: str = ""
    held_out: HeldOut | None = None
    examples: Sequence[Example] = ()
    training_set: TrainingSet | None = None
    next_steps: Sequence[tuple[str, str]] = ()
    """(what it does, command)."""
    noise: Mapping[str, Any] | None = None
    """The strip of noise levels (`noise_strip`) and "about"."""
    times: Sequence[Mapping[str, Any]] = ()
    times_note: str = ""
    rejects: Sequence[Mapping[str, Any]] = ()
    missing: Sequence[Mapping[str, Any]] = ()
    """Images without a caption, as `rejects`."""
    configs: Sequence[tuple[str, str]] = ()
    configs_about: str = ""
    shot_columns: int = 2
    """Images of an arm in a row."""
    arm_rem: float = 6.5
    """Width of an arm's images; a card holds all arms side by side."""
    card_rem: float = 40

    def write(self, path: Path) -> None:
        """Write the page as HTML."""
        write_text(path, render("run.html.j2", self))


def report(
    out: str | Path,
    workspace: str | Path,
    arms: Sequence[str] = (),
    config: ReportConfig = ReportConfig(),
    budget: Budget | None = None,
    so_far: bool = False,
) -> None:
    """Write `out`/index.html about `arms` (none = all of the workspace); do nothing when it is there already.

    budget: a training that draws, to be named where none here does. so_far: of directories that are not complete only
    the runs are shown, marked as such. The manifest's facts hold what the page says first. Raises UserError for a
    workspace without any run or samples, an unknown arm, or, without `so_far`, unfinished inputs.
    """
    out, workspace = Path(out), Path(workspace)
    names = find_arms(workspace, "runs", "samples")
    if not names:
        raise UserError(f"{workspace}: there is no runs/ARM or samples/ARM; give the folder in which the stages lie")
    for name in arms:
        if name not in names:
            raise UserError(f"{workspace}: has no arm {name!r};{nearest(name, names)} there are: {', '.join(names)}")
    names = list(dict.fromkeys(arms)) or names
    unfinished = unfinished_runs(workspace) if so_far else []
    places = [path for path in _stage_directories(workspace, names) if not so_far or is_complete(path)]
    inputs = {str(path.relative_to(workspace)): path for path in places}
    stage = open_stage(out, stage="report", config=to_dict(config) | {"arms": names}, inputs=inputs)
    if stage.done:
        return
    manifests = {name: read_manifest(path) for name, path in inputs.items()}
    for run in unfinished:
        manifests[f"runs/{run.name}"] = read_manifest(run, must_be_complete=False)
    own = "images" in manifests and manifests["images"].config.get("world") is None
    described = [replace(arm, meaning=_with_mix(arm, manifests, own)) for arm in describe_arms(names)]
    budget = None if own else budget  # it draws the miniature
    page = replace(_page(workspace, described, manifests, config, budget), so_far=[_so_far(run) for run in unfinished])
    page.write(out / "index.html")
    said = [page.too_small, page.drawn, *(page.nearest.lines if page.nearest else ())]
    stage.finish(counts={"arms": len(names)}, facts={"said": [text for text in said if text]})


def report_so_far(workspace: Path) -> Path:
    """Write the page of a working folder with unfinished runs anew, in its folder report-so-far; return its path."""
    out = Path(workspace) / SO_FAR
    shutil.rmtree(out, ignore_errors=True)
    report(out, workspace, so_far=True)
    return out / "index.html"


def unfinished_runs(workspace: Path) -> list[Path]:
    """Return the runs of a workspace that are not complete."""
    found = [path.parent for path in sorted((workspace / "runs").glob(f"*/{MANIFEST}"))]
    return [path for path in found if not is_complete(path)]


def _so_far(run: Path) -> dict[str, Any]:
    """Return {text, grid} of an unfinished run: images seen, and the last grid of what it draws (None without any)."""
    points, (arm,) = loss_points(run / "log.jsonl"), describe_arms([run.name])
    saved = [int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdecimal()]
    seen = max([*saved, *(images for images, _ in points[-1:])], default=0)
    total = read_manifest(run, must_be_complete=False).config["num_images"]
    grids = sorted((run / "samples").glob("*.png"))
    text = f"{arm.label} is unfinished: about {seen:,.0f} of {total:,} images seen."
    if not grids:
        return {"text": text, "grid": None}
    text += f" Below: what it drew of the first captions after {int(grids[-1].stem):,} images."
    return {"text": text, "grid": embed(read_rgb(grids[-1]), f"Images that {arm.label} drew", 512)}


def _stage_directories(workspace: Path, arms: Sequence[str]) -> list[Path]:
    """Return the directories with manifests that the page tells about, in the order of the work."""
    found = [workspace / name for name in ("images", "recipe", "prompts")]
    made = [workspace / name for name in ("captions", "encoded")]
    found += sorted([*made, *(path for folder in made for path in folder.glob("*"))])
    for arm in arms:
        found += [workspace / "runs" / arm, workspace / "export" / arm]
        found += [workspace / kind / arm / prompts for kind in ("samples", "scores") for prompts in KINDS]
        found += [path for path in [workspace / "scores" / arm / COPIES] if is_complete(path)]
        found += [path / part for _, path in checkpoints(workspace, arm) for part in (SAMPLES, SCORES)]
    return [path for path in found if (path / MANIFEST).is_file()]


def _page(
    workspace: Path, arms: list[Arm], manifests: dict[str, Manifest], config: ReportConfig, budget: Budget | None
) -> Page:
    scores, samples = {kind: scores_of(workspace, arms, kind) for kind in KINDS}, []
    near = nearest_of_each(workspace, arms)
    for kind, title in KINDS.items():
        folders = {arm.name: workspace / "samples" / arm.name / kind for arm in arms}
        folders = {name: folder for name, folder in folders.items() if folder.is_dir()}
        at_once, more = config.prompts_per_task, config.more_per_task
        own = {name: found for name, found in near.items() if searched_kind(workspace, name) == kind}
        groups = prompt_groups(folders, arms, scores[kind], at_once, more, workspace / "images", own)
        if groups:
            samples.append({"title": title, "folded": bool(samples), "groups": groups})
    runs = [manifest for name, manifest in manifests.items() if name.startswith("runs/")]
    examples, numbers = training_examples(workspace, config.examples, runs), training_set(workspace)
    drawn = [arm for kind in samples for group in kind["groups"] for p in group["prompts"] for arm in p["arms"]]
    columns = min(max((len(arm["shots"]) for arm in drawn), default=1), 2)
    kind, judged = next(((KINDS[kind].lower(), found) for kind, found in scores.items() if found), ("", {}))
    stages = read_json(workspace / "stages.json") if (workspace / "stages.json").is_file() else []
    names, logs = [arm.label for arm in arms], [workspace / "runs" / arm.name / "log.jsonl" for arm in arms]
    return Page(
        title=config.title or ("Text-to-image model" if len(arms) == 1 else " against ".join(names)),
        lead=_lead(arms, manifests, any(scores.values())),
        arms=arms,
        strips=strips(samples),
        drawn=what_is_drawn(arms, judged, kind),
        too_small=too_small(arms, judged, {arm.name: loss_points(log) for arm, log in zip(arms, logs)}, budget),
        learning=learning(workspace, arms),
        nearest=nearest_pairs(workspace, arms, scores),
        scores=scores_part(arms, scores, workspace / "prompts"),
        samples=samples,
        samples_about="Drawn by the trained model."
        if len(arms) == 1
        else "All arms draw the same prompts from the same noise.",
        loss=loss_plot(zip(arms, logs), f"Training loss of {', '.join(names)}"),
        loss_about=_loss_about(arms, manifests),
        held_out=held_out(zip(arms, logs)),
        examples=examples,
        training_set=numbers,
        next_steps=_next_steps(workspace, arms, manifests, samples) if numbers else (),
        noise=_noise(workspace, arms, examples),
        times=time_bars({entry["stage"]: (entry["seconds"], duration_text(entry["seconds"])) for entry in stages}),
        times_note="Wall-clock time; stages of different arms may have run side by side.",
        rejects=group_rejects(manifests["images"].rejects) if "images" in manifests else [],
        missing=group_rejects(_without_captions(manifests)),
        configs=[(name, json_text(m.config)) for name, m in manifests.items() if not name.startswith(f"{FOLDER}/")],
        configs_about="The configuration of each directory, from its manifest.",
        shot_columns=columns,
        arm_rem=4.4 * columns,
        card_rem=min(max(4.4 * columns * len(arms) + len(arms) + 2, 14), 40),
    )


def _next_steps(
    workspace: Path, arms: Sequence[Arm], manifests: Mapping[str, Manifest], samples: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    trained = [arm.name for arm in arms if f"export/{arm.name}" in manifests]
    prompts = [prompt["text"] for kind in samples for group in kind["groups"] for prompt in group["prompts"]]
    if not trained or not prompts:
        return []
    name, images = trained[-1], manifests["images"].counts["images"]
    seen = manifests[f"export/{name}"].counts["num_images"]
    return next_steps(workspace, name, min(prompts, key=len), seen, images)


def _lead(arms: Sequence[Arm], manifests: Mapping[str, Manifest], judged: bool) -> str:
    """Return two sentences: what was trained on what, and what the page shows."""
    many, collected, on, held = len(arms) > 1, manifests.get("images"), "", 0
    made = f"{_COUNT.get(len(arms), len(arms))} text-to-image models were" if many else "A text-to-image model was"
    if collected is not None:
        counts = collected.counts
        runs = [manifests[f"runs/{arm.name}"].config for arm in arms if f"runs/{arm.name}" in manifests]
        held = max((train.get("validation_records", 0) for train in runs), default=0)
        on = f" on {counts['images'] - held:,} images" if "images" in counts else " on a folder of labeled images"
        on += f" of {counts['classes']} classes" if "classes" in counts else ""
        on += f" ({collected.config['source']})" if collected.config.get("world") is None else ""
        on += ", each with a single object" if collected.config.get("source") == "miniature" else ""
    begun = any("init" in manifests[run].inputs for run in (f"runs/{arm.name}" for arm in arms) if run in manifests)
    first = f"{made} trained{'' if begun else ' from scratch'}{on}{f'; {held} more are held out' if held else ''}."
    if judged:
        most = "They differ only in what is listed below; most" if many else "Most"
        return f"{first} {most} prompts ask for what no training image shows."
    return f"{first} Below is what it draws, what it learned from and how long that took."


def _with_mix(arm: Arm, manifests: Mapping[str, Manifest], own: bool) -> str:
    """Return what the arm means, with the levels of captions that its training mixes. own: of images that are no
    miniature world, whose long captions say other things."""
    train = manifests[f"runs/{arm.name}"].config if f"runs/{arm.name}" in manifests else {}
    mixed = [f"{share:.0%} {level}" for level, share in train.get("caption_mix", {}).items() if share]
    meaning = arm.meaning.replace(SAYING, "") if own else arm.meaning
    if not meaning or not mixed:
        return meaning
    start = train["caption_mix_start_image"]
    return f"{meaning}; captions{f' from image {start:,} on' if start else ''}: {', '.join(mixed)}"


def _without_captions(manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Return image -> reason of those that the sets of captions leave out."""
    found = {name: manifest.rejects for name, manifest in manifests.items() if name.split("/")[0] == "captions"}
    return {
        f"{key} ({name})" if len(found) > 1 else key: reason or "no caption"
        for name, rejects in found.items()
        for key, reason in rejects.items()
    }


def _loss_about(arms: Sequence[Arm], manifests: Mapping[str, Manifest]) -> str:
    runs = [manifests[f"runs/{arm.name}"] for arm in arms if f"runs/{arm.name}" in manifests]
    kinds = sorted({run.config["prediction"] for run in runs})
    text = f"Mean loss since the last point; the network predicts {' or '.join(kinds)}." if runs else ""
    if len({"augmented" in run.inputs for run in runs}) > 1:
        text += " Arms with and without CutMix images learn from different data: the heights of their curves do not"
        text += " compare."
    return text


def _noise(workspace: Path, arms: Sequence[Arm], examples: Sequence[Example]) -> dict[str, Any] | None:
    """Return the strip of noise levels: one plain and up to four augmented images, one of each pattern if possible."""
    settings = noise_settings(workspace, [arm.name for arm in arms])
    if settings is None or not examples:
        return None
    mixed = [example for example in examples if example.base]
    by_pattern = {example.pattern: example for example in reversed(mixed)}
    chosen = sorted(mixed, key=lambda example: by_pattern[example.pattern] is not example)[:4]
    named = [("plain", examples[0].plain, False), *((example.pattern, example.pixels, True) for example in chosen)]
    about = f"What the network sees at noise level t on the schedule {settings.schedule!r}, decoded to pixels."
    if settings.augmented:
        about += f" CutMix images are used only above \u03c4 = {settings.tau:g}, where noise hides their seams"
        about += " (the median, for each has its own);" if settings.own else ";"
        about += " the faded ones are never shown to it."
    return {"about": about, **noise_strip(named, settings)}
