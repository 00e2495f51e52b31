"""Plots of the report as inline SVG that takes its colors from the page, so that they follow light and dark mode.

Every plot is drawn twice, wide and narrow; the page's style shows the one that fits the screen, with readable text.
Arms differ by color (a palette safe for color-blind readers), marker and dash.
"""

import hashlib
import html
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARM_COLORS = 6
"""Arms that the page has colors for: --arm-0 to --arm-5; further arms start again, with other markers and dashes."""

_WIDE, _NARROW = 9.0, 4.2  # figure widths in inches; one inch is 72 units of the SVG, text is 10 units
_MARKERS = ("o", "s", "D", "^", "v", "P")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
# matplotlib only takes true colors: these represent the page's own and are replaced in the SVG.
_INK, _SOFT, _RULE = "#010203", "#010204", "#010205"
_ARMS = tuple(f"#01021{i}" for i in range(ARM_COLORS))
_VARIABLES = {_INK: "--ink", _SOFT: "--soft", _RULE: "--rule"} | {c: f"--arm-{i}" for i, c in enumerate(_ARMS)}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's font
    "font.size": 10,
    **dict.fromkeys(("text.color", "ytick.labelcolor", "legend.labelcolor"), _INK),
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor"), _SOFT),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), _RULE),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon", "text.parse_math"), False),
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.linewidth": 0.6,
}

_CHANCE: dict[str, Any] = {"color": _INK, "linestyle": (0, (3, 2)), "linewidth": 1.2}  # marks chance level
_OF_EACH = "chance, in the measure's color"
Bounds = tuple[float, float, float]
"""(low, value, high)."""


@dataclass(frozen=True, kw_only=True)
class Dots:
    """An arm's scores under one kind of prompts."""

    arm: str
    color: int
    """The arm's number in the report."""
    values: tuple[Bounds | None, ...]
    """For each measure, within 0..1; None = not measured."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line of a plot over the images seen in training, or whatever else the axis says."""

    arm: str
    color: int
    x: tuple[float, ...]
    y: tuple[float, ...] | tuple[Bounds, ...]
    """Values, for `curve_plot`, or values with their intervals, for `value_plot`."""
    chance: float | None = None
    """Chance level, which `value_plot` marks by a dashed line."""


def score_plot(
    measures: Sequence[str],
    panels: Sequence[tuple[str, Sequence[Dots]]],
    alt: str,
    chance: Sequence[Sequence[float | None]] = (),
) -> Markup:
    """Return dots with 95% intervals: measures downwards, a panel (title, arms) for each kind of prompts.

    chance: of each panel the measures' chance levels, marked by dashed lines; None = a measure has none.
    """

    def draw(figure: "Figure", narrow: bool) -> None:
        rows, columns = (len(panels), 1) if narrow else (1, len(panels))
        marks = _marks([(arm.arm, arm.color) for _, dots in panels for arm in dots])
        height = 0.6 + len(measures) * (0.16 + 0.13 * max(len(dots) for _, dots in panels))
        figure.set_size_inches(_NARROW if narrow else _WIDE, height * rows + 0.35)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True).ravel()
        shown = {}
        for axes, (title, dots), levels in zip(grid, panels, chance or [()] * len(panels)):
            for row, level in enumerate(levels):
                if level is not None:
                    (shown["chance", -1],) = axes.plot([level] * 2, [row - 0.42, row + 0.42], **_CHANCE)
            for n, arm in enumerate(dots):
                shift = (n - (len(dots) - 1) / 2) * 0.62 / max(len(dots), 2)
                found = [(row + shift, value) for row, value in enumerate(arm.values) if value is not None]
                color, marker = _ARMS[arm.color % ARM_COLORS], _MARKERS[marks[arm.arm, arm.color]]
                for y, (low, _, high) in found:
                    axes.plot([low, high], [y, y], color=color, linewidth=2, alpha=0.55, solid_capstyle="round")
                x, y = [value for _, (_, value, _) in found], [y for y, _ in found]
                (line,) = axes.plot(x, y, linestyle="none", marker=marker, markersize=5.5, color=color)
                shown[arm.arm, arm.color] = line
            axes.set_yticks(range(len(measures)), measures)
            axes.set_ylim(len(measures) - 0.45, -0.55)  # the first measure on top
            axes.set_xlim(-0.02, 1.02)
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
            axes.grid(axis="x")
            axes.set_axisbelow(True)
            axes.tick_params(length=0)
            axes.spines["left"].set_visible(False)
            axes.set_title(title)
        # One legend for all panels, though an arm may be in some of them only.
        labels = [name for name, _ in shown]
        figure.legend(list(shown.values()), labels, loc="outside lower center", ncols=3 if narrow else 6)

    return _both(draw, alt, f"scores {measures} {alt}")


def _marks(arms: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Return (arm, color) -> number of its marker and dash: its color's, or the next one if an earlier arm has it."""
    found: dict[tuple[str, int], int] = {}
    earlier: Counter[int] = Counter()
    for name, color in dict.fromkeys(arms):
        found[name, color] = (color + earlier[color % ARM_COLORS]) % ARM_COLORS
        earlier[color % ARM_COLORS] += 1
    return found


def curve_plot(curves: Sequence[Curve], y_label: str, alt: str, x_label: str = "images seen in training") -> Markup:
    """Return lines over images seen, or `x_label`; the y axis is logarithmic when all values are positive."""

    def draw(figure: "Figure", narrow: bool) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

        figure.set_size_inches(_NARROW if narrow else _WIDE, 2.9)
        axes = figure.subplots()
        marks = _marks([(curve.arm, curve.color) for curve in curves])
        for curve in curves:
            color, dash = _ARMS[curve.color % ARM_COLORS], _DASHES[marks[curve.arm, curve.color]]
            marker = "o" if len(curve.x) == 1 else None
            axes.plot(curve.x, curve.y, color=color, linestyle=dash, linewidth=1.6, marker=marker, label=curve.arm)
        values: list[Any] = [value for curve in curves for value in curve.y]
        if min(values) > 0:
            low, high = min(values) / 1.1, max(values) * 1.1
            axes.set_yscale("log", subs=[1, 1.5, 2, 3, 5, 7])
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_ylim(low, high)
            axes.set_yticks(_log_ticks(low, high))
            axes.minorticks_off()
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4 if narrow else 8, steps=[1, 2, 2.5, 5, 10]))
        axes.set_xlim(left=0)
        _finish(axes, x_label)
        axes.set_ylabel(y_label)
        axes.legend(loc="best")

    return _both(draw, alt, f"curve {y_label} {alt}")


def tradeoff_plot(
    curves: Sequence[Curve], labels: Sequence[Sequence[str]], axes_of: tuple[str, str], alt: str
) -> Markup:
    """Return one score against another, a line for each of `curves`, with a label at each of its points.

    axes_of: names of x and y; both axes begin and end where the points do.
    """

    def draw(figure: "Figure", narrow: bool) -> None:
        figure.set_size_inches(_NARROW if narrow else _WIDE, 3.6)
        axes = figure.subplots()
        marks = _marks([(curve.arm, curve.color) for curve in curves])
        for curve, texts in zip(curves, labels):
            color, mark = _ARMS[curve.color % ARM_COLORS], marks[curve.arm, curve.color]
            style: dict[str, Any] = {"linestyle": _DASHES[mark], "marker": _MARKERS[mark], "markersize": 5}
            axes.plot(curve.x, curve.y, color=color, linewidth=1.6, label=curve.arm, **style)
            for x, y, text in zip(curve.x, curve.y, texts):
                axes.annotate(text, (x, y), xytext=(4, 4), textcoords="offset points", color=_SOFT)
        axes.margins(0.08)
        _finish(axes, axes_of[0])
        axes.set_ylabel(axes_of[1])
        axes.legend(loc="best")

    return _both(draw, alt, f"tradeoff {axes_of} {alt}")


def value_plot(panels: Mapping[str, Sequence[Curve]], x_label: str, alt: str) -> Markup:
    """Return scores within 0..1 over a setting, with 95% intervals as bands; a panel for each title, two in a row.

    Panels share their lines' names.
    """

    def draw(figure: "Figure", narrow: bool) -> None:
        columns = 1 if narrow or len(panels) == 1 else 2
        rows = -(-len(panels) // columns)
        figure.set_size_inches(_NARROW if narrow else _WIDE, 0.6 + 2.6 * rows)
        grid = figure.subplots(rows, columns, squeeze=False).flat
        shown = {}
        for (title, curves), axes in zip(panels.items(), grid):
            for curve in curves:
                n, (low, value, high) = curve.color % ARM_COLORS, zip(*curve.y)
                axes.fill_between(curve.x, low, high, color=_ARMS[n], alpha=0.15, linewidth=0)
                style: dict[str, Any] = {"linestyle": _DASHES[n], "marker": _MARKERS[n], "markersize": 5}
                (shown[curve.arm],) = axes.plot(curve.x, value, color=_ARMS[n], linewidth=1.6, **style)
            levels = {curve.chance: _ARMS[curve.color % ARM_COLORS] for curve in curves if curve.chance is not None}
            for level, color in levels.items():
                style, name = (_CHANCE, "chance") if len(levels) == 1 else (_CHANCE | {"color": color}, _OF_EACH)
                shown[name] = axes.axhline(level, **style)
            axes.set_title(title, loc="left", fontsize="medium")
            axes.set_ylim(-0.02, 1.02)
            axes.set_xticks(sorted({x for curve in curves for x in curve.x}))
            _finish(axes, x_label)
        for axes in grid:  # a last place without a panel
            axes.remove()
        figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=2 if narrow else 4)

    return _both(draw, alt, f"values {x_label} {alt}")


def loss_panels(panels: Mapping[str, Sequence[Curve]], alt: str) -> Markup:
    """Return lines over images seen, a panel with its own range for each title, two in a row; one legend for all."""

    def draw(figure: "Figure", narrow: bool) -> None:
        from matplotlib.ticker import MaxNLocator

        columns = 1 if narrow or len(panels) == 1 else 2
        rows = -(-len(panels) // columns)
        figure.set_size_inches(_NARROW if narrow else _WIDE, 0.6 + 2.1 * rows)
        grid = figure.subplots(rows, columns, squeeze=False).flat
        marks = _marks([(curve.arm, curve.color) for curves in panels.values() for curve in curves])
        shown = {}
        for (title, curves), axes in zip(panels.items(), grid):
            for curve in curves:
                color, dash = _ARMS[curve.color % ARM_COLORS], _DASHES[marks[curve.arm, curve.color]]
                marker = "o" if len(curve.x) == 1 else None
                (shown[curve.arm],) = axes.plot(
                    curve.x, curve.y, color=color, linestyle=dash, linewidth=1.6, marker=marker
                )
            axes.set_title(title, loc="left", fontsize="medium")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
            axes.set_xlim(left=0)
            _finish(axes, "images seen")
        for axes in grid:  # a last place without a panel
            axes.remove()
        figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=2 if narrow else 4)

    return _both(draw, alt, f"panels {alt}")


def _finish(axes: "Axes", x_label: str) -> None:
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.grid()
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=_SOFT)
    axes.set_xlabel(x_label)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return three to ten round numbers in [low, high], both positive."""
    tenths = tuple(n / 10 for n in range(10, 100))
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), range(1, 10), tenths):
        every = (step * 10.0**power for power in range(-12, 13) for step in steps)
        ticks = [tick for tick in every if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks[:: -(-len(ticks) // 10)]
    return [low, high]


def _short(value: float) -> str:
    """Return a number in short: 1500 -> "1.5k", 2000000 -> "2M"."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def _both(draw: Callable[["Figure", bool], None], alt: str, salt: str) -> Markup:
    """Return the wide and the narrow form of a plot; the page's classes `wide` and `narrow` show one of them."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    forms = []
    for form in ("wide", "narrow"):
        # The salt makes element ids the same on every run and different between the plots of one page.
        own, buffer = f"{form} {salt}", io.StringIO()
        with matplotlib.rc_context({**_STYLE, "svg.hashsalt": own}):
            figure = Figure(layout="constrained")
            canvas = FigureCanvasSVG(figure)
            draw(figure, form == "narrow")
            canvas.print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        forms.append(f'<div class="{form}">{_inline(buffer.getvalue(), alt, own)}</div>')
    # Safe as it is: every text in it went through matplotlib's XML writer or html.escape.
    return Markup(f'<div class="plot">{"".join(forms)}</div>')


def _inline(svg: str, alt: str, salt: str) -> str:
    """Return matplotlib's SVG as part of a page: no prologue, no fixed size, own ids, the page's colors and font."""
    head, body = svg[svg.index("<svg") :].split(">", 1)
    view_box = re.findall(r'viewBox="([^"]*)"', head)[0]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    prefix = f"p{hashlib.sha256(salt.encode()).hexdigest()[:8]}-"
    body = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{prefix}", body)
    body = re.sub(r"font: ([^;\"]*?)([\d.]+)px [^;\"]*", r"font: \1\2px system-ui, sans-serif", body)
    for color, variable in _VARIABLES.items():
        body = body.replace(color, f"var({variable})")
    name = f'role="img" aria-label="{html.escape(alt)}"'
    return f'<svg viewBox="{view_box}" {name} xmlns:xlink="http://www.w3.org/1999/xlink">{body}'
