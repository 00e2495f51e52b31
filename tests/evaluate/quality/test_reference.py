"""Reference images and the cache of their features."""

import numpy as np
import pytest

from tessera.config import UserError
from tessera.evaluate.intervals import paired_difference
from tessera.evaluate.quality import features as pictures_module
from tessera.evaluate.quality.evaluate import evaluate_quality
from tessera.evaluate.quality.metrics import QualityConfig
from tessera.evaluate.quality.reference import SAMPLES
from tessera.evaluate.scores import comparable, read_scores
from tessera.images import read_rgb
from tiny.quality import SMALL, Moments, nets, write_samples


def kept_reference(cache):
    (folder,) = (path for path in cache.iterdir() if path.name != SAMPLES)
    return folder


def test_further_metrics_of_the_same_samples_read_no_image(tmp_path, monkeypatch):
    """In another command too, by the networks that were asked before; another one sees each image once."""
    samples, reference, networks = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1), nets()
    found, read = {}, []
    for name, asked in (("a", ("fid",)), ("b", ("kid", "mind")), ("c", ("fid", "kid", "mind", "fd_dinov2"))):
        config = QualityConfig(metrics=asked, kid_subsets=3)
        evaluate_quality(tmp_path / name, samples, reference, networks, config, cache=tmp_path / "cache")
        found |= {(name, number.metric): number.value for number in read_scores(tmp_path / name).numbers}
        read.append((networks["inception"].seen, networks["dinov2"].seen))
    assert read == [(48, 0), (48, 0), (48, 48)]
    assert found["a", "fid"] == found["c", "fid"]
    assert found["b", "mind"] == found["c", "mind"]


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
    folder = kept_reference(tmp_path / "cache")
    evaluate_quality(tmp_path / "c", samples, folder, nets(), SMALL, cache=tmp_path / "cache")
    a, b, c = (read_scores(tmp_path / name) for name in "abc")
    assert (a.numbers, a.items) == (c.numbers, c.items)
    assert a.facts == c.facts | {"reference": "r"}
    assert c.facts.keys() == {"clip_score/captions_truncated", "size"}
    assert comparable(a.number("fid"), b.number("fid")) == []
    assert paired_difference(a, b, "clip_score").value == pytest.approx(
        b.number("clip_score").value - a.number("clip_score").value
    )
    (folder / "00.png").write_bytes(b"x")
    with pytest.raises(UserError, match="holds images and features of images; give a directory of one of them"):
        evaluate_quality(tmp_path / "d", samples, folder, nets(), SMALL, cache=tmp_path / "cache")
    (folder / "00.png").unlink()
    changed = nets()
    changed["dinov2"].sha256 = "f" * 64
    with pytest.raises(UserError, match="has no features of dinov2"):
        evaluate_quality(tmp_path / "d", samples, folder, changed, SMALL, cache=tmp_path / "cache")


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
    folder = kept_reference(tmp_path / "own-round")
    config = QualityConfig(metrics=("fid",), rounding="truncate")
    with pytest.raises(UserError, match="no features of inception with these weights, its resizing and --rounding"):
        evaluate_quality(tmp_path / "out", tmp_path / "s", folder, nets(), config, cache=tmp_path / "own")


def test_features_are_kept_for_one_resizing(tmp_path):
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1)
    networks, config = nets(), QualityConfig(metrics=("fid",))
    evaluate_quality(tmp_path / "a", samples, reference, networks, config, cache=tmp_path / "cache")
    networks["inception"].resizing, networks["inception"].seen = "another", 0
    evaluate_quality(tmp_path / "b", samples, reference, networks, config, cache=tmp_path / "cache")
    assert networks["inception"].seen == 48  # samples and reference were read anew
    with pytest.raises(UserError, match="made otherwise"):
        evaluate_quality(tmp_path / "a", samples, reference, networks, config, cache=tmp_path / "cache")


def test_features_are_kept_for_one_version_of_pillow(tmp_path, monkeypatch):
    """Pillow 13 resizes portrait images to other pixels than 12: only networks that it resizes for are asked again."""
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1)
    networks, config = nets(), QualityConfig(metrics=("fid", "fd_dinov2"))
    networks["dinov2"].resizing = "Pillow bicubic to 224 x 224"
    evaluate_quality(tmp_path / "a", samples, reference, networks, config, cache=tmp_path / "cache")
    monkeypatch.setattr("PIL.__version__", "99.0")
    for network in networks.values():
        network.seen = 0
    evaluate_quality(tmp_path / "b", samples, reference, networks, config, cache=tmp_path / "cache")
    assert (networks["inception"].seen, networks["dinov2"].seen) == (0, 48)
    monkeypatch.setattr("PIL.__version__", "98.0")
    folder = kept_reference(tmp_path / "cache")
    with pytest.raises(UserError, match=r"no features of dinov2 .*Pillow 98\.0"):
        evaluate_quality(tmp_path / "c", samples, folder, networks, config, cache=tmp_path / "cache")


def test_a_reference_that_changed_is_another_one(tmp_path):
    """Arrays of one shape have one size; what was encoded of the old ones is no part of the new one's features."""
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
            tmp_path / "a",
            samples,
            reference,
            {"inception": Dies("inception")},
            config,
            cache=tmp_path / "cache",
            chunk=4,
        )
    assert list((tmp_path / "a" / "work" / "reference").rglob("*.npy"))
    np.save(reference / "00.npy", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="made otherwise: reference"):
        evaluate_quality(tmp_path / "a", samples, reference, nets(), config, cache=tmp_path / "cache", chunk=4)
    evaluate_quality(tmp_path / "b", samples, reference, nets(), config, cache=tmp_path / "cache", chunk=4)
    evaluate_quality(tmp_path / "c", samples, reference, nets(), config, cache=tmp_path / "another", chunk=4)
    assert read_scores(tmp_path / "b").numbers == read_scores(tmp_path / "c").numbers
