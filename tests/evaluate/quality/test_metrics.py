"""The metrics' protocols and intervals, and metrics of a user's file."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metrics.test_neighbors import reference_prdc
from tessera import cli, metrics
from tessera.config import UserError, from_dict
from tessera.evaluate.intervals import paired_difference
from tessera.evaluate.quality.evaluate import evaluate_quality
from tessera.evaluate.quality.metrics import (
    Blocks,
    Inputs,
    QualityConfig,
    blocks_of,
    chunks,
    dgm_eval_rows,
    load_metric,
    prdc_by,
)
from tessera.evaluate.scores import read_scores
from tiny.encoders import save_dino
from tiny.quality import Moments, write_samples


def inputs(real, fake, blocks, seed=0) -> Inputs:
    config = QualityConfig(seed=seed)
    return Inputs(config=config, network=None, samples=fake, reference=real, blocks=blocks, captions=None)


def by_part(numbers) -> dict:
    return {number.metric.split("/")[0]: number for number in numbers}


def test_prdc_protocols_on_few_images():
    x = np.random.default_rng(0).normal(size=(19, 3))
    few = inputs(x, x + 1e-9, blocks_of(19, None, 0))
    with pytest.raises(UserError, match="19 and 19 images are too few"):
        prdc_by(few, "paper")
    precision = by_part(prdc_by(few, "full"))["precision"]
    assert (precision.value, precision.low) == (1, None)
    assert precision.interval == "none: 19 images, at least 20 are needed"
    same = by_part(prdc_by(inputs(x, x + 1e-9, Blocks(np.arange(19) % 2, "by halves")), "full"))
    assert same["precision"].interval == "none: a block holds nearly all images of a part, or none at all"


def test_intervals_of_each_prdc_protocol():
    """Without a block, of all chunks and of the drawn images alike."""
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(151, 3)), 1.2 * rng.normal(size=(133, 3)) + 0.3
    blocks = blocks_of(133, [f"prompt {i // 2}" for i in range(133)], seed=4)
    for name in ("paper", "full", "dgm-eval"):
        found = by_part(prdc_by(inputs(real, fake, blocks, 7), name, subset=110))
        keep = dgm_eval_rows(133, 7, "fake", 110) if name == "dgm-eval" else np.arange(133)
        against = real[dgm_eval_rows(151, 7, "real", 110)] if name == "dgm-eval" else real
        labels, chunks = blocks.labels[keep], 5 if name == "paper" else 1

        def without(block, part, fake=fake[keep], against=against, labels=labels, chunks=chunks, name=name):
            cut = zip(*(torch.from_numpy(x).chunk(chunks) for x in (against, fake, labels)))
            cut = [[part.numpy() for part in parts] for parts in cut]
            k = 5 if name == "dgm-eval" else 3
            return np.mean([getattr(metrics.prdc(a, b[c != block], k), part) for a, b, c in cut])

        for part in ("precision", "recall", "density", "coverage"):
            left = np.array([without(block, part) for block in range(20)])
            value = without(-1, part)
            expected = metrics.jackknife(metrics.LeftOut(value, left), np.bincount(labels), 0.0)
            assert found[part].value == pytest.approx(value)
            assert found[part].low == pytest.approx(expected.low)
            assert found[part].high == pytest.approx(min(expected.high, 1) if part != "density" else expected.high)


def test_dgm_eval_takes_as_many_of_both_sets():
    """As its compute_scores does: min(10,000, real, generated) of each."""
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(500, 32)), rng.normal(size=(100, 32))
    found = by_part(prdc_by(inputs(real, fake, blocks_of(100, None, 0), 7), "dgm-eval"))
    assert found["coverage"].protocol.settings == {"seed": 7, "images": 100}
    chosen = real[dgm_eval_rows(500, 7, "real", 100)]
    assert len(np.unique(chosen, axis=0)) == 100
    for name, value in reference_prdc(chosen, fake, 5).items():
        assert found[name].value == pytest.approx(value), name
    against_all = by_part(prdc_by(inputs(real, fake, Blocks(None, "")), "full"))
    assert found["coverage"].value > against_all["coverage"].value + 0.2


@pytest.mark.parametrize("count", [20, 24, 39, 1001, 1004])
def test_chunks_are_those_of_torch(count):
    x = np.arange(count)
    assert [part.tolist() for part in chunks(x, 5)] == [part.tolist() for part in torch.from_numpy(x).chunk(5)]


@pytest.mark.parametrize("count", [16, 21, 23, 27])
def test_the_papers_chunks_may_be_too_small(count):
    x = np.random.default_rng(0).normal(size=(count, 3))
    with pytest.raises(UserError, match=f"40 and {count} images are too few for it; leave it out of --prdc"):
        prdc_by(inputs(np.random.default_rng(1).normal(size=(40, 3)), x, Blocks(None, "")), "paper")


@pytest.mark.parametrize(("protocol", "count"), [("full", 3), ("dgm-eval", 5)])
def test_as_few_images_as_neighbors_are_said_to_be_too_few(protocol, count):
    x = np.random.default_rng(0).normal(size=(count, 3))
    with pytest.raises(
        UserError, match=f"{protocol}' needs more than {count} images of each set; 40 and {count} images"
    ):
        prdc_by(inputs(np.random.default_rng(1).normal(size=(40, 3)), x, Blocks(None, "")), protocol)


OWN = """
import numpy as np

class my_metric:
    network, label, direction = "dinov2", "Gap of means", "lower"

    def __call__(self, samples, reference):
        return np.linalg.norm(samples.mean(0) - reference.mean(0))

def spread(samples, reference):
    return samples.std() / reference.std()

spread.network, spread.label, spread.direction = "dinov2", "Spread", "higher"

class nameless(my_metric):
    label = property()

class nowhere(my_metric):
    network = "dino"

class sideways(my_metric):
    direction = "up"

class failing(my_metric):
    def __call__(self, samples, reference):
        return samples.no_such_method()

class infinite(my_metric):
    def __call__(self, samples, reference):
        return np.inf
"""


def own_metrics(tmp_path: Path, count: int, *names: str) -> list[str]:
    """Return the command that measures metrics of a user's file, and write what it needs."""
    (tmp_path / "my_parts.py").write_text(OWN)
    samples, reference = write_samples(tmp_path / "s", 0, count), write_samples(tmp_path / "r", 1, 10)
    save_dino(tmp_path / "dino")
    words = ["evaluate", "quality", "--samples", samples, "--reference", reference, "--out", tmp_path / "out"]
    words += ["--metrics", *(f"{tmp_path / 'my_parts.py'}:{name}" for name in names)]
    words += ["--dinov2", tmp_path / "dino", "--cache", tmp_path / "cache", "--device", "cpu"]
    return [str(word) for word in words]


def test_a_metric_of_a_user_s_file(tmp_path, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(own_metrics(tmp_path, 20, "my_metric", "spread"))
    assert done.value.code == 0, capsys.readouterr().err
    assert "Gap of means" in capsys.readouterr().out
    with pytest.raises(SystemExit) as done:
        cli.main(["report", str(tmp_path / "out"), "--out", str(tmp_path / "page")])
    assert done.value.code == 0
    table = (tmp_path / "page" / "tables.md").read_text()
    assert "Gap of means \u2193" in table
    assert "Spread \u2191" in table
    scores = read_scores(tmp_path / "out")
    gap, spread = scores.numbers
    assert (gap.metric, gap.label, gap.direction) == ("my_metric", "Gap of means", "lower")
    assert (spread.metric, spread.label, spread.direction) == ("spread", "Spread", "higher")
    assert gap.low < gap.value < gap.high
    assert gap.interval.startswith("jackknife over prompts")
    assert gap.protocol.name.startswith("my_parts.py:my_metric@")
    assert gap.protocol.encoder_sha256
    with pytest.raises(UserError, match="the difference is the same without any of the blocks"):
        paired_difference(scores, scores, "spread")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "the file has no function 'nothing'"),
        ("nameless", "has no label; docs/extending.md shows a whole metric"),
        ("nowhere", "unknown .*network 'dino'; did you mean 'dinov2'"),
        ("sideways", "direction is 'up'; give 'higher' or 'lower'"),
        ("failing", r"my_parts\.py:failing: line 26: AttributeError: .*no_such_method"),
        ("infinite", "gave inf, not a finite number"),
    ],
)
def test_a_user_s_metric_that_cannot_be_is_refused_in_one_line(name, message, tmp_path, capsys):
    words = own_metrics(tmp_path, 2, name)
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        cli.main(words)
    assert done.value.code
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("field", "value"), [("metrics", []), ("prdc", ["papr"]), ("batch_size", 0), ("resamples", 9), ("seed", -1)]
)
def test_bad_settings_name_the_field(field, value):
    with pytest.raises(UserError, match=field):
        from_dict(QualityConfig, {field: value})


def test_an_unknown_metric_is_named():
    with pytest.raises(UserError, match=r"unknown metric 'fidd'; did you mean 'fid'\? .*FILE\.py"):
        load_metric("fidd")


def test_preference_scores_have_their_network_s_scale_and_columns_of_their_own(tmp_path):
    samples = write_samples(tmp_path / "s", 0)
    networks = {name: Moments(name) for name in ("pickscore", "hpsv2", "clip")}
    networks["pickscore"].scale = 20.0
    config = QualityConfig(metrics=("pick_score", "hpsv2", "clip_score"), resamples=100)
    evaluate_quality(tmp_path / "out", samples, samples, networks, config)
    pick, hps, clip = (read_scores(tmp_path / "out").number(name) for name in ("pick_score", "hpsv2", "clip_score"))
    assert hps.value == clip.value == pytest.approx(5 * pick.value)
    assert pick.low < pick.value < pick.high
    assert (pick.label, hps.label, pick.protocol.encoder) == ("PickScore", "HPSv2", "pickscore")


def test_clip_score_is_the_mean_over_images_and_then_at_least_0():
    texts, told = {"a": [1.0, 0.0], "b": [0.0, 1.0]}, ("a", "a", "b", "b")
    network = SimpleNamespace(
        scale=100.0,
        cut="keep-end",
        captions=lambda some: SimpleNamespace(features=np.array([texts[text] for text in some]), truncated=0),
    )

    def measured(*rows):
        given = replace(inputs(np.empty((0, 2)), np.array(rows), Blocks(None, "")), network=network, captions=told)
        return load_metric("clip_score").measure(given, "clip_score")

    result = measured([1, 0], [0, 1], [-1, 0], [3, 4])
    assert result.values == {"clip_score": pytest.approx([100, 0, 0, 80])}
    assert result.numbers[0].value == pytest.approx(45)
    opposite = measured([-1, 0], [-1, 0], [0, -1], [0, 1]).numbers[0]
    assert (opposite.value, opposite.low, opposite.high) == (0, 0, 0)
