"""augment: the recipe's rows, by address."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.cli import main
from tessera.config import UserError, to_dict
from tessera.curate.augment import AugmentConfig, augment, draw_recipe
from tessera.curate.index import ImageRow, TableRows, images_schema, read_images, read_recipe
from tessera.cutmix import PATTERNS, compose, placement_at, windows_of
from tessera.files import read_table
from tessera.images import read_rgb
from tessera.stages import read_manifest


def pictures(*counts: int) -> TableRows[ImageRow]:
    """So many images of class c0, c1, ..."""
    names = [(f"c{c}", f"c{c}/{i:04d}") for c, count in enumerate(counts) for i in range(count)]
    rows = [{"key": key, "class": name, "file": f"{key}.png", "width": 9, "height": 9} for name, key in names]
    return TableRows(pa.Table.from_pylist(rows, images_schema()), ImageRow)


GOLDEN = [
    ("c0/0000", "c1/0001", "sixteenth", (36, 176, 100, 240), 6583728091680542117),
    ("c0/0001", "c1/0001", "half", (0, 128, 256, 256), 950751515719695914),
    ("c0/0002", "c1/0001", "ninth", (171, 33, 256, 118), 4009640017668109567),
    ("c1/0000", "c0/0001", "half", (0, 128, 256, 256), 1172072565171266081),
    ("c1/0001", "c0/0000", "quarter", (0, 0, 128, 128), 6433500695077989655),
]


def test_a_crop_has_no_partners():
    with pytest.raises(UserError, match="the pattern crop mixes nothing; leave balanced out"):
        AugmentConfig(pattern="crop", partners="balanced")


def test_stage_writes_the_drawn_rows_and_does_nothing_again(images, tmp_path):
    out = tmp_path / "recipe"
    config = AugmentConfig(half_view="centre", seed=3)
    augment(out, images, config)
    recipe = read_recipe(out)
    assert recipe.rows == draw_recipe(read_images(images), config, 16)
    assert recipe.half_view == "centre"
    assert read_manifest(out).config == to_dict(config)
    table = read_table(out / "recipe.parquet")
    assert table.column_names == ["key", "base", "partner", "pattern", "left", "top", "right", "bottom", "seed"]
    assert read_manifest(out).counts == {"records": 24} | dict.fromkeys(PATTERNS, 6)
    first = (out / "recipe.parquet").read_bytes()
    (out / "recipe.parquet").unlink()
    augment(out, images, config)
    assert not (out / "recipe.parquet").exists()
    augment(tmp_path / "again", images, config)
    assert (tmp_path / "again" / "recipe.parquet").read_bytes() == first
    with pytest.raises(UserError, match=r"seed: the directory has 3, this call has 4"):
        augment(out, images, replace(config, seed=4))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(0, 99), st.sampled_from(["all", *PATTERNS]))
def test_rows_do_not_depend_on_order_and_mix_other_classes(counts, seed, pattern):
    rows = pictures(*counts)
    config = AugmentConfig(pattern=pattern, seed=seed)
    recipe = draw_recipe(rows, config, 32)
    shuffled = TableRows(rows.table.take(np.random.default_rng(seed).permutation(len(rows))), ImageRow)
    assert draw_recipe(shuffled, config, 32) == recipe
    assert [row.base for row in recipe] == sorted(row.key for row in rows)
    assert len({row.key for row in recipe}) == len(rows)
    for row in recipe:
        assert row.partner.split("/")[0] != row.base.split("/")[0]
    used = Counter(row.placement.pattern for row in recipe)
    if pattern == "all":
        assert max(used.values()) - min(used[p] for p in PATTERNS) <= 1
    else:
        assert used == {pattern: len(rows)}


def test_a_row_stays_when_the_config_says_the_same():
    rows = pictures(40, 40)
    one = {row.base: row for row in draw_recipe(rows, AugmentConfig(pattern="half"), 32)}
    other = {row.base: row for row in draw_recipe(rows, AugmentConfig(pattern="quarter"), 32)}
    assert all(one[key].partner == other[key].partner and one[key].seed == other[key].seed for key in one)
    third = {row.base: row for row in draw_recipe(rows, AugmentConfig(pattern="half", seed=1), 32)}
    assert sum(one[key].partner == third[key].partner for key in one) < 20


def test_partners_patterns_and_boxes_are_uniform_and_independent():
    rows = pictures(2000, 600, 400)
    recipe = draw_recipe(rows, AugmentConfig(seed=11), 32)
    # Partners of class 0 are the 1000 others: 600 and 400 of 2000 rows expected in proportion.
    partners = Counter(row.partner.split("/")[0] for row in recipe if row.base.startswith("c0/"))
    assert abs(partners["c1"] - 1200) < 4 * (2000 * 0.6 * 0.4) ** 0.5
    each = Counter(row.partner for row in recipe if row.base.startswith("c0/"))
    assert sum((each[row.key] - 2) ** 2 / 2 for row in rows[2000:]) < 1000 + 6 * 2000**0.5
    for pattern in PATTERNS:
        mine = [row for row in recipe if row.placement.pattern == pattern]
        assert len(mine) == 750
        share = sum(row.base.startswith("c0/") for row in mine) / 750
        assert abs(share - 2 / 3) < 4 * (2 / 9 / 750) ** 0.5
        boxes = Counter(row.placement for row in mine)
        count = len(windows_of(pattern, 32))
        wanted = 750 / count
        squares = sum((boxes[placement_at(pattern, 32, i)] - wanted) ** 2 / wanted for i in range(count))
        assert squares < count - 1 + 6 * (2 * count) ** 0.5 + 4


def test_partner_and_box_are_independent():
    recipe = draw_recipe(pictures(1000, 1000), AugmentConfig(pattern="quarter", seed=2), 32)
    table = Counter((int(row.partner[-4:]) % 4, row.placement.box) for row in recipe)
    wanted = len(recipe) / 16
    assert sum((n - wanted) ** 2 / wanted for n in table.values()) + (16 - len(table)) * wanted < 15 + 6 * 30**0.5


def test_pictures_are_written_on_request(images, tmp_path):
    out = tmp_path / "recipe"
    config = AugmentConfig(half_view="centre")
    augment(out, images, config)
    assert not list(out.glob("*/*.png"))
    augment(out, images, config, write_images=True)
    recipe = read_recipe(out)
    assert len(list(out.glob("*/*.png"))) == 24
    for row in recipe.rows:
        base, partner = (read_rgb(images / f"{key}.png") for key in (row.base, row.partner))
        expected = compose(base, partner, row.placement, "centre")
        assert np.array_equal(read_rgb(out / f"{row.key}.png"), expected)


def test_crop_takes_single_pictures_and_needs_no_second_class(images, tmp_path):
    out = tmp_path / "recipe"
    augment(out, images, AugmentConfig(pattern="crop"), write_images=True)
    rows = read_recipe(out).rows
    assert len(rows) == 24
    assert read_manifest(out).counts == {"records": 24} | dict.fromkeys(PATTERNS, 0) | {"crop": 24}
    for row in rows:
        assert row.base == row.partner
        base = read_rgb(images / f"{row.base}.png")
        assert np.array_equal(read_rgb(out / f"{row.key}.png"), compose(base, base, row.placement))
    assert len({row.placement.box for row in rows}) > 12
    assert len(draw_recipe(pictures(3), AugmentConfig(pattern="crop"), 32)) == 3


def test_the_draws_are_those_of_every_version():
    """Golden: a recipe is the same on any machine and in any later version."""
    recipe = draw_recipe(pictures(3, 2), AugmentConfig(seed=7), 256)
    assert [(row.base, row.partner, row.placement.pattern, row.placement.box, row.seed) for row in recipe] == GOLDEN


def test_errors():
    with pytest.raises(UserError, match=r"one class only \('c0'\).*add a second class folder"):
        draw_recipe(pictures(3), AugmentConfig(), 32)
    with pytest.raises(UserError, match="images of 15 px"):
        draw_recipe(pictures(2, 2), AugmentConfig(), 15)
    for bad, message in (
        ({"pattern": "third"}, "pattern must be all, half"),
        ({"half_view": "x"}, "half_view is 'x'; give one of 'aligned', 'centre'"),
        ({"seed": -1}, "seed is -1; give at least 0"),
    ):
        with pytest.raises(UserError, match=message):
            AugmentConfig(**bad)


STRIPES = '''
from tessera.cutmix import Pattern


def stripes(size):
    """Return every horizontal stripe of a quarter of the frame."""
    return [(0, top, size, top + size // 4) for top in range(size - size // 4 + 1)]


def broken(size):
    raise RuntimeError("no boxes today")


STRIPE = Pattern(name="stripe", area=1 / 4, windows=stripes, words=("above and below", "in a stripe across the middle"))
BROKEN = Pattern(name="broken", area=1, windows=broken)
OUTSIDE = Pattern(name="outside", area=1, windows=lambda size: [(0, 0, size + 1, size)])
HALF = Pattern(name="half", area=1, windows=stripes)
NONE = Pattern
'''


def tessera(*args, code=0):
    """Call the command line in this process; it must exit with `code`."""
    with pytest.raises(SystemExit) as exit:
        main(args)
    assert exit.value.code == code


def test_a_pattern_of_the_users_file(images, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_parts.py").write_text(STRIPES)
    monkeypatch.chdir(tmp_path)
    tessera("augment", str(images), "--out", "recipe", "--pattern", "my_parts.py:STRIPE", "--write-images")
    manifest = read_manifest(tmp_path / "recipe")
    assert re.fullmatch(r"my_parts\.py:STRIPE@[0-9a-f]{12}", manifest.config["pattern"])
    assert manifest.counts["stripe"] == 24
    recipe = read_recipe(tmp_path / "recipe")
    for row in recipe.rows:
        left, top, right, bottom = row.placement.box
        assert (left, right, bottom - top) == (0, 16, 4)
        base, partner = (read_rgb(images / f"{key}.png") for key in (row.base, row.partner))
        expected = base.copy()
        expected[top:bottom] = partner[top:bottom]
        assert np.array_equal(read_rgb(tmp_path / "recipe" / f"{row.key}.png"), expected)
    tessera("caption", str(images), "--out", "captions", "--recipe", "recipe")
    texts = read_table(tmp_path / "captions" / "captions.parquet")["text"].to_pylist()
    assert all("above and below" in text and "in a stripe across the middle" in text for text in texts)
    tessera("augment", str(images), "--out", "recipe", "--pattern", "my_parts.py:STRIPE")  # nothing to do
    for name, message in (
        ("STRIPEX", r"pattern my_parts\.py:STRIPEX: the file has no function 'STRIPEX'; did you mean 'STRIPE'"),
        ("BROKEN", r"pattern my_parts\.py:BROKEN: line 11: RuntimeError: no boxes today"),
        ("OUTSIDE", r"pattern my_parts\.py:OUTSIDE: box .* leaves"),
        ("HALF", r"pattern my_parts\.py:HALF: its name 'half' is tessera's"),
        ("NONE", r"pattern my_parts\.py:NONE: "),
    ):
        capsys.readouterr()
        tessera("augment", str(images), "--out", f"of {name}", "--pattern", f"my_parts.py:{name}", code=2)
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert re.search(message, line), line
        assert not (tmp_path / f"of {name}").exists()
