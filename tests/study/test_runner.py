"""Whole studies at toy size: from an empty folder, again, one cell anew, stopped and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tessera.cli.workflow import _seconds
from tessera.config import UserError
from tessera.evaluate.miniature.likeness import LikenessConfig
from tessera.study.design import cells, resized
from tessera.study.runner import _follow, _jobs, run_study
from tessera.study.studies import load_study
from tiny.chromium import check_file

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TESSERA_QUIET"}
TOY = """
from dataclasses import replace
from tessera.evaluate.miniature.likeness import LikenessConfig
from tessera.presets.miniature import SMALL_DIT
from tessera.study.design import Study, Variant
from tessera.study.variants import retrained, with_ia
from tessera.study.studies import claims_smoke

def config(images):
    def shorter(train):
        return replace(train, num_images=images, checkpoint_every_images=32, log_every_images=32,
                       optim=replace(train.optim, decay="constant"))
    base = retrained(claims_smoke().variants[1].config, shorter)
    world = replace(base.collect.world, num_images=40)
    return replace(base, collect=replace(base.collect, world=world), prompts=replace(base.prompts, per_task=1),
                   evaluate=replace(base.evaluate, judge_renders=10))

def toy():
    return Study(name="toy", title="A <toy>", question="Does it run?", seeds=(0,), axis="images",
                 likeness=LikenessConfig(prompts=4, references=20), variants=(
        Variant(name="ta-64", config=config(64), value=64),
        Variant(name="ta-128", config=config(128), value=128, follows="ta-64"),
        Variant(name="ia-128", config=with_ia(config(128)), against="ta-128", value=128),
    ))

def sizes():
    few, more = (replace(config(64), collect=replace(config(64).collect, world=replace(
        config(64).collect.world, num_images=n))) for n in (12, 40))
    return replace(toy(), name="sizes", copies=True, scores=("copies", "overall"), variants=(
        Variant(name="ta-12", config=few, value=12), Variant(name="ta-40", config=more, value=40, against="ta-12"),
        Variant(name="ta_ia-12", config=with_ia(few), value=12)))

def chain():
    short, long = (retrained(with_ia(config(images), start=0), lambda train: replace(train, seam_margin=1,
                   validation_records=8)) for images in (64, 128))
    return replace(toy(), name="chain", axis=None, likeness=None, variants=(
        Variant(name="ia-64", config=short), Variant(name="ia-128", config=long, follows="ia-64")))

def straight():
    study = toy()
    return replace(study, name="straight", variants=(replace(study.variants[1], follows=None),))
"""


def start(*args):
    command = [sys.executable, "-m", "tessera.cli", "study", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def study(*args, code=0):
    process = start(*args)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out + err


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "toy.py").write_text(TOY)
    said = study(f"{folder / 'toy.py'}:toy", "--out", folder / "out")
    return folder, said


def test_a_whole_study(toy):
    folder, said = toy
    page = folder / "out" / "toy" / "report" / "index.html"
    assert said.startswith((folder / "out" / "toy" / "table.md").read_text())
    assert f"Report: {page}" in said.splitlines()
    text = page.read_text()
    assert "A &lt;toy&gt;" in text
    assert "<toy>" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    found = json.loads((folder / "out" / "toy" / "results.json").read_text())
    assert found["missing"] == []
    assert set(found["cells"]) == {"ta-64-seed0", "ta-128-seed0", "ia-128-seed0"}
    assert found["plan"] == json.loads((folder / "out" / "toy" / "plan.json").read_text())
    table = found["tables"]["extended"]
    assert list(table["differences"]) == ["ia-128 - ta-128"]
    assert table["arms"]["ia-128"]["scores"]["overall"]["prompts"] == 6
    assert table["judge"]["one_object"] > 0.8
    assert set(found["likeness"]["arms"]) == {"ta-64", "ta-128", "ia-128"}
    assert found["likeness"]["arms"]["ta-64"]["value"] > found["likeness"]["floor"]
    speed = json.loads((folder / "out" / "toy" / "speed.json").read_text())
    assert speed["ia-128-seed0"]["num_images"] == 128
    assert len(list((folder / "out" / "data").glob("images-*"))) == 1  # cells share what they have in common


@pytest.mark.slow
def test_a_study_of_the_number_of_images_counts_copies_of_each_set(tmp_path):
    (tmp_path / "toy.py").write_text(TOY)
    study(f"{tmp_path / 'toy.py'}:sizes", "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "sizes" / "results.json").read_text())
    table = found["tables"]["extended"]
    assert 0 <= table["arms"]["ta-12"]["scores"]["copies"]["value"] <= 1
    assert table["differences"]["ta-40 - ta-12"]["scores"]["copies"]["low"] >= -1
    assert set(found["likeness"]["arms"]) == {"ta-12", "ta-40", "ta_ia-12"}
    assert len(list((tmp_path / "out" / "data").glob("images-*"))) == 2
    assert "Copies" in (tmp_path / "out" / "sizes" / "table.md").read_text()
    assert "training images" not in found["plan"]["scores"]


def manifest(cells: Path, arm: str, images: int) -> str:
    """Bytes of the manifest of the run of `images` images."""
    (found,) = [
        path
        for path in cells.glob(f"{arm}-*/runs/*/manifest.json")
        if json.loads(path.read_text())["counts"]["num_images"] == images
    ]
    return found.read_text()


def test_a_cell_that_goes_on_from_another_is_as_if_trained_in_one_go(toy, tmp_path):
    folder, _ = toy
    # The same configuration, so the same name: in a folder of its own.
    assert run_study(load_study(f"{folder / 'toy.py'}:straight"), tmp_path) == []
    assert manifest(tmp_path / "cells", "ta", 128) == manifest(folder / "out" / "cells", "ta", 128)
    whole, continued = (
        json.loads((place / name / "results.json").read_text())["cells"]["ta-128-seed0"]
        for place, name in ((tmp_path, "straight"), (folder / "out", "toy"))
    )
    assert whole == continued


@pytest.mark.slow
def test_again_nothing_is_done_and_one_cell_anew_gives_the_same(toy, capfd, monkeypatch):
    monkeypatch.delenv("TESSERA_QUIET", raising=False)
    folder, _ = toy
    ours = load_study(f"{folder / 'toy.py'}:toy")
    results = (folder / "out" / "toy" / "results.json").read_bytes()
    logs = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.log")}
    assert run_study(ours, folder / "out") == []
    assert "0/0" not in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.log")} == logs
    (cell,) = (folder / "out" / "cells").glob("ta_ia-*")
    shutil.rmtree(cell)
    assert run_study(ours, folder / "out", arms=["ia-128"]) == []
    assert (folder / "out" / "toy" / "results.json").read_bytes() == results


def test_what_was_fixed_cannot_be_changed_afterwards(toy):
    folder, _ = toy
    ours = load_study(f"{folder / 'toy.py'}:toy")
    with pytest.raises(UserError, match=r"was made otherwise: .*num_images: the directory has 128, this call has 256"):
        run_study(resized(ours, 256), folder / "out")
    with pytest.raises(UserError, match="ta-128 continues ta-64; name that arm too"):
        run_study(ours, folder / "out", arms=["ta-128"])
    with pytest.raises(UserError, match="parallel is 0"):
        run_study(ours, folder / "out", parallel=0)
    run_study(ours, folder / "planned", seeds=[7], only_plan=True)
    run_study(ours, folder / "planned", seeds=[3], only_plan=True)  # more seeds may come later
    assert json.loads((folder / "planned" / "toy" / "plan.json").read_text())["seeds"] == [0, 7, 3]


@pytest.mark.slow
def test_what_goes_on_has_the_borders_of_its_mixes_and_the_best_of_before(toy, tmp_path):
    folder, _ = toy
    ours = load_study(f"{folder / 'toy.py'}:chain")
    assert run_study(ours, tmp_path / "chain") == []
    alone = replace(ours, variants=(replace(ours.variants[1], follows=None),))
    assert run_study(alone, tmp_path / "alone") == []
    runs = [manifest(tmp_path / name / "cells", "ta_ia", 128) for name in ("chain", "alone")]
    assert runs[0] == runs[1]
    assert json.loads(runs[0])["facts"]["best"]["num_images"] <= 128


def test_a_cell_of_studies_with_and_without_copies_is_trained_once_and_judged_for_both(toy, tmp_path):
    folder, _ = toy
    shutil.copytree(folder / "out", tmp_path / "out")
    ours = load_study(f"{folder / 'toy.py'}:straight")
    cells_before = sorted(path.name for path in (tmp_path / "out" / "cells").iterdir())
    scores = manifest_of_scores(tmp_path / "out")
    counted = replace(ours, name="counted", copies=True, scores=("copies", "overall"))
    assert run_study(counted, tmp_path / "out") == []
    assert "Copies" in (tmp_path / "out" / "counted" / "table.md").read_text()
    more = replace(ours, name="more", kinds=("extended", "short"))
    assert run_study(more, tmp_path / "out") == []
    assert sorted(path.name for path in (tmp_path / "out" / "cells").iterdir()) == cells_before
    assert manifest_of_scores(tmp_path / "out") == scores


def manifest_of_scores(out: Path) -> list[bytes]:
    """Manifests of all scores of extended prompts without copies."""
    return [path.read_bytes() for path in sorted(out.glob("cells/*/scores/*/extended/manifest.json"))]


def test_budgets_that_are_too_small_to_differ_are_one_cell_that_others_wait_for(tmp_path):
    tiny = resized(load_study("overfit"), 96)  # of 8k, 16k, 32k and 64k images there are 32, 32, 64 and 96 left
    jobs = _jobs(tiny, tmp_path, cells(tiny, ["ta-8k", "ta-16k", "ta-32k", "ta-64k"]))
    assert [(job.name, job.after) for job in jobs] == [
        ("ta-8k-seed0", None),
        ("ta-32k-seed0", "ta-8k-seed0"),
        ("ta-64k-seed0", "ta-32k-seed0"),
    ]


def test_a_cell_killed_while_it_takes_over_another_one_has_all_of_that_one(toy, tmp_path, monkeypatch):
    folder, _ = toy
    first, *_ = cells(load_study(f"{folder / 'toy.py'}:toy"))
    before, run = folder / "out" / "cells" / first.folder / "runs" / "ta", tmp_path / "runs" / "ta"

    def killed(_source, to):
        to.mkdir(parents=True)
        (to / "manifest.json").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", killed)
        with pytest.raises(KeyboardInterrupt):
            _follow(run, before)
    _follow(run, before)
    names = [sorted(str(path.relative_to(place)) for path in place.rglob("*")) for place in (run, before)]
    assert names[0] == names[1]
    assert (run / "log.jsonl").read_bytes() == (before / "log.jsonl").read_bytes()


def test_a_distance_that_another_study_measured_otherwise_is_not_taken(toy):
    folder, _ = toy
    ours = load_study(f"{folder / 'toy.py'}:toy")
    other = replace(ours, name="other", likeness=LikenessConfig(prompts=4, references=30))
    with pytest.raises(UserError, match=r"held_out: was made otherwise: references: the directory has 20, this call"):
        run_study(other, folder / "out")


@pytest.mark.parametrize(("said", "seconds"), [("90s", 90), ("1.5m", 90), ("2h", 7200)])
def test_times(said, seconds):
    assert _seconds(said) == seconds


@pytest.mark.parametrize("said", ["5", "m", "-3m", "0s", "nanm", "infh", "3d"])
def test_no_times(said):
    with pytest.raises(UserError, match="give a time such as 90s"):
        _seconds(said)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of `claims` at smoke size with one of its two seeds, in one go."""
    folder = tmp_path_factory.mktemp("claims")
    study("claims-smoke", "--seeds", 0, "--out", folder)
    return folder


@pytest.mark.slow
def test_claims_at_smoke_size(whole):
    found = json.loads((whole / "claims-smoke" / "results.json").read_text())
    assert found["missing"] == ["aio-seed1", "ta-seed1", "ta_ia-seed1"]
    for kind in ("extended", "short"):
        assert list(found["tables"][kind]["arms"]) == ["aio", "ta", "ta_ia"]
        assert list(found["tables"][kind]["differences"]) == ["ta - aio", "ta_ia - ta"]
    assert "3 of 6 cells are done." in (whole / "claims-smoke" / "table.md").read_text()


@pytest.mark.slow
def test_claims_at_smoke_size_stopped_killed_and_gone_on_with(whole, tmp_path):
    other = tmp_path / "other"
    said = study("claims-smoke", "--seeds", 0, "--budget", "3s", "--out", other)
    assert "cells are not done; run the same command to resume" in said
    process = start("claims-smoke", "--seeds", 0, "--out", other)
    end = time.monotonic() + 120
    while not list(other.glob("cells/ta_ia-*/runs/*/checkpoints/*")):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    study("claims-smoke", "--seeds", 0, "--out", other)
    assert (other / "claims-smoke" / "results.json").read_bytes() == (
        whole / "claims-smoke" / "results.json"
    ).read_bytes()


def test_the_page_for_everybody(browser, toy):
    """On a phone and at a desk, light and dark, by keyboard, read out; nothing is asked of the network."""
    check_file(browser, toy[0] / "out" / "toy" / "report" / "index.html")
