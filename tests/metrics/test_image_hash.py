"""Near duplicates: exact answers, and what is near by one of the two measures alone."""

import numpy as np

from tessera.metrics.image_hash import cells, difference_hashes, near_duplicates


def test_cells_are_means():
    image = np.zeros((16, 18, 3), np.uint8)
    image[:2, :2] = [[[10, 20, 30]] * 2] * 2
    image[2:4, 2:4, 1] = [[0, 100], [0, 100]]
    found = cells(image)
    assert found.shape == (8, 9, 3)
    assert found[0, 0].tolist() == [10, 20, 30]
    assert found[1, 1].tolist() == [0, 50, 0]
    assert int(found.astype(int).sum()) == 110
    assert cells(np.full((9, 31, 3), 7, np.uint8)).tolist() == np.full((8, 9, 3), 7).tolist()


def test_hashes_say_where_it_gets_brighter():
    ramp = np.arange(9, dtype=np.uint8)[None, :, None].repeat(8, 0).repeat(3, 2)
    hashes = difference_hashes(np.stack([ramp, ramp[:, ::-1], ramp * 0]))
    assert np.bitwise_count(hashes).tolist() == [64, 0, 0]
    ramp[3, 5] = 0
    assert int(np.bitwise_count(difference_hashes(ramp[None])[0])) == 63


def test_groups_of_near_images():
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8).repeat(1, 0)
    one, two = (x[:8, :8].repeat(8, 0).repeat(8, 1) for x in (one, two))
    noisy = np.clip(one.astype(int) + rng.integers(-3, 4, one.shape), 0, 255).astype(np.uint8)
    smaller = one[::2, ::2]
    recolored = (one // 2).astype(np.uint8)  # of the same hash
    flat, darker = np.full((20, 20, 3), 250, np.uint8), np.full((20, 20, 3), 90, np.uint8)
    images = [one, two, noisy, recolored, flat, smaller, darker, flat]
    found = near_duplicates(np.stack([cells(image) for image in images]))
    assert found.tolist() == [0, -1, 0, -1, 1, 0, -1, 1]


def test_drawings_on_one_ground_are_not_near_because_of_it():
    colors = np.full((3, 8, 9, 3), 255, np.uint8)
    colors[:, 3, 4] = [[200, 0, 0], [190, 0, 10], [0, 0, 200]]
    assert near_duplicates(colors).tolist() == [0, 0, -1]


def test_chunks_do_not_change_the_groups(monkeypatch):
    rng = np.random.default_rng(1)
    colors = rng.integers(0, 256, (40, 8, 9, 3), dtype=np.uint8)
    colors[[3, 20, 39]] = colors[0]
    colors[31] = colors[30]
    whole = near_duplicates(colors)
    assert sorted(np.flatnonzero(whole >= 0).tolist()) == [0, 3, 20, 30, 31, 39]
    monkeypatch.setattr("tessera.metrics.image_hash._CHUNK", 7)
    assert near_duplicates(colors).tolist() == whole.tolist()
