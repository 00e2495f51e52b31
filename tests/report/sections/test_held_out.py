"""The loss on held-out images: where the EMA was best, a panel for each quarter of t, and what is left out."""

import json

import pytest

from tessera.report.arms import describe_arms
from tessera.report.sections import held_out as section
from tessera.report.sections.held_out import held_out

TA, TA_IA = describe_arms(["ta", "ta_ia"])


def write_log(path, ema, weights=None):
    lines = [{"num_images": 100, "loss": 1.0}]
    for n, (a, b) in enumerate(zip(weights or ema, ema)):
        quarters = [None if x is None else x * q for x in (a, b) for q in (1, 2, 3, 4)]
        both = {
            "validation": {"loss": a, "loss_by_t": quarters[:4]},
            "validation_ema": {"loss": b, "loss_by_t": quarters[4:]},
        }
        lines.append({"num_images": 1000 * (n + 1), "loss": 1.0, **both})
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"num_im')
    return path


@pytest.fixture
def drawn(monkeypatch):
    """The panels that were drawn."""
    found, original = [], section.loss_panels
    monkeypatch.setattr(section, "loss_panels", lambda panels, alt: found.append(panels) or original(panels, alt))
    return found


def test_weights_and_ema_by_quarters_of_t(tmp_path, drawn):
    first = write_log(tmp_path / "a.jsonl", [0.5, 0.25, None, 0.275], weights=[0.6, 0.2, 0.3, 0.4])
    second = write_log(tmp_path / "b.jsonl", [0.5, 0.4])
    found = held_out([(TA, first), (TA_IA, second)])
    assert found.lines == [
        "TA: the EMA's loss is lowest after 2,000 images, 0.25; at the end it is 10.0% higher.",
        "TA+IA: the EMA's loss is lowest after 2,000 images, 0.4.",
    ]
    (panels,) = drawn
    assert list(panels) == ["All t", "t 0 to 0.25", "t 0.25 to 0.5", "t 0.5 to 0.75", "t 0.75 to 1"]
    for title, curves in panels.items():
        assert [curve.arm for curve in curves] == ["TA, weights", "TA, EMA", "TA+IA, weights", "TA+IA, EMA"], title
    weights, ema, *_ = panels["t 0.25 to 0.5"]
    assert (weights.x, weights.y) == ((1000, 2000, 3000, 4000), (1.2, 0.4, 0.6, 0.8))
    assert (ema.x, ema.y) == ((1000, 2000, 4000), (1.0, 0.5, 0.55))
    assert found.plot.count("<svg") == 2
    assert "TA+IA, EMA" in found.plot


def test_runs_without_held_out_images_are_left_out(tmp_path, drawn):
    (tmp_path / "log.jsonl").write_text('{"num_images": 8, "loss": 1.0}\n')
    assert held_out([(TA, tmp_path / "log.jsonl"), (TA_IA, tmp_path / "none.jsonl")]) is None
    nothing = write_log(tmp_path / "nan.jsonl", [None, None])
    assert held_out([(TA, nothing)]) is None
    one = held_out([(TA, tmp_path / "log.jsonl"), (TA_IA, write_log(tmp_path / "b.jsonl", [0.5]))])
    assert len(one.lines) == 1
