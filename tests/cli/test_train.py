"""`tessera train` as a user calls it: what is frozen is loaded by the command and handed to the training."""

import json
import sys

import pytest
from PIL import Image

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
    assert call(*words, "--peak-tflops", 0.1, "--verify", "--compile", "off", "--out", "runs/a") == 0
    line = lines_of(folder / "runs/a")[-1]
    assert line["bf16_peak_share"] == pytest.approx(line["tflops"] / 0.1, rel=0.01)
    assert call("export", "runs/a", "--out", "export/a") == 0
    assert call(*words, "--init", "export/a", "--seed", 4, "--out", "runs/b") == 0
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert call(*words, "--wandb", "project", "--out", "runs/c") == 2
    assert "pip install wandb" in capsys.readouterr().err
    assert call(*words, "--init", "images", "--out", "runs/d") == 2
    assert "is not an export" in capsys.readouterr().err
