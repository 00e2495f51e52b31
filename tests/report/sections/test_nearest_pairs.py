"""The closest pairs of drawn and training images."""

import numpy as np
from PIL import Image

from tessera.evaluate.scores import Scores, write_scores
from tessera.report.arms import describe_arms
from tessera.report.sections.nearest_pairs import nearest_pairs
from tessera.stages import open_stage
from tiny.scores import judged, miniature_scores

ARMS = describe_arms(["ta", "ta_ia"])


def put(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 32, 3), shade, np.uint8)).save(path)


def scored(workspace, arm, kind, ratios, tag="single_object", copies=0):
    items = []
    for number, ratio in enumerate(ratios):
        item = judged(number, 0, tag, True) | {"nearest": {"features": {}}}
        item["nearest"]["features"] = {"image": f"circle/{number:06d}", "flipped": number % 2 == 1, "ratio": ratio}
        item["values"]["copies"] = float(number < copies)
        put(workspace / "samples" / arm / kind / item["file"], number)
        put(workspace / "images" / f"circle/{number:06d}.png", 100 + number)
        items.append(item)
    return miniature_scores(arm, items)


def test_the_closest_twelve_of_all_arms_and_kinds_come_first(tmp_path):
    kinds = {
        "extended": {"ta": scored(tmp_path, "ta", "extended", np.linspace(1, 2, 10).round(2).tolist(), copies=1)},
        "short": {"ta_ia": scored(tmp_path, "ta_ia", "short", [0.05, 5.0, 1.05, 9.0], tag="two_object")},
    }
    found = nearest_pairs(tmp_path, ARMS, kinds)
    assert len(found.pairs) == 12
    assert [pair["ratio"] for pair in found.pairs[:3]] == ["0.05", "1.00", "1.05"]
    assert [pair["label"] for pair in found.pairs[:3]] == ["TA+IA", "TA", "TA+IA"]
    assert (found.pairs[1]["name"], found.pairs[1]["flipped"]) == ("circle/000000", False)
    assert found.pairs[-1]["ratio"] == "2.00"
    assert found.pairs[0]["drawn"]["uri"] != found.pairs[0]["training"]["uri"]
    assert found.lines == [
        "TA: 10.0% of 10 images are nearer to a training image than 99% of unseen images. Images of prompts with one"
        " object lie 1.50 times as far off as unseen ones.",
        "TA+IA: 0.0% of 4 images are nearer to a training image than 99% of unseen images. Images of prompts with"
        " several lie 3.02 times as far off as unseen ones.",
    ]


def test_scores_without_training_images_have_no_section(tmp_path):
    plain = miniature_scores("ta", [judged(0, 0, "colors", True)])
    assert nearest_pairs(tmp_path, ARMS, {"short": {"ta": plain}}) is None
    assert nearest_pairs(tmp_path, ARMS, {}) is None


def test_copies_by_pixels_of_an_arm_without_a_judge(tmp_path):
    items = []
    for number, (view, ratio) in enumerate((("as it is", 0.9), ("its middle, mirrored", 0.1))):
        near = {"image": f"cat/{number}.png", "view": view, "of": "as it is", "ratio": ratio}
        file = f"{number:05d}/samples/0000.png"
        values = {"copies": float(number), "authenticity": 1.0}
        items.append({"prompt": number, "sample": 0, "file": file, "text": "a", "nearest": near, "values": values})
        put(tmp_path / "samples" / "ta" / "short" / file, number)
        put(tmp_path / "images" / near["image"], 100 + number)
    scores = tmp_path / "scores" / "ta" / "copies"
    stage = open_stage(scores, stage="evaluate copies", config={})
    write_scores(scores, Scores(kind="copies", name="ta", numbers=(), items=tuple(items)))
    assert nearest_pairs(tmp_path, ARMS, {"short": {}}) is None
    stage.finish(counts={})
    found = nearest_pairs(tmp_path, ARMS, {"short": {}})
    assert [(pair["name"], pair["ratio"], pair["flipped"]) for pair in found.pairs] == [
        ("cat/1", "0.10", True),
        ("cat/0", "0.90", False),
    ]
    assert found.lines == [
        "TA: 50.0% of 2 images are nearer to a training image than 99% of training images are to another one."
    ]
    assert "by their pixels at 16 x 16, without brightness" in found.about
