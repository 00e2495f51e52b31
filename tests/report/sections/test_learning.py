"""The same prompts at checkpoints: images, scores with their interval, and what is missing."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from tessera.evaluate.scores import write_scores
from tessera.prompts.geneval import TASKS
from tessera.prompts.miniature import PromptConfig, prompts
from tessera.report.arms import describe_arms
from tessera.report.sections.learning import checkpoints, learning
from tessera.stages import open_stage, read_manifest
from tiny.scores import judged, miniature_scores

ARMS = describe_arms(["ta", "ta_ia"])


def put_checkpoint(
    workspace, arm, images, shade, share=None, finish=True, tags=TASKS, name="a photo of {}", **protocol
):
    """Two prompts of each tag in one shade; `share` of them right."""
    place = workspace / "learning" / arm / f"{images:012d}"
    stage, items = open_stage(place / "samples", stage="generate", config={}), []
    for number in range(2 * len(tags)):
        folder, tag = place / "samples" / f"{number:05d}", tags[number // 2]
        (folder / "samples").mkdir(parents=True)
        line = {"prompt": name.format(number)} | ({"tag": tag} if tag else {})
        (folder / "metadata.jsonl").write_text(json.dumps(line))
        Image.fromarray(np.full((32, 32, 3), shade, np.uint8)).save(folder / "samples" / "0000.png")
        if share is not None:
            items.append(judged(number, 0, tag, number % 2 < 2 * share))
    if finish:
        stage.finish({"images": len(tags) * 2})
    if share is not None:
        write_scores(place / "scores", miniature_scores(arm, items, **protocol))


def test_six_prompts_at_each_checkpoint_and_the_score_against_images_seen(tmp_path):
    for arm in ("ta", "ta_ia"):
        for n, images in enumerate((320, 640, 960)):
            put_checkpoint(tmp_path, arm, images, 40 * n, share=n / 2)
    found = learning(tmp_path, ARMS)
    assert [arm["label"] for arm in found.arms] == ["TA", "TA+IA"]
    for arm in found.arms:
        assert arm["steps"] == ["320", "640", "960"]
        assert [row["text"] for row in arm["rows"]] == [f"a photo of {number}" for number in (0, 2, 4, 6, 8, 10)]
        for row in arm["rows"]:
            assert len({image["uri"] for image in row["images"]}) == 3
            assert row["images"][1]["alt"] == f"{arm['label']} after 640 images draws: {row['text']}"
            assert all(image["small"] for image in row["images"])  # shown with hard pixels
    assert found.plot_about.startswith("Judged on 12 images of 12 prompts at each checkpoint, with 95% intervals")
    assert found.plot.count("<svg") == 2
    assert "Strict score over training" in found.plot
    assert ">chance</text>" not in found.plot  # of prompts that nobody knows


def test_chance_level_is_marked_in_the_plot(images, tmp_path):
    prompts(tmp_path / "few_prompts", images, PromptConfig(per_task=2))
    drawn = read_manifest(tmp_path / "few_prompts").facts["prompts_sha256"]
    for seen in (320, 640):
        put_checkpoint(tmp_path, "ta", seen, 0, share=0.5, prompts_sha256=drawn)
    assert ">chance</text>" in learning(tmp_path, ARMS).plot


def test_without_a_judge_there_are_images_alone(tmp_path):
    for n, images in enumerate((320, 640)):
        put_checkpoint(tmp_path, "ta", images, 40 * n, tags=(None,) * 4, name="An image of <b>{}</b>")
    found = learning(tmp_path, ARMS)
    assert found.plot is None
    assert [arm["label"] for arm in found.arms] == ["TA"]
    assert [row["text"] for row in found.arms[0]["rows"]] == [f"An image of <b>{number}</b>" for number in range(6)]


def test_unfinished_checkpoints_and_single_ones_are_left_out(tmp_path):
    put_checkpoint(tmp_path, "ta", 320, 0)
    put_checkpoint(tmp_path, "ta", 640, 0, finish=False)
    (tmp_path / "learning" / "ta" / ".unfinished").mkdir()
    assert [images for images, _ in checkpoints(tmp_path, "ta")] == [320]
    assert learning(tmp_path, ARMS) is None
    assert learning(tmp_path / "nowhere", ARMS) is None


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_band_is_the_interval_over_prompts(tmp_path, share):
    for images in (320, 640):
        put_checkpoint(tmp_path, "ta", images, 0, share=share)
    found = learning(tmp_path, ARMS)
    assert re.search(r"<path[^>]*fill-opacity|fill-opacity", found.plot)
