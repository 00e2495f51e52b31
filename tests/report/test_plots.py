"""Plots: the same in both forms, colors of the page, equal bytes for equal data, any values."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from tessera.report.plots import Curve, Dots, curve_plot, score_plot, tradeoff_plot, value_plot


def svgs(markup) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", markup, flags=re.S)]


def texts(svg) -> list[str]:
    return [element.text for element in svg.iter() if element.tag.endswith("text") and element.text]


def test_both_forms_say_the_same_with_names_as_they_are():
    dots = [
        Dots(arm="<b>$a_1$", color=0, values=((0.1, 0.2, 0.3), None)),
        Dots(arm="B & C", color=1, values=((0.5, 0.5, 0.5), (0, 0, 0.1))),
    ]
    markup = score_plot(["one", "two"], [("long", dots), ("short", dots)], 'a "plot" <here>')
    wide, narrow = svgs(markup)
    for svg in (wide, narrow):
        assert svg.get("aria-label") == 'a "plot" <here>'
        assert {"<b>$a_1$", "B & C", "one", "two", "long", "short"} <= set(texts(svg))
    ratio = [[float(n) for n in svg.get("viewBox").split()][2] for svg in (wide, narrow)]
    assert ratio[0] > 2 * ratio[1]


def test_the_legend_names_arms_that_the_first_panel_lacks():
    one, two = (Dots(arm=name, color=n, values=((0.1, 0.2, 0.3),)) for n, name in enumerate(("first", "second")))
    for svg in svgs(score_plot(["a"], [("long", [two]), ("short", [one, two])], "alt")):
        assert {"first", "second"} <= set(texts(svg))


def test_arms_that_share_a_color_differ_in_marker_and_dash():
    dots = [Dots(arm=name, color=0, values=((0.1, 0.2, 0.3),)) for name in ("a", "b")]
    curves = [Curve(arm=name, color=0, x=(1.0, 2.0), y=(1.0, 0.5)) for name in ("a", "b")]
    uses = r'<use xlink:href="#([^"]*)" x="[^"]*" y="[^"]*" style="fill'  # of the markers' shapes
    assert len(set(re.findall(uses, score_plot(["x"], [("", dots)], "alt")))) == 4  # two in each form of the plot
    assert "stroke-dasharray" in curve_plot(curves, "loss", "alt")
    assert "stroke-dasharray" not in curve_plot(curves[:1], "loss", "alt")


def test_the_axis_says_what_is_varied():
    (wide, _) = svgs(curve_plot([Curve(arm="a", color=0, x=(0.2, 0.4), y=(1.0, 0.5))], "distance", "alt", "tau"))
    assert "tau" in texts(wide)
    assert "images seen in training" not in texts(wide)


def dashed(svg) -> list[list[float]]:
    """The points (x, y, x, y) of the dashed lines of chance level."""
    styled = [element for element in svg.iter() if "stroke-dasharray: 3.6,2.4" in element.get("style", "")]
    return [[float(n) for n in re.findall(r"[-\d.]+", element.get("d"))] for element in styled]


def test_chance_level_is_marked_where_there_is_one():
    dots = [Dots(arm="a", color=0, values=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))]
    for svg in svgs(score_plot(["one", "two"], [("long", dots), ("short", dots)], "alt", [[0.0, None], [0.0, 0.5]])):
        assert "chance" in texts(svg)
        first, second, third, _ = dashed(svg)  # the last one is the legend's
        assert first[0] == first[2]  # upright
        assert second[1] == first[1] or second[0] == first[0]  # the same measure, in the panel next to it or below
        assert third[1] > second[1]
        assert third[0] > second[0]
    for svg in svgs(score_plot(["one", "two"], [("long", dots)], "alt")):
        assert "chance" not in texts(svg)


def test_chance_level_of_one_measure_is_ink_and_of_several_in_their_colors():
    curves = [Curve(arm=f"a{n}", color=n, x=(1.0, 2.0), y=((0.1, 0.2, 0.3),) * 2, chance=0.25) for n in (0, 1)]
    for svg in svgs(value_plot({"m": curves}, "tau", "alt")):
        assert "chance" in texts(svg)
        level, _ = dashed(svg)
        assert level[1] == level[3]  # level
        assert "stroke: var(--ink)" in ElementTree.tostring(svg, "unicode")
    curves[1] = Curve(arm="a1", color=1, x=(1.0, 2.0), y=((0.1, 0.2, 0.3),) * 2, chance=0.75)
    for svg in svgs(value_plot({"": curves}, "tau", "alt")):
        assert "chance, in the measure's color" in texts(svg)
        assert dashed(svg)[0][1] > dashed(svg)[1][1]  # y grows downwards


def test_points_of_a_trade_off_are_labeled():
    curves = [
        Curve(arm="25 steps", color=0, x=(7.0, 5.0, 6.0), y=(0.2, 0.4, 0.5)),
        Curve(arm="50", color=1, x=(4,), y=(1,)),
    ]
    for svg in svgs(tradeoff_plot(curves, [["1", "1.75", "3"], ["2.25"]], ("FID", "CLIPScore"), "alt")):
        assert {"25 steps", "50", "1.75", "3", "2.25", "FID", "CLIPScore"} <= set(texts(svg))


def test_colors_come_from_the_page():
    curve = Curve(arm="a", color=7, x=(1.0, 2.0), y=(1.0, 0.5))
    markup = curve_plot([curve], "loss", "alt")
    assert "var(--arm-1)" in markup  # the eighth arm has the color of the second
    assert "var(--ink)" in markup
    assert set(re.findall(r"#[0-9a-f]{6}\b", markup)) == set()


def test_a_plot_is_the_same_every_time_and_shares_no_ids_with_another():
    one, again, other = (
        curve_plot([Curve(arm="a", color=0, x=(1.0, 2.0), y=(1.0, last))], "loss", f"alt {last}")
        for last in (0.5, 0.5, 0.6)
    )
    assert one == again
    ids = [set(re.findall(r'id="([^"]*)"', markup)) for markup in (one, other)]
    assert ids[0].isdisjoint(ids[1])


@pytest.mark.parametrize("y", [(1.0,), (0.1, 0.1), (5e-4, 3.0), (-1.0, 2.0), (0.0, 1.0), (1e-9, 1e9)])
def test_any_values_can_be_drawn(y):
    x = tuple(64.0 * n for n in range(1, len(y) + 1))
    for svg in svgs(curve_plot([Curve(arm="a", color=0, x=x, y=y)], "loss", "alt")):
        assert len(texts(svg)) >= 5


def test_images_are_counted_in_short():
    x = tuple(500_000.0 * n for n in range(5))
    wide, _ = svgs(curve_plot([Curve(arm="a", color=0, x=x, y=(1.0,) * 5)], "loss", "alt"))
    assert {"500k", "1M", "1.5M"} <= set(texts(wide))
