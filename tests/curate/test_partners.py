"""Partners by coverage: exact counts of pairs, places and images; and partners far from their bases."""

import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.config import UserError
from tessera.curate.augment import AugmentConfig, augment, draw_recipe
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.index import ImageRow, TableRows, images_schema, read_images, read_recipe
from tessera.curate.partners import CANDIDATES, balanced, far
from tessera.cutmix import PATTERNS
from tessera.images import read_rgb
from tessera.miniature import WorldConfig
from tessera.pretrained.features.encoder import ImageEncoder
from tessera.pretrained.features.networks import NETWORKS, FeatureNetwork
from tessera.pretrained.features.pixels import Pixels
from tessera.randomness import address
from tessera.stages import read_manifest


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


def test_the_least_similar_of_the_candidates_is_taken():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((5000, 6))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16)
    candidates = rng.integers(0, 5000, (CANDIDATES, 5000))
    found = far(features, lambda k: candidates[k].copy())
    likeness = np.einsum("nd,knd->kn", features.astype(np.float32), features[candidates].astype(np.float32))
    chosen = (features.astype(np.float32) * features[found].astype(np.float32)).sum(1)
    assert np.allclose(chosen, likeness.min(0), atol=1e-6)
    assert (found == candidates).any(0).all()


class MeanColor(ImageEncoder):
    """An image's mean color, less gray, as its embedding."""

    def __init__(self, model, device):
        super().__init__(torch.nn.Identity(), f"mean-color@{model}", "", device)

    def prepare(self, image):
        return torch.from_numpy(image.astype(np.float32).transpose(2, 0, 1)) - 128

    def embed(self, batch):
        return batch.mean((2, 3))


def test_partners_of_other_classes_are_less_like_their_bases(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "mean-color", FeatureNetwork(MeanColor, "v1"))
    collect(tmp_path / "images", CollectConfig(size=32, world=WorldConfig(num_images=80)))
    config = AugmentConfig(partners="far", embeddings="mean-color", seed=2)
    augment(tmp_path / "far", tmp_path / "images", config)
    augment(tmp_path / "random", tmp_path / "images", AugmentConfig(seed=2))
    assert read_manifest(tmp_path / "far").config["embeddings"] == "mean-color@v1"
    listed = {row.key: row for row in read_images(tmp_path / "images")}
    color = {key: read_rgb(tmp_path / "images" / str(row.file)).mean((0, 1)) - 128 for key, row in listed.items()}

    def likeness(row):
        one, other = color[row.base], color[row.partner]
        return one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    rows = {name: read_recipe(tmp_path / name).rows for name in ("far", "random")}
    means = {name: np.mean([likeness(row) for row in some]) for name, some in rows.items()}
    assert means["far"] < means["random"] - 0.2, means
    others = {
        name: sorted(key for key, row in listed.items() if row.class_name != name)
        for name in {row.class_name for row in listed.values()}
    }
    for row in rows["far"]:
        assert listed[row.base].class_name != listed[row.partner].class_name
        order = sorted(others[listed[row.base].class_name], key=lambda key: (listed[key].class_name, key))
        drawn = [order[address(row.seed, f"partner/{k}") % len(order)] for k in range(CANDIDATES)]
        assert row.partner in drawn


def test_pixels_are_embeddings_without_a_network(tmp_path):
    collect(tmp_path / "images", CollectConfig(size=32, world=WorldConfig(num_images=40)))
    augment(tmp_path / "far", tmp_path / "images", AugmentConfig(partners="far", embeddings="pixels"))
    augment(tmp_path / "random", tmp_path / "images", AugmentConfig())
    assert read_manifest(tmp_path / "far").config["embeddings"] == "pixels:16"
    features = {
        row.key: Pixels().features(Pixels().prepare(read_rgb(tmp_path / "images" / str(row.file)))[None])[0]
        for row in read_images(tmp_path / "images")
    }
    far, random = (
        np.mean([features[row.base] @ features[row.partner] for row in read_recipe(tmp_path / name).rows])
        for name in ("far", "random")
    )
    assert far < random - 0.1


def test_embeddings_that_are_missing_or_unknown(tmp_path):
    with pytest.raises(UserError, match=r"embeddings: partners far need them, such as dinov2, and others none"):
        AugmentConfig(partners="far")
    with pytest.raises(UserError, match=r"embeddings: partners far need them"):
        AugmentConfig(embeddings="dinov2")
    collect(tmp_path / "images", CollectConfig(size=32, world=WorldConfig(num_images=4)))
    with pytest.raises(UserError, match=r"embeddings: unknown network 'dinov3'; did you mean 'dinov2'\?"):
        augment(tmp_path / "out", tmp_path / "images", AugmentConfig(partners="far", embeddings="dinov3"))
