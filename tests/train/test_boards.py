"""What TensorBoard and Weights & Biases are given."""

import json
import sys
import time
import types

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tessera.config import UserError
from tessera.train.config import RuntimeOptions
from tessera.train.logs import TensorBoard, WandB, scalars
from tessera.train.loop import train
from tiny.training_sets import config_of

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


def events(folder) -> EventAccumulator:
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_files(tmp_path):
    board = TensorBoard(tmp_path, 0)
    for number in (8, 16, 24):
        board.line(number, {"loss": number / 8})
    board.image(24, np.zeros((8, 16, 3), np.uint8))
    board.close()
    time.sleep(1.1)  # files are read in the order of their names, which begin with the second
    resumed = TensorBoard(tmp_path, 16)
    resumed.line(24, {"loss": 30.0})
    resumed.close()
    found = events(tmp_path / "tensorboard")
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(8, 1.0), (16, 2.0), (24, 30.0)]


def test_a_run_is_followed(plain, tmp_path):
    train(tmp_path / "run", plain, None, config_of(augment_prob=0.0, num_images=80))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    found = events(tmp_path / "run" / "tensorboard")
    assert [e.step for e in found.Scalars("loss")] == [40, 80]
    assert [e.value for e in found.Scalars("loss")] == pytest.approx([line["loss"] for line in lines])
    assert {"grad_norm", "lr", "images_per_second", "tflops", "data_wait", "memory_gb"} <= set(found.Tags()["scalars"])


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
    """A study's arms have the names of another one's; a run that goes on is the same one, wherever its folder lies."""
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
