"""`tessera generate` as a user meets it: exports, prompts, other people's models, and a user's own sampler."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from tessera.diffusion.sampler import SAMPLERS
from tessera.diffusion.schedule import SCHEDULES
from tessera.prompts.read import load_prompts
from tessera.stages import read_manifest
from tessera.study.studies import STUDIES
from tessera.weights.export import CaptionsSeen
from tiny.baselines import SAVE
from tiny.commands import call
from tiny.exports import write_export

pytestmark = [  # of the library, about itself
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("model") / "export")


@pytest.fixture(scope="module")
def baselines(tmp_path_factory):
    return {name: save(tmp_path_factory.mktemp(name) / "baseline") for name, save in SAVE.items()}


def pictures(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*/samples/*.png"))]


def test_one_prompt_prints_where_its_picture_is(export, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("generate", export, "a red circle left of a blue square", "--device", "cpu") == 0
    (printed,) = capsys.readouterr().out.splitlines()
    assert printed.startswith("samples/a-red-circle-left-of-a-blue-square-")
    with Image.open(printed) as picture:
        assert picture.size == (16, 16)
    before = os.stat(printed)
    assert call("generate", export, "a red circle left of a blue square", "--device", "cpu") == 0
    assert capsys.readouterr().out.splitlines() == [printed]
    assert os.stat(printed) == before
    assert call("generate", export, "", "--per-prompt", "3", "--out", "mine", "--device", "cpu") == 0
    assert capsys.readouterr().out.splitlines() == [f"mine/00000/samples/000{k}.png" for k in range(3)]


def test_a_prompt_without_an_export_finds_the_only_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("generate", "a red apple") == 2
    assert "'a red apple' is no directory here; give an export before the prompt" in capsys.readouterr().err
    write_export(tmp_path / "out" / "fruit" / "export" / "ta")
    assert call("generate", "a red apple", "--device", "cpu", "--seed", 5) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == "generate: draws 'a red apple' by out/fruit/export/ta"
    assert call("generate", "out/fruit", "a red apple", "--device", "cpu", "--seed", 5) == 0
    assert capsys.readouterr().out == said.out  # the same image
    write_export(tmp_path / "out" / "fruit" / "export" / "ta_ia")
    both = "one of out/fruit/export/ta, out/fruit/export/ta_ia\n"
    for words in (["a red apple"], ["out/fruit", "a red apple"]):
        assert call("generate", *words) == 2
        assert capsys.readouterr().err.endswith(both)


def test_a_prompt_in_the_style_of_the_captions(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = CaptionsSeen(
        tokens=(9, 12), examples=("A drawing of a red cup.", "A drawing of a blue boat.", "red cup", "blue boat")
    )
    write_export(tmp_path / "export", captions=seen)
    assert call("generate", "export", "green kite", "--device", "cpu") == 0
    noted = capsys.readouterr().err
    assert noted.splitlines()[-1].endswith("captions of 9 to 12 tokens; --extend says a single prompt as they do")
    assert call("generate", "export", "green kite", "--device", "cpu", "--extend") == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == "generate: draws 'A drawing of a green kite.'"
    assert json.loads((tmp_path / said.out.strip()).parents[1].joinpath("metadata.jsonl").read_text())["prompt"] == (
        "A drawing of a green kite."
    )
    write_export(tmp_path / "saved" / "transformer", captions=seen)
    (tmp_path / "saved" / "model_index.json").write_text("{}")  # as `save_pretrained` of a pipeline
    assert call("generate", "saved", "green kite", "--device", "cpu", "--extend") == 0
    assert capsys.readouterr().err.startswith("generate: draws 'A drawing of a green kite.'")
    for words, why in ((["--prompts", "teaser"], "is for a single prompt"), (["a kite"], "holds no captions of its t")):
        export = "export" if "--prompts" in words else write_export(tmp_path / "plain")
        assert call("generate", export, *words, "--extend") == 2
        assert why in capsys.readouterr().err


def test_shipped_prompts_by_name(export, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("generate", export, "--prompts", "figure4", "--extended", "--out", "drawn", "--device", "cpu") == 0
    assert capsys.readouterr().out == "drawn: 12 images, 3 prompts\n"
    assert call("generate", export, "--prompts", "figure5") == 2
    assert "'figure4'" in capsys.readouterr().err
    for both in ([], ["a", "--prompts", "teaser"]):
        assert call("generate", export, *both) == 2
        assert "either a prompt" in capsys.readouterr().err


MY_SAMPLER = '''
from tessera.diffusion.sampler import grid


def heun(denoise, noise, schedule, steps, *, generator=None, callback=None):
    """Heun's method, of second order: dy / dr = x0, where y = x / sigma and r = alpha / sigma."""
    x = noise.float()
    times, alpha_bars = grid(schedule, steps)
    for k in range(steps):
        now, after = alpha_bars[k], alpha_bars[k + 1]
        x0, _ = denoise(x, times[k], now)
        if after == 1:  # no noise is left
            x = x0
        else:
            sigma, y, r = (1 - after) ** 0.5, x / (1 - now) ** 0.5, (now / (1 - now)) ** 0.5
            h = (after / (1 - after)) ** 0.5 - r
            predicted, _ = denoise(sigma * (y + h * x0), times[k + 1], after)
            x = sigma * (y + h * (x0 + predicted) / 2)
        if callback is not None:
            callback(k + 1, steps, x0)
    return x


def raises(denoise, noise, schedule, steps, **_):
    raise RuntimeError("no luck")


def forgets(denoise, noise, schedule, steps, **_):
    pass


def narrow(denoise, noise):
    return noise


nothing = 3
'''


def test_a_users_own_sampler(export, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_parts.py").write_text(MY_SAMPLER)
    draw = ["generate", export, "--prompts", "figure4", "--per-prompt", 1, "--steps", 3, "--device", "cpu"]
    assert call(*draw, "--sampler", "my_parts.py:heun", "--out", "heun") == 0
    assert call(*draw, "--out", "ddim") == 0
    assert not np.array_equal(pictures(tmp_path / "heun"), pictures(tmp_path / "ddim"))
    assert read_manifest(tmp_path / "heun").config["sampler"].startswith("my_parts.py:heun@")
    capsys.readouterr()
    line = MY_SAMPLER[: MY_SAMPLER.index("raise RuntimeError")].count("\n") + 1
    wrong = {
        "my_parts.py:raises": f"sampler my_parts.py:raises: line {line}: RuntimeError: no luck",
        "my_parts.py:forgets": "sampler my_parts.py:forgets: returned NoneType, not latents",
        "my_parts.py:narrow": "sampler my_parts.py:narrow: TypeError: narrow() got an unexpected keyword",
        "my_parts.py:nothing": "has no function 'nothing'",
        "my_parts.py:hein": "did you mean 'heun'?",
        "none.py:heun": "there is no file none.py",
        "dimm": "did you mean 'ddim'?",
    }
    for number, (spec, said) in enumerate(wrong.items()):
        assert call(*draw, "--sampler", spec, "--out", f"wrong{number}") == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("verb", "names"),
    [
        ("generate", f" {', '.join(SAMPLERS)}, or your own: FILE.py:FUNCTION."),
        ("figure tau", f" {', '.join(SCHEDULES)}, or FILE.py:FUNCTION."),
        ("study", f" {', '.join(STUDIES)}, or FILE.py:FUNCTION."),
    ],
)
def test_help_names_every_sampler_schedule_and_study(verb, names, capsys):
    assert call(*verb.split(), "--help") == 0
    assert names in " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize("name", SAVE)
def test_the_command_draws_with_every_kind_of_baseline(tmp_path, baselines, name, capsys):
    out = tmp_path / "samples"
    args = ("--model", baselines[name], "--prompts", "figure4", "--extended", "--size", 16, "--steps", 2)
    assert call("generate", *args, "--per-prompt", 2, "--out", out) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}: 6 images, 3 prompts\n"
    assert "Loading" not in said.err
    assert "truncated" not in said.err
    assert len({picture.tobytes() for picture in pictures(out)}) == 6
    metadata, text = load_prompts("figure4", extended=True).rows[2]
    assert json.loads((out / "00002" / "metadata.jsonl").read_text()) == metadata | {"text": text}


def test_the_command_takes_every_prompt_set_for_a_baseline(tmp_path, baselines, capsys):
    annotations = [{"image_id": 30 - i, "id": i, "caption": f"picture {i}"} for i in range(3)]
    (tmp_path / "captions_val2014.json").write_text(json.dumps({"annotations": annotations}))
    (tmp_path / "dpg_bench.csv").write_text("item_id,text\npartiprompts1,A dog.\npartiprompts1,A dog.\nx,A cat.\n")
    (tmp_path / "mine.txt").write_text("a red circle\n")
    sources = {"teaser": 15, "geneval": 553, f"coco:{tmp_path / 'captions_val2014.json'}": 3}
    sources |= {f"dpg:{tmp_path / 'dpg_bench.csv'}": 2, str(tmp_path / "mine.txt"): 1}
    for number, (source, count) in enumerate(sources.items()):
        out = tmp_path / f"samples{number}"
        args = ("--model", baselines["StableDiffusionPipeline"], "--prompts", source, "--size", 8, "--steps", 2)
        assert call("generate", *args, "--per-prompt", 1, "--batch-size", 64, "--out", out) == 0
        assert capsys.readouterr().out == f"{out}: {count} images, {count} prompts\n"
        drawn = [json.loads(path.read_text()) for path in sorted(out.glob("*/metadata.jsonl"))]
        assert drawn == [metadata | {"text": text} for metadata, text in load_prompts(source).rows]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--prompts", "genevall", "--out", "o"), "did you mean 'geneval'"),
        (("--prompts", "geneval"), "--model needs --prompts and --out"),
        (("an-export", "--prompts", "geneval", "--out", "o"), "without an export"),
        (("--prompts", "geneval", "--out", "o", "--sampler", "ddpm"), "--model has its own sampler"),
        (("--prompts", "geneval", "--out", "o", "--extend"), "--extend is in the style of an export's captions"),
        (("--prompts", "geneval", "--extended", "--out", "o"), "extended"),
    ],
)
def test_what_the_command_refuses_of_a_baseline(tmp_path, baselines, more, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("generate", "--model", baselines["PixArtAlphaPipeline"], *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
