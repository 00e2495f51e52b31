"""Paired differences between the models of a table, each with its interval, or with the reason why there is none."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tessera.config import UserError
from tessera.evaluate.intervals import MOST, paired_difference
from tessera.evaluate.scores import Scores
from tessera.report.measured import full_name
from tessera.report.tables import Cell, Table, by_reason, is_lower_better

RESAMPLES = 1000
SHARES = "score interval over prompts (Newcombe)"
STAR = "* The 95% interval of the difference leaves 0 out."


@dataclass(frozen=True)
class Pair:
    """A model minus another one of its table."""

    name: str
    """ "b \u2212 a"."""
    cells: tuple[Cell | None, ...]
    """A difference for each column of the table; None = not measured in both, in `unpaired`, or no mean or distance."""
    unpaired: Mapping[str, str] = field(default_factory=dict)
    """Metric -> why it has no difference."""

    def reasons(self) -> list[str]:
        """Return a line for each reason, with all metrics that it holds for."""
        return [f"Not paired in {self.name}: {names} ({reason})" for reason, names in by_reason(self.unpaired.items())]


def pairs_of(table: Table, force: bool = False) -> tuple[Pair, ...]:
    """Return the difference of each model from the one above it; `force`: of different protocols too."""
    pairs = [_pair(a, b, table.columns, force) for a, b in itertools.pairwise(table.members)]
    return tuple(pair for pair in pairs if any(pair.cells) or pair.unpaired)


def _pair(a: Scores, b: Scores, metrics: Sequence[str], force: bool) -> Pair:
    cells: list[Cell | None] = []
    unpaired: dict[str, str] = {}
    for metric in metrics:
        cells.append(None)
        number, found = a.number(metric), None
        if number is None or b.number(metric) is None:
            continue
        try:
            found = paired_difference(a, b, metric, force, RESAMPLES)
        except UserError as error:
            unpaired[metric] = str(error).removeprefix(f"{metric}: ")
        if found is not None:
            blocks = number.left_out and len(number.left_out.sizes)
            how = f"jackknife over prompts, {blocks} blocks of them, the reference held fixed"
            if not blocks:
                how = SHARES if a.kind in MOST else f"bootstrap over prompts, {RESAMPLES} resamples"
            cells[-1] = Cell(found.value, found.low, found.high, f"paired {how}")
    return Pair(f"{full_name(b)} \u2212 {full_name(a)}", tuple(cells), unpaired)


def about(pairs: Sequence[Pair]) -> str:
    """Return the line below a table's differences."""
    stars = any(cell is not None and is_clear(cell) for pair in pairs for cell in pair.cells)
    text = "Paired differences: each model minus the one before it, over the same prompts."
    return f"{text} {STAR}" if stars else text


def is_clear(cell: Cell) -> bool:
    """Return whether the interval leaves 0 out."""
    return cell.low is not None and cell.high is not None and (cell.low > 0 or cell.high < 0)


def is_better(cell: Cell, metric: str) -> bool:
    """Return whether the difference is one for the better."""
    return (cell.value > 0) != is_lower_better(metric)


def signed_text(cell: Cell, size: float) -> str:
    """Return a difference with its sign, and a star where it is clear."""
    return _signed(cell.text(size)) + ("*" if is_clear(cell) else "")


def signed_interval(cell: Cell, size: float) -> str:
    """Return "low to high", each with its sign."""
    return " to ".join(_signed(end) for end in cell.interval(size).split(" to "))


def _signed(number: str) -> str:
    if not number.strip("-.0"):  # nothing is left of it after rounding
        return number.lstrip("-")
    return with_minus(number) if number.startswith("-") else f"+{number}"


def with_minus(numbers: str) -> str:
    """Return the text with minus signs as wide as a plus."""
    return numbers.replace("-", "\u2212")
