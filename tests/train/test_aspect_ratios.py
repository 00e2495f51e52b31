"""Training on buckets of aspect ratios: passes of one bucket, and samples with the addresses that they have anyway."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tessera.config import UserError
from tessera.encoded.store import open_encoded
from tessera.stages import read_manifest
from tessera.train.algorithm1 import Algorithm1, Normalization
from tessera.train.config import RuntimeOptions
from tessera.train.export import export
from tessera.train.loader import Reader, passes
from tessera.train.loop import Trainer, train
from tessera.weights.export import load_export
from tiny.ranks import assert_same, config, on_ranks
from tiny.runs import contents, stop_at
from tiny.training_sets import DIT, RIN, SHAPES, config_of, in_buckets, make_records, write_set

SETTINGS = config_of(augment_prob=0.0, validation_records=5)


@pytest.fixture(scope="module")
def bucketed(tmp_path_factory):
    sizes = {"16x16": 17, "24x8": 10, "8x24": 10}
    folder = tmp_path_factory.mktemp("sets") / "bucketed"
    return write_set(folder, in_buckets(make_records(37)), shapes=SHAPES, buckets=sizes)


def reader_of(folder):
    store = open_encoded(folder)
    algorithm = Algorithm1(store, None, 0.4, 0.0, 3, "linear")
    return Reader(algorithm, store, None, Normalization()), store


def test_records_keep_their_shapes_and_order(bucketed):
    store, expected = open_encoded(bucketed), in_buckets(make_records(37))
    for number, record in enumerate(expected):
        found = store[number]
        assert found.key == record.key
        assert np.array_equal(found.latent_mean, record.latent_mean)
        assert np.array_equal(found.latent_std, record.latent_std)
        assert store.shapes[store.buckets[number]] == record.latent_mean.shape
    assert len(set(store.buckets.tolist())) == 3


def test_every_image_comes_once_an_epoch_with_its_own_latents(bucketed):
    reader, store = reader_of(bucketed)
    of = {store[i].latent_mean.tobytes() for i in range(len(store))}
    seen = []
    for numbers in passes(0, 37, 74, 8, reader.lengths, reader.buckets):
        seen += [row.numpy().astype(np.float16).tobytes() for row in reader(numbers).latents]
    assert len(seen) == 74
    assert set(seen[:37]) == set(seen[37:]) == of


def test_passes_are_of_one_bucket_and_the_ranks_share_out_the_step(bucketed, monkeypatch):
    reader, store = reader_of(bucketed)
    by_world = []
    for world in (1, 2, 3):
        monkeypatch.setenv("WORLD_SIZE", str(world))
        samples = {}
        for rank in range(world):
            monkeypatch.setenv("RANK", str(rank))
            for numbers in passes(24, 12, 48, 3, reader.lengths, reader.buckets):
                assert len(numbers) <= 3
                indices = reader.algorithm.draws(numbers).index
                assert len(set(store.buckets[indices].tolist())) == 1
                batch = reader(numbers)
                samples |= {
                    n: (x.tobytes(), e.tobytes())
                    for n, x, e in zip(numbers.tolist(), batch.latents.numpy(), batch.noise.numpy())
                }
        assert sorted(samples) == list(range(24, 48))
        by_world.append(samples)
    assert by_world[0] == by_world[1] == by_world[2]


def test_a_stopped_run_ends_with_the_same_bytes(bucketed, tmp_path, monkeypatch):
    train(tmp_path / "whole", bucketed, None, SETTINGS)
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped", bucketed, None, SETTINGS)
    train(tmp_path / "stopped", bucketed, None, SETTINGS, resume=True)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_two_ranks_and_other_passes_are_one(bucketed, tmp_path):
    settings = config(DIT, augment_prob=0.0)
    train(tmp_path / "one", bucketed, None, settings)
    train(tmp_path / "small", bucketed, None, settings, runtime=RuntimeOptions(device_batch_size=2))
    assert_same(tmp_path / "one", tmp_path / "small")
    assert on_ranks(2, settings, tmp_path / "two", bucketed, device_batch_size=3) == [0, 0]
    assert_same(tmp_path / "one", tmp_path / "two")


def test_the_held_out_loss_is_the_mean_of_each_records_own(bucketed, tmp_path):
    trainer = Trainer(tmp_path, open_encoded(bucketed), None, SETTINGS, torch.device("cpu"))
    validation = trainer.actions.validation
    assert validation is not None
    together = validation.loss(trainer.state.network)["loss"]
    losses = []
    for row in range(5):
        batch = validation.batch(np.array([row]))
        eps, _ = trainer.state.network(
            batch.latents * batch.alpha_bar.sqrt()[:, None, None, None]
            + batch.noise * (1 - batch.alpha_bar).sqrt()[:, None, None, None],
            batch.alpha_bar,
            batch.text,
        )
        losses.append(float((eps.detach() - batch.noise).square().mean()))
    assert together == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_number_of_samples_that_fit_is_tried_with_one_bucket(bucketed, tmp_path, monkeypatch):
    tried = []

    def fits(self, host):
        tried.append(tuple(host.latents.shape))
        return len(host.numbers) <= 2

    monkeypatch.setattr("tessera.train.step.Stepper.fits", fits)
    runtime = RuntimeOptions(device_batch_size="auto")
    trainer = Trainer(tmp_path, open_encoded(bucketed), None, SETTINGS, torch.device("cpu"), runtime)
    assert trainer.samples_per_pass == 2
    assert [shape[1:] for shape in tried] == [(4, 4, 4)] * 3


def test_the_export_names_the_sizes(bucketed, tmp_path):
    train(tmp_path / "run", bucketed, None, SETTINGS)
    assert read_manifest(tmp_path / "run").facts["buckets"] == {"16x16": 17, "24x8": 10, "8x24": 10}
    export(tmp_path / "export", tmp_path / "run")
    info = load_export(tmp_path / "export")[1]
    assert info.sizes == ("16x16", "24x8", "8x24")


def test_what_buckets_do_not_go_with(bucketed, augmented, tmp_path):
    with pytest.raises(UserError, match=r"has buckets of aspect ratios, and a CAD-I learns a position for each patch"):
        train(tmp_path / "run", bucketed, None, replace(SETTINGS, model=RIN))
    with pytest.raises(UserError, match=r"has buckets of aspect ratios; train an arm of plain images, such as ta"):
        train(tmp_path / "run", bucketed, augmented, replace(SETTINGS, augment_prob=0.5))
    with pytest.raises(UserError, match=r"shard: ranks that share a network make equally many passes"):
        train(tmp_path / "run", bucketed, None, SETTINGS, runtime=RuntimeOptions(shard=True))
    coarse = replace(DIT, latent_size=4, patch_size=4)
    with pytest.raises(UserError, match=r"latents of \(4, 2, 6\) are no whole patches of 4"):
        train(tmp_path / "run", bucketed, None, replace(SETTINGS, model=coarse))
    assert not (tmp_path / "run").exists()


def test_grids_of_a_set_without_squares_have_a_size_of_its_own(tmp_path):
    records = [record for record in in_buckets(make_records(37)) if record.latent_mean.shape != SHAPES[0]]
    folder = write_set(tmp_path / "wide", records, shapes=SHAPES, buckets={"24x8": 10, "8x24": 10})
    runtime = RuntimeOptions(decode=lambda latents: latents.numpy())
    config = replace(SETTINGS, sample_every_images=8)
    trainer = Trainer(tmp_path / "run", open_encoded(folder), None, config, torch.device("cpu"), runtime)
    assert trainer.actions.grid is not None
    assert trainer.actions.grid.noise.shape == (5, *SHAPES[1])
    assert trainer.actions.grid.latents(trainer.state.network).shape == (5, *SHAPES[1])
