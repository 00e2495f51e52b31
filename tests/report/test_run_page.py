"""The page of a run: self-contained, escaped, with all that is there and nothing else."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.evaluate.intervals import paired_difference
from tessera.evaluate.scores import read_scores
from tessera.files import read_table
from tessera.miniature import WorldConfig
from tessera.prompts.miniature import PromptConfig, draw_prompts
from tessera.report import run_page
from tessera.report.run_page import ReportConfig, report
from tessera.stages import open_stage, read_manifest
from tiny.chromium import check_file
from tiny.workspaces import Page, assert_sound, make_workspace, write_samples


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("work") / "space")


@pytest.fixture(scope="module")
def page(workspace):
    report(workspace / "report", workspace, ["ta", "ta_ia"], ReportConfig(prompts_per_task=1, more_per_task=1))
    return Page(workspace / "report" / "index.html")


def test_page_is_self_contained_and_whole(page):
    assert_sound(page)
    for anchor in ("scores", "images", "training", "data", "noise", "work", "configuration"):
        assert anchor in page.ids
    assert "TA against TA+IA" in page.text
    assert page.html.count("<svg") == 4  # two plots, each wide and narrow


def test_arms_say_which_captions_they_mix(workspace, page, tmp_path):
    meaning = "text augmentation: long captions that say color, size, texture, place and background"
    assert meaning in " ".join(page.text.split())
    assert f"{meaning};" not in " ".join(page.text.split())
    shutil.copytree(workspace, tmp_path / "space", symlinks=True)
    path = tmp_path / "space" / "runs" / "ta" / "manifest.json"
    manifest = json.loads(path.read_text())
    for start, said in (
        (0, "captions: 25% long, 75% short"),
        (60_000, "captions from image 60,000 on: 25% long, 75% short"),
    ):
        manifest["config"] |= {"caption_mix": {"long": 0.25, "short": 0.75}, "caption_mix_start_image": start}
        path.write_text(json.dumps(manifest))
        report(tmp_path / f"report{start}", tmp_path / "space", ["ta"])
        assert f"{meaning}; {said}" in " ".join(Page(tmp_path / f"report{start}" / "index.html").text.split())


def test_a_run_from_other_weights_was_not_trained_from_scratch(workspace, page, tmp_path):
    assert "were trained from scratch on" in page.text
    shutil.copytree(workspace, tmp_path / "space", symlinks=True)
    path = tmp_path / "space" / "runs" / "ta" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["inputs"]["init"] = "0" * 64
    path.write_text(json.dumps(manifest))
    report(tmp_path / "report", tmp_path / "space", ["ta"])
    assert "A text-to-image model was trained on" in Page(tmp_path / "report" / "index.html").text


def test_images_that_were_held_out_do_not_count_as_trained_on(workspace, page, tmp_path):
    count = int(re.search(r"from scratch on (\d+) images", page.text)[1])
    shutil.copytree(workspace, tmp_path / "space", symlinks=True)
    path = tmp_path / "space" / "runs" / "ta" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["validation_records"] = 3
    path.write_text(json.dumps(manifest))
    report(tmp_path / "report", tmp_path / "space", ["ta"])
    text = Page(tmp_path / "report" / "index.html").text
    assert f"from scratch on {count - 3} images" in text
    assert "; 3 more are held out." in text


def test_images_without_a_caption_are_listed(workspace, tmp_path):
    shutil.copytree(workspace, tmp_path / "space", symlinks=True)
    sets = sorted(path.parent.name for path in (tmp_path / "space" / "captions").glob("*/manifest.json"))
    for number, name in enumerate(sets):
        path = tmp_path / "space" / "captions" / name / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["rejects"] = {f"circle/{number}": "", "square/7": "a refusal"}
        path.write_text(json.dumps(manifest))
    report(tmp_path / "report", tmp_path / "space", ["ta"], ReportConfig(prompts_per_task=1, more_per_task=1))
    text = " ".join(Page(tmp_path / "report" / "index.html").text.split())
    assert f"Images without a caption {2 * len(sets)} left out by caption" in text
    for number, name in enumerate(sets):
        assert f"circle/{number} (captions/{name})" in text if len(sets) > 1 else f"circle/{number}" in text
    assert "a refusal" in text
    assert "no caption" in text


def test_scores_stand_with_intervals_differences_and_the_judge(workspace, page):
    kinds = [
        {arm: read_scores(workspace / "scores" / arm / kind) for arm in ("ta", "ta_ia")}
        for kind in ("extended", "short")
    ]
    tables = re.findall(r'<table class="scores">.*?</table>', page.html, flags=re.S)
    assert len(tables) == 2
    for table, scores in zip(tables, kinds):
        rows = [re.sub(r"<[^>]*>", " ", row).split() for row in re.findall(r"<tr.*?</tr>", table, flags=re.S)]
        (row,) = [row for row in rows if row[:2] == ["Single", "object"]]
        found = [scores[arm].number("single_object") for arm in ("ta", "ta_ia")]
        expected = " ".join(f"{f.value:.2f} {f.low:.2f} to {f.high:.2f}" for f in found)
        assert " ".join(row[2:10]) == expected
        difference = paired_difference(scores["ta"], scores["ta_ia"], "single_object").value
        assert float(row[10].replace("−", "-").rstrip("*")) == pytest.approx(difference, abs=0.005)
        assert row[-2:] == ["0.12", "0.993"]  # chance: one of eight shapes


def test_chance_level_is_marked_by_the_scores(page):
    scores = page.html[page.html.index('id="scores"') : page.html.index('id="images"')]
    assert ">chance</text>" in scores
    assert re.search(r"extended prompts, chance: 0\.\d\d<", scores)  # of a large number
    assert "Chance: what images that show the scenes of other prompts would get" in scores


def test_every_verdict_is_beside_its_picture(workspace, page):
    right = wrong = 0
    for arm in ("ta", "ta_ia"):
        for kind in ("short", "extended"):
            for item in read_scores(workspace / "scores" / arm / kind).items:
                right += item["correct"]
                wrong += not item["correct"]
    alts = [image["alt"] for image in page.images if "judged" in image["alt"]]
    strip = 24  # the six prompts at the top, extended and short, are shown a second time
    assert len(alts) == right + wrong + strip
    body = page.html[page.html.index('id="images"') :]
    assert body.count('class="mark"') == right
    assert body.count('class="mark no"') == wrong
    assert sum("judged wrong: found" in alt for alt in alts) >= wrong


def test_examples_show_all_patterns_with_their_captions(workspace, page):
    for name in ("CM 1/2", "CM 1/4", "CM 1/9", "CM 1/16"):
        assert name in page.text
    captions = read_table(workspace / "captions" / "augmented-scene" / "captions.parquet").to_pydict()["text"]
    assert sum(text in page.text for text in captions) >= 4
    assert page.html.count('class="box"') == 8
    halves = re.findall(
        r'class="box" style="left: ([\d.]+)%; top: ([\d.]+)%; width: ([\d.]+)%; height: ([\d.]+)%"', page.html
    )
    assert tuple(map(float, halves[0])) in {(50, 0, 50, 100), (0, 50, 100, 50)}


def test_an_arm_without_cutmix_shows_plain_images_alone(workspace, page, tmp_path):
    """Also at the noise levels, where some of the CutMix images would be faded."""
    assert page.html.count('class="never"') == 12  # four, each at t = 0, 0.2 and tau
    report(tmp_path / "report", workspace, ["ta"])
    alone = Page(tmp_path / "report" / "index.html")
    assert "What the network sees at noise level t" in alone.text
    assert 'class="never"' not in alone.html
    assert "CM 1/" not in alone.text
    assert "CutMix image pastes" not in alone.text


def test_the_page_tells_config_and_times(workspace, page):
    assert "train ta" in page.text
    assert "3.4 min" in page.text
    assert '"prediction": "x0"' in page.text
    assert "linear" in page.text


def test_done_is_not_done_again(workspace, page):
    path = workspace / "report" / "index.html"
    before = path.stat().st_mtime_ns
    report(workspace / "report", workspace, ["ta", "ta_ia"], ReportConfig(prompts_per_task=1, more_per_task=1))
    assert path.stat().st_mtime_ns == before
    assert read_manifest(workspace / "report", "report").inputs.keys() >= {"images", "runs/ta", "scores/ta_ia/short"}


def user_workspace(workspace: Path) -> Path:
    """A user's own images: one arm, no judge, a hostile class name, a reject, samples of 160 px."""
    source = workspace / "source"
    rng = np.random.default_rng(0)
    for name in ("<script>alert(1)</script>", "b&b"):
        folder = source / name.replace("/", "_")
        folder.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (source / "b&b" / "notes.jpg").write_text("not a picture")
    collect(workspace / "images", CollectConfig(source="mine", size=32), source)
    caption(workspace / "captions" / "plain", workspace / "images", CaptionConfig())
    samples = open_stage(workspace / "samples" / "mine" / "short", stage="generate", config={})
    for i, prompt in enumerate(["An image of <script>alert(1)</script>", 'a "quoted" $x_1$ &amp; prompt']):
        folder = samples.directory / f"{i:05d}" / "samples"
        folder.mkdir(parents=True)
        (folder.parent / "metadata.jsonl").write_text(json.dumps({"prompt": prompt, "text": prompt}))
        Image.fromarray(rng.integers(0, 255, (400, 400, 3), dtype=np.uint8)).save(folder / "0000.png")
    samples.finish({"images": 2})
    return workspace


def test_without_a_judge_and_with_hostile_names(tmp_path):
    workspace = user_workspace(tmp_path)
    report(tmp_path / "report", workspace)
    page = Page(tmp_path / "report" / "index.html")
    assert_sound(page)
    assert "<script>alert(1)" in page.text  # shown, not run
    assert 'a "quoted" $x_1$ &amp; prompt' in page.text
    assert {"images", "data", "work", "configuration"} <= set(page.ids)
    assert {"scores", "training", "noise"}.isdisjoint(page.ids)
    assert "b&b/notes.jpg" in page.text
    assert "✓" not in page.text
    large = [image for image in page.images if image["alt"].startswith("mine draws")]
    assert {(image["width"], image["height"]) for image in large} == {("320", "320")}
    assert all(image["src"].startswith("data:image/jpeg") for image in large)


def test_three_arms_and_arms_of_unlike_prompts(tmp_path):
    world = WorldConfig(num_images=8)
    for arm, per_task in (("aio", 1), ("ta", 1), ("ta_ia", 2)):
        write_samples(tmp_path, arm, "extended", draw_prompts(world, PromptConfig(per_task=per_task)), world)
    report(tmp_path / "both", tmp_path, ["aio", "ta"])
    report(tmp_path / "all", tmp_path)
    both, all_three = (Page(tmp_path / name / "index.html") for name in ("both", "all"))
    assert_sound(all_three)
    assert "TA − AIO" in both.text
    assert "AIO against TA against TA+IA" in all_three.text
    assert re.search(
        r"Not paired with the models above, because its protocols differ: images: \d+ vs \d+", all_three.text
    )


def test_a_run_alone_is_enough(tmp_path):
    run = open_stage(tmp_path / "runs" / "my_run", stage="train", config={"prediction": "eps"})
    (run.directory / "log.jsonl").write_text('{"num_images": 64, "loss": 1.5}\n')
    run.finish({})
    report(tmp_path / "report", tmp_path)
    page = Page(tmp_path / "report" / "index.html")
    assert_sound(page)
    assert "training" in page.ids
    report(tmp_path / "again", tmp_path)
    assert (tmp_path / "again" / "index.html").read_text(encoding="utf-8") == page.html


def test_mistakes_are_named(tmp_path, workspace):
    with pytest.raises(UserError, match=r"no runs/ARM or samples/ARM"):
        report(tmp_path / "report", tmp_path)
    assert not (tmp_path / "report").exists()
    with pytest.raises(UserError, match=r"no arm 'ta_a'; did you mean 'ta_ia'\? there are: ta, ta_ia"):
        report(tmp_path / "report", workspace, ["ta_a"])
    open_stage(tmp_path / "runs" / "ta", stage="train", config={})
    with pytest.raises(UserError, match="unfinished"):
        report(tmp_path / "report", tmp_path)
    with pytest.raises(UserError, match="examples"):
        ReportConfig(examples=0)


def test_for_everybody(browser, workspace, page):
    """On a phone and at a desk, light and dark, by keyboard, read out; nothing is asked of the network."""
    check_file(browser, workspace / "report" / "index.html")


@pytest.mark.parametrize(
    ("judged", "note"),
    [
        ([False], "The first prompts and their first image; nothing was selected.<"),
        ([True], "The first prompt of each task and its first image; nothing was selected. Beneath: the judge's"),
        (
            [False, True],
            "The first prompts, of each task where there are tasks, and their first image; nothing was selected."
            " Beneath: the judge's",
        ),
    ],
    ids=["captions", "tasks", "both"],
)
def test_the_note_below_the_first_images_says_how_they_were_chosen(tmp_path, judged, note):
    strips = [{"title": "t", "prompts": [{"asked": "", "text": "x", "judged": each, "arms": []}]} for each in judged]
    run_page.Page(title="t", lead="l", strips=strips).write(tmp_path / "index.html")
    assert note in (tmp_path / "index.html").read_text(encoding="utf-8")
