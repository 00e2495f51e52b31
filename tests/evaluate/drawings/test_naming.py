"""Names of drawings by their outlines, in other places, sizes and colors than those learned."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tessera.evaluate.drawings.composed import compose_scene
from tessera.evaluate.drawings.judge import Judge
from tessera.evaluate.drawings.naming import Namer, crop, features, fit_namer, fit_offsets
from tessera.evaluate.geneval.verdict import Detection
from tiny.drawings import squares

DRAWN = squares()
NAMES = ("square", "frame", "bar", "triangle")


def drawn(style: str, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images of one drawing, their boxes, labels, and which are mirrored."""
    rows = [row for row, each in enumerate(DRAWN.styles) if each == style]
    images, placed = zip(
        *(compose_scene(DRAWN, [rows[n % len(rows)]], np.random.default_rng(n), vary=True) for n in range(number))
    )
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    boxes = torch.tensor([(*p.center, p.diameter) for (p,) in placed])
    labels = torch.tensor([NAMES.index(DRAWN.names[p.row]) for (p,) in placed])
    return pixels, boxes, labels, torch.tensor([p.mirrored for (p,) in placed])


def learned(prior: list[float]) -> Namer:
    pixels, boxes, labels, mirrored = drawn("one", 480)
    parts = crop(pixels, boxes)
    parts[mirrored] = parts[mirrored].flip(3)
    return fit_namer(features(parts), labels, labels, prior, torch.zeros(657, 3))


@pytest.fixture(scope="module")
def namer() -> Namer:
    return learned([0.25] * 4)


def test_drawings_are_named_and_those_of_other_names_are_none_of_the_known(namer):
    pixels, boxes, labels, _ = drawn("two", 80)
    parts = crop(pixels, boxes)
    shares = namer.shares(parts, 4)
    assert shares.sum(1) == pytest.approx(torch.ones(80).numpy())
    assert (shares.argmax(1) == labels).float().mean() > 0.9
    few = namer.shares(parts, 3)
    assert few[labels == 3].sum(1).mean() < 0.2
    assert few[labels < 3].sum(1).mean() > 0.8


def test_a_mirrored_drawing_has_the_same_name(namer):
    pixels, boxes, _, _ = drawn("two", 12)
    parts = crop(pixels, boxes)
    assert torch.allclose(namer.shares(parts, 3), namer.shares(parts.flip(3), 3), atol=1e-4)


def test_names_that_are_expected_more_often_are_found_more_often(namer):
    doubtful = torch.rand(64, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    assert namer.shares(doubtful, 1).mean() < learned([0.97, 0.01, 0.01, 0.01]).shares(doubtful, 1).mean()


def test_how_far_off_boxes_are_is_learned_from_their_features():
    found = torch.randn(2000, 20, generator=torch.Generator().manual_seed(0))
    off = found[:, :3] * 0.1 + torch.tensor([0.1, -0.1, 0.2])
    offsets = fit_offsets(found, off)
    assert torch.allclose(torch.cat([found, torch.ones(2000, 1)], 1) @ offsets, off, atol=1e-3)


def test_boxes_are_moved_by_how_far_off_they_are():
    offsets = torch.zeros(657, 3)
    offsets[-1] = torch.tensor([0.25, -0.25, np.log(2)])
    namer = Namer(torch.zeros(1, 656), torch.zeros(1), torch.zeros(1, dtype=torch.long), offsets)
    moved = namer.refined(torch.rand(1, 3, 32, 32), torch.tensor([[0.5, 0.5, 0.4]]))
    assert torch.allclose(moved, torch.tensor([[0.4, 0.6, 0.2]]))


@pytest.mark.parametrize("size", [32, 64])
def test_a_judge_names_what_lies_in_the_boxes_that_are_found(namer, monkeypatch, size):
    rows = [DRAWN.names.index(name) for name in ("frame", "bar")]
    scenes = [compose_scene(DRAWN, rows, np.random.default_rng(seed)) for seed in range(20)]
    found = []
    for _, placed in scenes:
        corners = [[size * (c + side * p.diameter / 2) for side in (-1, 1) for c in p.center] for p in placed]
        found.append([Detection("drawing", 0.9, (a, b, c, d), "red") for a, b, c, d in corners])
    monkeypatch.setattr("tessera.evaluate.miniature.detector.detect", lambda images, network: found)
    images = np.stack([image for image, _ in scenes]).repeat(size // 32, 1).repeat(size // 32, 2)
    named = Judge(NAMES, None, namer, "", {}).find(images)  # type: ignore[arg-type]
    assert np.mean([sorted(item.class_name for item in items) == ["bar", "frame"] for items in named]) > 0.9
    for items, given in zip(named, found):
        assert {item.box for item in items} == {item.box for item in given}
        assert 0.9 + 1e-6 >= items[0].score >= items[1].score > 0
        assert items[0].color == "red"


def test_a_crop_shows_what_lies_in_its_box():
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, 4:12, 16:24] = 1
    inside = crop(image, torch.tensor([[20 / 32, 8 / 32, 8 / 32]]))
    assert inside.shape == (1, 3, 24, 24)
    assert inside[0, :, 4:20, 4:20].min() > 0.7
    assert inside[0, :, 0].max() < 0.3
