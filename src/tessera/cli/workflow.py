"""run: every stage in one call; study: many runs as one table; sweep: one export at many sampling settings."""

import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from tessera.cli.options import ClassNames, Device, Layout, Networks, SingleClass, Split
from tessera.cli.output import say_report, say_this
from tessera.config import UserError
from tessera.stages import read_manifest, the_export


def run(
    preset: Annotated[str, "positional"],
    out: Annotated[Path | None, "Working folder; out/PRESET by default. Running again resumes it."] = None,
    images: Annotated[Path | None, "Your images, a folder for each class (preset my-pictures)."] = None,
    captions: Annotated[Path | None, "A captions file for them, as for caption --file; class names by default."] = None,
    single_class: SingleClass = None,
    split: Split = "train",
    layout: Layout = None,
    class_names: ClassNames = None,
    styles: Annotated[tuple[str, ...], "Only these of noto, twemoji, fluent, openmoji (preset emoji)."] = (),
    size: Annotated[int | None, "Side of the images in pixels; 32 by default."] = None,
    network: Annotated[
        Literal["dit", "cad", "dit-xs"] | None, "DiT-I or CAD-I, small; DiT-I of 23M; DiT-I by default."
    ] = None,
    text: Annotated[str | None, "Text encoder of the captions, as for encode; words:64, or emoji's minilm."] = None,
    num_images: Annotated[int | None, "Samples that each arm sees in training; more draw better."] = None,
    budget: Annotated[str | None, "Time for training in this call, such as 20m; run it again to resume."] = None,
    resume: Annotated[bool, "Fail if there is nothing to resume."] = False,
    skip_missing: Annotated[bool, "Leave images without a caption out."] = False,
) -> None:
    """Do all stages, from images to a model and a report.

    Example: tessera run miniature --out out/miniature

    Args:
        preset: miniature, miniature-paper, miniature-cad, miniature-smoke, emoji, emoji-few, my-pictures,
            or FILE.py:FUNCTION.
    """
    from tessera.presets.lookup import load_run_preset
    from tessera.run import run as run_all

    source = {"single_class": single_class, "split": split, "layout": layout, "class_names": class_names}
    fit = {"styles": styles, "size": size, "network": network, "text": text, "num_images": num_images}
    config = load_run_preset(preset, images=images, with_captions=captions is not None, **fit, **source)
    out = out or Path("out") / preset.rpartition(":")[2]
    files = {"images": images and "FOLDER", "captions": captions and "FILE"}  # whose paths are not kept
    usual: dict[str, Any] = {"split": None if split == "train" else split, "num_images": None}
    told = _command(preset, **files | source | fit | usual, skip_missing=skip_missing)
    options = {"resume": resume, "skip_missing": skip_missing, "seconds": _seconds(budget), "command": told}
    page = run_all(out, config, images=images, captions=captions, **options)
    say_report(page)


def _command(preset: str, **options: Any) -> str:
    """Return the command line of `tessera run`, quoted for a shell, with those options that are given."""
    words = ["tessera", "run", preset]
    for name, value in options.items():
        if value not in (None, (), False):
            words.append(f"--{name.replace('_', '-')}")
            words += [] if value is True else value if isinstance(value, tuple) else [str(value)]
    return shlex.join(words)


def study(
    name: Annotated[str, "positional"],
    out: Annotated[Path | None, "Working folder; out/studies by default. Running again resumes it."] = None,
    arms: Annotated[tuple[str, ...], "Only these of the study's arms."] = (),
    seeds: Annotated[tuple[int, ...], "Seeds of training; the study's own by default."] = (),
    images: Annotated[int | None, "Images that each cell trains on; other shares of training move along."] = None,
    budget: Annotated[str | None, "Time for this call, such as 60m or 2h; run it again to resume."] = None,
    parallel: Annotated[int, "Cells trained at the same time, each in its own process."] = 2,
    plan: Annotated[bool, "Only write what the study will do: metrics, prompts, budgets, seeds."] = False,
) -> None:
    """Train many models that differ in one thing; write one table with intervals.

    Example: tessera study claims --out out/studies

    Args:
        name: claims, patterns, probability, half_view, tau, phases, overfit, how_many, drawings,
            short_captions, schedule, flow, partners, tau_image, alignment, conditions, combined,
            ablation, noise, claims-smoke, or FILE.py:FUNCTION.
    """
    from tessera.study.design import resized
    from tessera.study.noise import NoiseStudy, run_noise
    from tessera.study.runner import run_study
    from tessera.study.studies import load_study

    chosen, out = load_study(name), out or Path("out") / "studies"
    if isinstance(chosen, NoiseStudy):
        given = {"arms": arms, "seeds": seeds, "images": images is not None, "budget": budget, "plan": plan}
        for option in (option for option, there in given.items() if there):
            raise UserError(f"study {name} trains nothing: leave out --{option}")
        say_report(run_noise(chosen, out))
        return
    chosen = chosen if images is None else resized(chosen, images)
    time = _seconds(budget)
    left = run_study(chosen, out, arms=arms, seeds=seeds, parallel=parallel, seconds=time, only_plan=plan)
    folder = out / chosen.name
    if plan:
        path = folder / "plan.json"
        say_this(f"Plan: {path}, {len(left)} cells", plan=str(path), cells=left)
        return
    text = (folder / "table.md").read_text(encoding="utf-8")
    if left:
        text += f"\n{len(left)} cells are not done; run the same command to resume: {', '.join(left)}"
    say_report(folder / "report" / "index.html", text, results=str(folder / "results.json"), left=left)


def sweep(
    export: Annotated[Path, "positional", "Directory made by export or import-published."],
    out: Annotated[Path | None, "Working folder; sweep/EXPORT by default. Running again resumes it."] = None,
    reference: Annotated[Path | None, "Real images, or their features; of the miniature, its own judge judges."] = None,
    prompts: Annotated[str | None, "As for generate; the miniature brings its own."] = None,
    extended: Annotated[bool, "Draw the extended text of each prompt."] = False,
    guidance_scales: Annotated[tuple[float, ...], "Scales w to draw by."] = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0),
    guidance_intervals: Annotated[tuple[tuple[float, float], ...], "Low and high t of each interval."] = ((0.0, 1.0),),
    steps: Annotated[tuple[int, ...], "Numbers of steps; the export's own by default."] = (),
    metrics: tuple[str, ...] = (),
    choose: Annotated[str | None, "Number whose best value counts; the first metric's by default."] = None,
    networks: Networks = (),
    images: Annotated[int, "Images of each settings, one for each prompt."] = 500,
    seed: Annotated[int, "Image i is a function of (seed, i)."] = 0,
    device: Device = None,
) -> None:
    """Draw by several guidance scales, intervals and steps, score them, and make the best the export's defaults.

    Example: tessera sweep export/ta_ia --reference images --extended --guidance-scales 1 2 3 4 --steps 14 25

    Args:
        metrics: Of those of evaluate quality, fid and clip_score by default; miniature and likeness for the miniature.
    """
    from tessera.study.sweep import SweepConfig
    from tessera.study.sweep import sweep as sweep_all
    from tessera.study.trial import TrialConfig, named_networks

    trial = TrialConfig(
        prompts=prompts,
        extended=extended,
        reference=None if reference is None else str(reference),
        metrics=metrics,
        networks=named_networks(networks),
        images=images,
        seed=seed,
        device=device,
    )
    config = SweepConfig(
        trial=trial, guidance_scales=guidance_scales, guidance_intervals=guidance_intervals, steps=steps
    )
    export = the_export(export)
    out = out or Path("sweep") / export.resolve().name
    page = sweep_all(out, export, config, choose)
    chosen = read_manifest(out, "sweep").facts["chosen"]
    say_report(page, (out / "table.md").read_text(encoding="utf-8"), chosen=chosen, export=str(export))


def _seconds(budget: str | None) -> float | None:
    """Return the seconds of a time such as 90s, 60m or 2h; None for None."""
    if budget is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d*)?)([smh])", budget)
    if not match or not float(match[1]):
        raise UserError(f"budget is {budget!r}; give a time such as 90s, 60m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def plan(
    images: Annotated[int, "Images of the set."],
    sets: Annotated[int, "Encoded sets: 1 is the plain one, 2 with CM all, up to 6 with each pattern by itself."] = 2,
    mean_tokens: Annotated[float, "T5 tokens of a caption, on average."] = 180.0,
    levels: Annotated[bool, "Medium and short captions by rules next to the long ones."] = False,
    network: Annotated[
        Literal["dit", "cad", "dit-xs", "dit-s", "dit-b"], "DiT-I L/2, CAD-I L, DiT-I XS/2, S/2 or B/2."
    ] = "dit",
    init: Annotated[str | None, "Export to start from, with the tuning presets: 4000 steps of 256."] = None,
    train_images: int | None = None,
    gpu: Annotated[str | None, "Model of the GPUs, such as H200, A100 or RTX 4090; an H100 or H200 by default."] = None,
    gpu_tflops: Annotated[float | None, "Dense bf16 peak of a GPU; by default the data sheet's."] = None,
    utilisation: Annotated[float | None, "Share of that peak that training reaches; by default estimated."] = None,
    gpus: Annotated[int, "GPUs that work in parallel; a step's samples are split evenly among them."] = 8,
    gpu_memory: Annotated[float | None, "GiB of one GPU, for which the images of a pass are found that fit."] = None,
    price: Annotated[float | None, "Price of an hour of one GPU, in your currency; none: no money is named."] = None,
    measure: Annotated[
        bool, "Measure this machine first: 20 steps, encoder, captioner; and compare it with its CPU."
    ] = False,
) -> None:
    """Estimate what a set of some size takes: disk, GPU-hours, money, and the command lines.

    Example: tessera plan --images 1281167 --sets 2 --mean-tokens 180
    Example: tessera plan --images 20000 --network dit-s --gpus 1 --measure

    Args:
        train_images: Samples seen in training, in place of the preset's: 250,000 steps of 1024 without --init. Rounded
            up to whole steps.
    """
    options, found = locals(), None
    del options["measure"]
    from tessera import plan

    config = plan.PlanConfig(**options)
    if measure:
        from tessera import measure as machine

        found = machine.measure(config.training, config.batch // config.gpus, config.mean_tokens)
    say_this(plan.describe(config, found), **plan.to_json(config, found))
