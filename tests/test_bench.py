"""Benchmarks: what they leave and survive, not how long things take."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tessera.evaluate.scores import read_scores

FOLDER = Path(__file__).parents[1] / "bench"
BENCH = FOLDER / "evaluation.py"
TASKS = {"overall", "single_object", "two_object", "counting", "colors", "position", "color_attr"}
PARTS = ("precision", "recall", "density", "coverage")


def test_a_batch_that_does_not_fit_on_a_gpu_does_not_end_the_others(monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    train_step = importlib.import_module((FOLDER / "train_step.py").stem)

    def measured(trainer, steps):
        _, batch = trainer
        if batch == 256:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return {"gpu": "H100", "images_per_second": 500.0, "tokens": 160.0, "gigabytes": 60.0}

    monkeypatch.setattr(train_step, "trainer_of", lambda config, store, batch, device: (config.model, batch))
    monkeypatch.setattr(train_step, "measured", measured)
    rows = train_step.on_gpu(None, [256, 128], 989.0)
    assert [(row["network"], row["batch"]) for row in rows if "share_of_peak" in row] == [
        ("DiT-I L/2", 128),
        ("CAD-I L", 128),
    ]
    said = capsys.readouterr().out.splitlines()
    assert [line.split(", batch")[0] for line in said] == ["DiT-I L/2", "DiT-I L/2", "CAD-I L", "CAD-I L"]
    assert said[0] == "DiT-I L/2, batch 256: does not fit into memory"


@pytest.fixture
def first_hour(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("first_hour")


def test_the_first_hour_runs_to_its_end_on_a_cpu(first_hour, tmp_path):
    folder = tmp_path / "hour"
    command = [sys.executable, FOLDER / "first_hour.py", folder, "--toy"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout
    steps = {step["name"]: step for step in json.loads((folder / "first_hour.json").read_text())["steps"]}
    assert list(steps) == ["doctor", "tests", *(step.__name__ for step in first_hour.STEPS)]
    numbers = {name: step["numbers"] for name, step in steps.items()}
    assert [row["network"] for row in numbers["train_step"]["rows"]] == ["toy_cad", "toy_dit"]
    assert all(row["images_per_second"] > 0 for row in numbers["train_step"]["rows"])
    assert set(numbers["recompiles"]) == {"toy_dit"}
    assert numbers["captions"]["captions_per_second"] > 0
    assert min(numbers["encode"][compute]["records_per_second"] for compute in ("fp32", "bf16")) > 0
    assert 0 < numbers["stop"]["images"] < numbers["resume"]["last_line"]["num_images"] == 2400
    page = (folder / "first_hour.txt").read_text()
    assert page in done.stdout
    assert len(page.splitlines()) < 70
    assert [line.split()[1] for line in page.splitlines() if line.startswith("stop ")] == ["ok"]


def test_a_step_of_the_first_hour_that_fails_or_hangs_is_told(first_hour, tmp_path):
    failed = first_hour.run("one", [sys.executable, "-c", "print('so far'); raise SystemExit(3)"], tmp_path, 60)
    hung = first_hour.run("two", [sys.executable, "-c", "import time; time.sleep(99)"], tmp_path, 0.5)
    assert [(step["ok"], step["timed_out"]) for step in (failed, hung)] == [(False, False), (False, True)]
    said = first_hour.page([failed, hung]).splitlines()
    assert said[2].split()[:2] == ["one", "FAILED"]
    assert said[3] == "    | so far"
    assert "not done in 480 s" in said[4]


def test_recompilations_and_broken_graphs_are_counted_in_what_torch_logs(first_hour):
    program = (
        "import torch\n"
        "def f(x): return x.sin() + (1 if x.sum() > 0 else 2)\n"
        "compiled = torch.compile(f, backend='eager')\n"
        "for dtype in (torch.float32, torch.float64, torch.float32): compiled(torch.ones(3, dtype=dtype))\n"
    )
    environment = os.environ | {"TORCH_LOGS": "recompiles,graph_breaks"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    found = first_hour.compilations(done.stderr)
    assert found["recompiles"] >= 1
    assert found["graph_breaks"] >= 1


@pytest.mark.slow
def test_every_metric_geneval_dpg_and_the_report_by_one_command(tmp_path):
    out = tmp_path / "smoke"
    done = subprocess.run([sys.executable, BENCH, "--out", out], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 12
    quality = read_scores(out / "scores" / "quality")
    wanted = {"fid", "kid", "fd_dinov2", "cmmd", "clip_score", "jina_clip_score"}
    wanted |= {f"{part}/{protocol}" for part in PARTS for protocol in ("paper", "full", "dgm-eval")}
    assert {number.metric for number in quality.numbers} == wanted
    assert quality.facts["size"] == "32"
    columns = [read_scores(out / "scores" / "geneval" / name) for name in ("original", "extended")]
    assert [{number.metric.split("/")[1] for number in column.numbers} for column in columns] == [TASKS, TASKS]
    assert [len(column.items) for column in columns] == [24, 6]
    assert columns[1].number("geneval/overall").protocol.extender.model == "tessera-rules-1"
    dpg = read_scores(out / "scores" / "dpg")
    assert {"dpg/fixed/overall", "dpg/official/overall", "dpg/fixed/level 2/relation - spatial"} <= {
        number.metric for number in dpg.numbers
    }
    vqascore = read_scores(out / "scores" / "vqascore")
    assert [number.metric for number in vqascore.numbers] == ["vqascore"]
    for scores in (quality, *columns, dpg, vqascore):
        assert all(math.isfinite(number.value) for number in scores.numbers)
        assert all(len(number.protocol.encoder_sha256) == 64 for number in scores.numbers)
    page = (out / "report" / "index.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 3 * 24 + 6 + 4  # the short prompts' by three judges
    assert "24 images of 32 px by GenEval&#39;s prompts, against 24 of reference" in page
    tables = (out / "report" / "tables.md").read_text(encoding="utf-8")
    for title in ("Table 1", "GenEval (Table 2), original", "extended by tessera-rules-1", "DPG-Bench", "VQAScore"):
        assert title in tables
    assert json.loads((out / "report" / "manifest.json").read_text())["complete"] is True
