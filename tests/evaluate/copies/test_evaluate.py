"""evaluate copies: planted copies are found and shown, held-out images are none."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tessera import cli
from tessera.cli.output import say_scores
from tessera.config import UserError
from tessera.evaluate.copies.evaluate import PAIRS, SIDE, CopiesConfig, evaluate_copies
from tessera.evaluate.miniature.likeness import held_out
from tessera.evaluate.scores import comparable, read_scores
from tessera.images import read_rgb
from tessera.miniature import WorldConfig, draw_scene, render
from tessera.pretrained.features.encoder import ImageEncoder
from tessera.pretrained.features.sscd import load_sscd
from tessera.report.scores_page import report_scores
from tiny.encoders import save_dino, save_sscd
from tiny.folders import end_together
from tiny.quality import write_samples

WORLD = WorldConfig(num_images=300, size=32)
PLANTED = {"exact": 3, "flipped": 17, "cropped": 40, "encoded": 77, "brighter": 150}
"""Kind of copy -> the training image."""


class Detector(ImageEncoder):
    """The miniature's trained detector: its features over 4 x 4 parts of the frame."""

    resizing = "Pillow bicubic to 32 x 32"

    def __init__(self):
        from tessera.evaluate.miniature.detector import load_detector

        super().__init__(load_detector(), "detector", "d" * 64, "cpu")

    def prepare(self, image):
        import torch

        small = Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(small))

    def embed(self, batch):
        import torch.nn.functional as F

        from tessera.evaluate.miniature.detector import to_input

        return F.adaptive_avg_pool2d(self.network.features(to_input(batch.numpy())), 4).flatten(1)


def write(directory: Path, world: WorldConfig, numbers) -> Path:
    directory.mkdir()
    for n in numbers:
        Image.fromarray(render(draw_scene(world, n), world.size)).save(directory / f"{n:05d}.png")
    return directory


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> dict[str, Path]:
    """Training images, held-out ones, and samples: further held-out ones with five copies among them."""
    root = tmp_path_factory.mktemp("planted")
    unseen = held_out(WORLD)
    training = write(root / "training", WORLD, range(300))
    samples = write(root / "samples", unseen, range(1000, 1195))
    for kind, n in PLANTED.items():
        image = Image.open(training / f"{n:05d}.png")
        if kind == "flipped":
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if kind == "cropped":
            image = image.crop((3, 3, 29, 29)).resize((32, 32), Image.Resampling.BICUBIC)
        if kind == "brighter":
            image = ImageEnhance.Brightness(image).enhance(1.03)
        if kind == "encoded":
            image.save(samples / "encoded.jpg", quality=90, subsampling=0)
        else:
            image.save(samples / f"{kind}.png")
    return {"training": training, "samples": samples, "held_out": write(root / "held_out", unseen, range(300))}


@pytest.mark.parametrize("given", [True, False])
def test_planted_copies_are_found_and_shown_and_held_out_images_are_not_flagged(planted, tmp_path, given):
    yard = planted["held_out"] if given else None
    assert evaluate_copies(
        tmp_path / "s", planted["samples"], planted["training"], Detector(), held_out=yard, cache=tmp_path / "c"
    )
    scores = read_scores(tmp_path / "s")
    items = {Path(item["file"]).stem: item for item in scores.items}
    assert len(items) == 200
    for kind, n in PLANTED.items():
        assert items[kind]["nearest"]["image"] == f"{n:05d}.png", kind
        assert items[kind]["values"]["copies"] == 1, kind
    assert items["exact"]["values"]["authenticity"] == 0  # as dgm-eval has it, other views do not count for it
    assert items["exact"]["nearest"]["ratio"] == items["flipped"]["nearest"]["ratio"] == 0
    assert items["flipped"]["nearest"]["view"] == "mirrored"
    assert items["cropped"]["nearest"]["of"] == "its middle"
    rest = [item["values"]["copies"] for name, item in items.items() if name not in PLANTED]
    assert sum(rest) <= 8  # 2 are expected of 195, 8 or more in one of a thousand cases
    share, ratio = scores.number("copies"), scores.number("copies_ratio")
    assert share.value == pytest.approx((5 + sum(rest)) / 200)
    assert share.low < share.value < share.high
    assert ratio.low < 1 < ratio.high + 0.1
    assert scores.number("authenticity").protocol.name == "dgm-eval"
    assert all(number.interval.endswith(" over images") for number in scores.numbers)
    shown = json.loads((tmp_path / "s" / "closest.json").read_text())
    assert len(shown) == PAIRS
    assert {Path(pair["file"]).stem for pair in shown} >= PLANTED.keys()
    sheet = read_rgb(tmp_path / "s" / "closest.png")
    first = read_rgb(planted["samples"] / shown[0]["file"])
    np.testing.assert_array_equal(sheet[:32, :32], first)
    partner = read_rgb(planted["training"] / shown[0]["image"])
    np.testing.assert_array_equal(sheet[:32, SIDE + 4 : SIDE + 36], partner)
    report_scores(tmp_path / "report", [tmp_path / "s"])
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Nearest training images" in page
    assert "exact.png and 00003.png: 0.00" in page
    assert "flipped.png and 00017.png: 0.00 (compared: mirrored with as it is)" in page


def test_a_second_network_has_its_own_numbers_and_sheet(planted, tmp_path):
    """The same network twice: all it says is said twice."""
    paths = planted["samples"], planted["training"]
    more = {"held_out": planted["held_out"], "cache": tmp_path / "c"}
    evaluate_copies(tmp_path / "s", *paths, Detector(), sscd=Detector(), **more)
    scores = read_scores(tmp_path / "s")
    for name in ("copies", "copies_ratio"):
        one, other = scores.number(name), scores.number(f"sscd_{name}")
        assert (one.value, one.low, one.high) == (other.value, other.low, other.high)
        assert other.protocol.metric == f"sscd_{name}"
    assert all(item["nearest"] == item["sscd_nearest"] for item in scores.items)
    assert scores.facts["median"] == scores.facts["sscd_median"]
    for kind in ("png", "json"):
        assert (tmp_path / "s" / f"closest.{kind}").read_bytes() == (tmp_path / f"s/closest-sscd.{kind}").read_bytes()
    report_scores(tmp_path / "report", [tmp_path / "s"])
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Copies by SSCD" in page
    assert "s, by SSCD" in page
    evaluate_copies(tmp_path / "alone", *paths, Detector(), **more)
    assert not (tmp_path / "alone" / "closest-sscd.png").exists()
    assert [number.metric for number in read_scores(tmp_path / "alone").numbers] == [
        number.metric for number in scores.numbers if not number.metric.startswith("sscd")
    ]


@pytest.mark.slow  # some 2,600 forwards of a ResNet-50
def test_planted_copies_are_found_by_sscd_s_network_too(planted, tmp_path):
    """Of random weights, at 64 pixels."""
    sscd = load_sscd(save_sscd(tmp_path / "sscd.pt"), side=64)
    paths = planted["samples"], planted["training"]
    evaluate_copies(tmp_path / "s", *paths, Detector(), sscd=sscd, held_out=planted["held_out"], cache=tmp_path / "c")
    scores = read_scores(tmp_path / "s")
    items = {Path(item["file"]).stem: item for item in scores.items}
    for kind, n in PLANTED.items():
        assert items[kind]["sscd_nearest"]["image"] == f"{n:05d}.png", kind
        assert items[kind]["values"]["sscd_copies"] == 1, kind
    assert sum(item["values"]["sscd_copies"] for name, item in items.items() if name not in PLANTED) <= 8
    assert scores.number("sscd_copies").protocol.encoder == "sscd"


def test_authenticity_is_dgm_eval_s(planted, tmp_path):
    """Against all distances at once."""
    encoder = Detector()
    evaluate_copies(tmp_path / "s", planted["samples"], planted["training"], encoder, cache=tmp_path / "c")
    scores = read_scores(tmp_path / "s")

    def features(directory, files):
        import torch

        return encoder.features(torch.stack([encoder.prepare(read_rgb(directory / f)) for f in files])).astype(float)

    files = sorted(path.name for path in planted["training"].iterdir())
    real = features(planted["training"], files)
    fake = features(planted["samples"], [item["file"] for item in scores.items])
    among = np.linalg.norm(real[:, None] - real[None], axis=2)
    np.fill_diagonal(among, np.inf)
    across = np.linalg.norm(real[:, None] - fake[None], axis=2)
    authentic = among.min(0)[across.argmin(0)] < across.min(0)
    assert 0.05 < authentic.mean() < 0.99
    assert [item["values"]["authenticity"] for item in scores.items] == authentic.astype(float).tolist()


def test_a_yardstick_of_training_images_is_encoded_once_for_all_models(planted, tmp_path, monkeypatch):
    """Two views of the training images, of those of the yardstick the other two, and four of each model's images."""
    training = write(tmp_path / "training", WORLD, range(30))
    seen, prepare = [], Detector.prepare
    monkeypatch.setattr(Detector, "prepare", lambda self, image: (seen.append(1), prepare(self, image))[1])
    counted = []
    for number in (0, 1):
        samples = write(tmp_path / f"samples{number}", held_out(WORLD), range(10 * number, 10 * number + 10))
        evaluate_copies(tmp_path / f"scores{number}", samples, training, Detector(), cache=tmp_path / "cache")
        counted.append(len(seen))
        seen.clear()
    assert counted == [2 * 30 + 2 * 30 + 4 * 10, 4 * 10]


def test_yardsticks_are_protocols_and_prompts_are_what_intervals_are_over(planted, tmp_path):
    samples = write_samples(tmp_path / "samples", 0)
    for name, yard in (("a", planted["held_out"]), ("b", None)):
        evaluate_copies(
            tmp_path / name, samples, planted["training"], Detector(), held_out=yard, cache=tmp_path / "cache"
        )
    a, b = (read_scores(tmp_path / name).number("copies") for name in "ab")
    assert [line.split(":")[0] for line in comparable(a, b)] == ["settings.yardstick"]
    assert (a.n, a.clusters) == (24, 12)
    assert not comparable(*(read_scores(tmp_path / name).number("authenticity") for name in "ab"))


def test_duplicates_in_a_small_training_set_are_said_and_hide_no_copies(tmp_path, capsys):
    training = write(tmp_path / "training", WORLD, range(60))
    samples = write(tmp_path / "samples", WORLD, range(25))
    shutil.copy(training / "00059.png", training / "00060.png")
    evaluate_copies(tmp_path / "s", samples, training, Detector(), cache=tmp_path / "c")
    assert read_scores(tmp_path / "s").number("copies").value == 1
    say_scores(tmp_path / "s")
    assert "2 images of the yardstick are training images too, and left out of its bound" in capsys.readouterr().out


def test_images_of_one_caption_are_of_one_prompt(planted, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt {i // 4}" for i in range(200)))
    evaluate_copies(
        tmp_path / "s",
        planted["samples"],
        planted["training"],
        Detector(),
        prompts=tmp_path / "prompts.txt",
        cache=tmp_path / "c",
    )
    scores = read_scores(tmp_path / "s")
    assert [(item["prompt"], item["sample"]) for item in scores.items[:6]] == [
        *((0, k) for k in range(4)),
        (1, 0),
        (1, 1),
    ]
    assert len({item["prompt"] for item in scores.items}) == scores.number("copies").clusters == 50


def test_of_ranks_that_see_everything_at_the_same_time_one_searches(planted, tmp_path, monkeypatch):
    def evaluate():
        out, cache = tmp_path / "out", tmp_path / "c"
        return evaluate_copies(out, planted["samples"], planted["training"], Detector(), cache=cache, chunk=64)

    assert end_together(monkeypatch, evaluate) == (False, True)
    monkeypatch.undo()
    evaluate_copies(tmp_path / "one", planted["samples"], planted["training"], Detector(), cache=tmp_path / "c")
    assert (tmp_path / "out" / "scores.json").read_bytes() == (tmp_path / "one" / "scores.json").read_bytes()
    assert not (tmp_path / "out" / "work").exists()


@pytest.mark.slow  # two processes
def test_a_killed_search_resumes_to_the_same_bytes(planted, tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
import importlib.util
spec = importlib.util.spec_from_file_location("t", {__file__!r}); t = importlib.util.module_from_spec(spec)
spec.loader.exec_module(t)
out, samples, training, cache = map(Path, sys.argv[1:])
t.evaluate_copies(out, samples, training, t.Detector(), cache=cache, chunk=16)
"""
    paths = [planted["samples"], planted["training"]]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    evaluate_copies(whole, *paths, Detector(), cache=tmp_path / "c1", chunk=16)
    arguments = [sys.executable, "-c", code, killed, *paths, tmp_path / "c2"]
    process = subprocess.Popen(arguments, env=os.environ, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(killed.glob("work/samples/*/*/*.npy"))) < 8:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "scores.json").exists()
    subprocess.run(arguments, check=True, env=os.environ, stderr=subprocess.DEVNULL)
    for name in ("scores.json", "closest.json", "closest.png", "manifest.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (killed / "work").exists()


def test_a_damaged_input_is_one_line(planted, tmp_path, capsys):
    def refused(match, samples=planted["samples"], training=planted["training"], **more):
        with pytest.raises(UserError, match=match):
            evaluate_copies(tmp_path / "out", samples, training, Detector(), cache=tmp_path / "c", **more)

    (tmp_path / "empty").mkdir()
    refused("empty: holds 0 images, at least 2", training=tmp_path / "empty")
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(planted["samples"] / "exact.png", one)
    refused("one: holds 1 images, at least 2", samples=one)
    features = tmp_path / "features"
    features.mkdir()
    (features / "detector.features.safetensors").touch()
    refused("features: holds features; give the training images themselves", training=features)
    refused("holds the training images themselves", held_out=planted["training"])
    (tmp_path / "prompts.txt").write_text("a fox\n")
    refused("has 1 lines for 200 images", prompts=tmp_path / "prompts.txt")
    same = tmp_path / "same"
    same.mkdir()
    for n in range(4):
        shutil.copy(planted["samples"] / "exact.png", same / f"{n}.png")
    (same / "README.md").write_text("four images")
    refused("same: half of the images are copies of other training images", training=same)
    assert "same: 1 files are no images, the first is README.md" in capsys.readouterr().err


def test_the_command_compares_by_dinov2(tmp_path, capsys):
    samples, training = write_samples(tmp_path / "s", 0, 6), write_samples(tmp_path / "t", 1, 4)
    dino = save_dino(tmp_path / "dino")
    command = ["evaluate", "copies", str(samples), "--training", str(training), "--dinov2", str(dino)]
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "c"), "--device", "cpu"])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert "Distance to training images" in printed.out
    assert "84 searches among 8 x 64" not in printed.out
    assert "searches among 8 x 64, about" in printed.err
    assert "copies: by DINOv2 alone; --sscd adds SSCD" in printed.err
    assert read_scores(tmp_path / "out").number("copies").protocol.resize == "Pillow bicubic to 224 x 224"
    assert dataclasses.asdict(CopiesConfig()) == {"rounding": "round", "batch_size": 32, "seed": 0}
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--sscd", "no.pt", "--out", str(tmp_path / "b"), "--device", "cpu"])
    assert ended.value.code != 0
    assert "sscd: no.pt: there is no such file of weights (published as sscd_disc_mixup.torchvision.pt)" in (
        capsys.readouterr().err
    )
