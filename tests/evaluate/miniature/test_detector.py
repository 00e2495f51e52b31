"""The shipped detector on held-out renders, its decoding on made-up output, and the judge's own accuracy."""

from importlib import resources

import numpy as np
import pytest
import torch

from tessera.evaluate.geneval.verdict import judge
from tessera.evaluate.miniature.calibrate import altered, held_out, judge_accuracy, metadata_of, relation_of
from tessera.evaluate.miniature.detector import GRID, Detector, decode, detect, load_detector
from tessera.evaluate.miniature.shipped import WEIGHTS, detector_sha256
from tessera.miniature import BACKGROUNDS, COLORS, SHAPES, WorldConfig, render
from tessera.records import Scene

WORLD = WorldConfig(seed=4711)


def test_weights_are_small_and_shipped():
    path = resources.files("tessera") / "assets" / WEIGHTS
    assert len(path.read_bytes()) < 500_000
    assert len(detector_sha256()) == 64
    assert sum(p.numel() for p in load_detector().parameters()) < 200_000


def test_the_judge_is_right_about_held_out_renders():
    accuracy = judge_accuracy(WORLD, 400)
    assert accuracy["one_object"] >= 0.98
    assert accuracy["two_objects"] >= 0.95
    assert accuracy["color_objects"] >= 0.99
    assert accuracy["wrong_refused"] >= 0.98
    assert accuracy["counting"] >= 0.9
    assert accuracy["seam_renders"] < 0.02
    assert accuracy["seam_cutmix"] > 0.2


def test_the_judge_is_not_pleased_by_torn_merged_and_blurred_objects():
    accuracy = judge_accuracy(WORLD, 400)
    assert accuracy["torn"] <= 0.22
    assert accuracy["merged"] <= 0.06
    assert accuracy["blurred"] <= 0.08
    ways = {name: share for name, share in accuracy.items() if ": " in name and not name.startswith("softened")}
    assert len(ways) == 14
    assert max(ways.values()) <= 0.3, ways


def test_a_network_that_knows_nothing_is_measured_so():
    from tessera.evaluate.miniature.calibrate import measure_judge

    blank = load_detector()
    torch.nn.init.zeros_(blank.head.weight)
    accuracy = measure_judge(WORLD, 12, blank)
    assert accuracy["one_object"] == accuracy["two_objects"] == accuracy["counting"] == 0
    assert accuracy["color_objects"] > 0.9


@pytest.mark.parametrize("size", [16, 48, 64, 100])
def test_pictures_of_other_sizes(size: int):
    scenes = held_out(WORLD, 1, 40)
    images = np.stack([render(scene, size) for scene in scenes])
    right = 0
    for scene, found in zip(scenes, detect(images)):
        if found and judge(metadata_of(scene), found).correct:
            right += 1
            middle = [(found[0].box[i] + found[0].box[i + 2]) / 2 / size for i in (0, 1)]
            assert middle == pytest.approx(scene.objects[0].center, abs=0.05)
    assert right >= (38 if size > 32 else 20)


def test_boxes_and_centres_are_where_the_objects_are():
    scenes = held_out(WORLD, 2, 60)
    images = np.stack([render(scene, 32) for scene in scenes])
    errors = []
    for scene, found in zip(scenes, detect(images)):
        for thing in scene.objects:
            best = min(
                found,
                key=lambda d: (
                    abs(d.box[0] + d.box[2] - 64 * thing.center[0]) + abs(d.box[1] + d.box[3] - 64 * thing.center[1])
                ),
            )
            left, top, right, bottom = (edge / 32 for edge in best.box)
            center = (left + right) / 2, (top + bottom) / 2
            errors.append([abs(center[0] - thing.center[0]), abs(center[1] - thing.center[1])])
            assert right - left == pytest.approx(thing.diameter, rel=0.3)
    assert np.mean(errors) < 0.012


def test_empty_pictures_hold_nothing():
    grounds = [Scene(objects=(), backgrounds=(name,), seed=seed) for name in BACKGROUNDS for seed in range(20)]
    images = np.stack([render(scene, 32) for scene in grounds])
    loud = [item for found in detect(images) for item in found if item.score > 0.3]
    assert len(loud) <= 2


def test_a_batch_is_as_its_pictures_alone():
    images = np.stack([render(scene, 32) for scene in held_out(WORLD, 2, 5)])
    together = detect(images, batch_size=2)
    for image, found in zip(images, together):
        (alone,) = detect(image[None])
        assert [(d.class_name, d.color) for d in alone] == [(d.class_name, d.color) for d in found]
        np.testing.assert_allclose([d.box for d in alone], [d.box for d in found], atol=1e-3)


def output(*cells: tuple[int, int, str, str, float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The network's output with objects at (column, row) of shape, color and logit; all 0.4 of the frame wide."""
    shape = torch.zeros(1, len(SHAPES) + 1, GRID, GRID)
    shape[:, -1] = 12.0
    color = torch.zeros(1, len(COLORS), GRID, GRID)
    geometry = torch.zeros(1, 3, GRID, GRID)
    geometry[:, 2] = np.log(0.8)
    for x, y, name, hue, logit in cells:
        shape[0, SHAPES.index(name), y, x] = logit
        color[0, list(COLORS).index(hue), y, x] = 5.0
    return shape, color, geometry


def test_decoding_reads_cells_and_merges_neighbours():
    shape, color, geometry = output(
        (4, 8, "star", "cyan", 16.0), (5, 8, "star", "pink", 15.0), (12, 8, "moon", "red", 13.0)
    )
    geometry[0, :2, 8, 4] = torch.tensor([0.25, -0.5])
    (found,) = decode(shape, color, geometry, size=64)
    assert [(d.class_name, d.color) for d in found] == [("star", "cyan"), ("moon", "red")]
    assert found[0].score > found[1].score > 0.5
    x, y, half = (4.5 + 0.25) * 4, (8.5 - 0.5) * 4, 0.4 * 64 / 2
    assert found[0].box == pytest.approx((x - half, y - half, x + half, y + half), abs=1e-4)


def test_decoding_finds_nothing_in_nothing_and_at_most_sixteen():
    assert decode(*output(), size=32) == [[]]
    shape, color, geometry = output(*[(x, y, "ring", "blue", 20.0) for x in range(16) for y in range(16)])
    geometry[:, 2] = np.log(2 / 16)  # one cell wide: none silences another
    (found,) = decode(shape, color, geometry, size=32)
    assert len(found) == 16


def test_altered_lines_are_wrong_and_true_ones_right():
    for number, scene in enumerate(held_out(WORLD, 2, 30)):
        line = metadata_of(scene)
        first, second = line["include"]
        wrong = altered(line, number)["include"][1]
        assert sum(wrong[key] != second[key] for key in second) == 1
        assert second["position"] == [relation_of(scene.objects[1].center, scene.objects[0].center), 0]
        assert first == {"class": scene.objects[0].shape, "count": 1, "color": scene.objects[0].color}


def test_the_network_has_the_documented_shapes():
    shape, color, geometry = Detector().eval()(torch.zeros(2, 3, 32, 32))
    assert shape.shape == (2, 9, 16, 16)
    assert color.shape == (2, 8, 16, 16)
    assert geometry.shape == (2, 3, 16, 16)


def test_garbage_holds_few_objects():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    coarse = rng.integers(0, 256, (100, 8, 8, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    for pictures in (noise, coarse):
        loud = [item for found in detect(pictures) for item in found if item.score > 0.3]
        assert len(loud) <= 10


@pytest.mark.parametrize(
    "world",
    [
        WorldConfig(shapes=("ring",), colors=("red", "blue")),
        WorldConfig(shapes=("ring", "moon"), colors=("pink",), size=16),
    ],
)
def test_small_worlds_are_measured_without_pairs(world: WorldConfig):
    accuracy = judge_accuracy(world, 10)
    numbers = {name for name in accuracy if ":" not in name}
    assert numbers == {
        *("one_object", "counting", "wrong_refused", "seam_renders", "seam_cutmix"),
        *("torn", "blurred", "softened"),
    }
    assert accuracy["one_object"] >= 0.9
