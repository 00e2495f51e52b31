"""A sweep: the best settings become the export's, nothing is drawn twice, and a stopped one ends like another."""

import contextlib
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tessera.config import UserError
from tessera.files import read_json
from tessera.generate.diffusers.card import model_card
from tessera.generate.folder import GenerateConfig, generate
from tessera.generate.pipeline import Pipeline
from tessera.stages import Stage, read_manifest
from tessera.study import sweep as module
from tessera.study.sweep import Settings, SweepConfig, in_order, read_cells, settings_of, sweep
from tessera.study.trial import TrialConfig
from tessera.weights.export import load_export
from tiny.exports import write_export
from tiny.folders import tree
from tiny.runs import Killed
from tiny.trials import make_miniature, make_photographs, without_weights


@pytest.fixture(scope="module")
def renders(tmp_path_factory):
    return make_miniature(tmp_path_factory.mktemp("sweep") / "images")


@pytest.fixture
def export(tmp_path):
    return write_export(tmp_path / "export")


def config_of(renders, **changes) -> SweepConfig:
    trial = TrialConfig(reference=str(renders), metrics=("likeness",), images=6, device="cpu", batch_size=4)
    given = {"guidance_scales": (1.0, 2.0), "guidance_intervals": ((0.0, 1.0), (0.0, 0.6)), "steps": (1, 2)}
    return SweepConfig(trial=trial, **(given | changes))


def make_prompts(file: Path) -> Path:
    file.write_text("\n".join(f"{'long ' * n}prompt {n}" for n in range(24)))
    return file


def drawn_calls(monkeypatch) -> list:
    """Count what is drawn: (guidance, interval, steps) of each batch."""
    calls, images = [], Pipeline.images

    def counted(self, texts, addresses, **options):
        calls.append((options["guidance_scale"], options["guidance_interval"], options["steps"]))
        return images(self, texts, addresses, **options)

    monkeypatch.setattr(Pipeline, "images", counted)
    return calls


def test_the_best_settings_become_the_exports(tmp_path, export, renders):
    page = sweep(tmp_path / "sweep", export, config_of(renders))
    results = read_json(tmp_path / "sweep" / "results.json")
    values = [cell["scores"]["likeness"]["value"] for cell in results["cells"]]
    assert len(values) == 6  # without guidance an interval plays no part
    assert values == sorted(values)
    assert len(set(values)) > 1
    for cell in results["cells"]:
        own = tmp_path / "sweep" / "cells" / cell["folder"] / "scores" / "likeness" / "likeness.json"
        assert read_json(own)["distance"] == cell["scores"]["likeness"]["value"]
    best = results["cells"][0]
    info = load_export(export)[1]
    assert info.guidance_scale == best["guidance_scale"]
    assert list(info.guidance_interval or ()) == best["guidance_interval"]
    assert info.sampling_steps == best["steps"]
    assert info.sweep is not None
    assert [row.scores["likeness"] for row in info.sweep.rows] == values
    assert (info.sweep.chosen_by, info.sweep.images) == ("likeness", 6)
    assert read_manifest(export).facts["sampling"]["sampling_steps"] == best["steps"]
    assert page.read_text().count(f"{best['calls']:,} evaluations") >= 1
    card = model_card(*load_export(export))
    assert "chosen by likeness" in card
    # Whoever draws by the export's defaults draws what the best settings drew.
    prompts = tmp_path / "sweep" / "cells" / best["folder"] / "held_out" / "prompts.jsonl"
    generate(tmp_path / "samples", export, prompts, GenerateConfig(per_prompt=1, batch_size=4), device="cpu")
    for number in range(6):
        file = f"{number:05d}/samples/0000.png"
        drawn = (tmp_path / "sweep" / "cells" / best["folder"] / "held_out_samples" / file).read_bytes()
        assert (tmp_path / "samples" / file).read_bytes() == drawn


def test_a_sweep_is_widened_without_drawing_anything_twice(tmp_path, export, renders, monkeypatch):
    calls = drawn_calls(monkeypatch)
    narrow = config_of(renders, guidance_scales=(2.0,), guidance_intervals=((0.0, 1.0),), steps=(1,))
    sweep(tmp_path / "sweep", export, narrow)
    first = tree(tmp_path / "sweep" / "cells")
    assert calls == [(2.0, (0.0, 1.0), 1)] * 2
    sweep(tmp_path / "sweep", export, replace(narrow, guidance_scales=(2.0, 3.0)))
    assert calls[2:] == [(3.0, (0.0, 1.0), 1)] * 2
    after = tree(tmp_path / "sweep" / "cells")
    assert {name: after[name] for name in first} == first
    assert read_manifest(tmp_path / "sweep").counts == {"settings": 2, "images": 6}
    whole, config = tree(tmp_path / "sweep"), (export / "config.json").read_bytes()
    sweep(tmp_path / "sweep", export, narrow)  # what was drawn before still counts
    assert len(calls) == 4
    assert tree(tmp_path / "sweep") == whole
    assert (export / "config.json").read_bytes() == config


def test_steps_are_the_exports_own_by_default(tmp_path, export, renders):
    sweep(tmp_path / "sweep", export, config_of(renders, steps=(), guidance_scales=(2.0,)))
    cells, _ = read_cells(tmp_path / "sweep")
    assert {cell.settings.steps for cell in cells} == {3}


def test_another_number_chooses_anew(tmp_path, export, monkeypatch):
    without_weights(monkeypatch, tmp_path / "user")
    reference = str(make_photographs(tmp_path / "photographs"))
    trial = TrialConfig(prompts=str(make_prompts(tmp_path / "prompts.txt")), reference=reference, device="cpu")
    config = SweepConfig(trial=trial, guidance_scales=(1.0, 2.0, 5.0), steps=(2,))
    calls = drawn_calls(monkeypatch)
    chosen = {}
    for choose in (None, "clip_score"):
        sweep(tmp_path / "sweep", export, config, choose)
        rows = load_export(export)[1].sweep
        assert rows is not None
        chosen[rows.chosen_by] = [row.scores[rows.chosen_by] for row in rows.rows]
    assert chosen["fid"] == sorted(chosen["fid"])
    assert chosen["clip_score"] == sorted(chosen["clip_score"], reverse=True)
    assert len(calls) == 3
    for place in (tmp_path / "sweep", tmp_path / "new"):  # said before anything is drawn
        with pytest.raises(UserError, match=r"choose: no number is called 'clop_score'; did you mean 'clip_score'"):
            sweep(place, export, config, "clop_score")
    assert len(calls) == 3
    assert not (tmp_path / "new").exists()


def test_the_better_direction_of_a_metric_of_ones_own_chooses(tmp_path, export, monkeypatch):
    without_weights(monkeypatch, tmp_path / "user")
    (tmp_path / "own.py").write_text(
        "def gap(samples, reference):\n    return float(abs(samples.mean() - reference.mean()))\n\n\n"
        "gap.network, gap.label, gap.direction = 'inception', 'Mean gap', 'lower'\n"
    )
    trial = TrialConfig(
        prompts=str(make_prompts(tmp_path / "prompts.txt")),
        reference=str(make_photographs(tmp_path / "photographs")),
        metrics=(f"{tmp_path / 'own.py'}:gap",),
        device="cpu",
    )
    page = sweep(tmp_path / "sweep", export, SweepConfig(trial=trial, guidance_scales=(1.0, 2.0, 5.0), steps=(2,)))
    info = load_export(export)[1]
    assert info.sweep is not None
    values = [row.scores["gap"] for row in info.sweep.rows]
    assert values == sorted(values)
    assert len(set(values)) == 3
    assert info.guidance_scale == info.sweep.rows[0].guidance_scale
    assert "Mean gap \u2193" in page.read_text(encoding="utf-8")


def test_of_equal_values_the_cheaper_settings_win(tmp_path):
    def cell(steps, value, scale=2.0):
        return module.Cell(Settings(scale, (0.0, 1.0), steps), {"overall": {"value": value}}, tmp_path)

    cells = [cell(9, 0.5), cell(4, 0.5), cell(4, 0.5, scale=1.0), cell(1, 0.4)]
    assert [item.settings.calls for item in in_order(cells, "overall")] == [4, 8, 18, 2]


def test_evaluations_are_counted_as_the_sampler_makes_them(export):
    pipeline = Pipeline.load(export, "cpu")
    rows = []
    pipeline.network.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    intervals = ((0.0, 1.0), (0.3, 0.7), (0.1, 0.8))  # 1 - 9 / 10 is below 0.1 in floating point
    guided = [Settings(2.0, interval, steps) for interval in intervals for steps in (5, 10)]
    for settings in (*guided, Settings(1.0, (0.0, 1.0), 5)):
        rows.clear()
        pipeline.images(["x"], [(0, 0)], **vars(settings))
        assert sum(rows) == settings.calls
    scales, intervals = (1.0, 2.0), ((0.0, 1.0), (0.2, 0.8))
    trial = TrialConfig(metrics=("clip_score",))
    every = settings_of(SweepConfig(trial=trial, guidance_scales=scales, guidance_intervals=intervals), 7)
    assert [(s.guidance_scale, s.guidance_interval) for s in every] == [
        *((1.0, (0.0, 1.0)), (2.0, (0.0, 1.0)), (2.0, (0.2, 0.8)))
    ]


@pytest.mark.parametrize("point", ["draw", "values", "results", "export", "config", "finish"])
def test_a_killed_sweep_ends_as_one_that_was_not(tmp_path, export, renders, monkeypatch, point):
    config = config_of(renders, guidance_intervals=((0.0, 1.0),), steps=(1,))
    shutil.copytree(export, tmp_path / "other" / "export")
    sweep(tmp_path / "whole", tmp_path / "other" / "export", config)
    place, name = {
        "draw": (Pipeline, "images"),
        "values": (module.Trial, "run"),
        "results": (module, "write_json"),
        "export": (sys.modules["tessera.weights.export"], "reopen"),
        "config": (sys.modules["tessera.weights.export"], "write_json"),
        "finish": (Stage, "finish"),
    }[point]
    original, before = getattr(place, name), iter(range(99))

    def kill(*args, **more):
        if next(before) == (3 if point in ("draw", "finish") else 1 if point == "values" else 0):
            raise Killed
        return original(*args, **more)

    monkeypatch.setattr(place, name, kill)
    with pytest.raises(Killed):
        sweep(tmp_path / "sweep", export, config)
    monkeypatch.setattr(place, name, original)
    sweep(tmp_path / "sweep", export, config)
    assert tree(tmp_path / "sweep") == tree(tmp_path / "whole")
    assert tree(export) == tree(tmp_path / "other" / "export")


@pytest.mark.slow
def test_kill_minus_9_at_any_time(tmp_path, export, renders):
    shutil.copytree(export, tmp_path / "other" / "export")
    arguments = ["--reference", renders, "--metrics", "likeness", "--images", "6", "--guidance-scales", "1", "2", "3"]

    def start(out, model):
        command = [sys.executable, "-m", "tessera.cli", "sweep", model, "--out", out, *arguments, "--device", "cpu"]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    whole = start(tmp_path / "whole", tmp_path / "other" / "export")
    said, _ = whole.communicate()
    assert whole.returncode == 0, said.decode()
    for number in range(40):
        process = start(tmp_path / "sweep", export)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.2**number)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert number > 0
    assert tree(tmp_path / "sweep") == tree(tmp_path / "whole")
    assert tree(export) == tree(tmp_path / "other" / "export")


def test_a_folder_of_another_sweep_is_refused(tmp_path, export, renders):
    config = config_of(renders, guidance_scales=(1.0,), steps=(1,))
    sweep(tmp_path / "sweep", export, config)
    before = tree(tmp_path / "sweep"), tree(export)
    other = write_export(tmp_path / "other", clip_denoised=0.5)
    for changed, of in (
        (config, other),
        (replace(config, trial=replace(config.trial, images=12)), export),
        (replace(config, trial=replace(config.trial, seed=1)), export),
    ):
        with pytest.raises(UserError, match="was made otherwise: ") as error:
            sweep(tmp_path / "sweep", of, changed)
        assert "\n" not in str(error.value)
    assert (tree(tmp_path / "sweep"), tree(export)) == before


def test_settings_judged_by_another_reference_are_not_compared(tmp_path, export, renders):
    config = config_of(renders, guidance_scales=(1.0,), steps=(1,))
    sweep(tmp_path / "sweep", export, config)
    before = (export / "config.json").read_bytes()
    other = make_miniature(tmp_path / "images", seed=5)
    changed = replace(config, guidance_scales=(2.0,), trial=replace(config.trial, reference=str(other)))
    with pytest.raises(UserError, match=r"was made otherwise: .*(sha256|seed)"):
        sweep(tmp_path / "sweep", export, changed)
    assert (export / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"guidance_scales": ()}, "guidance_scales is empty; give at least one"),
        ({"guidance_scales": (float("nan"),)}, "guidance_scales is .*; give a finite number"),
        ({"guidance_intervals": ((0.7, 0.2),)}, r"guidance_intervals has \(0.7, 0.2\); give low and high in \[0, 1\]"),
        ({"guidance_intervals": ((0.0, 1.5),)}, "give low and high"),
        ({"steps": (0,)}, "steps is .*; give at least 1"),
    ],
)
def test_impossible_settings_are_refused(renders, changes, said):
    with pytest.raises(UserError, match=said):
        config_of(renders, **changes)


def test_what_is_no_export_is_refused(tmp_path, renders, export, monkeypatch):
    with pytest.raises(UserError, match="there is no such directory; give a directory made by `tessera export`"):
        sweep(tmp_path / "sweep", tmp_path / "nowhere", config_of(renders))
    with pytest.raises(UserError, match="was made by `tessera collect`"):
        sweep(tmp_path / "sweep", renders, config_of(renders))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="sweep: draws in one process"):
        sweep(tmp_path / "sweep", export, config_of(renders))
    assert not (tmp_path / "sweep").exists()


def test_only_one_sweep_works_in_a_folder(tmp_path, export, renders):
    from tessera.files import exclusive_lock

    with (
        exclusive_lock(tmp_path / "sweep", "busy"),
        pytest.raises(UserError, match="another sweep is working in this folder"),
    ):
        sweep(tmp_path / "sweep", export, config_of(renders))
