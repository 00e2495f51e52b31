"""Paired differences between the models of a table, each with its interval, or with the reason why there is none."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tessera.config import UserError
from tessera.evaluate.intervals import MOST, paired_difference
from tessera.evaluate.scores import Scores
from tessera.report.tables import LOWER_IS_BETTER, Cell, Table, full_name, label

RESAMPLES = 1000
SHARES = "score interval over prompts (Newcombe)"


@dataclass(frozen=True)
class Pair:
    """A model minus the one before it in its table."""

    name: str
    """ "b \u2212 a"."""
    cells: tuple[Cell | None, ...]
    """Beside the table's columns; None = one of the two was not measured, it is in `unpaired`, or is no such number."""
    unpaired: Mapping[str, str]
    """Metric -> why it has no difference."""

    def reasons(self) -> list[str]:
        """A line for each reason, with all metrics that it holds for."""
        found: dict[str, list[str]] = {}
        for metric, reason in self.unpaired.items():
            found.setdefault(reason, []).append(label(metric)[:-2])
        return [f"Not paired in {self.name}: {', '.join(names)} ({reason})" for reason, names in found.items()]


def pairs_of(table: Table, force: bool = False) -> tuple[Pair, ...]:
    """The differences of all neighbours in a table of measured numbers; force: of unlike protocols all the same."""
    pairs = [_pair(a, b, table.columns, force) for a, b in itertools.pairwise(table.members)]
    return tuple(pair for pair in pairs if any(pair.cells) or pair.unpaired)


def _pair(a: Scores, b: Scores, metrics: Sequence[str], force: bool) -> Pair:
    cells: list[Cell | None] = []
    unpaired: dict[str, str] = {}
    for metric in metrics:
        cells.append(None)
        number = a.number(metric)
        if number is None or b.number(metric) is None:
            continue
        try:
            found = paired_difference(a, b, metric, force, RESAMPLES)
        except UserError as error:
            unpaired[metric] = str(error).removeprefix(f"{metric}: ")
            continue
        if found is not None:
            blocks = number.left_out and len(number.left_out.sizes)
            how = f"jackknife over prompts, {blocks} blocks of them, the reference held fixed"
            if not blocks:
                how = SHARES if a.kind in MOST else f"bootstrap over prompts, {RESAMPLES} resamples"
            cells[-1] = Cell(found.value, found.low, found.high, f"paired {how}")
    return Pair(f"{full_name(b)} \u2212 {full_name(a)}", tuple(cells), unpaired)


def about(pairs: Sequence[Pair]) -> str:
    """What stands below a table's differences."""
    star = " * The 95% interval of the difference leaves 0 out."
    stars = any(cell is not None and is_clear(cell) for pair in pairs for cell in pair.cells)
    return f"Paired differences: each model minus the one before it, over the same prompts.{star if stars else ''}"


def sizes_of(pairs: Sequence[Pair]) -> list[float]:
    """Of each column the largest difference, which decides the digits of all."""
    return [max((cell.size for cell in column if cell), default=0.0) for column in zip(*(p.cells for p in pairs))]


def is_clear(cell: Cell) -> bool:
    """Whether the interval leaves 0 out."""
    return cell.low is not None and cell.high is not None and (cell.low > 0 or cell.high < 0)


def is_better(cell: Cell, metric: str) -> bool:
    """Whether the difference is one for the better."""
    return (cell.value > 0) != (metric.split("/")[0] in LOWER_IS_BETTER)


def signed_text(cell: Cell, size: float) -> str:
    """A difference with its sign, and a star where it is clear."""
    return _signed(cell.text(size)) + ("*" if is_clear(cell) else "")


def signed_interval(cell: Cell, size: float) -> str:
    """ "low to high", each with its sign."""
    return " to ".join(_signed(end) for end in cell.interval(size).split(" to "))


def _signed(number: str) -> str:
    if not number.strip("-.0"):  # nothing is left of it after rounding
        return number.lstrip("-")
    return with_minus(number) if number.startswith("-") else f"+{number}"


def with_minus(numbers: str) -> str:
    """With the sign that is as wide as a plus."""
    return numbers.replace("-", "\u2212")
