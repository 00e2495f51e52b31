"""`tessera train` as a user calls it: what is frozen is loaded by the command and handed to the training."""

import json
import sys

import pytest
from PIL import Image

from tessera.files import read_json
from tessera.train import loop
from tessera.weights.export import load_export
from tiny.commands import call

PRESET = """
from tessera.models.dit import DiTConfig
from tessera.train.config import TrainConfig

def small():
    model = DiTConfig(latent_channels=48, latent_size=4, patch_size=1, width=32, depth=1, heads=2, text_width=64,
        refiner_depth=1)
    return TrainConfig(model=model, num_images=32, batch_size=8, augment_prob=0.0, compute="fp32", log_every_images=16,
        validation_records=4, validate_every_images=16, sample_every_images=16, caption_drop_prob=0.25)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Sixteen images of the miniature of 16 px, encoded with and without text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PRESET)
    assert call("collect", "miniature", "--size", 16, "--num-images", 16, "--out", "images") == 0
    assert call("caption", "images", "--captioner", "scene", "--out", "captions") == 0
    for kind in ("int8", "none"):
        assert call("encode", "images", "captions", "--text-encoding", kind, "--out", f"encoded/{kind}") == 0
    return tmp_path


def lines_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_pictures_validation_and_text_on_the_fly(folder, capsys):
    for kind in ("int8", "none"):
        assert (
            call("train", "mine.py:small", "--plain", f"encoded/{kind}", "--out", f"runs/{kind}", "--device", "cpu")
            == 0
        )
    stored, encoded = lines_of(folder / "runs/int8"), lines_of(folder / "runs/none")
    assert [line["num_images"] for line in stored] == [16, 32]
    for a, b in zip(stored, encoded):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.02)  # int8 rounds a little
        assert b["validation"]["loss"] == pytest.approx(a["validation"]["loss"], rel=0.02)
    with Image.open(folder / "runs/none/samples/000000000032.png") as picture:
        assert picture.size == (64, 16)  # the four held-out captions
    capsys.readouterr()
    assert call("train", "mine.py:small", "--plain", "encoded/int8", "--out", "runs/int8", "--resume") == 0
    assert "runs/int8: 32 num_images, 50864 parameters, 0 skipped_steps" in capsys.readouterr().out


def test_flags(folder, capsys, monkeypatch):
    words = ["train", "mine.py:small", "--plain", "encoded/int8", "--device", "cpu"]
    threads, read_ahead = [], loop.read_ahead
    monkeypatch.setattr(loop, "read_ahead", lambda *a, **how: threads.append(how["threads"]) or read_ahead(*a, **how))
    more = ["--peak-tflops", 0.1, "--verify", "--compile", "off", "--loader-threads", 3, "--device-batch-size", 4]
    assert call(*words, *more, "--out", "runs/a") == 0
    assert threads == [3]
    line = lines_of(folder / "runs/a")[-1]
    assert line["bf16_peak_share"] == pytest.approx(line["tflops"] / 0.1, rel=0.01)
    assert call("export", "runs/a", "--out", "export/a", "--single-file") == 0
    assert load_export("export/a.safetensors")[1].settings == load_export("export/a")[1].settings
    less = ["--device-batch-size", "auto", "--gradient-checkpointing"]
    assert call(*words, "--init", "export/a", "--seed", 4, *less, "--out", "runs/b") == 0
    assert read_json(folder / "runs/b/device_batch_size.json") == {
        "samples": 8,
        "device": "cpu",
        "ranks": 1,
        "gradient_checkpointing": True,
        "split": None,
    }
    assert call(*words, "--device-batch-size", 0, "--out", "runs/c") == 2
    assert "device_batch_size" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert call(*words, "--wandb", "project", "--out", "runs/c") == 2
    assert "pip install wandb" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "torchao", None)
    assert call(*words, "--adamw8bit", "--out", "runs/f") == 2
    assert "optim.name: adamw8bit needs more libraries; run: pip install" in capsys.readouterr().err
    assert call("train", "miniature:ta", *words[2:], "--adamw8bit", "--out", "runs/c") == 2
    assert "preset miniature:ta: its optimizer is muon, not AdamW; leave out --adamw8bit" in capsys.readouterr().err
    assert call(*words, "--num-images", 64, "--extend", "--out", "runs/a") == 2
    assert "runs/a: cannot be extended, its learning rate has fallen to its end" in capsys.readouterr().err
    constant = PRESET.replace("batch_size=8", "batch_size=8, optim=OptimConfig(decay='constant')")
    (folder / "own.py").write_text("from tessera.train.optim.config import OptimConfig\n" + constant)
    own = ["train", "own.py:small", *words[2:], "--out", "runs/e"]
    assert call(*own) == 0
    assert call(*own, "--num-images", 64) == 2
    assert "runs/e: is a run of 32 images, not 64; give --extend to continue it, or" in capsys.readouterr().err
    assert call(*own, "--num-images", 64, "--extend") == 0
    assert "runs/e: 64 num_images" in capsys.readouterr().out
    assert call(*words, "--init", "images", "--out", "runs/d") == 2
    said = capsys.readouterr().err
    assert "images: was made by `tessera collect`; give a directory made by `tessera export`, such as export/a" in said


def test_held_out_images_and_the_best_average(folder, capsys):
    words = ["train", "mine.py:small", "--plain", "encoded/int8", "--device", "cpu"]
    assert call(*words, "--validation-records", 8, "--stop-after-no-gain", 16, "--out", "runs/a") == 0
    assert read_json(folder / "runs/a/config.json")["validation_records"] == 8
    assert read_json(folder / "runs/a/config.json")["stop_after_no_gain"] == 16
    assert call("export", "runs/a", "--best", "--out", "export/a") == 0
    assert read_json(folder / "export/a/manifest.json")["config"]["weights"] == "best"
    wrong = {
        (
            "train",
            "--validation-records",
            0,
            "--stop-after-no-gain",
            16,
        ): "stop_after_no_gain: needs the loss on held-out",
        ("train", "--validation-records", 16): "leaves nothing to train on; encoded/int8 has 16 records; give fewer:",
        ("export", "--best", "--weights", "online"): "export: --best means EMA weights; leave out --best or",
    }
    for (verb, *flags), said in wrong.items():
        start = words if verb == "train" else ["export", "runs/a"]
        assert call(*start, *flags, "--out", "runs/wrong") == 2
        assert said in capsys.readouterr().err


def test_sets_in_each_others_place(folder, capsys):
    """As `tessera encode` makes them: the manifests say which is which, and from which images."""
    (folder / "mine.py").write_text(PRESET + "\n\ndef aio_ia():\n    return replace(small(), augment_prob=0.5)\n")
    (folder / "mine.py").write_text("from dataclasses import replace\n" + (folder / "mine.py").read_text())
    assert call("augment", "images", "--pattern", "half", "--out", "recipe") == 0
    assert call("caption", "images", "--recipe", "recipe", "--captioner", "scene", "--out", "captions/mixed") == 0
    assert call("encode", "images", "captions/mixed", "--recipe", "recipe", "--out", "encoded/mixed") == 0
    words, good = ["train", "mine.py:aio_ia", "--device", "cpu"], ["--plain", "encoded/int8"]
    for given, said in (
        (["--plain", "encoded/mixed", "--augmented", "encoded/int8"], "encoded/mixed: holds augmented images"),
        ([*good, "--augmented", "encoded/none"], "encoded/none: holds plain images"),
        (good, "train: mine.py:aio_ia trains on CutMix images too; give --augmented, a set encoded with --recipe"),
    ):
        capsys.readouterr()
        assert call(*words, *given, "--out", "runs/wrong") == 2
        assert said in capsys.readouterr().err
    assert call("train", "mine.py:small", *good, "--augmented", "encoded/mixed", "--out", "runs/wrong") == 2
    assert "leave out --augmented" in capsys.readouterr().err
    assert not (folder / "runs/wrong").exists()
    assert call(*words, *good, "--augmented", "encoded/mixed", "--out", "runs/right", "--num-images", 10) == 0
    said = capsys.readouterr().err
    assert "has captions by scene: this trains the arm ta_ia, not aio_ia" in said
    assert "train: --num-images 10 is rounded up to 16 images, whole batches of 8" in said


def test_scores_of_the_miniature_on_the_way(folder, capfd):
    """The judge is a process of its own, which draws and judges by the miniature's own prompts."""
    flags = ["--evaluate-every-images", 32, "--evaluate-reference", "images", "--evaluate-images", 6]
    train = ["train", "mine.py:small", "--plain", "encoded/int8", "--device", "cpu"]
    assert call(*train, "--out", "runs/judged", *flags, "--evaluate-wait") == 0
    assert "1 failed" not in capfd.readouterr().out
    (line,) = [line for line in lines_of(folder / "runs/judged") if "scores" in line]
    assert line["num_images"] == 32
    assert {"overall", "color_score", "both_colors", "seam"} <= line["scores"].keys(), line
    values = json.loads((folder / "runs/judged/evaluations/000000000032/values.json").read_text())
    assert {name: score["value"] for name, score in values["scores"].items()} == line["scores"]
    assert values["protocols"]["overall"]["images"] == 6


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--evaluate-wait"], "--evaluate-... options need --evaluate-every-images"),
        (["--evaluate-images", 6], "--evaluate-... options need --evaluate-every-images"),
        (["--evaluate-extended"], "--evaluate-... options need --evaluate-every-images"),
        (["--evaluate-every-images", 16], "prompts: give a file of prompts"),
        (["--evaluate-every-images", 0, "--evaluate-reference", "images"], "evaluate_every_images is 0"),
        (["--evaluate-every-images", 16, "--evaluate-prompts", "nowhere.txt"], "nowhere.txt: there is no such file"),
        (["--evaluate-every-images", 16, "--evaluate-reference", "nowhere"], "nowhere: there is no such directory"),
        (["--evaluate-every-images", 16, "--evaluate-reference", "images", "--evaluate-metrics", "color"], "unknown"),
        (["--evaluate-every-images", 16, "--evaluate-networks", "clip"], "networks: 'clip' names no weights"),
    ],
)
def test_a_judge_that_cannot_work_is_refused_before_the_first_step(folder, capsys, flags, said):
    train = ["train", "mine.py:small", "--plain", "encoded/int8", "--out", "runs/refused", "--device", "cpu"]
    if "--evaluate-networks" in flags:
        (folder / "prompts.txt").write_text("a cat\na dog\n")
        flags = [*flags, "--evaluate-prompts", "prompts.txt"]
    assert call(*train, *flags) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (folder / "runs/refused").exists()
