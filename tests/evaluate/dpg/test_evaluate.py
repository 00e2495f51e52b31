"""Table 3 from images: who is asked what, the answer log, and that nobody's order or number changes a byte."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from evaluate.dpg.test_tally import ANSWERS, ROWS, write_csv
from tessera import cli
from tessera.config import UserError
from tessera.evaluate.dpg.evaluate import DpgConfig, evaluate_dpg
from tessera.evaluate.scores import notes, read_scores
from tessera.prompts.read import load_prompts
from tiny.folders import end_together, tree
from tiny.judges import save_blip
from tiny.samples import write_samples

LINES = [{"prompt": text, "item_id": item} for item, text in {row[0]: row[1] for row in ROWS}.items()]

# A judge that needs no network, for processes of their own: says yes by a hash of what it sees and hears.
SCRIPT = """
import hashlib, os, sys, time
from pathlib import Path
from tessera.pretrained import vqa
from tessera.evaluate.dpg.evaluate import DpgConfig, evaluate_dpg

class Judge:
    asked = 0

    def answer(self, image, questions):
        self.asked += 1
        if self.asked > 2:  # the two pictures of the first prompt are done
            time.sleep(float(os.environ.get("SLOW", "0")))
        digests = [hashlib.sha256(image.tobytes() + text.encode()).digest()[0] for text in questions]
        return ["yes" if digest % 3 else "no" for digest in digests]

vqa.load_vqa = lambda *args: Judge()
vqa.identity = lambda backend, model: {"backend": backend, "model": "judge", "sha256": None}
print(evaluate_dpg(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), device="cpu"))
"""


class Knows:
    """Gives the answers of the example worked out by hand; the image's first pixel says which image it is."""

    def __init__(self, words=("yes", "no")):
        self.words, self.asked = words, 0

    def answer(self, image, questions):
        self.asked += 1
        item, k = "abc"[image[0, 0, 0]], image[0, 0, 1]
        numbers = {row[5]: row[2] for row in ROWS if row[0] == item}
        return [self.words[0] if ANSWERS[item][k][numbers[text]] else self.words[1] for text in questions]


def paint(i, k):
    return np.full((8, 8, 3), (i, k, 0), np.uint8)


@pytest.fixture
def judge(monkeypatch):
    def who(backend, model):
        return {"backend": backend, "model": model, "sha256": None}

    knows = Knows()
    monkeypatch.setattr("tessera.pretrained.vqa.load_vqa", lambda *args: knows)
    monkeypatch.setattr(
        "tessera.pretrained.vqa.identity", lambda backend, model: {"backend": backend, "model": model, "sha256": None}
    )
    return knows


@pytest.fixture
def questions(tmp_path):
    return write_csv(tmp_path / "dpg_bench.csv")


def test_the_example_by_hand(tmp_path, judge, questions):
    samples = write_samples(tmp_path / "samples", LINES, paint=paint)
    config = DpgConfig()
    assert evaluate_dpg(tmp_path / "scores", samples, questions, config)
    scores = read_scores(tmp_path / "scores")
    values = {number.metric: number.value for number in scores.numbers}
    assert values["dpg/fixed/overall"] == pytest.approx(50)
    assert values["dpg/official/overall"] == pytest.approx(50)
    assert values["dpg/fixed/entity"] == pytest.approx(62.5)
    assert values["dpg/fixed/level 2/entity - part"] == pytest.approx(50)
    assert scores.number("dpg/fixed/overall").protocol.settings["questions"] == 8
    assert scores.facts == {
        "unclear": 0,
        "passed_over": "2 of 6 images in the official count, as by the published script, first of a",
    }
    assert scores.items[0]["reason"] == "no: Has it a hat?"
    assert scores.items[0]["values"] == {"dpg/fixed/overall": pytest.approx(100 / 3)}  # not in the official count
    assert scores.items[3]["values"] == pytest.approx({"dpg/fixed/overall": 200 / 3, "dpg/official/overall": 200 / 3})
    log = json.loads((tmp_path / "scores" / "answers" / "00001.json").read_text())
    assert log["item_id"] == "b"
    assert log["images"][0] == {"1": "no", "2": "yes", "3": "yes"}
    asked = judge.asked
    assert evaluate_dpg(tmp_path / "scores", samples, questions, config)
    assert judge.asked == asked == 6


def test_the_csv_is_a_prompt_set_and_texts_are_matched_too(tmp_path, judge, questions):
    prompts = load_prompts(f"dpg:{questions}")
    assert [metadata for metadata, _ in prompts.rows] == LINES
    without_ids = [{"prompt": line["prompt"]} for line in LINES]
    samples = write_samples(tmp_path / "samples", without_ids, paint=paint)
    assert evaluate_dpg(tmp_path / "scores", samples, questions, DpgConfig())


def run(out, samples, questions, **environment):
    command = [sys.executable, "-c", SCRIPT, str(out), str(samples), str(questions)]
    return subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)


def test_three_ranks_make_what_one_process_makes(tmp_path, judge, questions, monkeypatch):
    samples = write_samples(tmp_path / "samples", LINES, paint=paint)
    config = DpgConfig()
    evaluate_dpg(tmp_path / "one" / "scores", samples, questions, config)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank, complete in (("0", False), ("2", False), ("1", True)):
        monkeypatch.setenv("RANK", rank)
        assert evaluate_dpg(tmp_path / "three" / "scores", samples, questions, config) is complete
    assert tree(tmp_path / "one") == tree(tmp_path / "three")


def test_ranks_that_end_at_the_same_time_leave_each_other_the_scores(tmp_path, judge, questions, monkeypatch):
    samples = write_samples(tmp_path / "samples", LINES, paint=paint)
    out = tmp_path / "out"
    assert end_together(monkeypatch, lambda: evaluate_dpg(out, samples, questions, DpgConfig())) == (True, True)
    assert (out / "scores.json").is_file()


@pytest.mark.slow
def test_one_process_makes_what_four_make_whatever_their_hash_seeds(tmp_path, questions):
    samples = write_samples(tmp_path / "samples", LINES, per_prompt=3)
    alone = run(tmp_path / "one" / "scores", samples, questions, PYTHONHASHSEED="1")
    ranks = [
        run(tmp_path / "four" / "scores", samples, questions, PYTHONHASHSEED=str(10 + r), RANK=str(r), WORLD_SIZE="4")
        for r in range(4)
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in [alone, *ranks]]
    assert all(process.returncode == 0 for process in [alone, *ranks])
    assert said[0] == "True"
    assert "True" in said[1:]
    assert tree(tmp_path / "one" / "scores") == tree(tmp_path / "four" / "scores")


@pytest.mark.slow
def test_killed_half_way_gives_the_same_bytes(tmp_path, questions):
    samples = write_samples(tmp_path / "samples", LINES)
    assert run(tmp_path / "whole" / "scores", samples, questions).communicate(timeout=120)[0].strip() == "True"
    process = run(tmp_path / "killed" / "scores", samples, questions, SLOW="60")
    until = time.monotonic() + 60
    while not list((tmp_path / "killed" / "scores").glob("answers/0*.json")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path.name for path in (tmp_path / "killed" / "scores" / "answers").glob("0*.json")] == ["00000.json"]
    assert run(tmp_path / "killed" / "scores", samples, questions).communicate(timeout=120)[0].strip() == "True"
    assert tree(tmp_path / "whole" / "scores") == tree(tmp_path / "killed" / "scores")


def test_tiny_blip(tmp_path, questions):
    samples = write_samples(tmp_path / "samples", LINES)
    config = DpgConfig(backend="blip", model=str(save_blip(tmp_path / "blip")))
    assert evaluate_dpg(tmp_path / "scores", samples, questions, config, device="cpu")
    overall = read_scores(tmp_path / "scores").number("dpg/fixed/overall")
    assert overall.protocol.encoder == f"blip:blip@{overall.protocol.encoder_sha256[:12]}"
    assert 0 <= overall.low <= overall.value <= overall.high <= 100
    with pytest.raises(UserError, match="was made otherwise: judge"):
        evaluate_dpg(tmp_path / "scores", samples, questions, DpgConfig(backend="openai", model="m", server="x"))


def command(*words):
    """`tessera evaluate dpg ... --device cpu` in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", "dpg", *map(str, words), "--device", "cpu"])
    return ended.value.code


def test_the_command(tmp_path, questions, capsys):
    samples, blip, out = write_samples(tmp_path / "samples", LINES), save_blip(tmp_path / "blip"), tmp_path / "scores"
    words = ["--samples", samples, "--questions", questions, "--vqa-model", blip, "--out", out]
    assert command(*words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{out}: 16 answers, 6 images, 3 prompts"
    overall = [line for line in said if re.fullmatch(r"  Overall \((fixed|official)\) +[\d.]+  [\d.]+ to [\d.]+", line)]
    assert len(overall) == 2
    metrics = {number.metric for number in read_scores(out).numbers}
    assert {f"dpg/{count}/{name}" for count in ("official", "fixed") for name in ("overall", "entity")} <= metrics
    before = tree(out)
    assert command(*words, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["directory"], told["counts"]["answers"]) == (str(out), 16)
    assert tree(out) == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--questions", "none.csv"], "none.csv: there is no such file"),
        (["--questions", "."], ".: "),
        (["--samples", "nowhere"], "nowhere"),
        (["--vqa", "openai"], "vqa-model: --vqa openai needs the model's name on the server"),
        (["--vqa", "openai", "--vqa-model", "m"], "server: --vqa openai needs the server's address"),
        (["--vqa", "openai", "--vqa-model", "m", "--server", "here:8000"], "is no address"),
        (["--server", "http://127.0.0.1:9/v1"], "server: blip answers in this process; give --vqa openai"),
        (["--vqa-model", "nowhere"], "vqa-model: nowhere: there is no such folder"),
    ],
)
def test_what_the_command_refuses(tmp_path, questions, more, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples = write_samples(tmp_path / "samples", LINES)
    words = ["--samples", samples, "--questions", questions, "--out", tmp_path / "scores", *more]
    assert command(*words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "scores" / "scores.json").exists()


def test_a_chat_model_that_says_neither_yes_nor_no(tmp_path, judge, questions):
    samples = write_samples(tmp_path / "samples", LINES, paint=paint)
    config = DpgConfig(backend="openai", model="m")
    whole, answer = judge.words, judge.answer
    judge.words = ("yes", "who knows")  # most answers of the example are yes
    judge.answer = lambda image, texts: answer(image, texts) if image[0, 0, 0] < 2 else ["banana"] * len(texts)
    with pytest.raises(UserError, match=r"neither yes nor no to 4 of 4 questions of c, for example 'banana'"):
        evaluate_dpg(tmp_path / "scores", samples, questions, config)
    assert len(list((tmp_path / "scores" / "answers").iterdir())) == 2  # what was answered is kept
    judge.words, judge.answer = whole, answer
    assert evaluate_dpg(tmp_path / "scores", samples, questions, config)
    scores = read_scores(tmp_path / "scores")
    assert scores.facts["unclear"] == pytest.approx(3 / 16)  # three times no
    assert notes(scores)[1] == "18.8% of the answers are neither yes nor no, and count as no"


def test_samples_that_do_not_belong(tmp_path, judge, questions):
    short = write_samples(tmp_path / "short", LINES[:2], paint=paint)
    with pytest.raises(UserError, match=r"1 of 3 items of .* have no images, the first is c"):
        evaluate_dpg(tmp_path / "scores", short, questions)
    other = write_samples(tmp_path / "other", [*LINES, {"prompt": "A bird."}])
    with pytest.raises(UserError, match="prompt 00003 is not of"):
        evaluate_dpg(tmp_path / "scores", other, questions)
    twice = write_samples(tmp_path / "twice", [*LINES, LINES[0]])
    with pytest.raises(UserError, match="4 prompts have"):
        evaluate_dpg(tmp_path / "scores", twice, questions)
    whole = write_samples(tmp_path / "whole", LINES, paint=paint)
    (whole / "00002" / "samples" / "0001.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"00002/samples/0001\.png: is not a readable image"):
        evaluate_dpg(tmp_path / "scores", whole, questions)
    (Path(whole) / "00001" / "samples" / "0000.png").unlink()
    with pytest.raises(UserError, match="1 of 9 files are missing"):
        evaluate_dpg(tmp_path / "scores", whole, questions)
