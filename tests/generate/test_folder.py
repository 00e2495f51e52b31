import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tessera.config import UserError, from_dict, part_id, to_dict
from tessera.diffusion.sampler import SAMPLERS
from tessera.generate import folder
from tessera.generate.folder import GenerateConfig, generate
from tessera.generate.pipeline import Pipeline
from tessera.prompts.read import read_prompts
from tessera.stages import read_manifest
from tessera.weights.export import CaptionsSeen
from tiny.folders import tree

LINES = [
    {"tag": "single_object", "include": [{"class": "circle", "count": 1}], "prompt": f"a circle {i}"} for i in range(5)
]
for line in LINES:
    line["extended"] = {"text": f"The picture shows {line['prompt']} on white snow.", "extender": "rules"}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES) + "\n")
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_layout_is_genevals(tmp_path, export, prompts):
    out = tmp_path / "samples"
    generate(out, export, prompts, GenerateConfig(per_prompt=3, steps=2, batch_size=7, seed=4), device="cpu")
    names = sorted(path.name for path in out.iterdir())
    assert names == ["00000", "00001", "00002", "00003", "00004", "manifest.json"]
    for number, line in enumerate(LINES):
        own = out / f"{number:05d}"
        written = json.loads((own / "metadata.jsonl").read_text())
        assert written == line | {"text": line["prompt"]}
        assert sorted(path.name for path in (own / "samples").iterdir()) == ["0000.png", "0001.png", "0002.png"]
        assert pixels(own / "grid.png").shape == (34, 34, 3)  # two columns of 16 px with a gap
    manifest = read_manifest(out, "generate")
    assert manifest.counts == {"prompts": 5, "images": 15}
    assert manifest.facts == {"steps": 2, "guidance_scale": 2.0, "image_size": 16}
    assert manifest.inputs.keys() == {"export"}
    drawn = np.stack([pixels(out / "00003" / "samples" / f"{k:04d}.png") for k in range(3)])
    expected = Pipeline.load(export, "cpu").images(
        [LINES[3]["prompt"]] * 3, [(3, k) for k in range(3)], seed=4, steps=2
    )
    assert np.abs(drawn.astype(int) - expected.astype(int)).max() <= 1


def test_extended_texts_are_drawn_and_noted(tmp_path, export, prompts):
    config = GenerateConfig(per_prompt=1, steps=1)
    generate(tmp_path / "short", export, prompts, config, device="cpu")
    generate(tmp_path / "long", export, prompts, GenerateConfig(per_prompt=1, steps=1, extended=True), device="cpu")
    metadata = json.loads((tmp_path / "long" / "00000" / "metadata.jsonl").read_text())
    assert metadata["prompt"] == LINES[0]["prompt"]
    assert metadata["text"] == LINES[0]["extended"]["text"]
    pictures = [(tmp_path / kind / "00000" / "samples" / "0000.png").read_bytes() for kind in ("short", "long")]
    assert pictures[0] != pictures[1]
    assert not (tmp_path / "long" / "00000" / "grid.png").exists()  # one image needs no grid


def test_bfloat16_draws_nearly_the_same_and_is_another_folder(tmp_path, export, prompts):
    configs = {name: GenerateConfig(per_prompt=1, steps=4, compute=name) for name in ("fp32", "bf16")}
    drawn = {}
    for name, config in configs.items():
        generate(tmp_path / name, export, prompts, config, device="cpu")
        drawn[name] = np.stack([pixels(tmp_path / name / f"{i:05d}" / "samples" / "0000.png") for i in range(5)])
    difference = np.abs(drawn["fp32"].astype(int) - drawn["bf16"])
    assert 0 < difference.mean() < 4
    for name in configs:
        assert read_manifest(tmp_path / name, "generate").config["compute"] == name
    with pytest.raises(UserError, match="compute"):
        generate(tmp_path / "fp32", export, prompts, configs["bf16"], device="cpu")


def test_done_is_not_done_again(tmp_path, export, prompts, monkeypatch):
    out = tmp_path / "samples"
    config = GenerateConfig(per_prompt=1, steps=1)
    generate(out, export, prompts, config, device="cpu")
    before = tree(out)
    monkeypatch.setattr(Pipeline, "load", None)
    generate(out, export, prompts, config, device="cpu")
    assert tree(out) == before


@pytest.mark.parametrize("written_before_the_stop", [0, 1, 2, 4])
def test_interrupted_is_uninterrupted(tmp_path, export, prompts, monkeypatch, written_before_the_stop):
    """Also when the stop falls into the middle of a batch, and with other threads when it resumes."""
    config = GenerateConfig(per_prompt=2, steps=2, batch_size=5)
    generate(tmp_path / "whole", export, prompts, config, device="cpu")
    real, count = folder._write_prompt, 0

    def stop_after(*arguments):
        nonlocal count
        if count == written_before_the_stop:
            raise KeyboardInterrupt
        count += 1
        real(*arguments)

    monkeypatch.setattr(folder, "_write_prompt", stop_after)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "parts", export, prompts, config, device="cpu")
    assert not read_manifest(tmp_path / "parts", must_be_complete=False).complete
    drawn = []

    def note(directory, *arguments):
        drawn.append(directory.name)
        real(directory, *arguments)

    monkeypatch.setattr(folder, "_write_prompt", note)
    generate(tmp_path / "parts", export, prompts, GenerateConfig(**vars(config) | {"threads": 1}), device="cpu")
    assert drawn == [f"{number:05d}" for number in range(written_before_the_stop, 5)]
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_a_batch_is_written_while_the_next_is_drawn(tmp_path, monkeypatch):
    real, second_begun, waited = folder._write_prompt, threading.Event(), []

    def draw(texts, places):
        if texts == ["b"]:
            second_begun.set()
        return np.zeros((1, 8, 8, 3), np.uint8)

    def write(directory, *arguments):
        waited.append(second_begun.wait(30))
        real(directory, *arguments)

    monkeypatch.setattr(folder, "_write_prompt", write)
    prompts = SimpleNamespace(rows=[({"prompt": text}, text) for text in "abc"])
    config = GenerateConfig(per_prompt=1, batch_size=1)
    assert folder.draw_folder(tmp_path, prompts, config, draw)
    assert waited == [True, True, True]
    assert len(list(tmp_path.glob("*/samples/0000.png"))) == 3


RANK_SCRIPT = """
import sys
from tessera.generate.folder import GenerateConfig, generate
config = GenerateConfig(per_prompt=2, steps=2, batch_size=4, threads=1)
print(generate(sys.argv[1], sys.argv[2], sys.argv[3], config, device="cpu") is not None)
"""


def start_rank(rank, size, *arguments):
    environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(size), "TESSERA_QUIET": "1"}
    command = [sys.executable, "-c", RANK_SCRIPT, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def answers(processes):
    found = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return found


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path, export, prompts, monkeypatch):
    """Five prompts in batches of two: rank 0 draws prompts 0, 1 and 4, rank 1 draws 2 and 3."""
    config = GenerateConfig(per_prompt=2, steps=2, batch_size=4, threads=1)
    assert generate(tmp_path / "one", export, prompts, config, device="cpu")
    assert "True" in answers([start_rank(rank, 2, tmp_path / "both", export, prompts) for rank in (0, 1)])
    two = tmp_path / "two"  # one after the other

    def as_rank(rank):
        with monkeypatch.context() as patch:
            patch.setenv("RANK", str(rank))
            patch.setenv("WORLD_SIZE", "2")
            return generate(two, export, prompts, config, device="cpu")

    assert as_rank(0) is None
    assert sorted(path.name for path in two.iterdir()) == ["00000", "00001", "00004", "manifest.json"]
    assert not read_manifest(two, must_be_complete=False).complete
    (two / "00000" / "samples" / ".tmp-0-killed.png").write_bytes(b"half")
    (two / "00001" / "samples" / "0001.png").unlink()  # gone before the others are there
    assert as_rank(1) is None
    assert as_rank(0) == two
    assert tree(two) == tree(tmp_path / "both") == tree(tmp_path / "one")
    assert generate(two, export, prompts, config, device="cpu")  # one process finds it done


def test_texts_in_place_of_a_file(tmp_path, export):
    config = GenerateConfig(per_prompt=1, steps=1)
    generate(tmp_path / "out", export, ["a red circle", ""], config, device="cpu")
    assert json.loads((tmp_path / "out" / "00000" / "metadata.jsonl").read_text()) == {
        "prompt": "a red circle",
        "text": "a red circle",
    }
    assert read_manifest(tmp_path / "out").counts == {"prompts": 2, "images": 2}


def test_a_fresh_folder_is_one_for_each_call(tmp_path, export, make_export, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = GenerateConfig(per_prompt=1, steps=1)

    def fresh(texts, export=export, **changes):
        return generate(None, export, texts, GenerateConfig(**vars(config) | changes), device="cpu")

    one = fresh(["a red circle"])
    assert one.parent == Path("samples")
    assert one.name.startswith("a-red-circle-")
    assert (one / "00000" / "samples" / "0000.png").is_file()
    assert fresh(["a red circle"], threads=3) == one
    other = make_export(tmp_path / "other", sampling_steps=4)
    others = [fresh(["a red  circle"]), fresh(["a red circle"], seed=1), fresh(["a red circle"], other)]
    assert len({one, *others}) == 4
    assert fresh("figure4").name.startswith("figure4-")
    with pytest.raises(UserError, match="made by `tessera export`"):
        fresh(["a"], tmp_path)


def test_a_users_own_sampler(tmp_path, export, prompts):
    """The manifest names the file and its content; the images are the sampler's."""
    config = GenerateConfig(per_prompt=1, steps=2)
    generate(tmp_path / "ddim", export, prompts, config, device="cpu")
    own = tmp_path / "my_parts.py"
    own.write_text("from tessera.diffusion.sampler import ddim as mine\n")
    config = GenerateConfig(per_prompt=1, steps=2, sampler=f"{own}:mine")
    generate(tmp_path / "own", export, prompts, config, device="cpu")
    images = [tree(tmp_path / name / "00003" / "samples") for name in ("ddim", "own")]
    assert images[0] == images[1]
    assert read_manifest(tmp_path / "own").config["sampler"] == part_id(config.sampler, SAMPLERS)
    own.write_text("from tessera.diffusion.sampler import dpmpp_2m as mine\n")
    with pytest.raises(UserError, match=r"sampler: the directory has .my_parts\.py:mine@"):
        generate(tmp_path / "own", export, prompts, config, device="cpu")


def test_a_prompt_with_more_pictures_than_a_batch(tmp_path, export, prompts):
    generate(tmp_path / "a", export, prompts, GenerateConfig(per_prompt=5, steps=1, batch_size=2), device="cpu")
    generate(tmp_path / "b", export, prompts, GenerateConfig(per_prompt=5, steps=1, batch_size=64), device="cpu")
    for number in range(5):
        for k in range(5):
            name = Path(f"{number:05d}", "samples", f"{k:04d}.png")
            one, other = (pixels(tmp_path / batch / name).astype(int) for batch in "ab")
            assert np.abs(one - other).max() <= 1


def test_prompts_that_are_cut_are_said(tmp_path, export, capsys):
    long = " ".join(f"word{k}" for k in range(300))
    config = GenerateConfig(per_prompt=1, steps=1)
    generate(tmp_path / "two", export, ["a circle", long, f"{long} again"], config, device="cpu")
    said = (
        "generate: 2 of 3 prompts are cut to the 256 tokens that the text encoder reads; the first is number 1, of 301"
    )
    assert said in capsys.readouterr().err
    generate(tmp_path / "none", export, ["a circle"], config, device="cpu")
    assert "cut" not in capsys.readouterr().err


def test_prompts_unlike_the_captions_are_said_once(tmp_path, make_export, capsys):
    seen = CaptionsSeen(tokens=(4, 9), vocabulary=("a", "circle", "red"))
    export, config = (
        make_export(tmp_path / "export", captions=seen),
        GenerateConfig(per_prompt=2, steps=1, batch_size=2),
    )
    generate(tmp_path / "some", export, ["a red circle", "a scarlet circle", "a scarlet"], config, device="cpu")
    note = "generate: words of no training caption mean nothing to this model: 'scarlet'\n"
    assert capsys.readouterr().err.count(note) == 1
    generate(tmp_path / "none", export, ["a red circle"], config, device="cpu")
    assert "caption" not in capsys.readouterr().err


def test_plain_text_prompts(tmp_path, export):
    path = tmp_path / "mine.txt"
    path.write_text("\ufeffa red circle\n\n  zwei Kreise \u2028 auf Schnee  \n", encoding="utf-8")
    generate(tmp_path / "samples", export, path, GenerateConfig(per_prompt=1, steps=1), device="cpu")
    assert (tmp_path / "samples" / "00001" / "metadata.jsonl").is_file()
    assert not (tmp_path / "samples" / "00002").exists()
    assert [text for _, text in read_prompts(path)] == ["a red circle", "zwei Kreise \u2028 auf Schnee"]


@pytest.mark.parametrize(
    ("name", "content", "extended", "message"),
    [
        ("p.jsonl", None, False, r"p\.jsonl: there is no such file"),
        ("p.jsonl", "", False, "holds no prompts"),
        ("p.txt", " \n\n", False, "holds no prompts"),
        ("p.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"\n', False, r"p\.jsonl line 3 is not JSON"),
        ("p.jsonl", '{"prompt": "a"}\n["b"]\n', False, "line 2 is not a JSON object"),
        ("p.jsonl", '{"prompt": 3}\n', False, "line 1: prompt is not a text"),
        ("p.jsonl", '{"prompt": "a"}\n', True, 'line 1 has no "extended"'),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b \\ud83d"}\n', False, r"p\.jsonl line 2 has half of a surrogate"),
        ("p.txt", "a\n", True, "without extended texts"),
        ("p.txt", b"\xff\xfe\x00", False, "not UTF-8"),
    ],
)
def test_bad_prompt_files_are_named_before_anything_is_made(tmp_path, export, name, content, extended, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        generate(tmp_path / "out", export, path, GenerateConfig(extended=extended), device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_export_and_a_folder_of_something_else(tmp_path, export, prompts):
    with pytest.raises(UserError, match=r"nowhere.*tessera export"):
        generate(tmp_path / "out", tmp_path / "nowhere", prompts, device="cpu")
    assert not (tmp_path / "out").exists()
    config = GenerateConfig(per_prompt=1, steps=1)
    generate(tmp_path / "out", export, prompts, config, device="cpu")
    with pytest.raises(UserError, match=r"seed: the directory has 0, this call has 1"):
        generate(tmp_path / "out", export, prompts, GenerateConfig(per_prompt=1, steps=1, seed=1), device="cpu")
    prompts.write_text('{"prompt": "another"}\n')
    with pytest.raises(UserError, match=r"prompts\.count"):
        generate(tmp_path / "out", export, prompts, config, device="cpu")


@pytest.mark.parametrize(
    "wrong",
    [
        {"per_prompt": 0},
        {"per_prompt": 10_001},
        {"seed": -1},
        {"steps": 0},
        {"guidance_scale": math.nan},
        {"guidance_interval": (0.7, 0.3)},
        {"guidance_interval": (-0.1, 0.3)},
        {"guidance_interval": (0.5, math.nan)},
        {"guidance_scale": math.inf},
        {"sampler": "dimm"},
        {"compute": "fp16"},
        {"batch_size": 0},
        {"threads": 0},
    ],
)
def test_config_refuses(wrong):
    (field,) = wrong
    with pytest.raises(UserError, match=field):
        GenerateConfig(**wrong)


def test_config_survives_json():
    config = GenerateConfig(per_prompt=3, guidance_scale=2, sampler="dpmpp_2m")
    assert from_dict(GenerateConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_guidance_acts_where_the_export_says(tmp_path, make_export, prompts):
    """Its own interval by default, another one where it is given."""
    plain, chosen = make_export(tmp_path / "plain"), make_export(tmp_path / "chosen", guidance_interval=(0.0, 0.5))

    def drawn(name, export, interval):
        out = tmp_path / "samples" / name
        generate(out, export, prompts, GenerateConfig(per_prompt=1, steps=2, guidance_interval=interval), device="cpu")
        return pixels(out / "00001" / "samples" / "0000.png"), read_manifest(out).facts.get("guidance_interval")

    everywhere, none = drawn("everywhere", plain, None)
    half, stated = drawn("half", plain, (0.0, 0.5))
    default, same = drawn("default", chosen, None)
    again, whole = drawn("again", chosen, (0.0, 1.0))
    assert (none, stated, same, whole) == (None, [0.0, 0.5], [0.0, 0.5], [0.0, 1.0])
    assert (half != everywhere).any()
    np.testing.assert_array_equal(default, half)
    np.testing.assert_array_equal(again, everywhere)


def test_a_folder_of_wide_images_says_so_and_a_wrong_size_ends_before_any(tmp_path, make_export, prompts):
    several = make_export(tmp_path / "export", sizes=("16x16", "24x8"))
    generate(tmp_path / "wide", several, prompts, GenerateConfig(per_prompt=1, size="24x8"), device="cpu")
    with Image.open(tmp_path / "wide" / "00000" / "samples" / "0000.png") as image:
        assert image.size == (24, 8)
    assert read_manifest(tmp_path / "wide").config["size"] == "24x8"
    assert read_manifest(tmp_path / "wide").facts["size"] == "24x8"
    assert "image_size" not in read_manifest(tmp_path / "wide").facts  # a square's side
    with pytest.raises(UserError, match="size: '8x24' is none that this model was trained at"):
        generate(tmp_path / "tall", several, prompts, GenerateConfig(per_prompt=1, size="8x24"), device="cpu")
    assert not (tmp_path / "tall").exists()
    generate(tmp_path / "square", several, prompts, GenerateConfig(per_prompt=1), device="cpu")
    assert "size" not in read_manifest(tmp_path / "square").config
    assert read_manifest(tmp_path / "square").facts["size"] == "16x16"
