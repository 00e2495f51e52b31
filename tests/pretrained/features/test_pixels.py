"""Copies by pixels: an exact, a mirrored and a changed image, through the search that DINOv2 is used for."""

import numpy as np
import pytest

from tessera.evaluate.copies.evaluate import evaluate_copies
from tessera.evaluate.scores import read_scores
from tessera.images import write_png
from tessera.pretrained.features.pixels import Pixels


def distance(a, b):
    first, second = (Pixels().features(Pixels().prepare(image)[None])[0] for image in (a, b))
    return float(np.linalg.norm(first - second))


def test_distances_do_not_depend_on_brightness_and_contrast():
    image, other = np.random.default_rng(0).integers(0, 200, (2, 16, 16, 3), dtype=np.uint8)
    assert Pixels().features(Pixels().prepare(image)[None]).shape == (1, 769)
    assert distance(image, image + 50) < 1e-6
    assert distance(image, image // 2 + 30) < 0.1
    assert distance(image, other) == pytest.approx(2**0.5, rel=0.1)
    assert distance(image, np.repeat(image, 3, axis=1)) > 0.5  # whose middle is another one


def test_a_flat_image_is_no_copy():
    """It lies at the mean of all images, so its pixels are nearer to each than they are to one another."""
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    flat = np.full((16, 16, 3), 128, np.uint8)
    faint = flat + np.random.default_rng(1).integers(0, 3, flat.shape, dtype=np.uint8)
    assert distance(image, flat) == pytest.approx(2**0.5, rel=0.1)
    assert distance(image, faint) > 1.2
    assert distance(flat, faint) < 0.5


def test_copies_are_found(tmp_path):
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    images = np.repeat(np.repeat(images[:, ::8, ::8], 8, axis=1), 8, axis=2)
    for n, image in enumerate(images):
        write_png(tmp_path / "images" / f"{n:03d}.png", image)
    other = np.zeros((32, 32, 3), np.uint8)
    other[16:] = 255  # farther from all than they are from each other
    for n, image in enumerate((images[7], images[9][:, ::-1], other)):
        write_png(tmp_path / "drawn" / f"{n}.png", image)
    out = tmp_path / "scores"
    assert evaluate_copies(out, tmp_path / "drawn", tmp_path / "images", Pixels(), cache=tmp_path / "cache")
    first, mirrored, new = read_scores(out).items
    assert (first["nearest"]["image"], first["nearest"]["ratio"], first["nearest"]["view"]) == (
        "007.png",
        0,
        "as it is",
    )
    assert mirrored["nearest"]["image"] == "009.png"
    assert mirrored["nearest"]["view"] == "mirrored"
    assert mirrored["nearest"]["ratio"] < 0.01 < 0.5 < new["nearest"]["ratio"]
    assert [item["values"]["copies"] for item in (first, mirrored, new)] == [1, 1, 0]
