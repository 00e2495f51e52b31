"""Soft-TIFA, VQAScore, tables of one's own: examples worked out by hand, servers with known log-probabilities."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from prompts.test_question_tables import LINE, TABLE, write
from tessera import cli
from tessera.config import UserError
from tessera.evaluate.intervals import mean_interval
from tessera.evaluate.scores import notes, read_scores, require_comparable, write_scores
from tessera.evaluate.soft_tifa import QuestionsConfig, _says, evaluate_questions, geometric_mean
from tessera.report.measured import measured_tables
from tiny.chat_server import ChatServer, completion, question_of
from tiny.folders import end_together, tree
from tiny.judges import save_qwen_vl
from tiny.samples import write_samples

OTHER = {
    "prompt": "a green pig",
    "atom_count": 2,
    "vqa_list": [["How many pigs are in the image?", "one"], ["Is the pig green?", "Yes"]],
    "skills": ["count", "attribute"],
}
SHARES = {  # of an image: the probability of each expected answer
    "How many toys": (0.5, 0.8),
    "Are the toys metal": (0.4, 1.0),
    "Are there any toys": (0.1, 0.2),
    "How many pigs": (0.9, 0.0),
    "Is the pig green": (0.4, 0.7),
}


class Knows:
    """Gives known probabilities; the second channel of the first pixel says which image it is."""

    def __init__(self):
        self.asked = []

    def probabilities(self, image, prompts, answers):
        self.asked += prompts
        return [next(own[image[0, 0, 1]] for text, own in SHARES.items() if text in prompt) for prompt in prompts]

    def answer(self, image, questions, instruction):
        self.asked += [instruction.format(question=question) for question in questions]
        return ["Two." if "How many" in question else "yes, it is" for question in questions]


def paint(i, k):
    return np.full((8, 8, 3), (i, k, 0), np.uint8)


@pytest.fixture
def judge(monkeypatch):
    knows = Knows()
    monkeypatch.setattr("tessera.pretrained.vqa.load_vqa", lambda *args: knows)
    monkeypatch.setattr(
        "tessera.pretrained.vqa.identity", lambda backend, model: {"backend": backend, "model": model, "sha256": None}
    )
    return knows


@pytest.fixture
def geneval2(tmp_path):
    return write(tmp_path / "geneval2_data.jsonl", f"{json.dumps(LINE)}\n{json.dumps(OTHER)}\n")


def values(out):
    return {number.metric: number.value for number in read_scores(out).numbers}


def test_geneval_2_by_hand(tmp_path, judge, geneval2):
    samples = write_samples(tmp_path / "samples", [LINE, OTHER], paint=paint)
    assert evaluate_questions(tmp_path / "out", samples, geneval2)
    toys = [(0.5 + 0.4 + 0.1) / 3, (0.8 + 1.0 + 0.2) / 3]
    pigs = [(0.9 + 0.4) / 2, (0.0 + 0.7) / 2]
    geometric = [(0.5 * 0.4 * 0.1) ** (1 / 3), (0.8 * 1.0 * 0.2) ** (1 / 3), (0.9 * 0.4) ** 0.5, 0.0]
    assert values(tmp_path / "out") == pytest.approx(
        {
            "geneval2/am": sum(toys + pigs) / 4,
            "geneval2/gm": sum(geometric) / 4,
            "geneval2/am/attribute": (0.4 + 1.0 + 0.4 + 0.7) / 4,
            "geneval2/am/count": (0.5 + 0.8 + 0.9 + 0.0) / 4,
            "geneval2/am/object": (0.1 + 0.2) / 2,
            "geneval2/gm/2 atoms": sum(geometric[2:]) / 2,
            "geneval2/gm/3 atoms": sum(geometric[:2]) / 2,
        }
    )
    assert judge.asked[0] == "How many toys are in the image? Answer in one word."
    scores = read_scores(tmp_path / "out")
    assert [number.metric for number in scores.numbers][:2] == ["geneval2/am", "geneval2/gm"]
    assert all(number.low < number.value < number.high for number in scores.numbers)
    protocol = scores.number("geneval2/gm").protocol
    assert (protocol.name, protocol.encoder) == ("geneval2-1", "qwen-vl:Qwen/Qwen3-VL-8B-Instruct")
    assert len(protocol.prompts_sha256) == 64
    assert scores.items[3] == {
        "prompt": 1,
        "sample": 1,
        "file": "00001/samples/0001.png",
        "text": "a green pig",
        "values": pytest.approx({"geneval2/am": pigs[1], "geneval2/gm": 0.0}),
        "reason": "0.00: How many pigs are in the image? one",
    }
    (table,) = measured_tables([scores])
    assert table.title.startswith("Questions about the images")
    asked = len(judge.asked)
    assert evaluate_questions(tmp_path / "out", samples, geneval2)
    assert len(judge.asked) == asked == 10


def test_the_geometric_mean_against_exact_ones():
    assert geometric_mean([0.25, 1.0]) == 0.5
    assert geometric_mean([1e-200, 1e-200, 1e-200]) == pytest.approx(1e-200)  # a product would be 0
    assert geometric_mean([0.3, 0.0]) == 0.0


def test_one_image_alone_has_numbers(tmp_path, judge):
    samples = write_samples(tmp_path / "samples", [LINE], per_prompt=1, paint=paint)
    table = write(tmp_path / "one.jsonl", json.dumps(LINE))
    assert evaluate_questions(tmp_path / "out", samples, table)
    number = read_scores(tmp_path / "out").number("geneval2/gm")
    assert number.value == pytest.approx((0.5 * 0.4 * 0.1) ** (1 / 3))
    assert number.low < number.value < number.high


@pytest.mark.parametrize("dimension", ["color/", "/", "color / 2 hues"])
def test_dimensions_with_slashes(dimension, tmp_path, judge):
    line = LINE | {"skills": [dimension, *LINE["skills"][1:]]}
    samples = write_samples(tmp_path / "samples", [line], paint=paint)
    assert evaluate_questions(tmp_path / "out", samples, write(tmp_path / "own.jsonl", json.dumps(line)))
    assert f"geneval2/am/{dimension}" in values(tmp_path / "out")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.9])
def test_intervals_of_soft_answers_hold_the_truth(share):
    """100 prompts of one image and of five questions, whose probabilities lie near 0 or 1; some prompts are hard."""
    rng = np.random.default_rng(0)

    def draw(prompts):
        ease = rng.beta(4 * share, 4 * (1 - share), (prompts, 1)).clip(0.01, 0.99)
        shares = rng.beta(0.6 * ease, 0.6 * (1 - ease), (prompts, 5)).clip(1e-12, 1)
        return np.exp(np.log(shares).mean(1)), shares.mean(1)

    truths = [values.mean() for values in draw(50_000)]
    found = [[mean_interval(values, range(100)) for values in draw(100)] for _ in range(300)]
    for truth, intervals in zip(truths, zip(*found)):
        assert 0.91 <= np.mean([one.low <= truth <= one.high for one in intervals]) <= 0.99


def test_ranks_that_end_at_the_same_time_leave_each_other_the_scores(tmp_path, judge, geneval2, monkeypatch):
    samples = write_samples(tmp_path / "samples", [LINE, OTHER], paint=paint)
    assert end_together(monkeypatch, lambda: evaluate_questions(tmp_path / "out", samples, geneval2)) == (True, True)
    assert (tmp_path / "out" / "scores.json").is_file()


def test_words_have_another_name(tmp_path, judge, geneval2):
    samples = write_samples(tmp_path / "samples", [LINE, OTHER], per_prompt=1, paint=paint)
    assert evaluate_questions(tmp_path / "soft", samples, geneval2)
    assert evaluate_questions(tmp_path / "words", samples, geneval2, QuestionsConfig(words=True))
    found = values(tmp_path / "words")
    assert found.keys() == {name.replace("geneval2", "geneval2-words") for name in values(tmp_path / "soft")}
    assert found["geneval2-words/am"] == pytest.approx((1 + 1 / 2) / 2)  # one pig, and the judge says two
    assert found["geneval2-words/gm"] == pytest.approx(1 / 2)
    assert len(measured_tables([read_scores(tmp_path / name) for name in ("soft", "words")])) == 2


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("Two.", "2", True),
        ("A t-shirt", "t-shirt", False),
        ("T-shirt.", "t-shirt", True),
        ("t-rex", "T-shirt", False),
        ("", "yes", False),
        ("Yes", "?", False),
    ],
)
def test_the_word_that_an_answer_begins_with(said, answer, right):
    assert _says(said, answer) is right


def test_vqascore_of_the_samples_own_prompts(tmp_path, judge, monkeypatch):
    monkeypatch.setitem(SHARES, 'Does this figure show "A dog."? Please answer yes or no.', (0.25, 0.75))
    monkeypatch.setitem(SHARES, 'Does this figure show "A cat."? Please answer yes or no.', (1.0, 0.5))
    samples = write_samples(tmp_path / "samples", [{"prompt": "A dog."}, {"prompt": "A cat."}], paint=paint)
    config = QuestionsConfig(benchmark="vqascore")
    assert evaluate_questions(tmp_path / "out", samples, None, config)
    assert values(tmp_path / "out") == {"vqascore": pytest.approx(0.625)}
    number = read_scores(tmp_path / "out").number("vqascore")
    assert number.protocol.settings["template"] == 'Does this figure show "{question}"? Please answer yes or no.'
    table = write(tmp_path / "genai.csv", "prompt,dimension\nA dog.,basic\nA dog.,counting\nA cat.,basic\n")
    judge.asked.clear()
    assert evaluate_questions(tmp_path / "parts", samples, table, config)
    assert values(tmp_path / "parts") == pytest.approx(
        {"vqascore": 0.625, "vqascore/basic": 0.625, "vqascore/counting": 0.5}
    )
    assert len(judge.asked) == 4  # once for each image, whatever the dimensions
    with pytest.raises(UserError, match="give --questions, a table of prompt, question"):
        evaluate_questions(tmp_path / "none", samples, None)


def test_a_table_of_one_s_own_short_and_long(tmp_path, judge, monkeypatch):
    monkeypatch.setitem(SHARES, "Is the dog red", (0.5, 0.5))
    monkeypatch.setitem(SHARES, "How many dogs", (0.5, 0.5))
    monkeypatch.setitem(SHARES, "Is there a cat", (0.5, 0.75))
    table, config = write(tmp_path / "own.csv", TABLE), QuestionsConfig(benchmark="my-bench")
    long = {"text": "long", "extender": "own.csv: long"}
    lines = [{"prompt": "A red dog.", "extended": long}, {"prompt": "A cat.", "extended": long}]
    short = write_samples(tmp_path / "short", lines, paint=paint)
    extended = write_samples(tmp_path / "long", lines, extended=True, paint=lambda i, k: paint(i, 1))
    assert evaluate_questions(tmp_path / "scores" / "short", short, table, config)
    found = values(tmp_path / "scores" / "short")
    assert found == pytest.approx(
        {"my-bench/am": 0.5625, "my-bench/gm": 0.5625, "my-bench/am/color": 0.5, "my-bench/am/count": 0.5}
    )
    earlier = tmp_path / "scores" / "short"
    assert evaluate_questions(tmp_path / "scores" / "long", extended, table, config, short=earlier)
    scores = read_scores(tmp_path / "scores" / "long")
    told = scores.facts["long_minus_short"]
    assert told.keys() == {"my-bench/am", "my-bench/gm"}
    assert told["my-bench/am"]["value"] == pytest.approx(0.0625)
    assert told["my-bench/am"]["low"] < 0.0625 < told["my-bench/am"]["high"]
    assert notes(scores)[0].startswith("long minus short prompts on the same seeds: my-bench/am +0.06")
    other = QuestionsConfig(benchmark="my-bench", model="another judge")
    with pytest.raises(UserError, match=r"^short: the protocols differ \(encoder: .*judge both alike"):
        evaluate_questions(tmp_path / "scores" / "no", extended, table, other, short=earlier)
    write_scores(earlier, dataclasses.replace(read_scores(earlier), facts={"seed": 7}))
    with pytest.raises(UserError, match=r"^short: its images are of seed 7, these of None; draw both with one"):
        evaluate_questions(tmp_path / "scores" / "no", extended, table, config, short=earlier)
    assert not (tmp_path / "scores" / "no").exists()


def test_unigenbench_s_short_and_long_files_pair_up_by_their_numbers(tmp_path, judge, monkeypatch):
    """Each version has questions of its own."""

    def table(name, *rows):
        lines = ["index,prompt_en,sub_dims_en"]
        for number, prompt, parts in rows:
            said = json.dumps({"Testpoints": [*parts], "Testpoint Description": [*parts.values()]})
            lines.append(f'{number},{prompt},"{said.replace(chr(34), 2 * chr(34))}"')
        return write(tmp_path / name, "\n".join(lines) + "\n")

    for part, shares in {"red": (0.5, 0.5), "snow": (1.0, 1.0), "cat": (0.5, 0.75), "sits": (0.25, 0.25)}.items():
        monkeypatch.setitem(SHARES, part, shares)
    color, kind, state = "Attribute - Color", "Style", "Action - State"
    short = table("short.csv", (0, "A dog.", {color: "red"}), (1, "A pet.", {kind: "cat"}))
    long = table(
        "long.csv", (0, "A dog on it.", {color: "red", kind: "snow"}), (1, "A pet there.", {kind: "cat", state: "sits"})
    )
    config = QuestionsConfig(benchmark="unigenbench")
    drawn = {}
    for path, prompts in ((short, ["A dog.", "A pet."]), (long, ["A dog on it.", "A pet there."])):
        drawn[path] = write_samples(tmp_path / path.stem, [{"prompt": text} for text in prompts], paint=paint)
    earlier = tmp_path / "scores" / "short"
    assert evaluate_questions(earlier, drawn[short], short, config)
    found = values(earlier)
    assert found["unigenbench/am/Attribute"] == found["unigenbench/am/Attribute - Color"] == pytest.approx(0.5)
    assert evaluate_questions(tmp_path / "scores" / "long", drawn[long], long, config, short=earlier)
    told = read_scores(tmp_path / "scores" / "long").facts["long_minus_short"]["unigenbench/am"]
    # Of the dog 0.75 and 0.5; of the cat the mean of 0.5 and 0.75 is 0.625, and with 0.25 it is 0.4375.
    assert told["value"] == pytest.approx((0.25 - 0.1875) / 2)
    other = table("other.csv", (0, "A dog on it.", {color: "red"}), (2, "A pet there.", {kind: "cat"}))
    with pytest.raises(UserError, match=r"^short: the protocols differ .prompts_sha256"):
        evaluate_questions(tmp_path / "scores" / "no", drawn[long], other, config, short=earlier)


def test_a_score_of_one_judge_is_in_no_column_of_another(tmp_path, judge, geneval2):
    samples = write_samples(tmp_path / "samples", [LINE, OTHER], paint=paint)
    for name in ("one", "two"):
        config = QuestionsConfig(backend="openai", model=name)
        assert evaluate_questions(tmp_path / name, samples, geneval2, config)
    scores = [read_scores(tmp_path / name) for name in ("one", "two")]
    first, second = (each.number("geneval2/gm") for each in scores)
    with pytest.raises(UserError, match=r"geneval2/gm: the protocols differ \(encoder: 'openai:one' vs 'openai:two'\)"):
        require_comparable(first, second)
    assert len(measured_tables(scores)) == 2
    assert len(measured_tables(scores, force=True)) == 1


def test_the_command_with_a_server_of_known_log_probabilities(tmp_path, geneval2, capsys):
    pytest.importorskip("openai")
    samples = write_samples(tmp_path / "samples", [LINE, OTHER], per_prompt=1)
    probability = {"two": 0.5, "one": 0.25, "Yes": 0.125}

    def reply(body, number):
        text = question_of(body)
        assert text.endswith("? Answer in one word.")
        tokens = {"Yes": math.log(0.1), " yes": math.log(0.025), "No": math.log(0.5)}
        if text.startswith("How many"):
            tokens = {"2": math.log(0.5), "1": math.log(0.25), "3": math.log(0.1)}
        return 200, completion(next(iter(tokens)), tokens)

    words = ["evaluate", "questions", "--samples", samples, "--questions", geneval2, "--out", tmp_path / "out"]
    words += ["--vqa", "openai", "--vqa-model", "stub"]
    with ChatServer(reply) as server, pytest.raises(SystemExit) as done:
        cli.main([str(word) for word in [*words, "--server", server.address]])
    assert done.value.code == 0, capsys.readouterr().err
    assert "GenEval 2 GM, 3 atoms" in capsys.readouterr().out
    two, one, yes = probability.values()
    assert values(tmp_path / "out")["geneval2/am"] == pytest.approx(((two + 2 * yes) / 3 + (one + yes) / 2) / 2)
    expected = ((two * yes * yes) ** (1 / 3) + (one * yes) ** 0.5) / 2
    assert values(tmp_path / "out")["geneval2/gm"] == pytest.approx(expected)


def test_a_server_without_log_probabilities_is_named_with_the_fix(tmp_path, geneval2, capsys):
    pytest.importorskip("openai")
    samples = write_samples(tmp_path / "samples", [LINE, OTHER], per_prompt=1)
    words = ["evaluate", "questions", "--samples", samples, "--questions", geneval2, "--vqa", "openai"]
    words += ["--vqa-model", "stub"]
    with ChatServer(lambda body, number: (200, completion("Yes"))) as server:
        words += ["--server", server.address]
        with pytest.raises(SystemExit) as done:
            cli.main([str(word) for word in [*words, "--out", tmp_path / "soft"]])
        assert done.value.code == 2
        told = capsys.readouterr().err
        assert "gives no log-probabilities" in told
        assert "--words" in told
        assert len(told.strip().splitlines()) == 1
        with pytest.raises(SystemExit) as done:
            cli.main([str(word) for word in [*words, "--words", "--out", tmp_path / "words"]])
        assert done.value.code == 0
    assert set(values(tmp_path / "words")) >= {"geneval2-words/am", "geneval2-words/gm"}


def test_the_real_code_of_the_judge_on_a_tiny_random_qwen3_vl(tmp_path, geneval2):
    samples = write_samples(tmp_path / "samples", [LINE, OTHER], per_prompt=1)
    config = QuestionsConfig(model=str(save_qwen_vl(tmp_path / "qwen", three=True)))
    assert evaluate_questions(tmp_path / "out", samples, geneval2, config, device="cpu")
    scores = read_scores(tmp_path / "out")
    assert 0 < scores.number("geneval2/gm").value < scores.number("geneval2/am").value < 1
    assert len(scores.number("geneval2/gm").protocol.encoder_sha256) == 64


@pytest.mark.parametrize(
    ("lines", "more", "message"),
    [
        ([LINE], {}, r"has 1 prompts, .*geneval2_data\.jsonl 2, .*'a green pig'; draw from --prompts questions:"),
        ([LINE, OTHER, {"prompt": "A dog."}], {}, "prompt 00002 is not of .*draw from --prompts questions:"),
        ([LINE, OTHER, OTHER], {}, "has 3 prompts, .* 2, and each needs its images once"),
        ([LINE, OTHER], {"benchmark": "GenEval 2"}, "benchmark: 'GenEval 2' must be a name of lowercase"),
        ([LINE, OTHER], {"benchmark": "dpg"}, "dpg has rules of its own; see tessera evaluate dpg"),
        ([LINE, OTHER], {"server": "http://127.0.0.1:9/v1"}, "qwen-vl answers in this process"),
    ],
)
def test_what_does_not_fit(lines, more, message, tmp_path, judge, geneval2):
    samples = write_samples(tmp_path / "samples", lines, paint=paint)
    with pytest.raises(UserError, match=message) as told:
        evaluate_questions(tmp_path / "out", samples, geneval2, QuestionsConfig(**more))
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_another_table_is_not_geneval_2(tmp_path, judge):
    samples = write_samples(tmp_path / "samples", [{"prompt": "A red dog."}, {"prompt": "A cat."}], paint=paint)
    with pytest.raises(UserError, match=r"own\.csv: is not of the form of geneval2_data\.jsonl; give --benchmark"):
        evaluate_questions(tmp_path / "out", samples, write(tmp_path / "own.csv", TABLE))


# A judge that needs no network, for a process of its own.
SCRIPT = """
import hashlib, os, sys, time
from pathlib import Path
from tessera.pretrained import vqa
from tessera.evaluate.soft_tifa import evaluate_questions

class Judge:
    asked = 0

    def probabilities(self, image, prompts, answers):
        self.asked += 1
        if self.asked > 2:
            time.sleep(float(os.environ.get("SLOW", "0")))
        return [hashlib.sha256(image.tobytes() + text.encode()).digest()[0] / 255 for text in prompts]

vqa.load_vqa = lambda *args: Judge()
vqa.identity = lambda backend, model: {"backend": backend, "model": "judge", "sha256": None}
evaluate_questions(*map(Path, sys.argv[1:]), device="cpu")
"""


@pytest.mark.slow
def test_killed_half_way_it_ends_with_the_same_bytes(tmp_path, geneval2):
    samples = write_samples(tmp_path / "samples", [LINE, OTHER])
    command = [sys.executable, "-c", SCRIPT]
    rest = [str(samples), str(geneval2)]
    subprocess.run([*command, str(tmp_path / "whole" / "x"), *rest], check=True)
    out = tmp_path / "killed" / "x"
    process = subprocess.Popen([*command, str(out), *rest], env={**os.environ, "SLOW": "60"})
    while not (out / "answers" / "00000.json").is_file():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "scores.json").exists()
    subprocess.run([*command, str(out), *rest], check=True)
    assert tree(out) == tree(tmp_path / "whole" / "x")
