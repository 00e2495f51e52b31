"""run: every stage in one call; study: many runs as one table."""

from pathlib import Path
from typing import Annotated, Literal

from tessera.cli.output import say_report, say_this
from tessera.config import UserError
from tessera.devices import PEAK_TFLOPS


def run(
    preset: Annotated[str, "positional"],
    out: Path | None = None,
    images: Path | None = None,
    captions: Path | None = None,
    single_class: str | None = None,
    resume: bool = False,
) -> None:
    """Do all stages, from images to a model and a report.

    Example: tessera run miniature --out out/miniature

    Args:
        preset: miniature, miniature-paper, miniature-cad, miniature-smoke, my-pictures, or FILE.py:FUNCTION.
        out: Working folder; out/PRESET by default. Running again resumes it.
        images: Your images, a folder for each class (preset my-pictures).
        captions: A csv, tsv, jsonl or parquet file with captions for them; default: "An image of <class-name>".
        single_class: The class of a folder without class folders.
        resume: Fail if there is nothing to resume.
    """
    from tessera.presets.lookup import load_run_preset
    from tessera.run import run as run_all

    config = load_run_preset(preset, images=images, with_captions=captions is not None, single_class=single_class)
    name = preset.rpartition(":")[2]
    page = run_all(out or Path("out") / name, config, images=images, captions=captions, resume=resume)
    say_report(page)


def study(
    name: Annotated[str, "positional"],
    out: Path | None = None,
    arms: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    images: int | None = None,
    budget: str | None = None,
    parallel: int = 2,
    plan: bool = False,
) -> None:
    """Train many models that differ in one thing; write one table with intervals.

    Example: tessera study claims --out out/studies

    Args:
        name: claims, patterns, probability, half_view, tau, phases, overfit, short_captions,
            schedule, noise, claims-smoke, or FILE.py:FUNCTION.
        out: Working folder; out/studies by default. Running again resumes it.
        arms: Only these of the study's arms.
        seeds: Seeds of training; the study's own by default.
        images: Images that each cell trains on; the study's own by default. Other shares of training move along.
        budget: Time for this call, such as 60m or 2h; what is not done then is saved; run it again to resume.
        parallel: Cells trained at the same time, each in its own process.
        plan: Only write what the study will do: metrics, prompts, budgets, seeds.
    """
    from tessera.study.design import resized
    from tessera.study.noise import NoiseStudy, run_noise
    from tessera.study.runner import run_study
    from tessera.study.studies import load_study

    chosen = load_study(name)
    if isinstance(chosen, NoiseStudy):
        given = {"arms": arms, "seeds": seeds, "images": images is not None, "budget": budget, "plan": plan}
        if chosen_options := [option for option, there in given.items() if there]:
            raise UserError(f"study {name} trains nothing: leave out --{chosen_options[0]}")
        say_report(run_noise(chosen, out or Path("out") / "studies"))
        return
    chosen = chosen if images is None else resized(chosen, images)
    out, time = out or Path("out") / "studies", _seconds(budget)
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


def _seconds(budget: str | None) -> float | None:
    """Return the seconds of a time such as 90s, 60m or 2h; None for None."""
    if budget is None:
        return None
    unit = {"s": 1, "m": 60, "h": 3600}.get(budget[-1:])
    try:
        number = float(budget[:-1])
    except ValueError:
        number = 0.0
    if unit is None or not 0 < number < float("inf"):
        raise UserError(f"budget is {budget!r}; give a time such as 90s, 60m or 2h")
    return number * unit


def plan(
    images: int,
    sets: int = 2,
    mean_tokens: float = 180.0,
    network: Literal["dit", "cad"] = "dit",
    init: str | None = None,
    train_images: int | None = None,
    gpu_tflops: float = PEAK_TFLOPS["H200"],
    utilisation: float = 0.48,
    gpus: int = 8,
    price: float | None = None,
) -> None:
    """Estimate what a set of some size takes: disk, GPU-hours, money, and the command lines.

    Example: tessera plan --images 1281167 --sets 2 --mean-tokens 180

    Args:
        images: Images of the set.
        sets: Encoded sets: 1 is the plain one, 2 with CM all, up to 6 with each pattern by itself.
        mean_tokens: T5 tokens of a caption, on average.
        network: dit (DiT-I L/2) or cad (CAD-I L).
        init: Export to start from, with the tuning presets: 4000 steps of 256.
        train_images: Samples seen in training, in place of the preset's: 250,000 steps of 1024 without --init. Rounded
            up to whole steps.
        gpu_tflops: Peak of one GPU in TFLOP/s, dense bf16 by its data sheet (H100 and H200: 989).
        utilisation: Share of that peak that training reaches.
        gpus: GPUs that work in parallel; a step's samples are split evenly among them.
        price: Price of an hour of one GPU, in your currency; without it no money is named.
    """
    options = locals()
    from tessera.plan import PlanConfig, describe, to_json

    config = PlanConfig(**options)
    say_this(describe(config), **to_json(config))
