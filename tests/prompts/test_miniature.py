"""The six tasks' prompts: GenEval's wordings and lines, and extended texts whose scenes satisfy them."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tessera.config import UserError
from tessera.evaluate.geneval.verdict import Detection, judge
from tessera.files import sha256_file
from tessera.miniature import WorldConfig
from tessera.prompts.geneval import TASKS
from tessera.prompts.miniature import PromptConfig, draw_prompts, extend, prompts, prompts_sha256, to_bytes
from tessera.randomness import philox
from tessera.records import Scene
from tessera.stages import open_stage, read_manifest

WORLD = WorldConfig()
SMALL = WorldConfig(shapes=("circle", "cross"), colors=("orange", "blue"), backgrounds=("snow",), textures=("plain",))


def as_detections(scene: Scene) -> list[Detection]:
    """A perfect detector's answer in an image of 100 px."""
    return [
        Detection(
            o.shape,
            1.0,
            tuple(100 * (c + s * o.diameter / 2) for s in (-1, 1) for c in o.center),  # type: ignore
            o.color,
        )
        for o in scene.objects
    ]


def test_wordings_and_metadata_of_a_small_world():
    lines = draw_prompts(SMALL, PromptConfig(per_task=200))
    bare = [{key: value for key, value in line.items() if key != "extended"} for line in lines]
    assert {line["prompt"] for line in bare if line["tag"] == "single_object"} == {
        "a photo of a circle",
        "a photo of a cross",
    }
    for line in (
        {
            "tag": "two_object",
            "include": [{"class": "circle", "count": 1}, {"class": "cross", "count": 1}],
            "prompt": "a photo of a circle and a cross",
        },
        {
            "tag": "counting",
            "include": [{"class": "cross", "count": 3}],
            "exclude": [{"class": "cross", "count": 4}],
            "prompt": "a photo of three crosses",
        },
        {
            "tag": "colors",
            "include": [{"class": "circle", "count": 1, "color": "orange"}],
            "prompt": "a photo of an orange circle",
        },
        {
            "tag": "position",
            "include": [{"class": "cross", "count": 1}, {"class": "circle", "count": 1, "position": ["left of", 0]}],
            "prompt": "a photo of a circle left of a cross",
        },
        {
            "tag": "color_attr",
            "include": [
                {"class": "circle", "count": 1, "color": "blue"},
                {"class": "cross", "count": 1, "color": "orange"},
            ],
            "prompt": "a photo of a blue circle and an orange cross",
        },
    ):
        assert line in bare


def test_each_task_has_its_number_and_repeats_only_when_it_must():
    lines = draw_prompts(WORLD, PromptConfig(per_task=24))
    assert Counter(line["tag"] for line in lines) == dict.fromkeys(TASKS, 24)
    assert [line["tag"] for line in lines] == [task for task in TASKS for _ in range(24)]
    for task in TASKS:
        times = Counter(line["prompt"] for line in lines if line["tag"] == task)
        assert set(times.values()) == ({3} if task == "single_object" else {1}), task
    assert len({line["extended"]["text"] for line in lines}) == len(lines)


def test_two_objects_differ():
    for line in draw_prompts(WORLD, PromptConfig(per_task=60, seed=3)):
        if len(line["include"]) == 2:
            first, second = line["include"]
            assert first["class"] != second["class"]
            assert "color" not in first or first["color"] != second["color"]
            a, b = line["extended"]["objects"]
            assert a["color"] != b["color"]


@pytest.mark.parametrize("world", [WORLD, SMALL])
def test_extended_scenes_satisfy_their_lines(world: WorldConfig):
    for number, line in enumerate(draw_prompts(world, PromptConfig(per_task=40, seed=1))):
        scene = extend(line, world, philox(5, "test/extend", number))
        verdict = judge(line, as_detections(scene))
        assert verdict.correct, (line, verdict)
        assert len(scene.objects) == sum(clause["count"] for clause in line["include"])
        assert len(scene.backgrounds) == 1
        for thing in scene.objects:
            assert all(thing.diameter / 2 - 0.001 <= c <= 1 - thing.diameter / 2 + 0.001 for c in thing.center)


def test_extended_texts_say_what_the_line_asks():
    for line in draw_prompts(WORLD, PromptConfig(per_task=30, seed=2)):
        text = line["extended"]["text"]
        for clause in line["include"]:
            assert clause["class"] in text
            assert clause.get("color", "") in text
        for thing in line["extended"]["objects"]:
            assert thing["color"] in text
        if line["tag"] == "counting" and line["include"][0]["count"] > 2:
            assert {3: "three", 4: "four"}[line["include"][0]["count"]] in text


def test_prompts_are_a_function_of_seed_task_and_number():
    few, many = (draw_prompts(WORLD, PromptConfig(per_task=n, seed=7)) for n in (3, 11))
    for task in TASKS:
        first, second = ([line for line in lines if line["tag"] == task] for lines in (few, many))
        assert first == second[:3]
    assert draw_prompts(WORLD, PromptConfig(per_task=3, seed=8)) != few


def test_stage_writes_the_file_once(tmp_path: Path):
    images = tmp_path / "images"
    from tessera.config import to_dict

    world = {"source": "miniature", "world": to_dict(SMALL)}
    open_stage(images, stage="collect", config=world).finish({})
    out = tmp_path / "prompts"
    prompts(out, images, PromptConfig(per_task=2))
    lines = [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]
    assert lines == draw_prompts(SMALL, PromptConfig(per_task=2))
    assert (out / "prompts.jsonl").read_bytes() == to_bytes(lines)
    manifest = read_manifest(out, "prompts")
    assert manifest.facts["prompts_sha256"] == prompts_sha256(lines) == sha256_file(out / "prompts.jsonl")
    before = (out / "prompts.jsonl").stat().st_mtime_ns
    prompts(out, images, PromptConfig(per_task=2))
    assert (out / "prompts.jsonl").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="per_task"):
        prompts(out, images, PromptConfig(per_task=3))


def test_users_are_told(tmp_path: Path):
    images = tmp_path / "images"
    open_stage(images, stage="collect", config={"source": "photos", "world": None}).finish({})
    with pytest.raises(UserError, match="no images of the miniature world"):
        prompts(tmp_path / "out", images, PromptConfig())
    with pytest.raises(UserError, match="per_task"):
        PromptConfig(per_task=0)
    with pytest.raises(UserError, match="two shapes and two colors"):
        draw_prompts(WorldConfig(shapes=("circle",)), PromptConfig())


def test_insets_keep_the_prompts_and_put_the_second_object_into_a_corner():
    halves, insets = (draw_prompts(WORLD, PromptConfig(per_task=40, layout=layout)) for layout in ("halves", "insets"))
    assert [line["prompt"] for line in halves] == [line["prompt"] for line in insets]
    corners = Counter()
    for before, line in zip(halves, insets):
        objects = line["extended"]["objects"]
        if len(line["include"]) == 1:
            assert line == before
            continue
        first, second = (o["center"] for o in objects)
        assert first == [0.5, 0.5]
        corners[line["tag"], *second] += 1
        asked = line["include"][1].get("position")
        if asked:
            axis, sign = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}[asked[0]]
            assert sign * (second[axis] - first[axis]) == 0.25
    assert len(corners) == 12, "four corners in each of three tasks"
