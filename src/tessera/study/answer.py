"""The answer of a study to its question, in sentences made of its results.

The first of the study's measures decides for each kind of prompts; with one kind the second one follows, or, where it
is measured, the distance to held-out images. Where these tell no difference, the measure that tells the largest does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.report.arms import KINDS
from tessera.report.differences import is_clear, with_minus
from tessera.report.tables import Cell, cell_of, is_lower_better, name_of, shown
from tessera.study.design import Study

_DRAWS = {  # measure -> what a variant does; {} = its value
    "overall": "draws what is asked in {} of images, as the mean of six tasks",
    "single_object": "draws a single object as asked in {} of images",
    "two_object": "draws two objects as asked in {} of images",
    "counting": "draws as many objects as asked in {} of images",
    "colors": "draws an object of the color asked for in {} of images",
    "position": "draws two objects in their places in {} of images",
    "color_attr": "draws two objects in their colors in {} of images",
    "color_score": "draws {} of the two colors asked for",
    "both_colors": "draws both colors of two objects in {} of images",
    "colors_in_relation": "draws both colors in the right relation in {} of images",
    "seam": "has a seam score of {}",
    "seam_visible": "draws a visible seam in {} of images",
    "copies": "copies a training image in {} of images",
}
_NONE = "No difference can be told: "
_SEEDS = {1: "one training seed, and another may change it", 2: "two training seeds, which say little about others"}


def answer(study: Study, found: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """Return the answer by the results `found` (of `tessera.study.results.results`), sentence by sentence.

    labels: variant -> its name in the sentences. The last ones say what is missing, and that few seeds say little.
    """
    kinds = [kind for kind in study.kinds if kind in found["tables"]]
    likeness = _nearest(found.get("likeness"), labels)
    told = []
    for kind in kinds:
        table, prefix = found["tables"][kind], f"{KINDS[kind]}: " if len(study.kinds) > 1 else ""
        measured = _measured(study, table)
        deciding = measured[: 1 if len(study.kinds) > 1 or likeness else 2]
        said = [_sentence(study, table, metric, labels, prefix) for metric in deciding]
        if all(_NONE in sentence for sentence in said):
            others = [name for name in measured if name not in (*deciding, "seam")]  # which is no share of images
            said.append(_elsewhere(table, others, labels, prefix))
        told += said
    told.append(likeness)
    done, total = len(found["cells"]), len(found["cells"]) + len(found["missing"])
    told.append(f"So far {done} of {total} cells are done." if done < total else "")
    seeds = {len(arm["seeds"]) for kind in kinds for arm in found["tables"][kind]["arms"].values()}
    rests = "This rests" if len(seeds) == 1 else "Some of it rests"
    told.append(f"{rests} on {_SEEDS[min(seeds)]}." if seeds & _SEEDS.keys() else "")
    return [sentence for sentence in told if sentence]


def _measured(study: Study, table: Mapping[str, Any]) -> list[str]:
    return [name for name in study.scores if any(arm["scores"].get(name) for arm in table["arms"].values())]


def _sentence(study: Study, table: Mapping[str, Any], metric: str, labels: Mapping[str, str], prefix: str) -> str:
    """Return which variant is best by a measure, and by how much against the one that it is compared with."""
    lower = is_lower_better(metric)
    names = [variant.name for variant in study.variants if variant.name in table["arms"]]
    cells = {name: cell for name in names if (cell := cell_of(table["arms"][name]["scores"][metric]))}
    ordered = sorted(cells, key=lambda name: cells[name].value if lower else -cells[name].value)
    best = [name for name in ordered if cells[name].value == cells[ordered[0]].value]
    size = max(cell.size for cell in cells.values())
    says = _DRAWS.get(metric, f"reaches {{}} by the measure {name_of(metric)!r}").format(cells[best[0]].text(size))
    level = table.get("chance", {}).get(metric)
    if level is not None:
        above = cells[best[0]].low is not None and cells[best[0]].low > level
        says += f" ({'chance' if above else 'not clearly above chance'}: {shown(level, size)})"
    if len(best) == len(cells) > 1:
        return f"{prefix}{_NONE}each of {len(cells)} variants {says}."
    if len(best) > 1:
        return f"{prefix}{_listed([labels[name] for name in best])} are best of {len(cells)}: each {says}."
    said = labels[best[0]] + (f", best of {len(cells)}," if len(cells) > 2 else "") + f" {says}"
    against, rival = _compared(table["differences"], metric, best[0], ordered)
    clear = [is_clear(pair[1]) for pair in (against, rival) if pair]
    if against:
        name, cell = against
        unsure = ", which may be none" if any(clear) and not is_clear(cell) else ""
        said += f", {_amount(cell, size)} than {labels[name]} ({_interval(cell, size)}){unsure}"
    if rival:
        name, cell = rival
        how = "with" if is_clear(cell) else "which cannot be told from it:"
        said += f"; next comes {labels[name]}, {how} {_amount(cell, size)} ({_interval(cell, size)})"
    return f"{prefix}{'' if any(clear) or not clear else _NONE}{said}."


def _elsewhere(table: Mapping[str, Any], metrics: Sequence[str], labels: Mapping[str, str], prefix: str) -> str:
    """Return the clear differences by the measure that has the largest; "" where there is none."""
    clear: dict[str, dict[str, Cell]] = {}
    for names, pair in table["differences"].items():
        for metric in metrics:
            if (cell := cell_of(pair["scores"].get(metric))) is not None and is_clear(cell):
                clear.setdefault(metric, {})[names] = cell
    largest = {metric: max(abs(cell.value) for cell in cells.values()) for metric, cells in clear.items()}
    if not largest:
        return ""
    metric = max(largest, key=lambda name: largest[name])
    told = [
        f"{labels[mine]} has {_amount(cell, largest[metric])} than {labels[other]} ({_interval(cell, largest[metric])})"
        for names, cell in clear[metric].items()
        for mine, other in [names.split(" - ")]
    ]
    return f"{prefix}But by the measure {name_of(metric)!r} {'; '.join(told)}."


def _compared(
    differences: Mapping[str, Any], metric: str, best: str, ordered: Sequence[str]
) -> tuple[tuple[str, Cell] | None, tuple[str, Cell] | None]:
    """Return (variant, the best one minus it), and (variant, it minus the best one) of the next best that is compared
    with the best."""
    against, rivals = None, {}
    for names, pair in differences.items():
        mine, other = names.split(" - ")
        if (cell := cell_of(pair["scores"].get(metric))) is not None:
            against = (other, cell) if mine == best else against
            rivals |= {mine: cell} if other == best else {}
    return against, next(((name, rivals[name]) for name in ordered if name in rivals), None)


def _amount(cell: Cell, size: float) -> str:
    return f"{shown(abs(cell.value), size)} {'less' if cell.value < 0 else 'more'}"


def _interval(cell: Cell, size: float) -> str:
    """Return the interval of what `_amount` says, without "more" or "less"."""
    ends = (cell.low or 0.0, cell.high or 0.0)
    ends = [-end for end in reversed(ends)] if cell.value < 0 else ends
    texts = [shown(end, size) for end in ends]
    ends = [with_minus(text) if text.strip("-0.") else text.lstrip("-") for text in texts]
    return f"95% interval {ends[0]} to {ends[1]}"


def _nearest(likeness: Mapping[str, Any] | None, labels: Mapping[str, str]) -> str:
    """Return which variant comes nearest to held-out images; "" where that is not measured."""
    if not likeness or not likeness["arms"]:
        return ""
    name = min(labels.keys() & likeness["arms"].keys(), key=lambda name: (likeness["arms"][name]["value"], name))
    value, floor = likeness["arms"][name]["value"], likeness["floor"]
    near = f"{labels[name]} comes nearest to held-out images, at a distance of {value:.3f}"
    return f"{near} (other held-out images: {floor:.3f}); distances have no intervals."


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
