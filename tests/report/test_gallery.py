"""Images of pages: small ones exact, large ones smaller; prompts with verdicts; no file outside the samples."""

import numpy as np
from PIL import Image

from tessera.report.arms import describe_arms
from tessera.report.gallery import embed, most_different, prompt_groups
from tiny.quality_scores import geneval, write_images
from tiny.samples import write_samples
from tiny.scores import judged, miniature_scores


def test_small_images_are_exact_and_large_ones_smaller():
    rng = np.random.default_rng(0)
    small = embed(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8), "a")
    large = embed(rng.integers(0, 256, (640, 320, 3), dtype=np.uint8), "b")
    assert (small["width"], small["height"], small["small"]) == (32, 64, True)
    assert small["uri"].startswith("data:image/png")
    assert (large["width"], large["height"], large["small"]) == (160, 320, False)
    assert large["uri"].startswith("data:image/jpeg")


def test_prompts_by_task_with_the_verdicts(tmp_path):
    lines = [{"prompt": f"prompt {n}", "tag": tag} for n, tag in enumerate(["counting", "single_object", "counting"])]
    samples = write_samples(tmp_path / "s", lines, per_prompt=1)
    items = [judged(n, 0, line["tag"], n == 0) for n, line in enumerate(lines)]
    scores = {"ta": miniature_scores("TA", items)}
    groups = prompt_groups({"ta": samples}, describe_arms(["ta"]), scores, 1, 5)
    assert [(group["title"], group["note"]) for group in groups] == [
        ("Single object", "TA 0.00"),
        ("Counting", "TA 0.50"),
    ]
    assert [prompt["text"] for prompt in groups[1]["prompts"] + groups[1]["more"]] == ["prompt 0", "prompt 2"]
    (shot,) = groups[1]["prompts"][0]["arms"][0]["shots"]
    assert shot["correct"]
    assert shot["image"]["alt"] == "TA draws: prompt 0. judged right: expected something else"
    assert not prompt_groups({"ta": samples}, describe_arms(["ta"]), {}, 1, 5)[0]["prompts"][0]["judged"]


def test_the_prompts_that_differ_most_come_first_and_no_file_from_elsewhere(tmp_path):
    folder = write_images(tmp_path / "s", 0)
    scores = [geneval(name, skill, prompts=6) for name, skill in (("a", 0.0), ("b", 1.0))]
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    scores[1].items[0]["file"] = "../secret.png"  # pyright: ignore
    found = most_different(scores, [folder, folder], {"a": 0, "b": 1}, count=4)
    assert len(found) == 4
    assert [arm["label"] for arm in found[0]["arms"]] == ["a", "b"]
    shots = [
        len(arm["shots"])
        for prompt in most_different(scores, [folder, folder], {"a": 0, "b": 1})
        for arm in prompt["arms"]
    ]
    assert sum(shots) == 6 * 2 * 2 - 1


def test_items_without_a_text_are_told_by_the_one_that_was_drawn(tmp_path):
    """As those of the miniature's judge: short and longer prompts of the same numbers are cards of their own."""
    lines = [{"prompt": name, "extended": {"text": f"{name} on a mat"}} for name in ("a cat", "a dog")]
    folders = [write_samples(tmp_path / str(longer), lines, per_prompt=1, extended=longer) for longer in (False, True)]
    judged_once = [judged(n, 0, "counting", True) | {"file": f"{n:05d}/samples/0000.png"} for n in (0, 1)]
    found = most_different([miniature_scores("TA", judged_once)] * 2, folders, {"TA": 0})
    assert sorted(prompt["text"] for prompt in found) == ["a cat", "a cat on a mat", "a dog", "a dog on a mat"]
    assert found[0]["arms"][0]["shots"][0]["image"]["alt"].startswith(f"TA draws: {found[0]['text']}. judged right")
