"""Tables and curves of measured scores, with numbers of different protocols apart."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from tessera.config import UserError
from tessera.evaluate.intervals import MOST
from tessera.evaluate.scores import Number, Scores, comparable, require_comparable
from tessera.metrics.resampling import student_t
from tessera.report.render import json_text
from tessera.report.tables import MEANINGS, RATIOS, Cell, Row, Table, by_reason

TITLES = {
    "quality": "Image quality (Table 1)",
    "geneval": "GenEval (Table 2)",
    "dpg": "DPG-Bench (Table 3)",
    "questions": "Questions about the images",
    "copies": "Copies of training images",
    "miniature": "The miniature's judge",
    "drawings": "The judge of drawings",
}
FORCED = "Numbers of different protocols are in one table because --force says so: they do not compare."
ONE_SEED = (
    "Each model was trained once: differences below what another training seed does (for FID a coefficient of variation"
    " of about 1.3%, arXiv 2606.20536) say nothing about the method."
)
OVER_SEEDS = (
    "Means over the trainings of each arm, with the 95% interval over training seeds (Student's t) and, below, with the"
    " mean of the trainings' own intervals."
)
_IN_TITLE = ("extender: ", "settings.extended: ")  # differences of protocols that the titles say
_NOTHING_SHARED = "they have no metric in common"
_ABLATION = ("fid", "geneval/overall", "geneval/overall (extended)")


def measured_tables(scores: Sequence[Scores], force: bool = False) -> list[Table]:
    """Return the tables of what was measured, one for each judge and protocol; with `force`, one for each judge.

    A model is in the first table all of whose numbers have the protocols of its own.
    """
    tables, order = [], list(MEANINGS)
    for kind, title in TITLES.items():
        of = _of_images if kind in ("quality", "copies") else _of_prompts
        for group, apart, mixed in _groups([item for item in scores if item.kind == kind and item.numbers], force):
            found = dict.fromkeys(number.metric for item in group for number in item.numbers)
            columns = sorted(found, key=lambda metric: order.index(metric) if metric in order else 0)
            note = FORCED if mixed else _note([line for line in apart if not line.startswith(_IN_TITLE)])
            missing = tuple(line for item in group for line in _missing(item))
            more = {"note": note, "missing": missing, "members": tuple(group)}
            tables.append(Table(title + of(group[0]), tuple(columns), _rows(group, columns), **more))
    return tables


def seed_tables(scores: Sequence[Scores], seeds: int, force: bool = False) -> list[Table]:
    """Return the tables of arms that were trained several times: `seeds` >= 2 scores in a row are one arm's.

    Each arm has two rows with the mean over its trainings: with the interval over training seeds, and with the one over
    prompts. Raises UserError for a number of scores that is no multiple, and for trainings that do not compare.
    """
    if seeds < 2 or len(scores) % seeds:
        raise UserError(f"seeds: {len(scores)} scores are not {seeds} of each arm; give all of one arm, then the next")
    found = []
    for first, *others in (scores[start : start + seeds] for start in range(0, len(scores), seeds)):
        for other in others:
            if (first.kind, first.num_images) != (other.kind, other.num_images):
                names = " and ".join(f"{full_name(item)} ({item.kind})" for item in (first, other))
                raise UserError(f"seeds: {names} are no trainings of one arm; give all of one arm, then the next")
        several = any(other.name != first.name for other in others)
        arm = re.sub(r"[-_ ]*(seed)?[-_ ]*[0-9]*$", "", first.name) if several else ""
        arm = arm or first.name
        over_seeds, over_prompts = [], []
        for number in first.numbers:
            same = [number, *(n for other in others if (n := other.number(number.metric)) is not None)]
            if len(same) < seeds:
                continue
            for other in same[1:]:
                require_comparable(number, other, force)
            values = np.array([n.value for n in same])
            half = student_t(seeds - 1) * float(values.std(ddof=1)) / seeds**0.5
            mean = dataclasses.replace(number, value=float(values.mean()), over=None, left_out=None)
            least, most = _limits(first.kind, number.metric)
            ends = {"low": max(mean.value - half, least), "high": min(mean.value + half, most)}
            ends |= {"interval": f"over {seeds} training seeds"}
            over_seeds.append(dataclasses.replace(mean, **ends))
            bounds = [(n.low, n.high) for n in same if n.low is not None and n.high is not None]
            if len(bounds) == seeds:
                low, high = np.mean(bounds, axis=0).tolist()
                over_prompts.append(dataclasses.replace(mean, low=low, high=high))
        rest = {"items": (), "facts": {k: v for k, v in first.facts.items() if k in ("size", "prompts", "reference")}}
        for what, numbers in (("seeds", over_seeds), ("prompts", over_prompts)):
            if numbers:
                name = f"{arm}, over {what}"
                found.append(dataclasses.replace(first, name=name, numbers=tuple(numbers), **rest))
    about = f" {OVER_SEEDS}"
    return [
        dataclasses.replace(
            table, title=f"{table.title}: {seeds} trainings of each arm", note=(table.note + about).strip(), members=()
        )
        for table in measured_tables(found, force)
    ]


def _limits(kind: str, metric: str) -> tuple[float, float]:
    """Return the least and the most of a measure that is a share, a percentage or a ratio; else without end."""
    most = MOST.get(kind, 1.0 if metric.partition("/")[0] in ("precision", "recall", "coverage") else None)
    if most is None:
        return -math.inf, math.inf
    return 0.0, math.inf if metric in RATIOS else most


def ablation_tables(scores: Sequence[Scores], force: bool = False) -> list[Table]:
    """Return what Tables 4 and 5 show of every model measured so: FID, GenEval by original and by extended prompts.

    The last measurement of a model in its training counts. Different protocols have tables of their own, unless
    `force` puts them in one.
    """
    models = []
    for name in dict.fromkeys(item.name for item in scores):
        found: dict[str, Number] = {}
        own = [item for item in scores if item.name == name]
        for item in sorted(own, key=lambda item: -(item.num_images or 0)):
            for metric in _ABLATION[:2]:
                number = item.number(metric)
                if number is not None:
                    extended = " (extended)" if metric != "fid" and number.protocol.extender else ""
                    found.setdefault(metric + extended, number)
        if "fid" in found and len(found) > 1:
            numbers = tuple(dataclasses.replace(number, metric=metric) for metric, number in found.items())
            models.append(Scores(kind="quality", name=name, numbers=numbers))
    tables = []
    for group, apart, mixed in _groups(models, force):
        note = f"Protocols: see the tables above. {FORCED if mixed else _note(sorted(apart))}".rstrip()
        tables.append(Table("FID and GenEval (Tables 4 and 5)", _ABLATION, _rows(group, _ABLATION), note=note))
    return tables


def curve_points(scores: Sequence[Scores], metric: str) -> list[tuple[str, dict[str, list[tuple[int, float]]]]]:
    """Return the curves of each protocol (Figure 5): (difference from the first, {model: [(training images, value)]}).

    A model has a curve where it was measured at two or more places.
    """
    groups: list[tuple[Number, dict[str, list[tuple[int, float]]]]] = []
    for item in scores:
        number = item.number(metric)
        if number is None or item.num_images is None:
            continue
        points = next((points for first, points in groups if not comparable(first, number)), None)
        if points is None:
            points = {}
            groups.append((number, points))
        points.setdefault(item.name, []).append((item.num_images, number.value))
    drawn = [(first, {name: sorted(p) for name, p in points.items() if len(p) > 1}) for first, points in groups]
    drawn = [(first, points) for first, points in drawn if points]
    return [(_told(drawn[0][0], first) if n else "", points) for n, (first, points) in enumerate(drawn)]


def full_name(scores: Scores) -> str:
    """Return a model's name, with how far its training had come where that is known."""
    return scores.name if scores.num_images is None else f"{scores.name} at {scores.num_images:,} images"


def protocol_text(scores: Scores) -> str:
    """Return the protocols as text, each once with the metrics that it holds for; then the other facts."""
    groups: dict[str, list[str]] = {}
    for number in scores.numbers:
        protocol = dataclasses.asdict(number.protocol)
        del protocol["metric"]
        groups.setdefault(json_text(protocol), []).append(f"{number.metric} (n = {number.n})")
    parts = [f"{', '.join(names)}\n{text}" for text, names in groups.items()]
    return "\n\n".join([*parts, f"facts\n{json_text(scores.facts)}"] if scores.facts else parts)


def _groups(scores: Sequence[Scores], force: bool) -> list[tuple[list[Scores], list[str], bool]]:
    """Return groups that fit, all in one with `force`; how each differs from the first; whether its own are mixed."""
    groups: list[list[Scores]] = []
    for item in scores:
        fitting = next((group for group in groups if force or _fits(group, item)), None)
        if fitting is None:
            groups.append([item])
        else:
            fitting.append(item)
    found = []
    for n, group in enumerate(groups):
        apart = dict.fromkeys(line for member in groups[0] for line in _unlike(member, group[0]))
        mixed = force and not all(_fits(group[:i], item) for i, item in enumerate(group) if i)
        found.append((group, list(apart) if n else [], mixed))
    return found


def _fits(group: Sequence[Scores], item: Scores) -> bool:
    """Return whether each column stays of one protocol: some share metrics with the item, the others have none."""
    found = [_unlike(member, item) for member in group]
    return [] in found and all(lines in ([], [_NOTHING_SHARED]) for lines in found)


def _unlike(a: Scores, b: Scores) -> list[str]:
    """Return the differences of two models' protocols, over the metrics that both have; each difference once."""
    shared = [(number, other) for number in a.numbers if (other := b.number(number.metric)) is not None]
    if not shared:
        return [_NOTHING_SHARED]
    return list(dict.fromkeys(line for number, other in shared for line in comparable(number, other)))


def _note(differing: Sequence[str]) -> str:
    if not differing:
        return ""
    return f"Not paired with the models above, because its protocols differ: {'; '.join(differing[:4])}"


def _told(a: Number, b: Number) -> str:
    """Return how the protocol of `b` differs from that of `a`, in a title's words."""
    extender = b.protocol.extender
    if extender is not None and extender != a.protocol.extender:
        return f"prompts extended by {extender.model.partition('@')[0]}"
    return "; ".join(comparable(a, b)[:2])


def _of_prompts(scores: Scores) -> str:
    extender = scores.numbers[0].protocol.extender
    if extender is None:
        return ", original prompts"
    name, _, revision = extender.model.partition("@")
    return f", prompts extended by {name}{f' at {revision[:12]}' if revision else ''}"


def _of_images(scores: Scores) -> str:
    """Return how many images of which prompts and size, and against which: Table 1 has COCO's and ImageNet's."""
    facts, protocols = scores.facts, [number.protocol for number in scores.numbers]
    count = max((protocol.images or 0 for protocol in protocols), default=0)
    size, prompts, reference = (facts.get(name) for name in ("size", "prompts", "reference"))
    said = f": {count:,} images" if count else ""
    said += (f" of {size} px" if size else "") + (f" by {prompts}" if prompts else "")
    against = next((protocol.reference_images for protocol in protocols if protocol.reference), None)
    return said + (f", against {against:,}{f' of {reference}' if reference else ''}" if said and against else "")


def _rows(group: Sequence[Scores], metrics: Sequence[str]) -> tuple[Row, ...]:
    rows = []
    for item in group:
        found = [item.number(metric) for metric in metrics]
        cells = tuple(None if n is None else Cell(n.value, n.low, n.high, n.interval) for n in found)
        rows.append(Row(full_name(item), cells))
    return tuple(rows)


def _missing(scores: Scores) -> list[str]:
    """Return a line for each reason why numbers have no interval."""
    reasons = [(n.metric, n.interval.removeprefix("none: ")) for n in scores.numbers if n.low is None and n.interval]
    return [f"No interval for {full_name(scores)}: {names} ({reason})" for reason, names in by_reason(reasons)]
