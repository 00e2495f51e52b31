"""The study of real drawings."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tessera.evaluate.drawings.evaluate import METRIC
from tessera.prompts.miniature import PromptConfig
from tessera.study.design import plan
from tessera.study.real_images import drawings
from tessera.study.runner import run_cell, run_study
from tiny.emoji import cache_in, tiny_emoji


def test_rows_differ_in_captions_and_mixes_alone():
    aio, ta, ta_ia = (variant.config.arms[0].train for variant in drawings().variants)
    assert aio.caption_mix == {"short": 1.0}
    assert replace(aio, caption_mix=ta.caption_mix) == ta
    assert ta_ia.augment_prob == 0.5
    assert replace(ta_ia, augment_prob=0.0) == ta
    assert plan(drawings())["metric"] == METRIC


@pytest.mark.slow
def test_every_arm_is_trained_and_judged_on_tiny_packages(tmp_path, monkeypatch):
    cache_in(tmp_path / "cache", monkeypatch)
    tiny_emoji(monkeypatch)
    small, out = _tiny(), tmp_path / "out"
    monkeypatch.setattr("tessera.study.runner.run_jobs", _in_this_process)
    assert run_study(small, out) == []
    found = json.loads((out / "drawings" / "results.json").read_text())
    assert found["missing"] == []
    for kind in small.kinds:
        assert list(found["tables"][kind]["arms"]) == ["aio", "ta", "ta_ia"]
        assert found["tables"][kind]["protocol"]["name"] == METRIC
        assert found["tables"][kind]["judge"]["scenes"] == 12
    assert "data:image/png" in (out / "drawings" / "report" / "index.html").read_text()
    assert "| Overall" in (out / "drawings" / "table.md").read_text()
    assert len(list((out / "data").glob("judge-*"))) == 1
    assert len(list((out / "data").glob("encoded-*"))) == 2


def _in_this_process(jobs, *_, **__):
    for job in jobs:
        run_cell(Path(job.args[0]), job.args[1], json.loads(job.args[2]))
    return []


def _tiny():
    study = drawings()
    return replace(study, variants=tuple(replace(v, config=_small(v.config)) for v in study.variants), seeds=(0,))


def _small(config):
    concepts = ("banana", "cat", "ox")
    judge = replace(config.judge, concepts=concepts, scenes=64, steps=20, tested=12, width=4)
    (arm,) = config.arms
    optim = replace(arm.train.optim, cooldown_images=32, warmup_images=32)
    model = replace(arm.train.model, text_width=64, width=32, depth=1, heads=2, refiner_depth=1)
    train = replace(arm.train, num_images=96, checkpoint_every_images=96, log_every_images=32, optim=optim, model=model)
    return replace(
        config,
        emoji=replace(config.emoji, styles=("noto", "twemoji"), concepts=concepts),
        encode=replace(config.encode, text="words:64"),
        judge=judge,
        arms=(replace(arm, train=train),),
        export=replace(config.export, sampling_steps=2),
        prompts=PromptConfig(per_task=2),
    )
