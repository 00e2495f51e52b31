"""Balanced partners: exact counts of pairs, places and images."""

import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.curate.augment import AugmentConfig, draw_recipe
from tessera.curate.index import ImageRow, TableRows, images_schema
from tessera.curate.partners import balanced
from tessera.cutmix import PATTERNS


def pictures(*counts: int) -> TableRows[ImageRow]:
    names = [(f"c{c}", f"c{c}/{i:04d}") for c, count in enumerate(counts) for i in range(count)]
    rows = [{"key": key, "class": name, "file": f"{key}.png", "width": 9, "height": 9} for name, key in names]
    return TableRows(pa.Table.from_pylist(rows, images_schema()), ImageRow)


def class_of(key: str) -> str:
    return key.split("/")[0]


def even(counts: Counter, cells: int) -> bool:
    """Whether all of so many cells were counted equally often, up to one."""
    return max(counts.values()) - (min(counts.values()) if len(counts) == cells else 0) <= 1


@pytest.mark.parametrize("pattern", ["half", "quarter"])
def test_every_pair_in_every_place_has_its_exact_count(pattern):
    windows = {"half": 2, "quarter": 4}[pattern]
    rows = draw_recipe(pictures(*[24] * 4), AugmentConfig(pattern=pattern, partners="balanced", seed=3), 32)
    counted = Counter((class_of(row.base), class_of(row.partner), row.placement.box) for row in rows)
    assert set(counted.values()) == {24 // 3 // windows}
    assert len(counted) == 4 * 3 * windows
    assert set(Counter(row.partner for row in rows).values()) == {1}


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5), st.integers(0, 99), st.sampled_from(["all", *PATTERNS]))
def test_counts_differ_by_one_at_most(counts, seed, pattern):
    config = AugmentConfig(pattern=pattern, partners="balanced", seed=seed)
    rows = draw_recipe(pictures(*counts), config, 32)
    assert rows == draw_recipe(pictures(*counts), config, 32)
    by_group: dict = {}
    for row in rows:
        assert class_of(row.base) != class_of(row.partner)
        by_group.setdefault((class_of(row.base), row.placement.pattern), Counter())[class_of(row.partner)] += 1
    assert all(even(found, len(counts) - 1) for found in by_group.values())
    used = Counter(row.partner for row in rows)
    for number, count in enumerate(counts):
        assert even(
            Counter({key: n for key, n in used.items() if class_of(key) == f"c{number}"}) or Counter(a=0), count
        )


def test_another_seed_deals_otherwise_and_the_order_is_drawn():
    classes, dealt = np.repeat(np.arange(3), 5), np.zeros(15, np.int64)
    draws = [np.random.default_rng(seed).integers(0, 2**63, 15).astype(np.uint64) for seed in range(4)]
    one, turns = balanced(classes, dealt, draws[0], draws[1])
    other, _ = balanced(classes, dealt, draws[2], draws[3])
    assert (one != other).any()
    assert set(turns) <= {0, 1, 2, 3}
    for own, wanted in itertools.permutations(range(3), 2):
        assert ((classes == own) & (classes[one] == wanted)).sum() in (2, 3)
