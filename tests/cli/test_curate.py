"""The verbs of curation: stages by hand, and what they refuse."""

import pytest

from tessera.files import read_json
from tessera.stages import read_manifest
from tiny.commands import call, fails, tessera


@pytest.mark.parametrize("words", ["caption images --captioner llava", "encode images captions"])
@pytest.mark.parametrize(("engine", "fix"), [("processes", "CUDA_VISIBLE_DEVICES=1"), ("ray", "leave --engine out")])
def test_one_gpu_for_workers_that_get_one_each(words, engine, fix, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("collect", "miniature", "--num-images", 8, "--out", "images") == 0
    assert call("caption", "images", "--out", "captions") == 0
    capsys.readouterr()
    assert call(*words.split(), "--engine", engine, "--device", "cuda:1", "--out", "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --device cuda:1: with --engine {engine} ")
    assert fix in line
    assert not (tmp_path / "out").exists()


def test_stages_by_hand_and_a_directory_of_another_configuration(tmp_path, monkeypatch):
    made = tessera("collect", "miniature", "--num-images", 24, "--out", "images", cwd=tmp_path)
    assert made.stdout.startswith("images: ")
    assert "24" in made.stdout
    monkeypatch.chdir(tmp_path)
    assert call("augment", "images", "--out", "recipe") == 0
    assert call("caption", "images", "--recipe", "recipe", "--captioner", "scene", "--out", "captions") == 0
    assert call("encode", "images", "captions", "--recipe", "recipe", "--out", "mixed") == 0
    line = fails("augment", "images", "--pattern", "half", "--out", "recipe")
    assert "pattern" in line
    assert '"all"' in line
    assert '"half"' in line


def test_a_size_that_codecs_refuse_is_said_before_anything_is_collected(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("collect", "miniature", "--num-images", 4, "--size", 50, "--out", "images") == 0
    assert "collect: encode may refuse images of 50 px" in capsys.readouterr().err
    assert call("collect", "miniature", "--num-images", 4, "--size", 48, "--out", "other") == 0
    assert "may refuse" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "flags", "message"),
    [
        ("photos", ("--num-images", 3), "--num-images and --seed are the miniature's; a folder is taken whole"),
        ("photos", ("--seed", 0), "--num-images and --seed are the miniature's"),
        ("photos", ("--single-class", "fox", "--class-names", "names.txt"), "class_names: single_class names the one"),
        ("miniature", ("--class-names", "names.txt"), "class_names: is for folders of images; the miniature is drawn"),
        ("miniature", ("--split", "val"), "split: is for folders of images"),
    ],
)
def test_flags_that_a_source_has_no_use_for_are_refused(source, flags, message, tmp_path, monkeypatch):
    from PIL import Image

    (tmp_path / "photos" / "fox").mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(tmp_path / "photos" / "fox" / "1.png")
    monkeypatch.chdir(tmp_path)
    assert message in fails("collect", source, "--size", 32, *flags, "--out", "images")
    assert not (tmp_path / "images").exists()


def test_one_class_has_no_partner(tmp_path, monkeypatch):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (number * 80, 0, 0)).save(tmp_path / "photos" / f"{number}.jpg")
    monkeypatch.chdir(tmp_path)
    assert call("collect", "photos", "--single-class", "cat", "--size", 32, "--out", "images") == 0
    assert "class" in fails("augment", "images", "--out", "recipe")


def test_tau_of_each_image_and_training_by_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call("collect", "miniature", "--num-images", 24, "--out", "images")
    call("augment", "images", "--out", "recipe")
    for name, recipe in (("plain", ()), ("mixed", ("--recipe", "recipe"))):
        call("caption", "images", *recipe, "--captioner", "scene", "--out", f"captions-{name}")
        call("encode", "images", f"captions-{name}", *recipe, "--out", name)
    sets = ("--plain", "plain", "--augmented", "mixed")
    assert call("tau", "miniature:ta_ia", *sets, "--recipe", "recipe", "--out", "tau") == 0
    assert "half: hidden from t = " in capsys.readouterr().out
    by_tau = (*sets, "--tau", "tau", "--out")
    assert call("train", "miniature-smoke:ta_ia", "--num-images", 64, *by_tau, "run") == 0
    assert read_manifest(tmp_path / "run").config["augment_min_t"] == "recipe"
    assert "is cosine" in fails("train", "miniature-paper:ta_ia", *by_tau, "other").replace('"', "")
    shown = ("figure", "tau", "--learned", "tau", "--size", 32, "--pictures", 8)
    assert call(*shown, "--schedule", "cosine", "--scale", 0.2, "--out", "figure") == 0
    learned = read_json(tmp_path / "figure" / "tau.json")["learned"]
    assert set(learned) == {"half", "quarter", "ninth", "sixteenth"}
    assert all(abs(sum(found["shares"]) - 1) < 1e-9 for found in learned.values())
    assert "Learned, CM 1/4: the images' own min_t has a median of" in (tmp_path / "figure" / "tau.md").read_text()
    assert "give --schedule cosine" in fails(*shown, "--out", "other")
    assert "of another scale than 1; give --scale 0.2" in fails(*shown, "--schedule", "cosine", "--out", "other")
