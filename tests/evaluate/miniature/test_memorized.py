"""Copies in the miniature: planted ones are found and named, held-out renders are none."""

import json

import numpy as np
import pytest
from PIL import Image

from tessera.cli.output import say_scores
from tessera.config import UserError
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.evaluate.miniature.evaluate import EvaluateConfig, evaluate
from tessera.evaluate.miniature.likeness import held_out
from tessera.evaluate.miniature.memorized import reference, tables
from tessera.evaluate.scores import read_scores
from tessera.miniature import WorldConfig, draw_scene, render, scene_key
from tessera.stages import open_stage

WORLD = WorldConfig(num_images=40, seed=2)
QUICK = EvaluateConfig(judge_renders=10)


def train(number):
    return render(draw_scene(WORLD, number))


def put_samples(folder, images):
    stage = open_stage(folder, stage="generate", config={"per_prompt": 1})
    for number, image in enumerate(images):
        place = folder / f"{number:05d}" / "samples"
        place.mkdir(parents=True)
        Image.fromarray(image).save(place / "0000.png")
        (place.parent / "metadata.jsonl").write_text(json.dumps({"prompt": "x"}) + "\n")
    stage.finish({"prompts": len(images)})
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memorized") / "images"
    collect(folder, CollectConfig(size=32, world=WORLD))
    return folder


def test_planted_copies_are_found_and_held_out_images_are_not(images, tmp_path, capsys):
    unseen = [render(draw_scene(held_out(WORLD), 10_000 + number)) for number in range(60)]
    rng = np.random.default_rng(0)
    noisy = np.clip(train(3) + rng.normal(0, 3, (32, 32, 3)), 0, 255).astype(np.uint8)
    brighter = np.clip(train(4).astype(int) + 4, 0, 255).astype(np.uint8)
    planted = [train(1), train(2)[:, ::-1], noisy, brighter]
    evaluate(tmp_path / "scores", put_samples(tmp_path / "samples", [*planted, *unseen]), QUICK, training=images)
    scores = read_scores(tmp_path / "scores")
    for measure, metric in (("features", "copies"), ("pixels", "pixel_copies")):
        found = [item["nearest"][measure] for item in scores.items]
        assert [item["image"] for item in found[:4]] == [scene_key(WORLD, number) for number in (1, 2, 3, 4)]
        assert [item["flipped"] for item in found[:2]] == [False, True]
        assert [item["ratio"] for item in found[:2]] == [0, 0]
        assert all(item["values"][metric] == 1 for item in scores.items[:4])
        assert sum(item["values"][metric] for item in scores.items[4:]) <= 3
        assert scores.number(metric).value == pytest.approx(4 / 64, abs=3 / 64)
        ratio = scores.number(f"{metric}_ratio")
        assert ratio.low < 1 < ratio.high
        assert ratio.protocol.reference_images == 40
    say_scores(tmp_path / "scores")
    told = capsys.readouterr().out
    assert "Copies  " in told
    assert "Distance to training images, in pixels" in told


def test_tables_know_where_things_lie_and_the_yardstick_is_of_unseen_renders():
    image = train(0)
    moved = np.roll(image, 6, axis=1)
    found = tables(np.stack([image, image, moved]))
    for table in found.values():
        assert table.shape == (3, 768)
        assert table.dtype == np.float32
        np.testing.assert_allclose(table[0], table[1], atol=1e-5)
        assert np.linalg.norm(table[0] - table[2]) > 1
    for by in reference(WORLD).yardsticks.values():
        assert 0 < by.closest < by.median


def test_a_folder_that_shows_no_world_is_refused(images, tmp_path):
    samples = put_samples(tmp_path / "samples", [train(0)])
    with pytest.raises(UserError, match="needs it as its images"):
        evaluate(tmp_path / "scores", samples, QUICK, training=tmp_path / "nowhere")
    with pytest.raises(UserError, match="was made by `tessera generate`"):
        evaluate(tmp_path / "scores", samples, QUICK, training=samples)
