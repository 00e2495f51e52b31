"""The lines of log.jsonl and what a resumed run keeps of them."""

import json

import numpy as np

from tessera.train.logs import Log


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
    line = log.write(400, 0.1, {"validation": {"loss": 0.5}}, flops=lambda tokens: 1e9 * tokens, peak=790.0)
    assert (line["seconds"], line["images_per_second"], line["data_wait"]) == (2.0, 200.0, 0.25)
    assert line["tflops"] == 38.0  # 190 GFLOP 200 times a second
    assert line["bf16_peak_share"] == 0.0481
    assert line["validation"] == {"loss": 0.5}
    assert 0.05 < line["memory_gb"] < 100
    assert "tflops" not in log.write(500, 0.1, flops=lambda tokens: tokens)  # a fresh stretch: no text was seen


def test_nothing_seen_is_none(tmp_path):
    line = Log(tmp_path / "log.jsonl", 0, None).write(8, 0.1)
    assert line["loss"] is None
    assert line["grad_norm"] is None
