"""Tables on pages: models in rows or in columns, differences starred and colored for the better."""

from tessera.report.differences import Pair
from tessera.report.grid import NOTHING, by_measure, by_model, notes, table_plot, tiles
from tessera.report.tables import Cell, Row, Table

TABLE = Table(
    "t",
    ("fid", "overall", "seam"),
    (
        Row("a", (Cell(9.5, 9.0, 10.0), Cell(0.5, 0.4, 0.6), Cell(0.02, 0.01, 0.03))),
        Row("b", (Cell(8.5, 8.0, 9.0), None, Cell(0.5, 0.4, 0.6))),
    ),
)
PAIR = Pair("b \u2212 a", (Cell(-1.0, -1.5, -0.5), None, Cell(0.48, 0.3, 0.6)), {"overall": "not drawn"})


def test_models_in_rows():
    grid = by_model(TABLE, [PAIR], [3, 4])
    assert [column.label for column in grid.columns] == ["FID \u2193", "Overall \u2191", "Seam score \u2193"]
    assert [(row.label, row.color) for row in grid.rows] == [("a", 3), ("b", 4)]
    assert grid.rows[0].cells[2]["value"] == "0.02"  # the digits of the column's largest number
    (pair,) = grid.pairs
    assert [cell["value"] for cell in pair.cells] == ["\u22121.00*", "\u2013", "+0.48*"]
    assert [cell["kind"] for cell in pair.cells] == ["clear", "", "clear worse"]  # both are better when smaller
    assert "Not paired in b \u2212 a: Overall (not drawn)" in grid.lines


def test_measures_in_rows_with_the_judge():
    grid = by_measure(TABLE, [PAIR], [3, 4], {"seam_renders": 0.0123})
    assert [column.label for column in grid.columns] == ["a", "b", "b \u2212 a", "the judge itself"]
    assert [row.label for row in grid.rows] == ["FID", "Overall", "Seam score"]
    assert grid.rows[1].cells[1] is NOTHING
    assert [row.cells[-1]["value"] for row in grid.rows] == ["", "", "0.01"]
    empty = Table("t", ("fid", "kid"), (Row("a", (None, Cell(1.0))),))
    assert [row.label for row in by_measure(empty, [], [0]).rows] == ["KID"]


def test_chance_level_stands_before_the_judge_and_in_tile_and_plot():
    chance = {"overall": 0.125}
    grid = by_measure(TABLE, [], [0, 1], {"seam_renders": 0.01}, chance=chance)
    assert [column.label for column in grid.columns] == ["a", "b", "chance", "the judge itself"]
    assert [row.cells[2]["value"] for row in grid.rows] == ["", "0.12", ""]
    first, second = tiles(TABLE, [0, 1], ("overall", "seam"), chance=chance)
    assert first["about"].endswith(", chance: 0.12")
    assert "chance" not in second["about"]
    assert ">chance</text>" in table_plot([("", TABLE, [0, 1])], "alt", [chance])


def test_small_and_large_numbers_that_stand_together_have_the_same_digits():
    table = Table("t", ("overall",), (Row("a", (Cell(0.0083, 0.001, 0.06),)), Row("b", (Cell(0.93, 0.84, 0.97),))))
    (tile,) = tiles(table, [0, 1], ("overall",))
    assert [cell["value"] for cell in tile["cells"]] == ["0.01", "0.93"]
    pair = Pair("b \u2212 a", (Cell(0.0, -0.0567, 0.0606),), {})
    assert by_measure(table, [pair], [0, 1]).rows[0].cells[2]["value"] == "0.00"


def test_plots_are_of_shares_alone_and_tiles_of_what_is_there():
    markup = table_plot([("", TABLE, [0, 1])], "alt")
    assert "Overall" in markup
    assert "FID" not in markup
    assert "Seam" not in markup
    assert table_plot([("", Table("t", ("fid",), TABLE.rows), [0, 1])], "alt") == ""
    (tile,) = tiles(TABLE, [0, 1], ("overall", "counting"), "short prompts")
    assert [cell["label"] for cell in tile["cells"]] == ["a"]
    assert tile["about"].endswith("short prompts")


def test_the_judges_own_numbers_are_explained():
    assert notes([], {}) == ""
    assert "CutMix" not in notes([], {"one_object": 1.0})
    text = notes([by_measure(TABLE, [PAIR], [0, 1])], {"seam_cutmix": 0.31, "wrong_refused": 0.985})
    assert text.startswith("* The 95% interval")
    assert "0.31" in text
    assert "98.5%" in text
