"""A study's run: its data, its cells at the same time, its tables and its page.

    data/                        the sets of all cells (tessera.study.datasets)
    cells/ARM-XX/                one training and its scores, named by all that it depends on; scores-copies/ has those
                                 of studies that look for copies of training images too
    STUDY/plan.json              what was fixed before the runs
    STUDY/results.json           scores, intervals, differences; equal on every run on one machine
    STUDY/speed.json             how fast it went
    STUDY/table.md               the first tables as text
    STUDY/report/index.html      the page

Several studies may share a folder; a cell that two of them have is trained once. The same command resumes wherever
the last one stopped, cell by cell and within a cell.
"""

import functools
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tessera.config import UserError, compare, from_dict, to_dict
from tessera.evaluate.miniature.likeness import described
from tessera.files import TEMPORARY, atomic_path, exclusive_lock, read_json, write_json
from tessera.jobs import Job, run_jobs, work
from tessera.presets.config import RunConfig
from tessera.run import BUSY, CONFIG, is_trained, run_arm
from tessera.stages import MANIFEST, is_complete, made_otherwise, read_manifest
from tessera.study.datasets import data_of, prepare
from tessera.study.design import LIKENESS, Cell, Study, cells, plan, scores_of


def run_study(
    study: Study,
    out: Path,
    *,
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (),
    parallel: int = 2,
    seconds: float | None = None,
    only_plan: bool = False,
) -> list[str]:
    """Do what is missing of `study` in the folder `out`; return the names of the cells that are still not done.

    arms, seeds: only these; none = all of the study's. parallel: cells trained at the same time, each a process.
    seconds: after so long in training, running cells save their state and end; None = no limit. only_plan: writes
    plan.json alone. Raises UserError for a plan other than that which the folder's results were made by, and at the
    end for cells that failed.
    """
    out = Path(out)
    if parallel < 1:
        raise UserError(f"parallel is {parallel}: give at least 1")
    todo = cells(study, arms, seeds)
    with exclusive_lock(out, BUSY):
        study = commit_plan(replace(study, seeds=tuple(dict.fromkeys([*study.seeds, *seeds]))), out)
        if only_plan:
            return [cell.name for cell in todo]
        for cell in todo:
            prepare(out / "data", cell.config)
        try:
            left = run_jobs(_jobs(study, out, todo), parallel, seconds=seconds, stop_at_failure=False)
        finally:
            conclude(study, out)
    return left


def commit_plan(study: Study, out: Path) -> Study:
    """Write the plan, or check that it is the one written before; return the study with all seeds of both."""
    path = out / study.name / "plan.json"
    if path.exists():
        before = read_json(path)
        study = replace(study, seeds=tuple(dict.fromkeys([*before["seeds"], *study.seeds])))
        _check_same(path, before | {"seeds": list(study.seeds)}, plan(study))
    write_json(path, plan(study))
    return study


def _jobs(study: Study, out: Path, todo: Sequence[Cell]) -> list[Job]:
    """Return a job for each cell that is not done; of equal cells one."""
    names = {(cell.variant.name, cell.seed): cell for cell in todo}
    missing: dict[str, Cell] = {}
    for cell in todo:
        folders = score_folders(cell, study, out)
        if study.likeness is not None and (folders[-1] / MANIFEST).exists():
            # What is trained and judged is in a cell's name; what its distance is measured by is not.
            config = read_manifest(folders[-1], must_be_complete=False).config
            _check_same(folders[-1], config, described(study.likeness))
        if not all(is_complete(path) for path in folders):
            missing.setdefault(cell.folder, cell)
    jobs = []
    for cell in missing.values():
        arm, folder = cell.variant.arm, out / "cells" / cell.folder
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CONFIG).exists():
            _check_same(folder, read_json(folder / CONFIG), to_dict(cell.config))
        else:
            write_json(folder / CONFIG, to_dict(cell.config))
        before = names[cell.variant.follows, cell.seed] if cell.variant.follows else None
        if before is not None and before.variant.arm.train.num_images == arm.train.num_images:
            before = None  # budgets so small that both are one
        awaited = missing.get(before.folder) if before else None
        likeness = to_dict(study.likeness) if study.likeness else None
        task = {"kinds": list(study.kinds), "before": before.folder if before else None, "likeness": likeness}
        task |= {"copies": study.copies, "scored": study.scored}
        jobs.append(
            Job(
                name=cell.name,
                what=f"cell {cell.name}",
                module="tessera.study.runner",
                args=(str(out), cell.folder, json.dumps(task)),
                logs=out / study.name / "logs",
                images=arm.train.num_images,
                trained=functools.partial(is_trained, folder / "runs" / arm.name, arm.train.num_images),
                after=awaited.name if awaited else None,
            )
        )
    return jobs


def _check_same(place: Path, before: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise UserError where what `place` was made with is not what is asked for now."""
    pairs = compare(before, json.loads(json.dumps(ours)))
    if pairs:
        raise made_otherwise(place, pairs[:5])


def score_folders(cell: Cell, study: Study, out: Path) -> list[Path]:
    """Return the directories of the scores of one cell, in the order of the study's kinds of prompts."""
    return [scores_of(study, cell, out, kind) for kind in (*study.kinds, *([LIKENESS] if study.likeness else []))]


def conclude(study: Study, out: Path) -> None:
    """Write the study's results, tables and page from the cells that are done."""
    from tessera.study.results import results, speeds
    from tessera.study.study_page import study_page, text_tables

    found = results(study, out)
    write_json(out / study.name / "results.json", found)
    write_json(out / study.name / "speed.json", speeds(study, out))
    with atomic_path(out / study.name / "table.md") as temporary:
        temporary.write_text(text_tables(study, found), encoding="utf-8", newline="\n")
    study_page(study, out, found).write(out / study.name / "report" / "index.html")


def run_cell(out: Path, folder: str, task: Mapping[str, Any]) -> None:
    """Train and judge one cell, in this process."""
    place = out / "cells" / folder
    config = from_dict(RunConfig, read_json(place / CONFIG), str(place / CONFIG))
    (arm,) = config.arms
    data = data_of(out / "data", config)
    if task["before"] is not None:
        _follow(place / "runs" / arm.name, out / "cells" / task["before"] / "runs" / arm.name)
    images = data.images if task["copies"] else None
    made = (data.plain, data.augmented, data.prompts / "prompts.jsonl")
    run_arm(place, config, arm, *made, task["kinds"], images, data.recipe, data.judge, task["scored"])
    if task["likeness"] is not None:
        from tessera.evaluate.miniature.likeness import LikenessConfig, held_out_prompts, likeness
        from tessera.generate.folder import generate

        settings = from_dict(LikenessConfig, task["likeness"])
        prompts, samples = data.held_out(settings.prompts), place / "samples" / arm.name / LIKENESS
        held_out_prompts(prompts, data.images, settings)
        draw = replace(config.generate, per_prompt=1, extended=False)
        generate(samples, place / "export" / arm.name, prompts / "prompts.jsonl", draw)
        likeness(place / "scores" / arm.name / LIKENESS, samples, data.images, settings)


def _follow(run: Path, before: Path) -> None:
    """Start the run directory `run` as a copy of the shorter run `before`, which its training then extends."""
    if run.exists():
        return
    temporary = run.with_name(f"{TEMPORARY}{run.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(before, temporary)
    temporary.rename(run)  # the last step: it says that all of this is done


if __name__ == "__main__":
    sys.exit(work(lambda: run_cell(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))))
