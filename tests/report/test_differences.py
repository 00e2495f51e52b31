"""Paired differences of distances: from two folders of images to the report, and why there are none."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluate.quality.test_evaluate import SMALL, nets, write_samples
from tessera import metrics
from tessera.config import UserError
from tessera.evaluate.intervals import paired_difference
from tessera.evaluate.quality.evaluate import evaluate_quality
from tessera.evaluate.quality.metrics import QualityConfig
from tessera.evaluate.scores import LeftOutBlocks, Number, Protocol, Scores, read_scores, write_scores
from tessera.report.differences import pairs_of
from tessera.report.measured import measured_tables
from tessera.report.scores_page import report_scores
from tiny.chromium import check_file

DISTANCES = ("fid", "kid", "fd_dinov2", "cmmd", "density/paper", "density/full", "coverage/dgm-eval")


def measured(
    tmp_path: Path, name: str, samples: Path, reference: Path, config: QualityConfig = SMALL, **more
) -> Scores:
    evaluate_quality(tmp_path / name, samples, reference, nets(), config, cache=tmp_path / "cache", name=name, **more)
    return read_scores(tmp_path / name)


def test_two_models_on_the_same_prompts_have_paired_differences(tmp_path):
    reference = write_samples(tmp_path / "r", 1, 30)
    folders = [write_samples(tmp_path / f"s{seed}", seed, 40) for seed in (0, 2)]
    a, b = (measured(tmp_path, name, folder, reference) for name, folder in zip("ab", folders))
    for metric in DISTANCES:
        found, numbers = paired_difference(a, b, metric), [scores.number(metric) for scores in (a, b)]
        assert found.value == numbers[1].value - numbers[0].value
        assert found.low < found.value < found.high
    assert paired_difference(a, b, "clip_score").value == pytest.approx(
        b.number("clip_score").value - a.number("clip_score").value
    )

    def features(directory):
        files = sorted(directory.glob("*/samples/*.png"))
        return np.stack([np.asarray(Image.open(f))[::4, ::4].reshape(-1)[:24] / np.float32(255) + 0.5 for f in files])

    texts = [json.loads(f.read_text())["text"] for f in sorted(folders[0].glob("*/metadata.jsonl"))]
    blocks, real = metrics.deal_blocks(np.repeat(texts, 2)), features(reference)
    for scores, folder in zip((a, b), folders):
        kept, fake = scores.number("fid").left_out, features(folder)
        assert kept.sizes == (4,) * 20
        expected = [metrics.frechet_distance(real, fake[blocks != block]) for block in range(20)]
        np.testing.assert_allclose(kept.values, expected, rtol=1e-6)
    assert a.number("fid").left_out.dealt == b.number("kid").left_out.dealt
    assert a.number("clip_score").left_out is None


def test_what_metrics_are_asked_for_is_no_other_protocol(tmp_path):
    """The prompts that were drawn are in every protocol, also where no metric reads captions."""
    reference, samples = write_samples(tmp_path / "r", 1), write_samples(tmp_path / "s", 0, 20)
    other = write_samples(tmp_path / "s2", 2, 20)
    a = measured(tmp_path, "a", samples, reference)
    b = measured(tmp_path, "b", other, reference, QualityConfig(metrics=("fid",)))
    assert paired_difference(a, b, "fid").value == b.number("fid").value - a.number("fid").value


def test_who_does_not_pair_is_told_why(tmp_path):
    only = QualityConfig(metrics=("fid",))
    reference, samples = write_samples(tmp_path / "r", 1, 20), write_samples(tmp_path / "s", 0, 24)
    a = measured(tmp_path, "a", samples, reference, only)
    with pytest.raises(UserError, match="the difference is the same without any of the blocks"):
        paired_difference(a, a, "fid")

    other = write_samples(tmp_path / "other", 2, 24)
    for path in other.glob("*/metadata.jsonl"):
        path.write_text(path.read_text().replace("a red fox", "a green fox"))
    prompts = measured(tmp_path, "prompts", other, reference, only)
    with pytest.raises(UserError, match=r"the protocols differ \(prompts_sha256"):
        paired_difference(a, prompts, "fid")
    with pytest.raises(UserError, match="a and prompts drew other prompts"):
        paired_difference(a, prompts, "fid", force=True)

    second = measured(tmp_path, "ref", samples, write_samples(tmp_path / "r2", 5, 20), only)
    with pytest.raises(UserError, match=r"the protocols differ \(reference"):
        paired_difference(a, second, "fid")
    forced = paired_difference(a, second, "fid", force=True)
    assert forced.value == second.number("fid").value - a.number("fid").value

    seeded = measured(tmp_path, "seed", samples, reference, replace(only, seed=1))
    with pytest.raises(UserError, match="dealt by another seed"):
        paired_difference(a, seeded, "fid")

    few = measured(tmp_path, "few", write_samples(tmp_path / "s19", 0, 19), reference, only)
    with pytest.raises(UserError, match="few has no interval: 19 prompts, at least 20 are needed"):
        paired_difference(few, few, "fid")

    (tmp_path / "loose").mkdir()
    for number, path in enumerate(sorted(samples.glob("*/samples/*.png"))):
        (tmp_path / "loose" / f"{number:03d}.png").write_bytes(path.read_bytes())
    loose = measured(tmp_path, "unknown", tmp_path / "loose", reference, only)
    with pytest.raises(UserError, match="the prompts of unknown are not known; give them by --prompts"):
        paired_difference(loose, loose, "fid")


def distances(name: str, seed: int, dealt: str | None = "d" * 64, **values: float) -> Scores:
    """Of a model whose numbers rise and fall with those of all others, block by block, by and large."""
    shared, own = np.random.default_rng(0).normal(size=20), 0.1 * np.random.default_rng(seed).normal(size=20)
    numbers = []
    for metric, value in values.items():
        without = value + 0.01 * value * (shared + own)
        kept = LeftOutBlocks(values=tuple(without.tolist()), sizes=(5,) * 20, dealt=dealt)
        interval = metrics.jackknife(metrics.LeftOut(value, without), kept.sizes)
        about = Protocol(metric=metric, name="full", images=100, reference="r" * 64)
        ends = {"low": interval.low, "high": interval.high, "interval": "jackknife over prompts"}
        numbers.append(Number(metric=metric, value=value, n=100, left_out=kept, protocol=about, **ends))
    return Scores(kind="quality", name=name, numbers=tuple(numbers))


@pytest.fixture
def three(tmp_path):
    """Scores of three models; of the last one KID has no interval: its values without blocks are missing."""
    last = distances("c|<i>", 3, fid=9.0, kid=0.02, precision=0.7)
    old = tuple(replace(n, left_out=None) if n.metric == "kid" else n for n in last.numbers)
    last = replace(last, numbers=old)
    models = [distances("a", 1, fid=9.5, kid=0.02, precision=0.7), distances("b", 2, fid=9.0, kid=0.021), last]
    for scores in models:
        write_scores(tmp_path / scores.name[0], scores)
    return [tmp_path / name for name in "abc"]


def test_the_report_shows_the_same_differences_in_all_three_forms(tmp_path, three):
    report_scores(tmp_path / "report", three)
    a, b, c = (read_scores(path) for path in three)
    (table,) = measured_tables([a, b, c])
    first, second = pairs_of(table)
    assert [cell is not None for cell in first.cells] == [True, True, False]
    assert [cell is not None for cell in second.cells] == [True, False, False]
    fid = first.cells[0]
    assert fid.high - fid.low < 0.3 * (a.number("fid").high - a.number("fid").low)
    with open(tmp_path / "report" / "tables.csv", encoding="utf-8", newline="") as file:
        rows = {(row["model"], row["metric"]): row for row in csv.DictReader(file) if row["difference"] == "1"}
    assert rows.keys() == {
        ("b \u2212 a", "fid"),
        ("b \u2212 a", "kid"),
        ("c|<i> \u2212 b", "fid"),
        ("c|<i> \u2212 b", "kid"),
    }
    row = rows["b \u2212 a", "fid"]
    assert tuple(float(row[name]) for name in ("low", "value", "high")) == (fid.low, -0.5, fid.high)
    assert row["interval"] == "paired jackknife over prompts, 20 blocks of them, the reference held fixed"
    lacks = rows["c|<i> \u2212 b", "kid"]
    assert lacks["interval"].startswith("none: c|<i> has no interval: its values without blocks are missing")
    assert (lacks["value"], lacks["low"], lacks["high"]) == ("", "", "")

    ends = f"\u2212{-fid.low:.2f} to \u2212{-fid.high:.2f}"
    markdown = (tmp_path / "report" / "tables.md").read_text(encoding="utf-8")
    assert re.search(rf"\| b \u2212 a +\| \u22120\.50\\\* \({ends}\) +\| \+0\.0010\\\* \(", markdown)
    assert re.search(r"\| c\\\|&lt;i&gt; \u2212 b +\| 0\.00 \(\u22120\.\d\d to \+0\.\d\d\) +\| - +\|", markdown)
    assert "- Not paired in c\\|&lt;i&gt; \u2212 b: KID (c\\|&lt;i&gt; has no interval: its values" in markdown
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert f'<td class="clear">\u22120.50*<small>{ends}</small></td>' in page  # FID fell
    assert '<td class="clear worse">+0.0010*' in page  # KID rose
    assert (
        "Not paired in c|&lt;i&gt; \u2212 b: KID (c|&lt;i&gt; has no interval: its values without blocks are missing"
        in page
    )


def test_models_apart_have_no_differences_and_forced_ones_the_reason(tmp_path):
    a, b = distances("a", 1, fid=9.5), distances("b", 2, dealt="e" * 64, fid=9.0)
    other = replace(b.numbers[0], protocol=replace(b.numbers[0].protocol, prompts_sha256="p" * 64))
    b = replace(b, numbers=(other,))
    tables = measured_tables([a, b])
    assert [pairs_of(table) for table in tables] == [(), ()]
    assert tables[1].note.startswith("Not paired with the models above, because its protocols differ: prompts_sha")
    (table,) = measured_tables([a, b], force=True)
    (pair,) = pairs_of(table, force=True)
    assert pair.cells == (None,)
    assert pair.reasons() == [
        "Not paired in b \u2212 a: FID (a and b drew other prompts, or their blocks were dealt by another seed)"
    ]
    for scores in (a, b):
        write_scores(tmp_path / scores.name, scores)
    report_scores(tmp_path / "report", [tmp_path / "a", tmp_path / "b"], force=True)
    for name in ("index.html", "tables.md", "tables.csv"):
        assert "a and b drew other prompts" in (tmp_path / "report" / name).read_text(encoding="utf-8")


def test_differences_for_everybody(browser, tmp_path, three):
    """On a phone and at a desk, light and dark, by keyboard, read out."""
    report_scores(tmp_path / "report", three)
    check_file(browser, tmp_path / "report" / "index.html")
