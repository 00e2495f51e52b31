"""Images of drawings judged by a judge of their concepts."""

import numpy as np
import pytest

from tessera.config import UserError
from tessera.evaluate.drawings import evaluate
from tessera.evaluate.drawings.judge import Judge, JudgeConfig, train_judge
from tessera.evaluate.geneval.verdict import Detection
from tessera.evaluate.scores import judge_text, notes, read_scores
from tessera.prompts.geneval import TASKS
from tiny.drawings import squares
from tiny.samples import write_samples

CONFIG = JudgeConfig(concepts=("square", "frame", "bar"), held_out="two", scenes=64, steps=20, tested=12, width=4)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    train_judge(folder, squares, CONFIG)
    return folder


def lines():
    asked = {
        "single_object": [{"class": "bar", "count": 1}],
        "two_object": [{"class": "bar", "count": 1}, {"class": "frame", "count": 1}],
        "counting": [{"class": "bar", "count": 2}],
        "colors": [{"class": "bar", "count": 1, "color": "red"}],
        "position": [{"class": "bar", "count": 1}, {"class": "frame", "count": 1, "position": ["above", 0]}],
        "color_attr": [{"class": "bar", "count": 1, "color": "red"}, {"class": "frame", "count": 1, "color": "blue"}],
    }
    return [{"tag": tag, "include": asked[tag], "prompt": tag} for tag in TASKS]


def test_verdicts_are_those_of_what_is_found(tmp_path, judge, monkeypatch):
    """A detector that finds a red bar in each image satisfies two of the six tasks."""
    bar = Detection("bar", 0.95, (2.0, 2.0, 20.0, 20.0), "red")
    monkeypatch.setattr(Judge, "find", lambda self, images: [[bar] for _ in images])
    samples = write_samples(tmp_path / "samples", lines())
    for _ in range(2):  # the second call leaves it as it is
        evaluate.evaluate_drawings(tmp_path / "ta" / "short", samples, judge)
    scores = read_scores(tmp_path / "ta" / "short")
    assert (scores.kind, scores.name, len(scores.items)) == ("drawings", "ta", 12)
    found = {number.metric: number.value for number in scores.numbers}
    assert found == {"overall": pytest.approx(2 / 6), **{t: float(t in ("single_object", "colors")) for t in TASKS}}
    wrong = next(item["reason"] for item in scores.items if item["tag"] == "two_object")
    assert wrong == "expected 1 frame, found 0"
    assert scores.numbers[0].protocol.encoder_sha256 is not None
    assert scores.facts["judge"]["unseen_style"] == 1
    assert judge_text(scores.facts["judge"]) in notes(scores)
    told = "drawn in a style that it never saw ({seen_one_object:.2f} and {seen_two_objects:.2f} in those that"
    assert told.format(**scores.facts["judge"]) in judge_text(scores.facts["judge"])


def test_prompts_that_the_judge_does_not_know(tmp_path, judge):
    line = {"tag": "single_object", "include": [{"class": "fram", "count": 1}], "prompt": "a fram"}
    samples = write_samples(tmp_path / "samples", [line], paint=lambda i, k: np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="knows no class 'fram'; did you mean 'frame'"):
        evaluate.evaluate_drawings(tmp_path / "scores", samples, judge)
