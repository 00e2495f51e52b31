"""A trial: which prompts it draws, what scores it has, and what it refuses before anything is drawn."""

import json
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest

from tessera.config import UserError
from tessera.evaluate.miniature.evaluate import EvaluateConfig, evaluate
from tessera.evaluate.quality.evaluate import evaluate_quality
from tessera.evaluate.quality.metrics import QualityConfig
from tessera.evaluate.scores import read_scores
from tessera.files import write_json
from tessera.generate.folder import GenerateConfig, generate
from tessera.generate.pipeline import Pipeline
from tessera.study.trial import Trial, TrialConfig, judge, judge_options, named_networks
from tiny.exports import write_export
from tiny.quality import Moments
from tiny.trials import make_miniature, make_photographs, without_weights

PROMPTS = [f"a picture of number {number}" for number in range(40)]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("trial") / "export")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("trial") / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return str(path)


@pytest.fixture(scope="module")
def renders(tmp_path_factory):
    return make_miniature(tmp_path_factory.mktemp("trial") / "images")


def test_scores_are_those_of_the_verbs(tmp_path, export, prompts, monkeypatch):
    without_weights(monkeypatch, tmp_path / "user")
    reference = make_photographs(tmp_path / "photographs")
    trial = Trial(TrialConfig(prompts=prompts, reference=str(reference), images=30, device="cpu", seed=3))
    found = trial.run(tmp_path / "cell", export, guidance_scale=1.5, guidance_interval=(0.0, 1.0), steps=2)
    chosen = [PROMPTS[i * 40 // 30] for i in range(30)]
    assert [line["prompt"] for line in trial.lines] == chosen
    draw = GenerateConfig(per_prompt=1, seed=3, guidance_scale=1.5, guidance_interval=(0.0, 1.0), steps=2)
    samples = generate(tmp_path / "samples", export, chosen, draw, device="cpu")
    assert samples is not None
    networks: Any = {name: Moments(name) for name in ("inception", "clip")}
    settings = QualityConfig(metrics=("fid", "clip_score"), prdc=("full",))
    evaluate_quality(tmp_path / "scores", samples, reference, networks, settings, cache=tmp_path / "cache")
    numbers = {number.metric: number for number in read_scores(tmp_path / "scores").numbers}
    assert found["scores"].keys() == numbers.keys() == {"fid", "clip_score"}
    for name, number in numbers.items():
        assert found["scores"][name] == {"low": number.low, "value": number.value, "high": number.high}
        assert found["protocols"][name]["encoder"] == number.protocol.encoder
    assert found["settings"] == {"guidance_scale": 1.5, "guidance_interval": [0.0, 1.0], "steps": 2}


def test_the_miniature_brings_its_prompts_and_its_judge(tmp_path, export, renders):
    trial = Trial(TrialConfig(reference=str(renders), extended=True, images=12, device="cpu"))
    assert [line["tag"] for line in trial.lines[::2]] == [
        *("single_object", "two_object", "counting", "colors", "position", "color_attr")
    ]
    assert trial.numbers[0] == "overall"
    found = trial.run(tmp_path / "cell", export, steps=1)
    texts = [json.loads(path.read_text())["text"] for path in sorted((tmp_path / "cell" / "samples").glob("*/*.jsonl"))]
    assert texts == [line["extended"]["text"] for line in trial.lines]
    evaluate(tmp_path / "again", tmp_path / "cell" / "samples", EvaluateConfig(judge_renders=0))
    numbers = {number.metric: number.value for number in read_scores(tmp_path / "again").numbers}
    likeness = json.loads((tmp_path / "cell" / "scores" / "likeness" / "likeness.json").read_text())
    assert {name: score["value"] for name, score in found["scores"].items()} == {
        **numbers,
        "likeness": likeness["distance"],
    }
    assert found["protocols"]["likeness"]["prompts"] == 12


def test_nothing_is_done_twice(tmp_path, export, renders, monkeypatch):
    """A trial that is stopped before any of its images ends with the values of one that was not."""
    config = TrialConfig(reference=str(renders), images=12, device="cpu", batch_size=4)
    whole = Trial(config).run(tmp_path / "whole", export, steps=1)
    images, drawn = Pipeline.images, []

    def stopping(self, texts, addresses, **options):
        if len(drawn) == limit:
            raise KeyboardInterrupt
        drawn.append(tuple(texts))
        return images(self, texts, addresses, **options)

    monkeypatch.setattr(Pipeline, "images", stopping)
    for limit in range(6):  # noqa: B007 - `stopping` reads it
        with pytest.raises(KeyboardInterrupt):
            Trial(config).run(tmp_path / "stopped", export, steps=1)
    limit = 99
    assert Trial(config).run(tmp_path / "stopped", export, steps=1) == whole
    assert len(drawn) == 6  # batches of both sets, each once
    assert Trial(config).run(tmp_path / "stopped", export, steps=1) == whole
    assert len(drawn) == 6
    files = ("samples/00003/samples/0000.png", "held_out_samples/00011/samples/0000.png", "values.json")
    for file in files:
        assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_its_identity_is_all_that_was_asked(prompts, renders):
    def described(**changes: Any):
        given: dict[str, Any] = {"prompts": prompts, "metrics": ("clip_score",), "images": 9}
        return Trial(TrialConfig(**given | changes)).described

    first = described()
    assert described(batch_size=3, threads=2, device="cpu") == first
    for change in ({"images": 8}, {"seed": 1}, {"metrics": ("pick_score",)}):
        assert described(**change) != first
    own = Trial(TrialConfig(reference=str(renders), images=12)).described
    assert own["metrics"] == ["miniature", "likeness"]
    assert own["prompts"]["count"] == 12


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, r"metrics: fid compares with real images; give their directory as the reference"),
        ({"metrics": ("clip_score",), "prompts": None}, "prompts: give a file of prompts"),
        ({"metrics": ("clip_scor",)}, "unknown metric 'clip_scor'; did you mean 'clip_score'"),
        ({"metrics": ("miniature",)}, "metrics: miniature needs a reference made by collect from the miniature; none"),
        ({"reference": "nowhere"}, "nowhere: there is no such directory of reference images"),
        ({"reference": "empty"}, "empty: holds no images; give the directory of the real ones"),
        ({"reference": "miniature", "metrics": ("fid",)}, "fid compares with photographs; use likeness"),
        ({"reference": "photographs", "metrics": ("likeness",)}, r"likeness needs .*; .*photographs is another one"),
        ({"metrics": ("clip_score",), "prompts": "one"}, r"one\.txt: holds 1 prompt, scores need at least 2"),
        ({"metrics": ("clip_score",), "networks": {"clop": "x"}}, "unknown network 'clop'; did you mean 'clip'"),
        ({"metrics": ("clip_score",), "images": 1}, "images is 1; give at least 2"),
    ],
)
def test_what_cannot_be_drawn_or_scored_is_refused(tmp_path, prompts, renders, given, said):
    (tmp_path / "one.txt").write_text("a cat\n")
    (tmp_path / "empty").mkdir()
    places = {"miniature": renders, "one": tmp_path / "one.txt", "empty": tmp_path / "empty"}
    if given.get("reference") == "photographs":
        places["photographs"] = make_photographs(tmp_path / "photographs")
    given = {"prompts": prompts} | {
        name: str(places[value]) if isinstance(value, str) and value in places else value
        for name, value in given.items()
    }
    with pytest.raises(UserError, match=said) as error:
        Trial(TrialConfig(**given))
    assert "\n" not in str(error.value)


def test_weights_are_named_by_words():
    assert named_networks(["inception=a=b.pth", "clip=dir"]) == {"inception": "a=b.pth", "clip": "dir"}
    for word in ("inception", "=x", "clip="):
        with pytest.raises(UserError, match=f"networks: {word!r} names no weights"):
            named_networks([word])


def test_prompts_are_spread_over_a_file(prompts):
    lines = Trial(TrialConfig(prompts=prompts, metrics=("clip_score",), images=4)).lines
    np.testing.assert_array_equal([PROMPTS.index(line["prompt"]) for line in lines], [0, 10, 20, 30])


OPTIONS: dict[str, Any] = {"networks": (), "wait": False, "images": 6, "device": "cpu", "threads": 1, "extended": False}


@pytest.fixture
def evaluation(tmp_path, export, renders):
    """(judge of a training, folder of one of its evaluations)."""
    options = judge_options(8, reference=renders, metrics=(), prompts=None, **OPTIONS)
    place = tmp_path / "evaluations" / "000000000008"
    shutil.copytree(export, place / "export")
    write_json(place.parent / "judge.json", options.described)
    return options, place


@pytest.mark.slow
def test_a_trainings_judge_is_a_trial_in_a_process_that_ends_with_its_parent(evaluation):
    options, place = evaluation

    def start():
        return subprocess.Popen([*options.command, str(place)], stdin=subprocess.PIPE, stderr=subprocess.PIPE)

    process = start()
    process.communicate()  # closes its input, as the end of the training does
    assert process.returncode == 3
    assert not (place / "values.json").exists()
    process = start()
    assert process.wait() == 0
    process.communicate()
    assert "color_score" in json.loads((place / "values.json").read_text())["scores"]


def test_a_judge_keeps_to_the_prompts_of_the_trainings_start(evaluation, tmp_path):
    options, place = evaluation
    config = json.loads(options.command[-1])
    with pytest.raises(
        UserError, match=r"evaluations: was made otherwise: images: the directory has 6, this call has 9"
    ):
        judge(config | {"images": 9}, place)
    assert not (place / "samples").exists()


def test_the_metrics_of_a_training_are_cheap_ones(prompts, renders, tmp_path):
    photographs = make_photographs(tmp_path / "photographs")
    for reference, metrics in ((None, ["clip_score"]), (photographs, ["clip_score", "mind"]), (renders, ["miniature"])):
        found = judge_options(8, reference=reference, metrics=(), prompts=prompts, **OPTIONS)
        assert found.described["metrics"] == metrics
        assert (found.evaluate_every_images, found.wait) == (8, False)
