"""The distance to held-out images."""

import json

import numpy as np
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.evaluate.miniature.likeness import (
    LikenessConfig,
    features,
    held_out,
    held_out_prompts,
    likeness,
    read_likeness,
)
from tessera.evaluate.miniature.shipped import detector_sha256
from tessera.metrics import frechet_distance
from tessera.miniature import WorldConfig, describe, draw_scene, render
from tessera.stages import open_stage

CONFIG = LikenessConfig(prompts=60, references=200)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("likeness") / "images"
    collect(folder, CollectConfig(size=32, world=WorldConfig(num_images=20)))
    return folder


def put_samples(folder, pictures, tag="held_out"):
    stage = open_stage(folder, stage="generate", config={"per_prompt": 1})
    for number, picture in enumerate(pictures):
        place = folder / f"{number:05d}" / "samples"
        place.mkdir(parents=True)
        Image.fromarray(picture).save(place / "0000.png")
        (place.parent / "metadata.jsonl").write_text(json.dumps({"tag": tag, "prompt": "x"}) + "\n")
    stage.finish({"prompts": len(pictures)})


def test_captions_are_of_scenes_that_no_training_picture_shows(images, tmp_path):
    held_out_prompts(tmp_path / "p", images, CONFIG)
    lines = [json.loads(line) for line in (tmp_path / "p" / "prompts.jsonl").read_text().splitlines()]
    assert len(lines) == 60
    world = WorldConfig(num_images=20)
    assert lines[7]["prompt"] == describe(draw_scene(held_out(world), 7), held_out(world).seed, 7)
    scenes = {draw_scene(world, number) for number in range(20)}
    assert not scenes & {draw_scene(held_out(world), number) for number in range(60)}


def test_what_was_asked_for_lies_at_the_floor_and_worse_pictures_lie_farther(images, tmp_path):
    world = held_out(WorldConfig(num_images=20))
    right = np.stack([render(draw_scene(world, number)) for number in range(60)])
    rng = np.random.default_rng(0)
    noisy = np.clip(right + rng.normal(0, 25, right.shape), 0, 255).astype(np.uint8)
    one = np.repeat(right[:1], 60, axis=0)
    found = {}
    for name, pictures in (("right", right), ("noisy", noisy), ("one", one)):
        put_samples(tmp_path / name, pictures)
        likeness(tmp_path / f"{name}-scores", tmp_path / name, images, CONFIG)
        found[name] = read_likeness(tmp_path / f"{name}-scores")
    assert found["right"]["distance"] == found["right"]["floor"]
    others = np.stack([render(draw_scene(world, number)) for number in range(60, 260)])
    by_hand = frechet_distance(features(others), features(right))
    assert found["right"]["distance"] == pytest.approx(by_hand, abs=1e-5)
    assert found["noisy"]["distance"] > 2 * found["right"]["floor"]
    assert found["one"]["distance"] > 2 * found["right"]["floor"]


def test_a_distance_by_another_detector_is_refused(images, tmp_path):
    world = held_out(WorldConfig(num_images=20))
    config = LikenessConfig(prompts=4, references=10)
    put_samples(tmp_path / "samples", [render(draw_scene(world, number)) for number in range(4)])
    for _ in range(2):
        likeness(tmp_path / "out", tmp_path / "samples", images, config)
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(detector_sha256(), "0" * 64))
    with pytest.raises(UserError, match="out: was made otherwise: detector_sha256"):
        likeness(tmp_path / "out", tmp_path / "samples", images, config)


def test_other_samples_are_refused(images, tmp_path):
    put_samples(tmp_path / "few", np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="holds 3 images; generate one for each of 60 held-out prompts"):
        likeness(tmp_path / "out", tmp_path / "few", images, CONFIG)
    put_samples(tmp_path / "others", np.zeros((60, 32, 32, 3), np.uint8), tag="colors")
    with pytest.raises(UserError, match="held-out prompts"):
        likeness(tmp_path / "out2", tmp_path / "others", images, CONFIG)
    with pytest.raises(UserError, match="at least 2"):
        LikenessConfig(prompts=1)
