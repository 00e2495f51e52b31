"""The whole path at smoke size: from an empty folder, again, and after being killed in the middle."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tessera.config import UserError
from tessera.curate.collect.collect import collect
from tessera.curate.encode import encode
from tessera.curate.tau import Judge
from tessera.encoded.store import open_encoded
from tessera.evaluate.scores import read_scores
from tessera.files import exclusive_lock, write_json
from tessera.presets.fitted import scaled
from tessera.presets.lookup import load_run_preset
from tessera.presets.miniature import miniature, miniature_smoke
from tessera.presets.working_folder import claim
from tessera.prompts.geneval import TASKS
from tessera.report.examples import noise_settings
from tessera.run import BUSY, captions_to_draw, run_arm
from tessera.run import run as run_here
from tessera.stages import read_manifest, reopen
from tiny.commands import call, fails

LEARN = Judge.learn
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TESSERA_QUIET"}


def start(*args):
    command = [sys.executable, "-m", "tessera.cli", "run", *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=ENVIRONMENT, preexec_fn=hear_ctrl_c, **pipes)


def hear_ctrl_c():
    """A shell's background jobs, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file that holds no times: all but logs, timings and the report, which shows them."""
    timed = {"logs", "timings", "report", "tensorboard"}
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and timed.isdisjoint(path.relative_to(folder).parts)
        and path.name not in {"log.jsonl", "stages.json", ".lock"}
    }


def test_changed_images_are_said_before_anything_of_another_budget_is_removed(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in ("fox", "owl"):
        (photos / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), "red").save(photos / name / "a.png")
    first, more = (load_run_preset("my-pictures", images=photos, num_images=images) for images in (64, 128))
    claim(out, first)
    collect(out / "images", first.collect, photos)
    (out / "report").mkdir()
    Image.new("RGB", (32, 32), "blue").save(photos / "fox" / "b.png")
    before = (out / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"its images were changed since .* \(choose another --out\)$"):
        run_here(out, more, images=photos)
    assert (out / "report").is_dir()
    assert (out / "config.json").read_bytes() == before


def test_the_whole_path(smoke):
    text = (smoke / "report" / "index.html").read_text()
    assert "<html" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    for arm in ("ta", "ta_ia"):
        for kind in ("short", "extended"):
            scores = json.loads((smoke / "scores" / arm / kind / "scores.json").read_text())
            assert scores["numbers"][0]["metric"] == "overall"
            assert len(scores["items"]) == 12
            assert len(list((smoke / "samples" / arm / kind).glob("*/samples/*.png"))) == 12
        drawn = sorted(path.name for path in (smoke / "learning" / arm).iterdir())
        assert drawn == [f"{number:012d}" for number in (192, 384, 576, 768, 960)]
        final = read_scores(smoke / "learning" / arm / drawn[-1] / "scores")
        assert [item["tag"] for item in final.items] == [tag for tag in TASKS for _ in range(2)]
        pixels = {(smoke / "learning" / arm / name / "samples/00000/samples/0000.png").read_bytes() for name in drawn}
        assert len(pixels) == 5
    stages = [entry["stage"] for entry in json.loads((smoke / "stages.json").read_text())]
    assert stages[0] == "collect"
    assert {"augment", "train ta", "train ta_ia", "generate ta", "evaluate ta_ia", "learn ta"} <= set(stages)


def test_a_budget_that_is_too_small_is_named_in_the_report(smoke):
    said = read_manifest(smoke / "report", "report").facts["said"]
    assert "Nothing is drawn rightly yet: TA after 960 images (loss " in said[0]
    enough = miniature().arms[0].train.num_images
    assert said[0].endswith(f"The budget is too small: the preset miniature draws after {enough:,} images.")
    page = (smoke / "report" / "index.html").read_text()
    assert all(line.replace("'", "&#39;") in page for line in said)


def test_arms_differ_only_by_what_they_are_about(smoke):
    plain, mixed = (json.loads((smoke / "runs" / arm / "config.json").read_text()) for arm in ("ta", "ta_ia"))
    assert {name for name in plain if plain[name] != mixed[name]} == {"augment_prob", "augment_start_image"}
    prompts = [
        [json.loads(path.read_text())["prompt"] for path in sorted((smoke / "samples" / arm).rglob("metadata.jsonl"))]
        for arm in ("ta", "ta_ia")
    ]
    assert prompts[0] == prompts[1]


def test_an_arm_by_each_images_own_tau_makes_that_first(smoke, tmp_path, monkeypatch):
    config = miniature_smoke()
    arm = config.arms[1]
    arm = replace(arm, train=replace(scaled(arm.train, 64 / arm.train.num_images), augment_min_t="recipe"))
    sets = [smoke / "encoded" / f"{kind}-scene" for kind in ("plain", "augmented")]
    threads = []
    monkeypatch.setattr(Judge, "learn", lambda *a: threads.append(torch.get_num_threads()) or LEARN(*a))
    torch.set_num_threads(2)
    run_arm(tmp_path, config, arm, *sets, smoke / "prompts" / "prompts.jsonl", kinds=(), recipe=smoke / "recipe")
    assert threads == [arm.train.threads] == [1]  # two threads next to another arm's are twenty times as slow
    made = read_manifest(tmp_path / "tau" / arm.name, "tau")
    assert made.counts == {"records": 240}
    trained = read_manifest(tmp_path / "runs" / arm.name, "train")
    assert trained.inputs["tau"] == made.sha256
    settings = noise_settings(tmp_path, [arm.name])
    assert settings is not None
    assert (settings.own, settings.tau) == (True, trained.facts["median_min_t"])


def test_texts_that_are_not_stored_are_encoded_while_an_arm_trains(smoke, tmp_path):
    config = miniature_smoke()
    arm = config.arms[0]
    train = replace(scaled(arm.train, 64 / arm.train.num_images), sentence_drop_prob=0.5)
    arm, config = replace(arm, train=train), replace(config, encode=replace(config.encode, text_encoding="none"))
    encode(tmp_path / "encoded", smoke / "images", smoke / "captions" / "plain-scene", config.encode)
    run_arm(tmp_path, config, arm, tmp_path / "encoded", None, smoke / "prompts" / "prompts.jsonl", kinds=())
    assert read_manifest(tmp_path / "runs" / arm.name, "train").config["num_images"] == 64


def test_again_nothing_is_done(smoke):
    before = {path: path.stat().st_mtime_ns for path in smoke.rglob("*") if path.is_file()}
    run_here(smoke, miniature_smoke())
    changed = {
        str(path.relative_to(smoke))
        for path in smoke.rglob("*")
        if path.is_file() and before.get(path) != path.stat().st_mtime_ns
    }
    assert not {name for name in changed if not name.startswith("logs/") and name not in {".lock", "stages.json"}}


def wait_for(path: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_in_training_then_stopped_by_ctrl_c_and_resumed_the_bytes_are_the_same(smoke, tmp_path):
    other = tmp_path / "killed"
    process = start("miniature-smoke", "--out", other)
    wait_for(other / "runs" / "ta_ia" / "checkpoints" / "000000000192")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (other / "report").exists()
    shutil.rmtree(other / "export", ignore_errors=True)  # which one arm may have reached already
    process = start("miniature-smoke", "--resume", "--out", other)
    wait_for(other / "export" / "ta" / "manifest.json")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "stopped" in said.strip().splitlines()[-1]
    assert "Traceback" not in said
    run_here(other, miniature_smoke())
    assert contents(other) == contents(smoke)


def test_another_configuration_and_a_second_run_at_once_are_refused(smoke):
    with pytest.raises(UserError, match="was made otherwise"):
        run_here(smoke, load_run_preset("miniature"))
    with exclusive_lock(smoke, BUSY), pytest.raises(UserError, match="another tessera run"):
        run_here(smoke, miniature_smoke())


def test_a_folder_in_which_another_call_has_begun_is_not_claimed(tmp_path):
    with exclusive_lock(tmp_path, BUSY), pytest.raises(UserError, match="another tessera run"):
        run_here(tmp_path, miniature_smoke())
    assert list(tmp_path.iterdir()) == []  # or that call's children would read our config.json


def test_a_folder_of_another_version_is_refused_by_its_name(tmp_path):
    claim(tmp_path, miniature_smoke())
    write_json(tmp_path / "images" / "manifest.json", {"tool": {"name": "tessera"}, "stage": "collect"} | EMPTY)
    with pytest.raises(UserError, match=f"{tmp_path}/images: was made by another version of tessera"):
        run_here(tmp_path, replace(miniature_smoke(), parallel=1))


EMPTY = {"complete": True, "config": {}, "inputs": {}, "counts": {}, "rejects": {}, "facts": {}}


def test_a_preset_of_wrong_types_is_refused_before_anything_is_made(tmp_path):
    config = replace(miniature_smoke(), parallel=2.0)  # type: ignore
    with pytest.raises(UserError, match=r"the preset: field 'parallel' must be an integer, not 2\.0"):
        run_here(tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("size", "said"),
    [(33, r"latents: pixel-unshuffle:4 needs an image side that is a multiple of 4, not 33"),
     (64, r"arm ta: images of 64 px are latents of \(48, 16, 16\) with pixel-unshuffle.*, but train.model takes")],
)  # fmt: skip
def test_images_that_the_network_does_not_take_are_refused_before_the_first_stage(tmp_path, size, said):
    smoke = miniature_smoke()
    assert smoke.collect.world is not None
    collect = replace(smoke.collect, size=size, world=replace(smoke.collect.world, size=size))
    with pytest.raises(UserError, match=said):
        run_here(tmp_path / "out", replace(smoke, collect=collect))
    narrow = replace(smoke, encode=replace(smoke.encode, text="words:32"))
    with pytest.raises(UserError, match=r"arm ta: text of words:32 is 32 wide, train.model takes 64"):
        run_here(tmp_path / "out", narrow)
    assert not (tmp_path / "out").exists()


def test_a_mistyped_folder_does_not_hold_the_place_of_the_right_one(tmp_path, monkeypatch):
    from tessera.run import CONFIG
    from tessera.run import run as run_all

    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    Image.new("RGB", (20, 20)).save(photos / "1.png")
    monkeypatch.setattr("tessera.run._train_arms", lambda *args: pytest.fail("that is far enough"))
    for folder, why in ((tmp_path / "photo", "there is no such folder"), (photos, "give --single-class")):
        with pytest.raises(UserError, match=why):
            run_all(out, load_run_preset("my-pictures", images=folder), images=folder)
        assert not (out / CONFIG).exists()
    one = load_run_preset("my-pictures", images=photos, single_class="cat")
    with pytest.raises(pytest.fail.Exception, match="far enough"):
        run_all(out, one, images=photos)
    with pytest.raises(UserError, match="was made otherwise"):
        run_all(out, load_run_preset("my-pictures", images=tmp_path), images=tmp_path)


def test_captions_that_cannot_be_read_are_refused_before_anything_is_made(tmp_path):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "cat" / "1.png")
    config = load_run_preset("my-pictures", images=tmp_path / "photos", with_captions=True)
    (tmp_path / "other.csv").write_text("pic,words\n1.png,a cat\n")
    (tmp_path / "none.csv").write_text("file_name,text\n")
    for name, said in (("nosuch", "no such captions file"), ("other", "has no column key"), ("none", "no captions")):
        with pytest.raises(UserError, match=said):
            run_here(tmp_path / "out", config, images=tmp_path / "photos", captions=tmp_path / f"{name}.csv")
        assert not (tmp_path / "out").exists()


def test_a_folder_of_unreadable_files_does_not_hold_the_place_of_the_right_one(tmp_path, monkeypatch):
    for place in ("bad/cat", "good/cat", "good/dog"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / place / "1.png")
    (tmp_path / "bad" / "cat" / "1.png").write_text("no image")
    monkeypatch.setattr("tessera.run._train_arms", lambda *args: pytest.fail("that is far enough"))
    for name, error, why in (("bad", UserError, "no readable image"), ("good", pytest.fail.Exception, "far enough")):
        with pytest.raises(error, match=why):
            run_here(tmp_path / "out", load_run_preset("my-pictures", images=tmp_path / name), images=tmp_path / name)


@pytest.mark.parametrize("flags", [{}, {"split": "test"}, {"single_class": "pet"}])
def test_one_folder_serves_collect_caption_and_run_with_splits_too(tmp_path, monkeypatch, flags):
    for number, name in enumerate(f"{split}/{cls}" for split in ("Training", "Testing") for cls in ("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), (number, 9, 9)).save(tmp_path / "photos" / name / "1.png")
        (tmp_path / "photos" / name / "1.txt").write_text(f"{name} in words")
    monkeypatch.setattr("tessera.run._train_arms", lambda *args: pytest.fail("that is far enough"))
    config = load_run_preset("my-pictures", images=tmp_path / "photos", with_captions=True, **flags)
    with pytest.raises(pytest.fail.Exception, match="far enough"):
        run_here(tmp_path / "out", config, images=tmp_path / "photos", captions=tmp_path / "photos")
    texts = [row["text"] for row in pq.read_table(tmp_path / "out/captions/plain-import/captions.parquet").to_pylist()]
    split = "Testing" if "split" in flags else "Training"
    assert sorted(texts) == [f"{split}/cat in words", f"{split}/dog in words"]


def test_images_without_a_caption_are_left_out_by_skip_missing(tmp_path, monkeypatch):
    names = [f"{cls}/{number}" for cls in ("cat", "dog") for number in range(3)]
    for number, name in enumerate(names):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (30 * number, 9, 9)).save(tmp_path / "photos" / f"{name}.png")
    file = tmp_path / "captions.csv"
    file.write_text("file_name,text\n" + "".join(f"{name}.png,{name} in words\n" for name in names[:4]))
    monkeypatch.setattr("tessera.run._train_arms", lambda *args: pytest.fail("that is far enough"))
    config = load_run_preset("my-pictures", images=tmp_path / "photos", with_captions=True)
    out, given = tmp_path / "out", {"images": tmp_path / "photos", "captions": file}
    with pytest.raises(UserError, match=r"has no caption for 2 of 6 images: 'dog/1', 'dog/2'; .*with --skip-missing"):
        run_here(out, config, **given)
    with pytest.raises(pytest.fail.Exception, match="far enough"):
        run_here(out, config, **given, skip_missing=True)
    for stage in ("captions", "encoded"):
        manifest = read_manifest(out / stage / "plain-import")
        assert (manifest.counts["records"], list(manifest.rejects)) == (4, names[4:])
        listed = (out / stage / "plain-import-missing.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in listed] == ["key", *names[4:]]
    drawn = [json.loads(line)["prompt"] for line in (out / "prompts" / "prompts.jsonl").read_text().splitlines()]
    assert sorted(drawn) == [f"{name} in words" for name in names[:4]]
    assert [text[:3] for text in drawn] == ["cat", "dog", "cat", "cat"]  # both classes, then what is left
    file.write_text("file_name,text\nanother/1.png,text\n")
    with pytest.raises(UserError, match=r"has no caption for 6 of 6 images.*: add or rename them$"):
        run_here(tmp_path / "none", config, **given, skip_missing=True)


def test_my_pictures_from_any_folder(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("red fox", "grey_wolf"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 255, (40 + 9 * number, 50, 3), dtype=np.uint8)
            suffix = ("png", "jpg", "webp", "gif")[number % 4]
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.{suffix}")
    (tmp_path / "photos" / "red fox" / "broken.jpg").write_text("not a picture")
    preset = tmp_path / "small.py"
    preset.write_text(
        "from dataclasses import replace\n"
        "from tessera.presets.miniature import miniature_smoke, my_pictures\n"
        "def toy():\n"
        "    smoke, base = miniature_smoke(), my_pictures()\n"
        "    each = {'checkpoint_every_images': 48, 'keep_every_images': 48, 'augment_start_image': 0}\n"
        "    optim = replace(smoke.arms[1].train.optim, cooldown_images=0, warmup_images=16)\n"
        "    train = replace(smoke.arms[1].train, num_images=96, sample_every_images=48, optim=optim, caption_mix={},\n"
        "        caption_mix_start_image=0, **each)\n"
        "    return replace(base, arms=(replace(base.arms[0], train=train),), export=smoke.export)\n"
    )
    words = ["run", f"{preset}:toy", "--images", tmp_path / "photos", "--out", tmp_path / "out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tessera.run.run_jobs", lambda *_, **__: ["aio_ia"])  # the time is over before its first step
        assert call(*words, "--budget", "1s") == 2
    assert "no training has begun within --budget" in capsys.readouterr().err
    assert call(*words) == 0
    assert "Report:" in capsys.readouterr().out
    text = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "broken.jpg" in text
    assert '<h2 id="learning">' in text
    assert "after 96 images draws: An image of red fox" in text
    copies = text.split('<h2 id="copies">')[1].split("</section>")[0]
    assert "nearer to a training image than 99% of training images are to another one" in copies
    assert copies.count("drew this image") == 8
    pages = text.split('<h2 id="images">')[1].split('<h2 id="training">')[0]
    assert "Captions of images that no training saw" in pages
    assert pages.count("Nearest training image, ") == 8
    assert pages.count("Image of this caption, ") == 2
    assert "photos: 20 images of 2 classes, cut to 32 px" in text
    assert "tessera plan --images 20 " in text
    arm = tmp_path / "out" / "runs" / "aio_ia"
    assert read_manifest(arm).config["validation_records"] == 2
    held_out = set(open_encoded(tmp_path / "out" / "encoded" / "plain-aio").keys(18))
    prompts = (tmp_path / "out" / "prompts" / "prompts.jsonl").read_text()
    assert "An image of red fox" in prompts
    assert "An image of grey wolf" in prompts
    unseen = [line["key"] for line in map(json.loads, prompts.splitlines()) if line["tag"] == "held_out"]
    assert unseen
    assert set(unseen) <= held_out
    assert (arm / "samples" / "000000000096.png").is_file()

    before = read_manifest(tmp_path / "out" / "encoded" / "plain-aio").sha256
    assert call(*words, "--num-images", 160) == 0
    assert read_manifest(arm).counts["num_images"] == read_manifest(tmp_path / "out/export/aio_ia").counts["num_images"]
    assert read_manifest(arm).counts["num_images"] == 160
    assert read_manifest(tmp_path / "out" / "encoded" / "plain-aio").sha256 == before
    assert "after 160 images draws" in (tmp_path / "out" / "report" / "index.html").read_text()
    assert "has seen 160 images, more than num_images 96; give a larger number" in fails(*words, "--num-images", 96)

    reopen(arm, read_manifest(arm).config)  # as while it trains
    capsys.readouterr()
    assert call("report", tmp_path / "out") == 0
    assert (
        "aio_ia is unfinished: about 160 of 160 images seen" in (tmp_path / "out/report-so-far/index.html").read_text()
    )
    assert call("export", arm, "--out", tmp_path / "so_far") == 0
    assert "is unfinished: it has seen 160 of 160 images" in capsys.readouterr().err
    assert read_manifest(tmp_path / "so_far").facts == {"arm": "aio_ia", "unfinished": 160}
    same = tmp_path / "so_far" / "model.safetensors"
    assert same.read_bytes() == (tmp_path / "out" / "export" / "aio_ia" / "model.safetensors").read_bytes()


def test_prompts_without_a_judge_are_captions_of_the_largest_classes():
    keys = {"ant": ["ant/1"], "dog": [f"dog/{n}" for n in range(5)], "cat": ["cat/1", "cat/2"]}
    long = {key: f"long caption of {key}" for name in keys for key in keys[name]}
    short = {key: key for key in long}
    drawn = captions_to_draw(keys, [long, short], 5)
    assert [text.removeprefix("long caption of ").split("/")[0] for text in drawn] == [
        "dog",
        "cat",
        "ant",
        "dog",
        "cat",
    ]
    assert [text.startswith("long") for text in drawn] == [True, False, True, False, True]
    assert len({text.removeprefix("long caption of ") for text in drawn}) == 5
    assert list(captions_to_draw(keys, [dict.fromkeys(long, "the same")], 5)) == ["the same"]
    assert drawn[next(iter(drawn))].startswith("dog/")
    assert len(captions_to_draw(keys, [long], 100)) == 8
    del long["ant/1"]  # has no caption
    assert not any("ant" in text for text in captions_to_draw(keys, [long], 100))
