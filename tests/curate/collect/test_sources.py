"""Groups of a source: their index, and hashes of keys that meet on file systems without case."""

import numpy as np

from tessera.curate.collect.sources import Item, ItemGroup, hashes, index_groups, key_hash


def item(name, label="cat", **changes):
    return Item(**{"key": f"{label}/{name}", "label": label, "source": name, "path": f"/there/{name}"} | changes)


def test_an_index_counts_labels_and_codes():
    group = ItemGroup((item("a.png", code=3), item("b.png", code=3), item("c.png", "dog")))
    (index,) = index_groups([group])
    assert (index.count, index.labels, index.codes) == (3, {"cat": 2, "dog": 1}, {"cat": 3})
    assert len(index.keys) == 3 * 8


def test_the_digest_is_of_names_labels_and_sizes_not_of_places():
    def digest(*items):
        return index_groups([ItemGroup(items)])[0].digest

    first = digest(item("a.png", length=5))
    assert digest(item("a.png", length=5, path="/elsewhere/a.png")) == first
    assert digest(item("a.png", length=6)) != first
    assert digest(item("a.png", "dog", length=5)) != first
    assert digest(item("b.png", length=5)) != first


def test_keys_that_differ_in_case_meet():
    assert key_hash("cat/A") == key_hash("CAT/a") != key_hash("cat/b")
    found = hashes(key_hash("cat/b") + key_hash("cat/a") + key_hash("cat/A"))
    assert found.dtype == np.uint64
    assert len(np.unique(found)) == 2
    assert (found[:-1] <= found[1:]).all()
