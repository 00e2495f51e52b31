"""Table 1 from folders of pictures, on tiny networks: values, protocols, cache, resume after kill -9, bad input."""

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

from tessera import metrics
from tessera.config import UserError
from tessera.evaluate.intervals import paired_difference
from tessera.evaluate.quality import distances
from tessera.evaluate.quality import evaluate as quality_module
from tessera.evaluate.quality import features as pictures_module
from tessera.evaluate.quality.captions import read_captions
from tessera.evaluate.quality.config import QualityConfig
from tessera.evaluate.quality.distances import Blocks, blocks_of, prdc_by
from tessera.evaluate.quality.evaluate import evaluate_quality
from tessera.evaluate.quality.features import features_of, find_pictures
from tessera.evaluate.scores import comparable, read_scores
from tessera.images import read_rgb
from tessera.models.packing import packed_linears
from tessera.stages import Stage, open_stage
from tiny.encoders import save_clip, save_dino, save_inception

WORDS = ["a red fox", "two blue cups", "a small house of grey stone under a pale sky, " * 4]


def write_samples(directory: Path, seed: int, prompts: int = 12, per_prompt: int = 2) -> Path:
    """What `generate` leaves: NNNNN/metadata.jsonl, NNNNN/samples/KKKK.png, a grid, a manifest."""
    stage = open_stage(directory, stage="generate", config={"extended": False, "per_prompt": per_prompt})
    rng = np.random.default_rng(seed)
    for i in range(prompts):
        folder = directory / f"{i:05d}"
        (folder / "samples").mkdir(parents=True)
        (folder / "metadata.jsonl").write_text(json.dumps({"prompt": "p", "text": f"{WORDS[i % 3]} {i}"}) + "\n")
        for k in range(per_prompt):
            pixels = np.kron(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
            Image.fromarray(pixels).save(folder / "samples" / f"{k:04d}.png")
        Image.fromarray(pixels).save(folder / "grid.png")
    stage.finish({"prompts": prompts, "images": prompts * per_prompt})
    return directory


class Moments:
    """A network of no weights: means, deviations and corners of a picture; it counts what it is asked."""

    def __init__(self, name: str):
        import torch

        self.network = torch.nn.Linear(1, 1)
        self.id, self.sha256, self.resizing, self.cut, self.seen = name, name * 8, "none", "keep-end", 0

    def prepare(self, picture):
        import torch

        self.seen += 1
        return torch.from_numpy(picture[::4, ::4].astype(np.float32) / 255)

    def features(self, batch):
        return batch.numpy().reshape(len(batch), -1)[:, :24] + 0.5

    def captions(self, texts):
        from types import SimpleNamespace

        rows = np.array([[len(t) * (j + 1) % 7 + 1.0 for j in range(24)] for t in texts], np.float32)
        return SimpleNamespace(features=rows, truncated=1)


def nets():
    return {name: Moments(name) for name in ("inception", "dinov2", "clip", "clip336")}


class Watched(Moments):
    """Notes how its network's layer stands while it is asked for features."""

    def features(self, batch):
        import torch

        self.packed = "forward" in vars(self.network)
        self.tf32 = torch.backends.cudnn.allow_tf32
        return super().features(batch)


SMALL = QualityConfig(kid_subsets=3, batch_size=5, resamples=100)


def test_networks_are_packed_and_exact_while_they_look(tmp_path):
    encoder = Watched("dinov2")
    with packed_linears(encoder.network):
        expected = "forward" in vars(encoder.network)  # not on every processor
    pictures = find_pictures(write_samples(tmp_path / "s", 0), "samples")
    assert features_of(pictures, {"dinov2": encoder}, tmp_path / "work", 5, "round", "quality") is not None
    assert encoder.packed == expected
    assert not encoder.tf32
    assert "forward" not in vars(encoder.network)


def test_the_numbers_are_those_of_the_metrics(tmp_path):
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1, 20)
    assert evaluate_quality(tmp_path / "out", samples, reference, nets(), SMALL, cache=tmp_path / "cache")
    scores = read_scores(tmp_path / "out")

    def features(directory):
        files = sorted(directory.glob("*/samples/*.png"))
        return np.stack([np.asarray(Image.open(f))[::4, ::4].reshape(-1)[:24] / np.float32(255) + 0.5 for f in files])

    real, fake = features(reference), features(samples)
    assert scores.number("fid").value == pytest.approx(metrics.frechet_distance(real, fake), rel=1e-6)
    assert scores.number("kid").value == pytest.approx(metrics.kid(real, fake, 3).value, rel=1e-6)
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
    assert fid.reference == find_pictures(reference, "reference").sha256
    assert not (tmp_path / "out" / "work").exists()


def test_one_decoding_feeds_all_and_the_reference_is_kept(tmp_path, monkeypatch):
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1)
    read = []
    monkeypatch.setattr(pictures_module, "read_rgb", lambda path, **how: read.append(path) or read_rgb(path, **how))
    evaluate_quality(tmp_path / "a", samples, reference, nets(), SMALL, cache=tmp_path / "cache")
    assert len(read) == 48
    evaluate_quality(tmp_path / "a", samples, reference, nets(), SMALL, cache=tmp_path / "cache")
    assert len(read) == 48  # done
    other = write_samples(tmp_path / "s2", 2)
    evaluate_quality(tmp_path / "b", other, reference, nets(), SMALL, cache=tmp_path / "cache")
    assert len(read) == 72  # the reference is known by its content
    (folder,) = (tmp_path / "cache").iterdir()
    evaluate_quality(tmp_path / "c", samples, folder, nets(), SMALL)
    a, b, c = (read_scores(tmp_path / name) for name in "abc")
    assert (a.numbers, a.items) == (c.numbers, c.items)
    assert a.facts == c.facts | {"reference": "r"}
    assert c.facts.keys() == {"clip_score/captions_truncated", "size"}
    assert comparable(a.number("fid"), b.number("fid")) == []
    assert paired_difference(a, b, "clip_score").value == pytest.approx(
        b.number("clip_score").value - a.number("clip_score").value
    )
    changed = nets()
    changed["dinov2"].sha256 = "f" * 64
    with pytest.raises(UserError, match="has no features of dinov2"):
        evaluate_quality(tmp_path / "d", samples, folder, changed, SMALL)


def test_tables_learn_what_the_pictures_are(tmp_path):
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
        evaluate_quality(tmp_path / name, samples, reference, networks, config)
    kept, legacy = (read_scores(tmp_path / name) for name in ("keep", "cut"))
    assert legacy.number("clip_score") is None  # another column
    assert comparable(kept.number("clip_score"), legacy.number("clip_score/legacy-cut")) == [
        "name: 'keep-end' vs 'legacy-cut'"
    ]
    with pytest.raises(UserError, match="made otherwise"):
        evaluate_quality(tmp_path / "keep", samples, reference, cut, config)


CHILD = """
import sys, time
sys.path[:0] = {paths!r}
import test_evaluate as t
from pathlib import Path
from tessera.evaluate.quality import features as pictures
pictures.CHUNK = 4
class Slow(t.Moments):
    def features(self, batch):
        time.sleep(0.05)
        return super().features(batch)
networks = {{name: Slow(name) for name in t.nets()}}
base = Path({base!r})
t.evaluate_quality(base / "out", base / "s", base / "r", networks, t.SMALL, cache=base / "cache")
"""


def test_killed_at_half_way_and_run_again_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures_module, "CHUNK", 4)
    write_samples(tmp_path / "s", 0)
    write_samples(tmp_path / "r", 1)
    evaluate_quality(tmp_path / "whole", tmp_path / "s", tmp_path / "r", nets(), SMALL, cache=tmp_path / "c2", name="s")
    here = Path(__file__).parent
    code = CHILD.format(paths=[str(here), str(here.parents[1])], base=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TESSERA_QUIET": "1"})
    try:
        last = time.monotonic() + 120
        while not list((tmp_path / "out" / "work" / "samples").glob("*/00000008.npy")):
            assert child.poll() is None, "it ended before it was killed"
            assert time.monotonic() < last
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (tmp_path / "out" / "scores.json").exists()
    networks = nets()
    evaluate_quality(tmp_path / "out", tmp_path / "s", tmp_path / "r", networks, SMALL, cache=tmp_path / "cache")
    assert networks["clip"].seen < 24  # it went on, and did not begin again
    assert (tmp_path / "out" / "scores.json").read_bytes() == (tmp_path / "whole" / "scores.json").read_bytes()
    assert not (tmp_path / "out" / "work").exists()


def test_features_are_kept_for_one_way_to_make_bytes(tmp_path):
    """Arrays of floats become other bytes by other rounding: the cache must not give one for the other."""
    rng = np.random.default_rng(0)
    for folder in (tmp_path / "s", tmp_path / "r"):
        folder.mkdir()
        for i in range(24):
            np.save(folder / f"{i:02d}.npy", rng.random((32, 32, 3), dtype=np.float32))
    found = {}
    for cache in ("shared", "own"):
        for rounding in ("round", "truncate"):
            config = QualityConfig(metrics=("fid",), rounding=rounding)
            out, kept = tmp_path / cache / rounding, tmp_path / (cache if cache == "shared" else f"{cache}-{rounding}")
            evaluate_quality(out, tmp_path / "s", tmp_path / "r", nets(), config, cache=kept)
            found[cache, rounding] = read_scores(out).number("fid").value
    assert found["shared", "round"] == found["own", "round"] != found["own", "truncate"]
    assert found["shared", "truncate"] == found["own", "truncate"]
    (folder,) = (tmp_path / "own-round").iterdir()
    config = QualityConfig(metrics=("fid",), rounding="truncate")
    with pytest.raises(UserError, match="no features of inception with these weights, its resizing and --rounding"):
        evaluate_quality(tmp_path / "out", tmp_path / "s", folder, nets(), config)


def test_features_are_kept_for_one_resizing(tmp_path):
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1)
    networks, config = nets(), QualityConfig(metrics=("fid",))
    evaluate_quality(tmp_path / "a", samples, reference, networks, config, cache=tmp_path / "cache")
    networks["inception"].resizing, networks["inception"].seen = "another", 0
    evaluate_quality(tmp_path / "b", samples, reference, networks, config, cache=tmp_path / "cache")
    assert networks["inception"].seen == 48  # the reference was read anew
    with pytest.raises(UserError, match="made otherwise"):
        evaluate_quality(tmp_path / "a", samples, reference, networks, config, cache=tmp_path / "cache")


def test_a_reference_that_changed_is_another_one(tmp_path, monkeypatch):
    """Arrays of one shape have one size; what was encoded of the old ones is no part of the new one's features."""
    monkeypatch.setattr(pictures_module, "CHUNK", 4)
    samples, reference, config = write_samples(tmp_path / "s", 0), tmp_path / "r", QualityConfig(metrics=("fid",))
    reference.mkdir()
    rng = np.random.default_rng(1)
    for i in range(24):
        np.save(reference / f"{i:02d}.npy", rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))

    class Dies(Moments):
        def features(self, batch):
            if self.seen > 12:
                raise KeyboardInterrupt
            return super().features(batch)

    with pytest.raises(KeyboardInterrupt):
        evaluate_quality(
            tmp_path / "a", samples, reference, {"inception": Dies("inception")}, config, cache=tmp_path / "cache"
        )
    assert list((tmp_path / "a" / "work" / "reference").rglob("*.npy"))
    np.save(reference / "00.npy", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="made otherwise: reference"):
        evaluate_quality(tmp_path / "a", samples, reference, nets(), config, cache=tmp_path / "cache")
    evaluate_quality(tmp_path / "b", samples, reference, nets(), config, cache=tmp_path / "cache")
    evaluate_quality(tmp_path / "c", samples, reference, nets(), config, cache=tmp_path / "another")
    assert read_scores(tmp_path / "b").numbers == read_scores(tmp_path / "c").numbers


@pytest.mark.parametrize("slow", [0, 1])
def test_two_ranks_finish_with_a_new_reference(tmp_path, monkeypatch, slow):
    """Whichever rank comes last, to the reference or to the samples, completes them."""
    monkeypatch.setattr(pictures_module, "CHUNK", 4)
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1)
    evaluate_quality(tmp_path / "one" / "out", samples, reference, nets(), SMALL, cache=tmp_path / "c1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    reached = []

    def run(number):
        monkeypatch.setenv("RANK", str(number))
        return evaluate_quality(tmp_path / "two" / "out", samples, reference, nets(), SMALL, cache=tmp_path / "c2")

    def features_of(*args, whole=pictures_module.features_of):
        if slow and args[-1] == "quality" and not reached:  # all of rank 1 between rank 0's reference and samples
            reached.append(None)
            reached[0] = run(1)
            monkeypatch.setenv("RANK", "0")
        return whole(*args)

    monkeypatch.setattr(quality_module, "features_of", features_of)
    assert run(0) is bool(slow)
    assert reached == [False] if slow else run(1)
    for name in ("scores.json", "manifest.json"):
        assert (tmp_path / "one" / "out" / name).read_bytes() == (tmp_path / "two" / "out" / name).read_bytes()
    assert not (tmp_path / "two" / "out" / "work").exists()


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
    """It names the prompts whether or not a score over captions was asked for beside it."""
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


def test_texts_of_several_extenders_have_no_protocol(tmp_path):
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1)
    manifest = json.loads((samples / "manifest.json").read_text())
    manifest["config"]["extended"] = True
    (samples / "manifest.json").write_text(json.dumps(manifest))

    def extend(name, folders):
        for folder in folders:
            line = {"prompt": "p", "text": folder.name, "extended": {"extender": name, "template": "t", "seed": 3}}
            (folder / "metadata.jsonl").write_text(json.dumps(line) + "\n")

    folders = sorted(path.parent for path in samples.glob("*/metadata.jsonl"))
    extend("llama", folders)
    config = QualityConfig(metrics=("fid",))
    evaluate_quality(tmp_path / "a", samples, reference, nets(), config, cache=tmp_path / "cache")
    found = read_scores(tmp_path / "a").number("fid").protocol.extender
    assert (found.model, found.prompt, found.seed) == ("llama", "t", 3)
    extend("rules", folders[-1:])
    with pytest.raises(UserError, match="its texts come from 2 extenders"):
        evaluate_quality(tmp_path / "b", samples, reference, nets(), config, cache=tmp_path / "cache")
    assert not (tmp_path / "b").exists()


def test_prdc_protocols_on_few_pictures():
    x = np.random.default_rng(0).normal(size=(19, 3))
    with pytest.raises(UserError, match="at least 20 pictures of each, not 19"):
        prdc_by("paper", x, x, blocks_of(19, None, 0))
    precision = prdc_by("full", x, x + 1e-9, blocks_of(19, None, 0))["precision"]
    assert (precision.value, precision.low) == (1, None)
    assert precision.interval == "none: 19 pictures, at least 20 are needed"
    same = prdc_by("full", x, x + 1e-9, Blocks(np.arange(19) % 2, "by halves"))
    assert same["precision"].interval == "none: a block holds nearly all pictures of a part, or none at all"


def test_intervals_of_each_prdc_protocol(monkeypatch):
    """Without a block, of all chunks and of the drawn pictures alike."""
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(150, 3)), 1.2 * rng.normal(size=(130, 3)) + 0.3
    monkeypatch.setattr(distances, "DGM_EVAL", 110)
    blocks = blocks_of(130, [f"prompt {i // 2}" for i in range(130)], seed=4)
    for name in ("paper", "full", "dgm-eval"):
        found = prdc_by(name, real, fake, blocks, seed=7)
        keep = distances._chosen(130, 7, "fake") if name == "dgm-eval" else np.arange(130)
        against = real[distances._chosen(150, 7, "real")] if name == "dgm-eval" else real
        labels, chunks = blocks.labels[keep], 5 if name == "paper" else 1

        def without(block, part, fake=fake[keep], against=against, labels=labels, chunks=chunks, name=name):
            cut = zip(*(np.array_split(x, chunks) for x in (against, fake, labels)))
            k = 5 if name == "dgm-eval" else 3
            return np.mean([getattr(metrics.prdc(a, b[c != block], k), part) for a, b, c in cut])

        for part in ("precision", "recall", "density", "coverage"):
            left = np.array([without(block, part) for block in range(20)])
            value = without(-1, part)
            expected = metrics.jackknife(metrics.LeftOut(value, left), np.bincount(labels), 0.0)
            assert found[part].value == pytest.approx(value)
            assert found[part].low == pytest.approx(expected.low)
            assert found[part].high == pytest.approx(min(expected.high, 1) if part != "density" else expected.high)


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
    # Files of before are read, and compare.
    path = tmp_path / "many" / "out" / "scores.json"
    data = json.loads(path.read_text())
    for number in data["numbers"]:
        del number["interval"]
        if number["metric"] != "clip_score":
            number |= {"low": None, "high": None}
    (tmp_path / "old.json").write_text(json.dumps(data))
    old = read_scores(tmp_path / "old.json")
    assert comparable(old.number("fid"), many.number("fid")) == []
    assert (old.number("fid").value, old.number("fid").interval) == (many.number("fid").value, None)


def test_pictures_from_elsewhere_are_their_own_prompts(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "s"
    folder.mkdir()
    for i in range(25):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    reference = write_samples(tmp_path / "r", 1, 15)
    config = QualityConfig(metrics=("fid",), resamples=100)
    evaluate_quality(tmp_path / "a", folder, reference, nets(), config, cache=tmp_path / "cache")
    fid = read_scores(tmp_path / "a").number("fid")
    assert fid.interval == "jackknife over pictures, 20 blocks of them, the reference held fixed"
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt {i // 5}" for i in range(25)))
    prompts = tmp_path / "prompts.txt"
    evaluate_quality(tmp_path / "b", folder, reference, nets(), config, prompts=prompts, cache=tmp_path / "cache")
    assert read_scores(tmp_path / "b").number("fid").interval == "none: 5 prompts, at least 20 are needed"


def test_bad_folders_name_what_is_wrong(tmp_path):
    reference = write_samples(tmp_path / "r", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds 0 pictures"):
        find_pictures(tmp_path / "empty", "sample")
    with pytest.raises(UserError, match="no such directory of sample"):
        find_pictures(tmp_path / "none", "sample")
    samples = write_samples(tmp_path / "s", 0)
    gone = samples / "00003" / "samples" / "0001.png"
    gone.unlink()
    with pytest.raises(UserError, match="holds 23 of its 24 pictures"):
        evaluate_quality(tmp_path / "out", samples, reference, nets(), SMALL)
    gone.write_bytes((samples / "00000" / "samples" / "0000.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"00003/samples/0001\.png: is not a readable image"):
        evaluate_quality(tmp_path / "out", samples, reference, nets(), SMALL, cache=tmp_path / "cache")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "empty" / "a.png")
    with pytest.raises(UserError, match="holds 1 pictures"):
        find_pictures(tmp_path / "empty", "sample")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "empty" / "b.png")
    with pytest.raises(UserError, match="has no captions for clip_score"):
        evaluate_quality(tmp_path / "out2", tmp_path / "empty", reference, nets(), SMALL)
    found = find_pictures(tmp_path / "empty", "sample")
    (tmp_path / "captions.txt").write_text("one\n\ntwo\n")
    assert read_captions(found, tmp_path / "captions.txt") == ("one", "two")
    (tmp_path / "captions.jsonl").write_text('{"text": "one"}\nnot json\n')
    with pytest.raises(UserError, match="jsonl:2: is not JSON"):
        read_captions(found, tmp_path / "captions.jsonl")
    (tmp_path / "captions.txt").write_text("one\n")
    with pytest.raises(UserError, match="has 1 lines for 2 pictures"):
        read_captions(found, tmp_path / "captions.txt")
    np.save(tmp_path / "empty" / "c.npy", np.ones((4, 4)))
    with pytest.raises(UserError, match=r"c\.npy: must be an image"):
        read_rgb(tmp_path / "empty" / "c.npy")


def test_captions_belong_to_their_pictures(tmp_path):
    """Byte order marks and separators within JSON change nothing; where the order is doubtful, files are named."""
    folder = tmp_path / "s"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(folder / f"{i:02d}.png")
    found = find_pictures(folder, "sample")
    texts = tuple(f"grey\u2028of\x85 {i}" for i in range(12))
    (tmp_path / "c.txt").write_text("\n".join(texts), encoding="utf-8-sig")
    (tmp_path / "c.jsonl").write_text(
        "\r\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts), encoding="utf-8-sig", newline=""
    )
    assert read_captions(found, tmp_path / "c.txt") == read_captions(found, tmp_path / "c.jsonl") == texts
    for i in range(10):
        (folder / f"{i:02d}.png").rename(folder / f"{i}.png")
    found = find_pictures(folder, "sample")
    assert found.files[:3] == ("0.png", "1.png", "10.png")
    for name in ("c.txt", "c.jsonl"):
        with pytest.raises(UserError, match=rf"{name}: is the line of 10\.png or of 2\.png first\?"):
            read_captions(found, tmp_path / name)
    lines = [json.dumps({"file": f"{i}.png", "text": text}) for i, text in reversed(list(enumerate(texts)))]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    assert read_captions(found, tmp_path / "c.jsonl") == tuple(texts[int(Path(file).stem)] for file in found.files)
    (tmp_path / "c.jsonl").write_text("\n".join(lines[1:] + lines[:1]).replace("11.png", "x.png"))
    with pytest.raises(UserError, match=r'no line has the "file" 11\.png \(1 pictures without a line\)'):
        read_captions(found, tmp_path / "c.jsonl")


def test_hidden_folders_are_left_out_and_links_to_folders_refused(tmp_path):
    for place in ("s/class", "s/.ipynb_checkpoints", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / place / f"{i}.png")
    assert find_pictures(tmp_path / "s", "sample").files == ("class/0.png", "class/1.png")
    (tmp_path / "s" / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"s/linked: is a link, which is not followed"):
        find_pictures(tmp_path / "s", "sample")


@pytest.mark.parametrize(
    ("field", "value"),
    [("metrics", ("fidd",)), ("metrics", ()), ("prdc", ("papr",)), ("batch_size", 0), ("resamples", 9), ("seed", -1)],
)
def test_bad_settings_name_the_field(field, value):
    with pytest.raises(UserError, match=field):
        QualityConfig(**{field: value})


def test_the_command_from_folders_of_true_classes(tmp_path, capsys):
    """Every metric, through the command line, on tiny random networks saved as users have them."""
    from tessera import cli

    samples, reference = write_samples(tmp_path / "s", 0, 10), write_samples(tmp_path / "r", 1, 10)
    save_inception(tmp_path / "inception.safetensors")
    save_dino(tmp_path / "dino")
    save_clip(tmp_path / "clip")
    save_clip(tmp_path / "clip336", 40)
    words = ["evaluate", "quality", "--samples", str(samples), "--reference", str(reference)]
    words += ["--out", str(tmp_path / "out"), "--inception", str(tmp_path / "inception.safetensors")]
    words += ["--dinov2", str(tmp_path / "dino"), "--clip", str(tmp_path / "clip")]
    words += ["--clip336", str(tmp_path / "clip336"), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    with pytest.raises(SystemExit) as done:
        cli.main(words)
    assert done.value.code == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("out: 20 images, 17 numbers, 20 reference")
    assert [line.split()[0] for line in printed[1:6]] == ["FID", "KID", "FD", "Precision", "Recall"]
    assert printed[1].endswith("no interval: 10 prompts, at least 20 are needed")
    assert " to " in printed[-1]
    scores = read_scores(tmp_path / "out")
    assert {number.metric for number in scores.numbers} == {"fid", "kid", "fd_dinov2", "cmmd", "clip_score"} | {
        f"{part}/{name}"
        for part in ("precision", "recall", "density", "coverage")
        for name in ("paper", "full", "dgm-eval")
    }
    assert scores.facts["clip_score/captions_truncated"] == pytest.approx(0.3)
    assert scores.number("fid").value > 0
