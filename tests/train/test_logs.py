"""Lines of the log, and what TensorBoard and Weights & Biases get of them."""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.util.tensor_util import make_ndarray

from tessera.config import UserError
from tessera.train.config import RuntimeOptions
from tessera.train.logs import SECONDS, Log, TensorBoard, WandB, peak_memory, scalars
from tessera.train.loop import train
from tessera.train.optim.config import OptimConfig
from tiny.runs import before_step, log_of, stop_at
from tiny.training_sets import config_of


def add(log, losses, t, augmented, norm):
    log.window.add(np.array(losses), np.array(t), np.array(augmented), norm)


def test_a_line_holds_the_averages(tmp_path):
    log = Log(tmp_path / "log.jsonl", 0, None)
    add(log, [1.0, 3.0], [0.1, 0.9], [False, True], 2.0)
    add(log, [5.0, 7.0], [0.2, 0.999999], [False, False], 4.0)
    log.write(4, 0.001)
    add(log, [1.0], [0.25], [False], 1.0)
    log.write(5, 0.002)
    first, second = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert first["loss"] == 4.0
    assert first["loss_by_t"] == [3.0, None, None, 5.0]
    assert first["grad_norm"] == 3.0
    assert first["augmented_share"] == 0.25
    assert (first["num_images"], first["lr"]) == (4, 0.001)
    assert second["loss_by_t"] == [None, 1.0, None, None]  # a fresh start
    assert second["seconds"] >= first["seconds"] >= 0


def test_a_resumed_log_drops_what_comes_later_and_half_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path, 0, None)
    for number in (10, 20, 30):
        add(log, [float(number)], [0.5], [False], 1.0)
        log.write(number, 0.1)
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:2]) + whole[2][:25])  # killed while it wrote the third line
    Log(path, 20, None)
    assert path.read_text() == "".join(whole[:2])
    Log(path, 15, None)
    assert path.read_text() == whole[0]


def test_the_time_between_a_line_and_a_stop_counts(plain, tmp_path, monkeypatch):
    config = config_of(augment_prob=0.0, log_every_images=10_000)
    for stops in (True, True, False):
        with monkeypatch.context() as patch:

            def wait(number, stops=stops):
                time.sleep(0.1)
                if stops and number == 4:
                    os.kill(os.getpid(), signal.SIGTERM)

            before_step(patch, wait)
            with pytest.raises(KeyboardInterrupt) if stops else contextlib.nullcontext():
                train(tmp_path / "run", plain, None, config)
        assert (tmp_path / "run" / SECONDS).exists() == stops
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert line["seconds"] > 20 * 0.1


def test_the_time_of_another_checkpoint_is_not_taken(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"num_images": 10, "seconds": 5.0}\n')
    (tmp_path / SECONDS).write_text('{"num_images": 16, "seconds": 9.0}\n')
    assert Log(path, 16, None).seconds_at(time.monotonic()) >= 9
    assert 5 <= Log(path, 10, None).seconds_at(time.monotonic()) < 9


def test_a_window_goes_through_json(tmp_path):
    log = Log(tmp_path / "a.jsonl", 0, None)
    add(log, [0.1, 0.7], [0.3, 0.6], [True, False], 0.3)
    kept = json.loads(json.dumps(log.window.sums))
    resumed = Log(tmp_path / "b.jsonl", 2, kept)
    for one in (log, resumed):
        add(one, [1 / 3], [0.3], [True], 0.1)
    assert resumed.window.line() == log.window.line()


def test_speed_by_formula(tmp_path, monkeypatch):
    clock = iter([100.0, 102.0, 103.0])
    monkeypatch.setattr("tessera.train.logs.time.monotonic", lambda: next(clock))
    log = Log(tmp_path / "log.jsonl", 0, None)
    log.tokens, log.texts, log.data_wait = 1900, 10, 0.5
    line = log.write(400, 0.1, {"validation": {"loss": 0.5}}, flops=1.9e11, peak=790.0)
    assert (line["seconds"], line["images_per_second"], line["data_wait"]) == (2.0, 200.0, 0.25)
    assert line["tflops"] == 38.0  # 190 GFLOP 200 times a second
    assert line["bf16_peak_share"] == 0.0481
    assert line["validation"] == {"loss": 0.5}
    assert 0.05 < line["memory_gb"] < 100
    assert (log.tokens, log.texts) == (0, 0)  # a fresh stretch
    assert "tflops" not in log.write(500, 0.1)


def test_memory_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert peak_memory() == 0


def test_nothing_seen_is_none(tmp_path):
    line = Log(tmp_path / "log.jsonl", 0, None).write(8, 0.1)
    assert line["loss"] is None
    assert line["grad_norm"] is None


LINE = {
    "num_images": 40,
    "loss": 0.5,
    "grad_norm": None,
    "loss_by_t": [0.1, None, 0.3, 0.4],
    "validation_ema": {"loss": 0.25, "loss_by_t": [None, 0.2, None, None]},
}


def test_a_line_as_named_numbers():
    assert scalars(LINE) == {
        "loss": 0.5,
        "loss_by_t/t_0_to_0.25": 0.1,
        "loss_by_t/t_0.5_to_0.75": 0.3,
        "loss_by_t/t_0.75_to_1": 0.4,
        "validation_ema/loss": 0.25,
        "validation_ema/loss_by_t/t_0.25_to_0.5": 0.2,
    }


def curves(folder) -> dict[str, dict[str, list]]:
    """Curve -> name -> its (step, value), as TensorBoard shows them: every point of every file of a folder."""
    shown = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    return {
        run: {
            name: [(e.step, float(make_ndarray(e.tensor_proto))) for e in shown.Tensors(run, name)]
            for name in tags["tensors"]
            if name != "samples"
        }
        for run, tags in shown.Runs().items()
    }


def write_board(run, start, steps, factor=1.0) -> None:
    board = TensorBoard(run, start)
    for step in steps:
        board.line(step, {"loss": factor * step})
    board.close()


def test_tensorboard_files(tmp_path):
    board = TensorBoard(tmp_path, 0)
    for number in (8, 16, 24):
        board.line(number, {"loss": number / 8})
    board.image(24, np.zeros((8, 16, 3), np.uint8))
    board.close()
    assert curves(tmp_path) == {"tensorboard/000000000000": {"loss": [(8, 1.0), (16, 2.0), (24, 3.0)]}}
    assert (tmp_path / "tensorboard" / "000000000000").is_dir()


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ([(0, 8, 16, 24), (16, 24, 32)], {0: [8, 16, 24], 16: [24, 32]}),  # stopped after a checkpoint at 16
        ([(0, 8), (0, 8, 16)], {"0-2": [8, 16]}),  # killed before its first checkpoint
        ([(0, 8, 16, 24), (16, 24), (16, 24, 32)], {0: [8, 16, 24], "16-2": [24, 32]}),  # twice at the same place
        ([(0, 8, 16), (16, 24, 32), (32, 40), (16, 24)], {0: [8, 16], "16-2": [24]}),  # its newest checkpoints deleted
        ([(0,), (0, 8), (0, 8), (0, 8)], {"0-4": [8]}),
        ([(0, 8, 16), (16, 24), (0, 8, 16, 24), (16, 24)], {"0-2": [8, 16, 24], 16: [24]}),
    ],
)
def test_no_point_is_there_twice_after_a_resume(tmp_path, starts, expected):
    for number, (start, *steps) in enumerate(starts):
        write_board(tmp_path, start, steps, factor=1 + number)
    found = curves(tmp_path / "tensorboard")
    assert {run.lstrip("0"): [step for step, _ in values["loss"]] for run, values in found.items()} == {
        str(run).lstrip("0"): steps for run, steps in expected.items()
    }
    assert all(value == len(starts) * step for step, value in found[max(found)]["loss"])


def test_an_open_tensorboard_follows_a_start_that_is_repeated(tmp_path):
    """The loader by Python, which serves where there is no TensorBoard data server, knows the files of a name."""
    shown = EventMultiplexer()

    def values() -> dict[str, list[float]]:
        shown.AddRunsFromDirectory(str(tmp_path)).Reload()
        return {run: [float(make_ndarray(e.tensor_proto)) for e in shown.Tensors(run, "loss")] for run in shown.Runs()}

    write_board(tmp_path, 0, [8, 16])
    assert values() == {"tensorboard/000000000000": [8, 16]}
    write_board(tmp_path, 0, [8, 16, 24], factor=2)
    assert values() == {"tensorboard/000000000000-2": [16, 32, 48]}
    write_board(tmp_path, 0, [8], factor=3)
    assert values() == {"tensorboard/000000000000-3": [24]}


def test_what_others_put_beside_the_events_stays(tmp_path):
    names = ("notes.txt", "12/events", "profile/trace.json", "000000000008-mine/events")
    for name in names:
        (tmp_path / "tensorboard" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tensorboard" / name).write_text("mine")
    write_board(tmp_path, 0, [8])
    assert all((tmp_path / "tensorboard" / name).exists() for name in names)


def test_a_run_is_followed(plain, tmp_path, monkeypatch):
    config = config_of(augment_prob=0.0, num_images=80)
    with monkeypatch.context() as patch:
        stop_at(patch, 6)  # after the line at 40: it resumes at 64
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", plain, None, config)
    train(tmp_path / "run", plain, None, config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    found = curves(tmp_path / "run" / "tensorboard")
    assert list(found) == ["000000000000", "000000000064"]
    points = [point for curve in found.values() for point in curve["loss"]]
    assert points == [(n, pytest.approx(line["loss"])) for n, line in zip((40, 80), lines, strict=True)]
    assert {"grad_norm", "lr", "images_per_second", "tflops", "data_wait", "memory_gb"} <= set(found["000000000064"])


def test_a_run_is_followed_through_resumes_of_resumes(plain, tmp_path, monkeypatch):
    """Stopped twice, set back to an earlier checkpoint and extended: the last start's points are the log's lines."""
    run, config = tmp_path / "run", config_of(augment_prob=0.0, num_images=80, optim=OptimConfig(decay="constant"))
    config = replace(config, log_every_images=8, keep_checkpoints=9)
    for step in (3, 2):  # it stops after the checkpoints at 40 and 72
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(KeyboardInterrupt):
                train(run, plain, None, config)
    assert set(curves(run / "tensorboard")) == {"000000000000", "000000000040"}
    shutil.rmtree(run / "checkpoints" / f"{72:012d}")
    train(run, plain, None, config)
    train(run, plain, None, replace(config, num_images=120), extend=True)
    found = curves(run / "tensorboard")
    assert sorted(found) == ["000000000000", "000000000040-2", "000000000080"]
    points = [step for start in sorted(found) for step, _ in found[start]["loss"]]
    assert points == [line["num_images"] for line in log_of(run)] == list(range(8, 121, 8))


def test_weights_and_biases_if_asked(plain, tmp_path, monkeypatch):
    calls = []

    class Session:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finished")

    fake = types.ModuleType("wandb")
    fake.init = lambda **options: calls.append(options) or Session()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = config_of(augment_prob=0.0, num_images=80)
    train(tmp_path / "run", plain, None, config, runtime=RuntimeOptions(wandb="project"))
    assert (calls[0]["project"], calls[0]["name"]) == ("project", "run")
    assert calls[0]["config"]["batch_size"] == 8
    assert [step for step, _ in calls[1:-1]] == [40, 80]
    assert calls[-1] == "finished"


def test_runs_of_one_name_are_not_mixed_up(tmp_path, monkeypatch):
    """A study's arms have the names of another one's; a resumed run is the same one, wherever its folder lies."""
    fake, seen = types.ModuleType("wandb"), []
    fake.init = lambda **options: seen.append((options["name"], options["id"]))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for study in ("a", "b"):
        (tmp_path / study / "ta_ia").mkdir(parents=True)
        WandB(tmp_path / study / "ta_ia", "project", {})
    (tmp_path / "a").rename(tmp_path / "moved")
    WandB(tmp_path / "moved" / "ta_ia", "project", {})
    assert [name for name, _ in seen] == ["ta_ia"] * 3
    assert seen[0][1] == seen[2][1] != seen[1][1]


def test_weights_and_biases_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        WandB(tmp_path, "project", {})


def test_scores_have_lines_of_their_own(tmp_path):
    """They do not hide how long the run has trained, and are known again."""
    path = tmp_path / "log.jsonl"
    lines = [{"num_images": 8, "loss": 1.0, "seconds": 5.0}, {"num_images": 6, "scores": {"fid": 3.0}}]
    lines += [{"num_images": 12, "scores": None, "failed": "x"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = Log(path, 8, None)
    assert log.scored == {6}
    assert log.write(16, 0.1)["seconds"] >= 5.0
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["num_images"] for line in kept] == [8, 6, 16]


def test_scores_of_fewer_images_do_not_turn_steps_back(tmp_path, monkeypatch):
    """Weights & Biases drops what has a smaller step than the last line."""
    calls = []
    fake = types.ModuleType("wandb")
    session = types.SimpleNamespace(log=lambda values, **more: calls.append((values, more)))
    fake.init = lambda **options: session  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    board = WandB(tmp_path, "project", {})
    board.line(80, {"loss": 1.0})
    board.scores(40, {"scores/fid": 3.0})
    assert calls[0] == ({"loss": 1.0, "num_images": 80}, {"step": 80})
    assert calls[1] == ({"scores/fid": 3.0, "scores/num_images": 40}, {})
