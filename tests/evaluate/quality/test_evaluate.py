"""Table 1 from directories of images, on networks without weights"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera import cli, metrics
from tessera.config import UserError
from tessera.evaluate.quality import features as pictures_module
from tessera.evaluate.quality import reference as reference_module
from tessera.evaluate.quality.evaluate import evaluate_quality
from tessera.evaluate.quality.features import find_images
from tessera.evaluate.quality.metrics import QualityConfig
from tessera.evaluate.scores import comparable, read_scores
from tessera.stages import Stage
from tiny.encoders import save_clip, save_dino, save_inception
from tiny.folders import end_together
from tiny.quality import SMALL, nets, write_samples


def test_the_numbers_are_those_of_the_metrics(tmp_path):
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1, 20)
    assert evaluate_quality(tmp_path / "out", samples, reference, nets(), SMALL, cache=tmp_path / "cache")
    scores = read_scores(tmp_path / "out")

    def features(directory):
        files = sorted(directory.glob("*/samples/*.png"))
        return np.stack([np.asarray(Image.open(f))[::4, ::4].reshape(-1)[:24] / np.float32(255) + 0.5 for f in files])

    real, fake = features(reference), features(samples)
    assert scores.number("fid").value == pytest.approx(metrics.frechet_distance(real, fake), rel=1e-6)
    assert scores.number("kid").value == pytest.approx(metrics.kid(real, fake, 3), rel=1e-6)
    assert scores.number("cmmd").value == pytest.approx(metrics.cmmd(real, fake), rel=1e-6)
    parts = [metrics.prdc(a, b, 3).density for a, b in zip(np.array_split(real, 5), np.array_split(fake, 5))]
    assert scores.number("density/paper").value == pytest.approx(np.mean(parts))
    assert scores.number("density/full").value == metrics.prdc(real, fake, 3).density
    assert scores.number("recall/dgm-eval").value == metrics.prdc(real, fake, 5).recall
    clip = scores.number("clip_score")
    assert clip.value == pytest.approx(np.mean([item["values"]["clip_score"] for item in scores.items]))
    assert clip.low < clip.value < clip.high
    assert (clip.n, clip.clusters, clip.protocol.images) == (24, 12, 24)
    fid = scores.number("fid").protocol
    assert (fid.encoder, fid.reference_images, fid.resize) == ("inception", 40, "none")
    assert fid.reference == find_images(reference, "reference").sha256
    assert not (tmp_path / "out" / "work").exists()


def test_tables_learn_what_the_images_are(tmp_path):
    """Size, reference and whose captions: Table 1 has COCO's and ImageNet's."""
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "val2014", 1)
    for number, (field, words) in enumerate({"image_id": "COCO's captions", "key": "captions of one's own"}.items()):
        for path in samples.glob("*/metadata.jsonl"):
            path.write_text(json.dumps({"prompt": "p", "text": "a fox", field: 3}) + "\n")
        config = QualityConfig(metrics=("fid",))
        evaluate_quality(tmp_path / str(number), samples, reference, nets(), config, cache=tmp_path / "cache")
        expected = {"size": "32", "prompts": words, "reference": "val2014"}
        assert read_scores(tmp_path / str(number)).facts == expected


def test_other_settings_are_another_protocol(tmp_path):
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1)
    config = QualityConfig(metrics=("clip_score",), resamples=100)
    cut = nets()
    cut["clip"].cut = "legacy-cut"
    for name, networks in (("keep", nets()), ("cut", cut)):
        evaluate_quality(tmp_path / name, samples, reference, networks, config, cache=tmp_path / "cache")
    kept, legacy = (read_scores(tmp_path / name) for name in ("keep", "cut"))
    assert legacy.number("clip_score") is None  # another column
    assert comparable(kept.number("clip_score"), legacy.number("clip_score/legacy-cut")) == [
        "name: 'keep-end' vs 'legacy-cut'"
    ]
    with pytest.raises(UserError, match="made otherwise"):
        evaluate_quality(tmp_path / "keep", samples, reference, cut, config, cache=tmp_path / "cache")


CHILD = """
import sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
from tessera.evaluate.quality.evaluate import evaluate_quality
from tiny import quality as t
class Slow(t.Moments):
    def features(self, batch):
        time.sleep(0.05)
        return super().features(batch)
networks = {{name: Slow(name) for name in t.nets()}}
base = Path({base!r})
evaluate_quality(base / "out", base / "s", base / "r", networks, t.SMALL, cache=base / "cache", chunk=4)
"""


def test_killed_at_half_way_and_run_again_gives_the_same_bytes(tmp_path):
    write_samples(tmp_path / "s", 0)
    write_samples(tmp_path / "r", 1)
    evaluate_quality(
        tmp_path / "whole", tmp_path / "s", tmp_path / "r", nets(), SMALL, cache=tmp_path / "c2", name="s", chunk=4
    )
    here = Path(__file__).parent
    code = CHILD.format(paths=[str(here.parents[1])], base=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TESSERA_QUIET": "1"})
    try:
        last = time.monotonic() + 120
        while not list((tmp_path / "out" / "work" / "samples").glob("*/*/00000008.npy")):
            assert child.poll() is None, "it ended before it was killed"
            assert time.monotonic() < last
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (tmp_path / "out" / "scores.json").exists()
    networks = nets()
    evaluate_quality(
        tmp_path / "out", tmp_path / "s", tmp_path / "r", networks, SMALL, cache=tmp_path / "cache", chunk=4
    )
    assert networks["clip"].seen < 24  # it resumed, and did not begin again
    assert (tmp_path / "out" / "scores.json").read_bytes() == (tmp_path / "whole" / "scores.json").read_bytes()
    assert not (tmp_path / "out" / "work").exists()


@pytest.mark.parametrize("slow", [0, 1])
def test_two_ranks_finish_with_a_new_reference(tmp_path, monkeypatch, slow):
    """Whichever rank comes last, to the reference or to the samples, completes them."""
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1)
    evaluate_quality(tmp_path / "one" / "out", samples, reference, nets(), SMALL, cache=tmp_path / "c1", chunk=4)
    monkeypatch.setenv("WORLD_SIZE", "2")
    reached = []

    def run(number):
        monkeypatch.setenv("RANK", str(number))
        return evaluate_quality(
            tmp_path / "two" / "out", samples, reference, nets(), SMALL, cache=tmp_path / "c2", chunk=4
        )

    def features_of(*args, whole=pictures_module.features_of):
        if slow and args[-2] == "quality" and not reached:  # all of rank 1 between rank 0's reference and samples
            reached.append(None)
            reached[0] = run(1)
            monkeypatch.setenv("RANK", "0")
        return whole(*args)

    monkeypatch.setattr(reference_module, "features_of", features_of)
    assert run(0) is bool(slow)
    assert reached == [False] if slow else run(1)
    for name in ("scores.json", "manifest.json"):
        assert (tmp_path / "one" / "out" / name).read_bytes() == (tmp_path / "two" / "out" / name).read_bytes()
    assert not (tmp_path / "two" / "out" / "work").exists()


def test_ranks_that_end_at_the_same_time_leave_each_other_the_scores(tmp_path, monkeypatch):
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1)

    def evaluate():
        return evaluate_quality(tmp_path / "out", samples, reference, nets(), SMALL, cache=tmp_path / "c", chunk=4)

    assert end_together(monkeypatch, evaluate) == (True, True)
    assert (tmp_path / "out" / "scores.json").is_file()
    assert not (tmp_path / "out" / "work").exists()


def test_killed_after_its_scores_it_encodes_nothing_again(tmp_path, monkeypatch):
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1)
    monkeypatch.setattr(Stage, "finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluate_quality(tmp_path / "out", samples, reference, nets(), SMALL, cache=tmp_path / "cache")
    monkeypatch.undo()
    networks = nets()
    evaluate_quality(tmp_path / "out", samples, reference, networks, SMALL, cache=tmp_path / "cache")
    assert {network.seen for network in networks.values()} == {0}
    (tmp_path / "out" / "work").mkdir()  # and if it was killed just before the last step
    assert evaluate_quality(tmp_path / "out", samples, reference, networks, SMALL, cache=tmp_path / "cache")
    assert not (tmp_path / "out" / "work").exists()


def test_a_distance_s_protocol_does_not_depend_on_what_else_was_measured(tmp_path):
    """It names the prompts whether or not a score over captions was asked for too."""
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1)
    other = write_samples(tmp_path / "s2", 0)
    for path in other.glob("*/metadata.jsonl"):
        path.write_text(json.dumps({"prompt": "p", "text": f"other words {path.parent.name}"}) + "\n")
    for name, folder, asked in (("a", samples, ()), ("b", samples, ("clip_score",)), ("c", other, ())):
        config = QualityConfig(metrics=("fid", *asked), resamples=100)
        evaluate_quality(tmp_path / name, folder, reference, nets(), config, cache=tmp_path / "cache")
    a, b, c = (read_scores(tmp_path / name).number("fid") for name in "abc")
    assert comparable(a, b) == []
    assert [line.split(":")[0] for line in comparable(a, c)] == ["prompts_sha256"]


def test_every_number_has_an_interval_over_prompts_or_the_reason_for_none(tmp_path):
    reference = write_samples(tmp_path / "r", 1, 30)
    for name, prompts in (("many", 40), ("few", 19)):
        samples = write_samples(tmp_path / name / "s", 0, prompts)
        evaluate_quality(tmp_path / name / "out", samples, reference, nets(), SMALL, cache=tmp_path / "cache")
    many, few = (read_scores(tmp_path / name / "out") for name in ("many", "few"))
    assert len(many.numbers) == len(few.numbers) == 17
    for number in many.numbers:
        if number.low is None:  # of noise in 24 dimensions
            assert number.metric.split("/")[0] in ("precision", "recall")
            assert number.interval == "none: it is the same without any of the blocks"
        else:
            assert number.low <= number.value <= number.high
            assert number.low < number.high
            assert "over prompts" in number.interval
    assert all(many.number(name).low is not None for name in ("fid", "kid", "fd_dinov2", "cmmd", "density/full"))
    for number in few.numbers:
        if number.metric == "clip_score":
            assert number.interval == "bootstrap over prompts, 100 resamples"
        else:
            assert (number.low, number.high) == (None, None)
            assert number.interval == "none: 19 prompts, at least 20 are needed"


def test_one_prompt_has_no_interval(tmp_path):
    samples, config = write_samples(tmp_path / "s", 0, 1, 4), QualityConfig(metrics=("clip_score",))
    evaluate_quality(tmp_path / "out", samples, samples, nets(), config, cache=tmp_path / "cache")
    number = read_scores(tmp_path / "out").number("clip_score")
    assert (number.low, number.high, number.interval) == (None, None, "none: 1 prompt, at least 2 are needed")


def test_images_from_elsewhere_are_their_own_prompts(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "s"
    folder.mkdir()
    for i in range(25):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    reference = write_samples(tmp_path / "r", 1, 15)
    config = QualityConfig(metrics=("fid",), resamples=100)
    evaluate_quality(tmp_path / "a", folder, reference, nets(), config, cache=tmp_path / "cache")
    fid = read_scores(tmp_path / "a").number("fid")
    assert fid.interval == "jackknife over images, 20 blocks of them, the reference held fixed"
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt {i // 5}" for i in range(25)))
    prompts = tmp_path / "prompts.txt"
    evaluate_quality(tmp_path / "b", folder, reference, nets(), config, prompts=prompts, cache=tmp_path / "cache")
    assert read_scores(tmp_path / "b").number("fid").interval == "none: 5 prompts, at least 20 are needed"


def test_the_command_from_folders_of_true_classes(tmp_path, capsys):
    """Every metric, through the command line, on tiny random networks saved as users have them."""
    samples, reference = write_samples(tmp_path / "s", 0, 3), write_samples(tmp_path / "r", 1, 3)
    save_inception(tmp_path / "inception.safetensors")
    save_dino(tmp_path / "dino")
    save_clip(tmp_path / "clip")
    save_clip(tmp_path / "clip336", 40)
    words = ["evaluate", "quality", "--samples", str(samples), "--reference", str(reference)]
    words += ["--prdc", "full", "dgm-eval"]  # the paper's protocol takes 20 images
    words += ["--out", str(tmp_path / "out"), "--inception", str(tmp_path / "inception.safetensors")]
    words += ["--dinov2", str(tmp_path / "dino"), "--clip", str(tmp_path / "clip")]
    words += ["--clip336", str(tmp_path / "clip336"), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    with pytest.raises(SystemExit) as done:
        cli.main(words)
    assert done.value.code == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("out: 6 images, 13 numbers, 6 reference")
    assert [line.split()[0] for line in printed[1:6]] == ["FID", "KID", "FD", "Precision", "Recall"]
    assert printed[1].endswith("no interval: 3 prompts, at least 20 are needed")
    assert " to " in printed[-2]
    assert printed[-1] == "  clip_score: 33.3% of the captions are cut to what it reads"
    scores = read_scores(tmp_path / "out")
    assert {number.metric for number in scores.numbers} == {"fid", "kid", "fd_dinov2", "cmmd", "clip_score"} | {
        f"{part}/{name}" for part in ("precision", "recall", "density", "coverage") for name in ("full", "dgm-eval")
    }
    assert scores.facts["clip_score/captions_truncated"] == pytest.approx(1 / 3)
    assert scores.number("fid").value > 0
