"""report SCORES...: one self-contained page of measured tables and the paper's; markdown and CSV of the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.evaluate.copies.evaluate import PLAIN, SHEETS, SSCD
from tessera.evaluate.quality.features import find_images
from tessera.evaluate.scores import FILE, Scores, read_scores
from tessera.files import read_json, sha256_file, write_text
from tessera.images import read_rgb
from tessera.report.differences import pairs_of
from tessera.report.gallery import embed, most_different
from tessera.report.grid import by_model
from tessera.report.measured import (
    ONE_SEED,
    ablation_tables,
    curve_points,
    measured_tables,
    protocol_text,
    seed_tables,
)
from tessera.report.plots import ARM_COLORS, Curve, curve_plot
from tessera.report.render import render
from tessera.report.tables import Table, add_labels, label, name_of, printed_tables
from tessera.report.text_tables import about_intervals, as_csv, as_markdown
from tessera.stages import MANIFEST, open_stage, read_manifest


def is_scores(path: Path) -> bool:
    """Return whether `report` takes `path` for scores, a file or a directory with scores.json; not a workspace."""
    return path.is_file() or (path / FILE).is_file()


def report_scores(
    out: Path, paths: Sequence[Path], samples: Sequence[Path] = (), force: bool = False, seeds: int = 1
) -> None:
    """Write `out`/index.html, tables.md and tables.csv about scores; do nothing when they are there already.

    samples: the images of each of `paths` in the same order, shown prompt by prompt; none = numbers only. force: put
    different protocols in one table. seeds: trainings of each arm, in a row in `paths`. UserError: a damaged file,
    another number of samples than of scores, or other images than were judged, as far as the scores' manifest tells.
    """
    out, paths = Path(out), [Path(path) for path in paths]
    files = [path / FILE if path.is_dir() else path for path in paths]
    scores = [read_scores(path) for path in files]
    for item in scores:
        add_labels(item)
    if not any(item.numbers for item in scores):
        raise UserError(f"{files[0]}: holds no numbers; give scores of `tessera evaluate`")
    if samples and len(samples) != len(paths):
        raise UserError(f"samples: {len(samples)} directories for {len(paths)} scores; give one for each, in order")
    for path, folder in zip(paths, samples):
        _check_samples(path, Path(folder))
    config = {"scores": [sha256_file(file) for file in files], "force": force, "samples": len(samples)}
    config |= {"seeds": seeds} if seeds != 1 else {}
    of_arms = seed_tables(scores, seeds, force) if seeds != 1 else []
    stage = open_stage(out, stage="report", config=config)
    if stage.done:
        return
    measured = measured_tables(scores, force)
    tables = [*of_arms, *measured, *ablation_tables(scores, force), *printed_tables()]
    pairs = [pairs_of(table, force) for table in tables]
    # A model has one color, in all plots and with all images.
    colors = {name: number % ARM_COLORS for number, name in enumerate(dict.fromkeys(item.name for item in scores))}
    grids = [by_model(table, own, _row_colors(table, colors)) for table, own in zip(tables, pairs)]
    page = {
        "title": f"Scores of {', '.join(colors)}",
        "intervals": f"{about_intervals(tables)} {'' if of_arms else ONE_SEED}".strip(),
        "measured": [grid for grid, table in zip(grids, tables) if not table.printed],
        "printed": [grid for grid, table in zip(grids, tables) if table.printed],
        "curves": _curves(scores, colors),
        "prompts": most_different(scores, samples, colors),
        "closest": [
            _closest(item, file.parent, sheet)
            for item, file in zip(scores, files)
            for sheet in SHEETS
            if (file.parent / sheet).is_file()
        ],
        "protocols": [(f"{item.name}: {item.kind}", protocol_text(item)) for item in scores],
    }
    write_text(out / "tables.md", as_markdown(tables, pairs, "" if of_arms else ONE_SEED))
    write_text(out / "tables.csv", as_csv(tables, pairs))
    write_text(out / "index.html", render("scores.html.j2", page))
    stage.finish({"scores": len(scores), "tables": len(measured)})


def _check_samples(path: Path, folder: Path) -> None:
    """Raise UserError unless `folder` is there, and is what the scores of `path` were made of."""
    if not folder.is_dir():
        raise UserError(f"samples: {folder}: there is no such directory")
    home = path if path.is_dir() else path.parent
    for place, name in ((home, "samples"), (home.parent, home.name)):  # GenEval's scores lie below its manifest
        manifest = read_manifest(place, must_be_complete=False) if (place / MANIFEST).is_file() else None
        if manifest is None:
            continue
        if name in manifest.inputs:
            made, of_folder = manifest.inputs[name], folder / MANIFEST
            found = sha256_file(of_folder) if of_folder.is_file() else None
        elif place == home and manifest.stage == "evaluate quality":
            made, found = manifest.config.get("samples"), find_images(folder, "sample").sha256
        else:
            continue
        if found == made:
            return
        raise UserError(f"samples: {folder} is not what {path} judged; give the directories in the order of the scores")


def _closest(scores: Scores, folder: Path, sheet: str) -> dict[str, Any]:
    """Return {name, image, lines} of the closest pairs that `evaluate copies` left next to its scores."""
    lines = []
    for pair in read_json(folder / SHEETS[sheet]):
        what = f" (compared: {pair['view']} with {pair['of']})" if (pair["view"], pair["of"]) != PLAIN else ""
        lines.append(f"{pair['file']} and {pair['image']}: {pair['ratio']:.2f}{what}")
    pixels, name = read_rgb(folder / sheet), f"{scores.name}, by SSCD" if SSCD in sheet else scores.name
    alt = f"The images of {name} that lie nearest to training images, each left of that image"
    return {"name": name, "image": embed(pixels, alt, max(pixels.shape)), "lines": lines}


def _row_colors(table: Table, colors: Mapping[str, int]) -> list[int]:
    """Return the color of each row: a model's own where it has one row alone."""
    names = [item.name for item in table.members] or [row.model for row in table.rows]
    alone = len(set(names)) == len(names)
    return [colors[name] if alone and name in colors else n % ARM_COLORS for n, name in enumerate(names)]


def _curves(scores: Sequence[Scores], colors: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return {title, plot} of each metric and protocol that was measured over training."""
    drawn = []
    for metric in dict.fromkeys(number.metric for item in scores for number in item.numbers):
        for apart, points in curve_points(scores, metric):
            curves = []
            for name, line in points.items():
                x, y = zip(*line)
                curves.append(Curve(arm=name, color=colors[name], x=x, y=y))
            alt = f"{name_of(metric)} over training of {', '.join(points)}"
            title = f"{label(metric)}, {apart}" if apart else label(metric)
            drawn.append({"title": title, "plot": curve_plot(curves, name_of(metric), alt)})
    return drawn
