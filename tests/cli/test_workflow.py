"""run, study and plan as verbs: what their options become."""

import json

import pytest

from tessera.cli import output, workflow
from tessera.config import UserError
from tessera.measure import Measured
from tessera.plan import PlanConfig, disk, to_json
from tessera.presets.small_sets import dit_i_b
from tiny.commands import call
from tiny.exports import write_export
from tiny.trials import make_miniature


@pytest.mark.parametrize(("budget", "seconds"), [(None, None), ("90s", 90), ("1.5m", 90), ("2h", 7200)])
def test_a_budget_is_a_time(budget, seconds):
    assert workflow._seconds(budget) == seconds


@pytest.mark.parametrize("budget", ["", "2", "h", "2d", "-1m", "infh", "nanm", "0s"])
def test_anything_else_is_no_budget(budget):
    with pytest.raises(UserError, match=r"budget is .*; give a time such as 90s, 60m or 2h"):
        workflow._seconds(budget)


def test_the_study_of_the_noise_trains_nothing(tmp_path, capsys):
    assert call("study", "noise", "--budget", "1h", "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err == "error: study noise trains nothing: leave out --budget\n"
    assert not (tmp_path / "out").exists()


def test_a_run_without_out_is_named_after_its_preset(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr("tessera.run.run", lambda out, config, **rest: made.append((out, rest)) or out / "index.html")
    assert call("run", "miniature-smoke") == 0
    assert call("run", "miniature-smoke", "--out", "here", "--resume") == 0
    assert [str(out) for out, _ in made] == ["out/miniature-smoke", "here"]
    assert [rest["resume"] for _, rest in made] == [False, True]
    assert capsys.readouterr().out.splitlines()[0] == "Report: out/miniature-smoke/index.html"


def test_plan_prints_text_or_json(capsys, monkeypatch):
    monkeypatch.setattr(output, "as_json", False)
    workflow.plan(images=600, price=3)
    assert "at 3 for an hour of a GPU" in capsys.readouterr().out
    monkeypatch.setattr(output, "as_json", True)
    workflow.plan(images=600, price=3)
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(to_json(PlanConfig(images=600, price=3))))
    assert sum(printed["bytes"].values()) == pytest.approx(
        sum(disk(PlanConfig(images=600)).values()), abs=len(printed["bytes"])
    )


def test_plan_measures_the_preset_with_a_gpus_share_of_a_step(capsys, monkeypatch):
    monkeypatch.setattr(output, "as_json", False)
    found = Measured(
        device="cpu", peak_tflops=None, agrees=True, check="fine", images_per_second={"train": 2.0}, memory=0,
        how=dict.fromkeys(("train", "encode", "caption"), "so"),
    )  # fmt: skip
    asked = []
    monkeypatch.setattr("tessera.measure.measure", lambda *args: asked.append(args) or found)
    workflow.plan(images=600, network="dit-b", gpus=4, mean_tokens=99, measure=True)
    assert asked == [(dit_i_b(), 64, 99)]
    assert "  train    2 images/s; so" in capsys.readouterr().out


def test_a_sweep_prints_its_table_and_the_choice(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(output, "as_json", False)
    write_export(tmp_path / "export" / "mine")
    make_miniature(tmp_path / "images")
    flags = ["--reference", "images", "--metrics", "likeness", "--images", 6, "--device", "cpu", "--steps", 1]
    scales = ["--guidance-scales", 1, 2, "--guidance-intervals", 0, 1, "0.25", 1]
    assert call("sweep", "export/mine", *flags, *scales) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(
        "sweep: 3 settings, 6 images each, 30 evaluations of the network; 0 settings are done"
    )
    lines = printed.out.splitlines()
    assert lines[0].split("|")[1].strip() == "settings"
    assert {line.split("|")[1].strip() for line in lines[2:5]} == {
        *("guidance 1, 1 step", "guidance 2, 1 step", "guidance 2 for t from 0.25 to 1, 1 step")
    }
    assert lines[-1] == "Report: sweep/mine/report/index.html"
    assert call("sweep", "export/mine", *flags, *scales, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"]["sampling_steps"] == 1
    assert found["export"] == "export/mine"
    assert call("sweep", "export/mine", "--metrics", "clip_score") == 2
    assert capsys.readouterr().err == "error: prompts: give a file of prompts, as for `tessera generate --prompts`\n"
